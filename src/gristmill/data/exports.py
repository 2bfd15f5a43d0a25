"""Writes rows to files: streamed, in constant memory, and under their names only when they are complete."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, cast

from gristmill.data.export_bundles import Pictures, ReadImage, checked_folder, companions, data_file, publish_folder
from gristmill.data.export_files import Hashing, checked_target, create, on_disk, publish
from gristmill.data.export_formats import FORMATS, Format, Options, find_format, infer_format, layout_of, row_format
from gristmill.data.export_manifest import IN_FOLDER, Manifest, Written, manifest_of, manifest_text
from gristmill.data.export_select import balanced, filtered, paired, split_of
from gristmill.data.export_shapes import Entry, Layout, Pair, row_of
from gristmill.data.export_writers import Writer
from gristmill.data.rows import Row

__all__ = ["FORMATS", "Format", "Manifest", "Options", "Row", "Written", "export", "find_format", "infer_format"]

BATCH_ROWS = 10_000
BATCH_CHARACTERS = 8 * 1024 * 1024  # of questions, answers and chunks; bounds the memory of one batch


async def export(
    rows: AsyncIterable[Row], path: Path | str, format: str = "jsonl", options: Options | None = None, *,
    read_image: ReadImage | None = None, about: Mapping[str, Any] = MappingProxyType({}),
) -> Manifest:  # fmt: skip
    """Writes the rows to `path`, and says what was written; the same stands in `NAME.manifest.json` beside it.

    A file appears under its name when it is complete and on disk; until then, and when anything fails, what was there
    before stays as it was. A missing folder is made. JSON formats are an array where the path ends in ".json", and one
    object a line otherwise. With `options.split` there is a file for each split: "data.jsonl" becomes
    "data-train.jsonl". A bundle is a folder, with its manifest inside; pictures come from `read_image`, by hash. It
    replaces a folder only where that holds an earlier export and nothing else. `about` goes into the manifest.

    Raises `UsageError` for an unknown format, options that do not go together, a path that is not a file, or a missing
    package, and `EnvironmentProblem` when the disk is full or may not be written to. What `rows` raises passes through.
    """
    found, wanted = find_format(format), options or Options()
    wanted.check(found)
    output = _Folder(Path(path), found, wanted, read_image) if found.bundle else _Files(Path(path), found, wanted)
    try:
        await output.open()
        chosen = filtered(rows, wanted.where, reviewed=wanted.reviewed)
        entries = paired(chosen) if row_format(found, wanted).pairs else chosen
        async for batch in _batches(balanced(entries, wanted.balance)):
            await output.write(batch)
        return await output.finish(about)
    finally:
        output.clear()


async def _batches(entries: AsyncIterable[Entry]) -> AsyncIterator[list[Entry]]:
    batch: list[Entry] = []
    characters = 0
    async for entry in entries:
        batch.append(entry)
        characters += sum(
            _length(row) for row in ((entry.chosen, entry.rejected) if isinstance(entry, Pair) else (entry,))
        )
        if len(batch) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _length(row: Row) -> int:
    turns = sum(len(turn.content) + len(turn.reasoning or "") for turn in row.turns)
    texts = (row.question, row.answer, row.quote, row.chunk, row.reasoning)
    return turns + sum(len(text) for text in texts if text)


class _Part:
    """One data file that is being written."""

    def __init__(self, name: str, split: str | None, temporary: Path, target: Path) -> None:
        self.name = name
        self.split = split
        self.temporary = temporary
        self.target = target
        self.rows = 0
        self._stream: Hashing
        self._writer: Writer

    def open(self, format: Format, layout: Layout) -> None:
        self.temporary.parent.mkdir(exist_ok=True)
        self._stream = Hashing(create(self.target, self.temporary))
        self._writer = format.open(cast(BinaryIO, self._stream), layout)

    def write(self, entries: list[Entry]) -> None:
        self._writer.write(entries)
        self.rows += len(entries)

    def finish(self) -> Written:
        self._writer.finish()
        self._stream.sync()
        return Written(self.name, self.rows, self._stream.size, self._stream.digest(), self.split)

    def clear(self) -> None:
        if hasattr(self, "_stream"):
            self._stream.close()


class _Output:
    """What files and folders have in common: data files by split, and batches that are shared out among them."""

    def __init__(self, path: Path, format: Format, options: Options) -> None:
        self.path = path
        self.format = format
        self.options = options
        self.target = path
        self.mark = f".gristmill-{secrets.token_hex(8)}"  # of what is not complete yet
        self.parts: dict[str | None, _Part] = {}

    def splits(self) -> list[str | None]:
        return list(self.options.split or {}) or [None]

    async def open_parts(self, *, array: bool) -> None:
        layout = layout_of(self.format, self.options, array=array)
        inner = row_format(self.format, self.options)
        for part in self.parts.values():
            await on_disk(part.target, part.open, inner, layout)

    async def write(self, batch: list[Entry]) -> None:
        shares = self.options.split
        groups: dict[str | None, list[Entry]] = {}
        for entry in batch:
            groups.setdefault(split_of(row_of(entry), shares, self.options.seed) if shares else None, []).append(entry)
        for split, entries in groups.items():
            await on_disk(self.target, self.parts[split].write, entries)

    async def finish_parts(self) -> list[Written]:
        return [await on_disk(part.target, part.finish) for part in self.parts.values()]

    def clear(self) -> None:
        for part in self.parts.values():
            part.clear()


class _Files(_Output):
    """One file, or one for each split, and a manifest beside it."""

    async def open(self) -> None:
        for split in self.splits():
            path = self.path if split is None else self.path.with_name(f"{self.path.stem}-{split}{self.path.suffix}")
            target = checked_target(path)
            temporary = target.parent / f"{self.mark}{len(self.parts) or ''}.part"
            self.parts[split] = _Part(path.name, split, temporary, target)
        suffix = self.format.array_suffix
        await self.open_parts(array=bool(suffix) and self.path.suffix.lower() == suffix)

    async def finish(self, about: Mapping[str, Any]) -> Manifest:
        manifest = manifest_of(self.path, self.format.name, await self.finish_parts())
        for part in self.parts.values():
            await on_disk(part.target, publish, part.temporary, part.target)
        beside = checked_target(self.path.with_name(f"{self.path.name}.manifest.json"))
        text = manifest_text(manifest, self.options, about)
        await on_disk(beside, _write_beside, beside.parent / f"{self.mark}.manifest.part", beside, text)
        return manifest

    def clear(self) -> None:
        super().clear()
        for part in self.parts.values():
            part.temporary.unlink(missing_ok=True)


class _Folder(_Output):
    """A bundle: it grows under a hidden name beside its own."""

    def __init__(self, path: Path, format: Format, options: Options, read_image: ReadImage | None) -> None:
        super().__init__(path, format, options)
        self._read_image = read_image
        self._growing: Path  # under a hidden name beside the folder's own

    async def open(self) -> None:
        self.target = checked_folder(self.path)
        growing = self.target.parent / f"{self.mark}.part"
        await on_disk(self.target, growing.mkdir)
        self._growing = growing
        self._pictures = Pictures(growing, self._read_image)
        for split in self.splits():
            name = data_file(self.format, self.options, split)
            self.parts[split] = _Part(name, split, growing / name, growing / name)
        await self.open_parts(array=self.format.file.endswith(".json"))

    async def write(self, batch: list[Entry]) -> None:
        await super().write([await self._with_picture(entry) for entry in batch])

    async def _with_picture(self, entry: Entry) -> Entry:
        if isinstance(entry, Pair) or not entry.image:
            return entry
        return replace(entry, image=await self._pictures.path(entry.image))

    async def finish(self, about: Mapping[str, Any]) -> Manifest:
        files = await self.finish_parts()
        for name, content in companions(self.target.name, self.format, self.options, files).items():
            files.append(await on_disk(self.target, _write_companion, self._growing, name, content))
        manifest = manifest_of(self.path, self.format.name, files, self._pictures.count)
        text = manifest_text(manifest, self.options, about)
        await on_disk(self.target, _write_companion, self._growing, IN_FOLDER, text)
        super().clear()
        await on_disk(self.target, publish_folder, self._growing, self.target)
        return manifest

    def clear(self) -> None:
        super().clear()
        if hasattr(self, "_growing"):
            shutil.rmtree(self._growing, ignore_errors=True)


def _write_beside(temporary: Path, target: Path, content: bytes) -> None:
    try:
        stream = Hashing(create(target, temporary))
        try:
            stream.write(content)
            stream.sync()
        finally:
            stream.close()
        publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _write_companion(folder: Path, name: str, content: bytes) -> Written:
    stream = Hashing(create(folder / name, folder / name))
    try:
        stream.write(content)
        stream.sync()
    finally:
        stream.close()
    return Written(name, 0, stream.size, stream.digest())
