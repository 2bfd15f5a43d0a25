"""The pictures inside of documents: on a PDF's pages, in Office files and books, in data URLs of HTML and Markdown."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from gristmill.data.media import DOCX, EPUB, HTML, MARKDOWN, PDF, PPTX, XLSX
from gristmill.errors import InputError
from gristmill.operators.documents_extract import DATA_URL
from gristmill.operators.documents_kreuzberg import pictures_of_pdf
from gristmill.operators.documents_office import slides_of_media
from gristmill.operators.pictures import Picture, read_picture

LEAST = 16  # pixels; smaller ones are bullets, rules and counters
MOST = 2000  # pictures of one document
MAX_PIXELS = 64_000_000
IN_ARCHIVE = re.compile(r"\.(?:png|jpe?g|gif|bmp|webp)\Z", re.I)


@dataclass(frozen=True, slots=True)
class Embedded:
    """A picture of a document: `name` within it, `page` from 1 where the format has pages."""

    picture: Picture
    name: str
    page: int | None


def embedded_images(data: bytes, media_type: str, name: str) -> tuple[list[Embedded], int]:
    """The pictures in a document, each once, and how many were left out because they are of no use or of no format that
    is read here. Raises `InputError` P241 without Pillow, P202 and P203 as the document's reader does."""
    found: list[Embedded] = []
    seen: set[bytes] = set()
    left_out = 0
    for inner, page, content in _raw(data, media_type, name):
        digest = hashlib.sha256(content).digest()
        if digest in seen:
            continue
        seen.add(digest)
        try:
            picture = read_picture(content, inner, MAX_PIXELS)
        except InputError as error:
            if error.code == "P241":
                raise
            left_out += 1
            continue
        if min(picture.width, picture.height) < LEAST or len(found) == MOST:
            left_out += 1
        else:
            found.append(Embedded(picture, inner, page))
    return found, left_out


def _raw(data: bytes, media_type: str, name: str) -> Iterator[tuple[str, int | None, bytes]]:
    if media_type == PDF:
        yield from pictures_of_pdf(data, name)
    elif media_type in (DOCX, PPTX, XLSX, EPUB):
        yield from _of_archive(data, media_type)
    elif media_type in (HTML, MARKDOWN):
        for number, match in enumerate(DATA_URL.finditer(data.decode("latin-1")), start=1):
            try:
                yield f"picture-{number}.{match.group(1).lower()}", None, base64.b64decode(match.group(2))
            except binascii.Error:
                yield f"picture-{number}", None, b"not a picture"


def _of_archive(data: bytes, media_type: str) -> Iterator[tuple[str, int | None, bytes]]:
    broken = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            pages = slides_of_media(archive) if media_type == PPTX else {}
            for part in sorted(filter(IN_ARCHIVE.search, archive.namelist())):
                if media_type != EPUB and "/media/" not in part:
                    continue  # a thumbnail of the file itself
                try:
                    content = archive.read(part)
                except broken:
                    content = b"not a picture"
                yield part.rpartition("/")[2], pages.get(part), content
    except (*broken, ElementTree.ParseError, KeyError, ValueError):
        return  # a damaged file; its text's reader says so
