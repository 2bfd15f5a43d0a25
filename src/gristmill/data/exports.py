"""Writes rows to a file: streamed, in constant memory, and under its name only when it is complete."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from gristmill.data.export_formats import FORMATS, Format, Layout, Row
from gristmill.errors import EnvironmentProblem, GristmillError, UsageError

__all__ = ["FORMATS", "Format", "Manifest", "Row", "export", "find_format", "infer_format"]

BATCH_ROWS = 10_000
BATCH_CHARACTERS = 8 * 1024 * 1024  # of questions, answers and chunks; bounds the memory of one batch
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large for this disk or this user",
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was written."""

    path: Path
    format: str
    rows: int
    bytes: int
    sha256: str  # of the file, 64 hexadecimal digits


async def export(rows: AsyncIterable[Row], path: Path | str, format: str = "jsonl", *, bom: bool = False) -> Manifest:
    """Writes the rows to `path` and says what was written.

    The file appears under its name when it is complete and on disk; until then, and when anything fails, a file that
    was there before stays as it was. A missing folder is made. alpaca, sharegpt and messages are a JSON array where
    the path ends in ".json", and one JSON object a line otherwise. `bom` (CSV only) starts the file with a byte order
    mark, which Excel needs to read UTF-8.

    Raises `UsageError` for an unknown format, a path that is not a file, or a missing package, and
    `EnvironmentProblem` when the disk is full or may not be written to. What `rows` raises passes through.
    """
    found = find_format(format)
    if bom and found.name != "csv":
        raise UsageError(f"a byte order mark is for csv; the format is {found.name}")
    target = _checked_target(Path(path))
    layout = Layout(array=bool(found.array_suffix) and Path(path).suffix.lower() == found.array_suffix, bom=bom)
    temporary = target.parent / f".gristmill-{secrets.token_hex(8)}.part"
    on_disk = partial(_on_disk, target)
    stream = _Hashing(_create(target, temporary))
    try:
        writer = await on_disk(found.open, cast(BinaryIO, stream), layout)
        count = 0
        async for batch in _batches(rows):
            await on_disk(writer.write, batch)
            count += len(batch)
        await on_disk(writer.finish)
        await on_disk(_publish, stream, temporary, target)
    finally:
        stream.close()
        temporary.unlink(missing_ok=True)
    return Manifest(Path(path), found.name, count, stream.size, stream.digest())


def find_format(name: str) -> Format:
    """The format of that name. Raises `UsageError`, with the nearest name."""
    found = FORMATS.get(name.lower())
    if found is None:
        near = difflib.get_close_matches(name.lower(), FORMATS, 1)
        known = f"known: {', '.join(FORMATS)}"
        hint = f'did you mean "{near[0]}"? {known}' if near else known
        raise UsageError(f'there is no export format "{name}"', hint=hint, code="U401")
    return found


def infer_format(path: Path | str, format: str | None = None) -> str:
    """The name of the format: the given one when it exists, else the one the path's suffix means.

    A path without a suffix means jsonl. Raises `UsageError` for an unknown format or suffix.
    """
    if format:
        return find_format(format).name
    suffix = Path(path).suffix.lower()
    if not suffix:
        return "jsonl"
    for entry in FORMATS.values():
        if entry.inferred and suffix in entry.suffixes:
            return entry.name
    fitting = [entry.name for entry in FORMATS.values() if suffix in entry.suffixes] or list(FORMATS)
    raise UsageError(
        f'the name "{Path(path).name}" does not say which format is meant',
        hint=f"name one of: {', '.join(fitting)}",
        code="U402",
    )


async def _on_disk(target: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Runs what may block in a thread, and waits for it even when cancelled: cleaning up under it would be a race."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        await asyncio.wait([running])
    except asyncio.CancelledError:
        await asyncio.wait([running])
        running.exception()  # seen, so that it is not reported as lost
        raise
    try:
        return running.result()
    except OSError as error:
        raise _explain(error, target) from error


async def _batches(rows: AsyncIterable[Row]) -> AsyncIterator[list[Row]]:
    batch: list[Row] = []
    characters = 0
    async for row in rows:
        batch.append(row)
        characters += len(row.question) + len(row.answer) + len(row.quote or "") + len(row.chunk or "")
        if len(batch) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class _Hashing:
    """A file that is only appended to, and knows its size and hash without being read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if self._file.closed:
            return view.nbytes  # pyarrow writes a footer when it is collected, also to a file that was given up
        self._file.write(view)
        self._hash.update(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._file.flush()

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was reported by the write or the sync before
            self._file.close()

    @property
    def closed(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def digest(self) -> str:
        return self._hash.hexdigest()


def _checked_target(path: Path) -> Path:
    """The file to replace: behind symbolic links, in a folder that exists."""
    try:
        target = path.expanduser().resolve()
        if target.is_dir():
            raise UsageError(f"{path} is a folder", hint="give the name of a file in it", code="U403")
        if target.exists() and not target.is_file():
            raise UsageError(f"{path} is not a regular file", code="U403")
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))  # a rename would not ask
        target.parent.mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError):
        raise UsageError(f"{path}: a part of the path is a file, not a folder", code="U403") from None
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"{str(path)!r} is not a path: {error}", code="U403") from None
    except OSError as error:
        raise _explain(error, path) from error
    return target


def _create(target: Path, temporary: Path) -> BinaryIO:
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _explain(error, target) from error
    if target.exists():
        with contextlib.suppress(OSError):  # some file systems know no modes
            os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
    return os.fdopen(descriptor, "wb", buffering=1024 * 1024)


def _publish(stream: _Hashing, temporary: Path, target: Path) -> None:
    stream.sync()
    os.replace(temporary, target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _explain(error: OSError, target: Path) -> GristmillError:
    safe = "a file that was there before is unchanged"
    if error.errno in _FULL:
        return EnvironmentProblem(
            f"{target} could not be written: {_FULL[error.errno]}",
            hint="free some space, or export to another disk", safe=safe, code="E401",
        )  # fmt: skip
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return EnvironmentProblem(
            f"{target} may not be written to: {os.strerror(error.errno)}",
            hint=f"check who may write to {target.parent}", safe=safe, code="E402",
        )  # fmt: skip
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.ENOTDIR):
        return UsageError(f"{target} cannot be a file: {os.strerror(error.errno)}", safe=safe, code="U403")
    return EnvironmentProblem(f"{target} could not be written: {error.strerror or error}", safe=safe, code="E403")
