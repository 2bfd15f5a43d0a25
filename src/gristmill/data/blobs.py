"""The store of bytes: input files and extracted texts, each under the sha256 of what it holds.

    <folder>/ab/abcdef...      one file per content, written once, never changed
    <folder>/ab/abcdef....zst  the same, compressed (setting `compress`); the name is still that of the bytes themselves
    <folder>/partial/...       files on their way in

A file appears under its name only after its bytes and then the rename have reached the disk, so existence means that
the content is complete, whatever was killed in between. Two writers of the same content agree by construction.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import hashlib
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

from gristmill.data.compression import Compress, compress, compressed_name, decompress
from gristmill.errors import EnvironmentProblem, InputError

RESERVE = 256 * 1024 * 1024  # bytes that stay free: a full disk stops the database, and with it everything
PIECE = 1024 * 1024  # bytes per read, so that a file of any size costs the same memory
LEFTOVER_AGE = 24 * 3600  # seconds; no honest write takes a day, so an older partial file belongs to a dead process
DIGEST = re.compile(r"[0-9a-f]{64}")


class Blobs:
    """A folder of content-addressed files, safe for any number of processes on one file system.

    `reserve` is the number of bytes that must remain free after a write (default 256 MiB, 0 turns the check off).
    What is written is compressed with zstd at `level`, if one is given; see `of`.
    Every method that touches the disk may raise `EnvironmentProblem`: F201 missing, F202 damaged, F203 no space,
    F204 cannot be written or read.
    """

    def __init__(
        self, folder: Path | str, *, reserve: int = RESERVE, compress: Compress | None = None, level: int | None = None
    ) -> None:
        self.folder = Path(folder)
        self.compress = compress or Compress()
        self.level = level
        self.reserve = reserve
        self._partial = self.folder / "partial"
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_usable(self.folder, error) from error
        self._sweep()

    def path(self, digest: str) -> Path:
        """Where that content lies, or would lie. Raises `ValueError` for anything but 64 lower-case hex digits."""
        if not DIGEST.fullmatch(digest):
            raise ValueError(f"not a sha256 in hex: {digest!r}")
        return self.folder / digest[:2] / digest

    def of(self, kinds: Iterable[str]) -> Self:
        """The same store for what makes records of these kinds: it compresses if the setting names one of them."""
        made = copy.copy(self)
        made.level = self.compress.level if set(kinds) & set(self.compress.kinds) else None
        return made

    def room(self) -> int:
        """Bytes that may still be written; negative when the reserve is used already. Without a reserve: a lot."""
        if self.reserve <= 0:
            return 2**63
        try:
            disk = os.statvfs(self.folder)
        except OSError as error:
            raise _not_usable(self.folder, error) from error
        return disk.f_bavail * disk.f_frsize - self.reserve

    async def bring(self, digests: Iterable[str]) -> None:
        """Makes them ready to be read by others on this machine: nothing to do for a folder."""

    async def send(self, digests: Iterable[str]) -> None:
        """Makes them ready to be read by other machines: nothing to do for a folder."""

    async def close(self) -> None:
        """Nothing is open."""

    def exists(self, digest: str) -> bool:
        """Whether the content is there. A look at directory entries; the bytes are checked by `read`."""
        path = self.path(digest)
        return path.is_file() or compressed_name(path).is_file()

    async def read(self, digest: str) -> bytes:
        """The bytes, checked against their digest. Raises F201 when they are missing, F202 when they are damaged."""
        return await asyncio.to_thread(self._read, digest)

    async def write(self, data: bytes) -> str:
        """Keeps the bytes and returns their sha256 in hex; they are on disk when this returns."""
        return await asyncio.to_thread(self._write, data)

    async def write_file(self, path: Path | str) -> tuple[str, int]:
        """Copies a file in, a piece at a time, and returns (digest, size in bytes).

        Raises `InputError` when the file itself is the trouble (F101 missing, F102 no permission, F105 not a regular
        file, F106 unreadable, F108 changed while it was read) and `EnvironmentProblem` when the store is.
        """
        return await asyncio.to_thread(self._write_file, Path(path))

    async def write_from(self, opener: Callable[[], BinaryIO], size: int) -> tuple[str, int]:
        """Copies what `opener` opens, a piece at a time, and returns (digest, size in bytes); `size` is what is
        expected, for the look at the free space. What reading raises is raised."""
        return await asyncio.to_thread(self._write_from, opener, size)

    def _read(self, digest: str) -> bytes:
        path = self.path(digest)
        try:
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                data = decompress(compressed_name(path).read_bytes())
        except FileNotFoundError:
            raise EnvironmentProblem(
                f"the content {digest[:12]}... is missing from {self.folder}", code="F201",
                hint="was the data folder moved, or cleaned by hand? Adding the input again restores it",
            ) from None  # fmt: skip
        except OSError as error:
            raise _not_usable(path, error) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise EnvironmentProblem(
                f"the content {digest[:12]}... in {self.folder} is damaged: its bytes do not match their sha256",
                code="F202", hint="check the disk; adding the input again replaces the damaged file",
            )  # fmt: skip
        return data

    def _write(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        if self._holds(digest, len(data)):
            return digest
        stored, target = data, self.path(digest)
        if self.level is not None and len(small := compress(data, self.level)) < len(data):
            stored, target = small, compressed_name(target)
        self._check_space(len(stored))
        with self._incoming() as (descriptor, temporary):
            try:
                _write_all(descriptor, stored)
            except OSError as error:
                raise _not_usable(self.folder, error) from error
            self._publish(descriptor, temporary, target)
        return digest

    def _write_from(self, opener: Callable[[], BinaryIO], size: int) -> tuple[str, int]:
        self._check_space(size)
        checksum = hashlib.sha256()
        with opener() as source, self._incoming() as (descriptor, temporary):
            size = 0
            while piece := source.read(PIECE):
                checksum.update(piece)
                size += len(piece)
                try:
                    _write_all(descriptor, piece)
                except OSError as error:
                    raise _not_usable(self.folder, error) from error
            digest = checksum.hexdigest()
            if not self._holds(digest, size):
                self._publish(descriptor, temporary, self.path(digest))
        return digest, size

    def _write_file(self, path: Path) -> tuple[str, int]:
        source = open_regular(path)
        try:
            before = os.fstat(source)
            self._check_space(before.st_size)
            with self._incoming() as (descriptor, temporary):
                digest, size = self._copy(source, descriptor, path)
                after = os.fstat(source)
                if size != before.st_size or _version(before) != _version(after):
                    raise InputError(
                        f"{path.name} changed while it was read", code="F108",
                        hint="wait until nothing writes to it any more, then run the same command again",
                    )  # fmt: skip
                if not self._holds(digest, size):
                    self._publish(descriptor, temporary, self.path(digest))
            return digest, size
        finally:
            os.close(source)

    def _copy(self, source: int, descriptor: int, path: Path) -> tuple[str, int]:
        checksum = hashlib.sha256()
        size = 0
        while True:
            try:
                piece = os.read(source, PIECE)
            except OSError as error:
                raise unreadable(path, error) from error
            if not piece:
                return checksum.hexdigest(), size
            checksum.update(piece)
            size += len(piece)
            try:
                _write_all(descriptor, piece)
            except OSError as error:
                raise _not_usable(self.folder, error) from error

    @contextlib.contextmanager
    def _incoming(self) -> Iterator[tuple[int, Path]]:
        """A new partial file; whatever happens, it is gone at the end unless `_publish` has renamed it."""
        temporary = self._partial / uuid.uuid4().hex
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _not_usable(self.folder, error) from error
        try:
            yield descriptor, temporary
        finally:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _publish(self, descriptor: int, temporary: Path, target: Path) -> None:
        """Bytes to disk, then the name, then the folder's own entry: a power cut leaves all of it or nothing."""
        try:
            os.fsync(descriptor)
            if not target.parent.is_dir():
                target.parent.mkdir(exist_ok=True)
                _sync_folder(self.folder)
            os.replace(temporary, target)
            _sync_folder(target.parent)
        except OSError as error:
            raise _not_usable(self.folder, error) from error

    def _holds(self, digest: str, size: int) -> bool:
        """Whether the content is already there and sound. A damaged copy is reported as absent, so it is replaced."""
        target = self.path(digest)
        try:
            if not target.exists():
                data = decompress(compressed_name(target).read_bytes())
                _sync_folder(target.parent)
                return hashlib.sha256(data).hexdigest() == digest
            if target.stat().st_size != size:
                return False
            with target.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return False
            _sync_folder(target.parent)  # its writer may have been killed between the rename and this
        except OSError:
            return False
        return True

    def _check_space(self, size: int) -> None:
        room = self.room()
        if room < size:
            raise EnvironmentProblem(
                f"not enough space in {self.folder}: {_mebibytes(room + self.reserve)} free, "
                f"{_mebibytes(size)} to be written, {_mebibytes(self.reserve)} are kept in reserve",
                code="F203", hint="make room on that disk, then run the same command again",
                safe="nothing was written; everything finished so far is kept",
            )  # fmt: skip

    def _sweep(self) -> None:
        """Removes what writers left behind that were killed more than a day ago."""
        limit = time.time() - LEFTOVER_AGE
        with contextlib.suppress(OSError), os.scandir(self._partial) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < limit:
                        os.unlink(entry.path)


def open_regular(path: Path) -> int:
    """A descriptor for reading a regular file; `InputError` with a code of the F1 family for anything else."""
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever; it means nothing for regular files
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path.name} is not a regular file", code="F105")
    return descriptor


def unreadable(path: Path, error: OSError) -> InputError:
    """An operating system error about an input file as the sentence and the code that the user sees."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return InputError(f"{path.name} does not exist", code="F101")
    if error.errno in (errno.EACCES, errno.EPERM):
        return InputError(f"no permission to read {path.name}", code="F102")
    if error.errno in (errno.ENXIO, errno.ENODEV):  # what opening a socket or a device without a driver answers
        return InputError(f"{path.name} is not a regular file", code="F105")
    return InputError(f"{path.name} cannot be read: {os.strerror(error.errno or 0)}", code="F106")


def _not_usable(path: Path, error: OSError) -> EnvironmentProblem:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentProblem(
            f"no space left in {path}", code="F203", hint="make room on that disk, then run the same command again",
            safe="the unfinished file was removed; everything finished so far is kept",
        )  # fmt: skip
    return EnvironmentProblem(
        f"cannot use {path}: {os.strerror(error.errno or 0)}", code="F204",
        hint="the data folder must exist on a working disk and belong to the user who runs Gristmill",
    )  # fmt: skip


def _version(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mebibytes(size: int) -> str:
    return f"{size / 1024 / 1024:.0f} MiB"
