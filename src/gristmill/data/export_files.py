"""Files that an export writes: hashed on the way, and under their names only when they are complete and on disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from gristmill.errors import EnvironmentProblem, GristmillError, UsageError

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large for this disk or this user",
}


async def on_disk(target: Path, function: Callable[..., Any], *arguments: Any) -> Any:
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
        raise explain(error, target) from error


class Hashing:
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


def checked_target(path: Path) -> Path:
    """The file to replace: behind symbolic links, in a folder that exists. Raises `UsageError` U403."""
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
        raise explain(error, path) from error
    return target


def create(target: Path, temporary: Path) -> BinaryIO:
    """A new file with the mode of the one that it will replace."""
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise explain(error, target) from error
    if target.exists():
        with contextlib.suppress(OSError):  # some file systems know no modes
            os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
    return os.fdopen(descriptor, "wb", buffering=1024 * 1024)


def publish(temporary: Path, target: Path) -> None:
    """Gives what is complete and on disk its name."""
    os.replace(temporary, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: OSError, target: Path) -> GristmillError:
    """What to tell a person about an error of the disk."""
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
