"""DOCX, PPTX and XLSX to Markdown; slides are the pages of a presentation."""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from gristmill.data.kinds import Heading
from gristmill.data.media import PPTX
from gristmill.errors import InputError
from gristmill.operators.documents_extract import Assembly, Extract, printable
from gristmill.operators.documents_kreuzberg import PAGE_MARK, damaged, extract
from gristmill.operators.documents_outline import compact_tables, outline

MARK = re.compile(f"{PAGE_MARK}(\\d+){PAGE_MARK}")
SLIDE = re.compile(r"ppt/slides/slide(\d+)\.xml")
RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PRESENTATION = "http://schemas.openxmlformats.org/presentationml/2006/main"
DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"


def read_office(data: bytes, media_type: str, name: str) -> Extract:
    """Raises P202 (password), P203 (damaged) and P205 (no text)."""
    result = extract(data, media_type, name)
    if media_type == PPTX:
        made = _slides(result, data, name)
    else:
        # Word does not store where pages end (it depends on the printer), so a DOCX has none
        text = compact_tables(MARK.sub("", printable(result.content))).strip("\n")
        text = re.sub(r"\n{3,}", "\n\n", text) + "\n" if "```" not in text else text + "\n"
        headings = outline(text)
        made = Extract(text, _title(result.metadata, headings), headings=headings)
    if not made.text.strip():
        raise InputError(f"no text was found in {name}", code="P205")
    return made


def _slides(result: Any, data: bytes, name: str) -> Extract:
    """The slides in the order they are shown in, each with its notes.

    kreuzberg takes the slides by the numbers in their file names, which is another order once slides were moved, and
    leaves the notes out of its Markdown.
    """
    found = _marked(result.content)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            matches = filter(None, map(SLIDE.fullmatch, archive.namelist()))
            files = sorted((int(match.group(1)), match.group()) for match in matches)
            shown = [(part, _note(archive, part)) for part in _slide_parts(archive)]
    except (zipfile.BadZipFile, zlib.error, ElementTree.ParseError, KeyError, OSError, EOFError, ValueError) as error:
        raise damaged(name, PPTX) from error
    texts = dict(zip((part for _, part in files), found, strict=False))
    if len(files) != len(found) or any(part not in texts for part, _ in shown):
        texts = {str(position): text for position, text in enumerate(found)}  # an unusual file: as it comes
        shown = [(part, "") for part in texts]
    assembly = Assembly()
    for number, (part, note) in enumerate(shown, start=1):
        before = len(assembly.parts)
        assembly.add(compact_tables(texts[part].strip("\n")))
        if note:
            assembly.add(f"Notes: {note}")
        assembly.end_page(number, before)
    assembly.headings.extend(outline("".join(assembly.parts)))
    return assembly.finish(_title(result.metadata, tuple(assembly.headings)))


def _marked(content: str) -> list[str]:
    return MARK.split(printable(content))[2::2]


def _slide_parts(archive: zipfile.ZipFile) -> list[str]:
    by_id = {key: target for key, (_, target) in _relations(archive, "ppt/presentation.xml").items()}
    order = [
        element.get(f"{{{RELATION}}}id", "") for element in _xml(archive, "ppt/presentation.xml").iter()
        if str(element.tag).endswith("}sldId")
    ]  # fmt: skip
    return [by_id[key] for key in order if key in by_id]


def slides_of_media(archive: zipfile.ZipFile) -> dict[str, int]:
    """For each picture of a presentation the first slide that shows it, from 1."""
    found: dict[str, int] = {}
    for number, part in enumerate(_slide_parts(archive), start=1):
        for kind, target in _relations(archive, part).values():
            if kind == "image":
                found.setdefault(target, number)
    return found


def _note(archive: zipfile.ZipFile, slide: str) -> str:
    part = next((target for kind, target in _relations(archive, slide).values() if kind == "notesSlide"), None)
    if part is None:
        return ""
    paragraphs: list[str] = []
    for shape in _xml(archive, part).iter(f"{{{PRESENTATION}}}sp"):
        place = next(shape.iter(f"{{{PRESENTATION}}}ph"), None)
        if place is not None and place.get("type") == "body":
            paragraphs.extend(
                "".join(run.text or "" for run in paragraph.iter(f"{{{DRAWING}}}t"))
                for paragraph in shape.iter(f"{{{DRAWING}}}p")
            )
    return printable("\n".join(paragraphs)).strip()


def _relations(archive: zipfile.ZipFile, part: str) -> dict[str, tuple[str, str]]:
    """What a part refers to: id -> (kind, name of the other part)."""
    folder, _, file = part.rpartition("/")
    listing = f"{folder}/_rels/{file}.rels"
    if listing not in archive.namelist():
        return {}
    return {
        element.get("Id", ""): (
            element.get("Type", "").rpartition("/")[2],
            posixpath.normpath(posixpath.join(f"/{folder}", element.get("Target", ""))).lstrip("/"),
        )
        for element in _xml(archive, listing)
    }


def _xml(archive: zipfile.ZipFile, part: str) -> ElementTree.Element:
    data = archive.read(part)
    if b"<!ENTITY" in data or b"<!DOCTYPE" in data:
        raise ValueError("no Office document declares entities")  # the "billion laughs" attack does
    return ElementTree.fromstring(data)  # noqa: S314  # entities are refused above, and expat reads nothing else


def _title(metadata: Mapping[str, Any], headings: tuple[Heading, ...]) -> str | None:
    own = metadata.get("core_properties") or {}
    title = " ".join(printable(str(metadata.get("title") or own.get("title") or "")).split())
    if title and title != "PowerPoint Presentation":
        return title
    return next((heading.title for heading in headings if heading.level == 1), None)
