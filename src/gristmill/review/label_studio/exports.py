"""What stands of a project as files: the formats as a table, and writing them whole or not at all."""

from __future__ import annotations

import difflib
import json
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from gristmill.data import records
from gristmill.data.annotations import ANNOTATIONS
from gristmill.data.export_bundles import checked_folder, publish_folder
from gristmill.data.export_files import Hashing, checked_target, create, on_disk, publish
from gristmill.data.export_formats import Options
from gristmill.data.export_manifest import IN_FOLDER, Manifest, Written, manifest_of, manifest_text
from gristmill.errors import UsageError
from gristmill.review.label_studio.export_boxes import CocoFolder, VocFolder, YoloFolder, file_name
from gristmill.review.label_studio.export_text import ConllText, CsvText, Entry, JsonText, Layout, ShortJsonText
from gristmill.review.label_studio.offsets import Unit
from gristmill.review.label_studio.projects import SQL, Project, subjects_of
from gristmill.review.label_studio.push import ReadBytes
from gristmill.review.label_studio.subjects import Address, picture_name
from gristmill.review.states import REJECTED, REVIEWED

PAGE = 200


class TextForm(Protocol):
    """One file: a head, an entry at a time, a tail."""

    def head(self) -> str: ...

    def entry(self, entry: Entry) -> str: ...

    def tail(self) -> str: ...


class FolderForm(Protocol):
    """A folder of pictures with files beside them: those of one entry, and those of the whole."""

    def files(self, entry: Entry, name: str) -> dict[str, bytes]: ...

    def finish(self) -> dict[str, bytes]: ...


@dataclass(frozen=True, slots=True)
class AnnotationFormat:
    """One entry of the table. `kinds` are those that it can say; `suffix` is empty for a folder."""

    name: str
    suffix: str
    kinds: tuple[str, ...]
    description: str
    text: Callable[[Layout], TextForm] | None = None
    folder: Callable[[Layout], FolderForm] | None = None


_ALL, _SPANS, _BOXES = tuple(ANNOTATIONS), ("entities", "relations"), ("boxes",)
FORMATS: dict[str, AnnotationFormat] = {
    one.name: one
    for one in (
        AnnotationFormat("json", ".json", _ALL, "Label Studio's tasks with annotations", JsonText),
        AnnotationFormat("json-min", ".json", _ALL, "the data of each task and its answers, by tag", ShortJsonText),
        AnnotationFormat("csv", ".csv", _ALL, "json-min as a table", CsvText),
        AnnotationFormat("tsv", ".tsv", _ALL, "the same with tabs", partial(CsvText, delimiter="\t")),
        AnnotationFormat("conll", ".conll", _SPANS, "CoNLL-2003: a word and its tag a line", ConllText),
        AnnotationFormat("coco", "", _BOXES, "a folder: annotations.json and images", folder=CocoFolder),
        AnnotationFormat("voc", "", _BOXES, "a folder: an XML file a picture, and images", folder=VocFolder),
        AnnotationFormat("yolo", "", _BOXES, "a folder: a text file a picture, classes, images", folder=YoloFolder),
        AnnotationFormat(
            "yolo-obb", "", _BOXES, "the same with the corners of turned boxes", folder=partial(YoloFolder, turned=True)
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what the format has no words for: what -> how many."""

    manifest: Manifest
    left_out: dict[str, int] = field(default_factory=dict)


async def entries(pool: asyncpg.Pool[Any], project: Project, *, reviewed: bool = False) -> AsyncIterator[Entry]:
    """What stands of each piece now: a person's revision, or the proposal. Not what was rejected or is undecided; with
    `reviewed` only what a person has accepted or edited."""
    last = -1
    while page := await pool.fetch(SQL["pieces"], project.id, last, PAGE):
        last = page[-1]["ordinal"]
        ids = [row["subject_id"] for row in page]
        about = {row["subject_id"]: json.loads(row["about"]) for row in page}
        now = {row["subject_id"]: row for row in await pool.fetch(SQL["pieces_named"], project.id, "", ids)}
        wanted = [
            row for number in ids
            if (row := now[number])["now_id"] is not None and row["state"] != REJECTED
            and (not reviewed or row["state"] in REVIEWED)
        ]  # fmt: skip
        found = await records.load(pool, [row["now_id"] for row in wanted])
        subjects = await subjects_of(pool, {row["subject_id"]: about[row["subject_id"]] for row in wanted})
        for row in wanted:
            body = ANNOTATIONS[project.kind].model_validate_json(found[row["now_id"]].body)
            if not body.undecided:
                yield Entry(subjects[row["subject_id"]], body, row["now_id"], row["state"] or "proposed")


def find_annotation_format(name: str, kind: str) -> AnnotationFormat:
    """The format of that name. Raises `UsageError` L160 for one that does not exist, or cannot hold the kind."""
    found = FORMATS.get(name.lower().replace("_", "-"))
    fitting = [one.name for one in FORMATS.values() if kind in one.kinds]
    if found is None or kind not in found.kinds:
        near = difflib.get_close_matches(name.lower(), fitting, 1)
        what = f'"{name}" cannot hold {kind}' if found else f'there is no format "{name}" for annotations'
        hint = f'did you mean "{near[0]}"? ' if near and not found else ""
        raise UsageError(what, code="L160", hint=f"{hint}for {kind}: {', '.join(fitting)}", safe="nothing was written")
    return found


async def export_project(
    pool: asyncpg.Pool[Any], project: Project, path: Path | str, format: str = "json", *, blobs: ReadBytes,
    reviewed: bool = False, unit: Unit = "codepoint", address: Address = picture_name,
) -> Exported:  # fmt: skip
    """Writes what stands of a project to `path`: a file, or for coco, voc and yolo a folder with the pictures. It
    appears when it is complete; a folder is replaced only where it holds an earlier export and nothing else.

    `unit` is what places in texts count in ("codepoint", "utf16"), `address` where pictures are, for formats without
    pictures of their own. Raises `UsageError` L160, and what writing raises (`gristmill.data.exports`).
    """
    found = find_annotation_format(format, project.kind)
    layout = Layout(project.labeling, address, unit)
    about = {"project": project.name, "run": project.run_id, "kind": project.kind, "reviewed": reviewed}
    source = entries(pool, project, reviewed=reviewed)
    if found.text is not None:
        manifest = await _file(source, Path(path), found.name, found.text(layout), about)
    else:
        manifest = await _folder(source, Path(path), found, layout, blobs, about)
    return Exported(manifest, layout.left_out)


async def _file(source: AsyncIterator[Entry], path: Path, name: str, form: TextForm, about: dict[str, Any]) -> Manifest:
    target = checked_target(path)
    temporary = target.parent / f".gristmill-{secrets.token_hex(8)}.part"
    stream = Hashing(await on_disk(target, create, target, temporary))
    rows = 0
    try:
        await on_disk(target, stream.write, form.head().encode())
        async for entry in source:
            await on_disk(target, stream.write, form.entry(entry).encode("utf-8", "backslashreplace"))
            rows += 1
        await on_disk(target, stream.write, form.tail().encode())
        await on_disk(target, stream.sync)
        manifest = manifest_of(path, name, [Written(path.name, rows, stream.size, stream.digest())])
        await on_disk(target, publish, temporary, target)
    finally:
        stream.close()
        temporary.unlink(missing_ok=True)
    beside = target.with_name(f"{target.name}.manifest.json")
    await on_disk(beside, beside.write_bytes, manifest_text(manifest, Options(), about))
    return manifest


async def _folder(
    source: AsyncIterator[Entry], path: Path, found: AnnotationFormat, layout: Layout, blobs: ReadBytes,
    about: dict[str, Any],
) -> Manifest:  # fmt: skip
    assert found.folder is not None  # noqa: S101
    form = found.folder(layout)
    target = checked_folder(path)
    growing = target.parent / f".gristmill-{secrets.token_hex(8)}.part"
    await on_disk(target, growing.mkdir)
    written: list[Written] = []
    try:
        async for entry in source:
            if entry.subject.picture is None:
                continue
            name = file_name(entry)
            files = {f"images/{name}": await blobs.read(entry.subject.picture.blob), **form.files(entry, name)}
            written += [await on_disk(target, _put, growing, *file) for file in files.items()]
        images = sum(file.name.startswith("images/") for file in written)
        written += [await on_disk(target, _put, growing, *file) for file in form.finish().items()]
        written[-1:] = [Written(written[-1].name, images, written[-1].bytes, written[-1].sha256)] if written else []
        manifest = manifest_of(path, found.name, written or [Written(IN_FOLDER, 0, 0, "")], images)
        await on_disk(target, _put, growing, IN_FOLDER, manifest_text(manifest, Options(), about))
        await on_disk(target, publish_folder, growing, target)
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return manifest


def _put(folder: Path, name: str, content: bytes) -> Written:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    stream = Hashing(create(path, path))
    try:
        stream.write(content)
        stream.sync()
    finally:
        stream.close()
    return Written(name, 0, stream.size, stream.digest())
