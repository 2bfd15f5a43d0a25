"""Zip archives as inputs: each file inside is an input of its own, called `archive.zip/inner.md`.

Nothing is written where an archive says; its files are read one at a time, when they are wanted. What an archive could
do harm with is refused with a reason: too many entries, too much content, archives in archives in archives, names that
lead out of it, links.
"""

from __future__ import annotations

import io
import shutil
import stat
import struct
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from gristmill.data.media import ZIP, media_type
from gristmill.data.scan import Found, Unreadable, left_out, storable_name, told
from gristmill.errors import InputError

IN_MEMORY = 8 * 2**20  # bytes of an archive inside of another one that are kept in memory; more go to a temporary file
DIRECTORY = 32 * 2**20  # bytes of an archive's table of contents; it is read whole
TAIL = 65_557 + 20  # bytes at the end in which the table's own address is, and the one of large archives
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, struct.error)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an archive may hold, all archives inside of it included. `ratio` counts above `small` bytes only."""

    entries: int = 100_000
    unpacked: int = 64 * 2**30
    ratio: int = 100  # times its own size; text shrinks 3 to 20 times
    small: int = 2**30
    depth: int = 3  # archives in archives; 1 is none


BOUNDS = Bounds()


class _Spent:
    """What one archive and those inside of it hold so far."""

    def __init__(self, bounds: Bounds, size: int) -> None:
        self.bounds, self.size = bounds, size
        self.entries = self.unpacked = 0

    def add(self, members: list[zipfile.ZipInfo]) -> None:
        """Raises `InputError` F113."""
        bounds = self.bounds
        self.entries += len(members)
        self.unpacked += sum(member.file_size for member in members)
        if self.entries > bounds.entries:
            raise _too_much(f"holds {self.entries:,} entries; the limit is {bounds.entries:,}")
        bomb = self.unpacked > bounds.small and self.unpacked > bounds.ratio * self.size
        if bomb or self.unpacked > bounds.unpacked:
            raise _too_much(f"would unpack from {self.size:,} to {self.unpacked:,} bytes; it is refused as a zip bomb")


def expand(outer: Found, bounds: Bounds = BOUNDS) -> Iterator[Found | Unreadable]:
    """The files inside of an archive, by name. Codes of `Unreadable`: F111 damaged, or nothing in it; F112 protected by
    a password; F113 too much in it; F114 too many archives inside of each other; F115 a name that leads out of it, or
    one that comes twice; F116 a link, or no regular file."""
    yield from _expand(outer, _Spent(bounds, outer.size), 1)


def _expand(outer: Found, spent: _Spent, depth: int) -> Iterator[Found | Unreadable]:
    try:
        archive = _open(outer)
        members = sorted((m for m in archive.infolist() if not m.is_dir()), key=lambda member: member.filename)
        spent.add(members)
    except InputError as error:
        yield Unreadable(outer.name, outer.path, error.code, told(error), outer.uri)
        return
    except BROKEN:
        yield Unreadable(outer.name, outer.path, "F111", "the archive is damaged or incomplete", outer.uri)
        return
    seen: set[str] = set()
    for member in members:
        inner = storable_name(member.filename.replace("\\", "/"))
        if any(left_out(part) for part in inner.split("/") if part not in (".", "..")):
            continue
        yield from _member(outer, archive, member, inner, seen, spent, depth)
        seen.add(inner)
    if not members:
        yield Unreadable(outer.name, outer.path, "F111", "the archive holds no files", outer.uri)


def _member(
    outer: Found, archive: zipfile.ZipFile, member: zipfile.ZipInfo, inner: str, seen: set[str], spent: _Spent,
    depth: int,
) -> Iterator[Found | Unreadable]:  # fmt: skip
    name, path = f"{outer.name}/{inner}", outer.path / inner.lstrip("/")
    uri = f"{outer.uri}!/{inner}" if outer.uri else ""
    try:
        _check(member, inner, seen)
        file = _reader(archive, member)
        with translated(inner), file() as opened:
            kind = media_type(name, opened)
        found = Found(name, path, member.file_size, kind, uri, file)
        if kind != ZIP:
            yield found
            return
        if depth >= spent.bounds.depth:
            raise InputError(f"archives inside of each other, more than {spent.bounds.depth} deep", code="F114")
        copy = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  # lives as long as it may be read from
        with translated(inner), file() as opened:
            shutil.copyfileobj(opened, copy)
        held = cast(BinaryIO, copy)
        yield from _expand(Found(name, path, member.file_size, kind, uri, lambda: held), spent, depth + 1)
    except InputError as error:
        yield Unreadable(name, path, error.code, told(error), uri)


def _check(member: zipfile.ZipInfo, inner: str, seen: set[str]) -> None:
    if inner.startswith("/") or ".." in inner.split("/") or inner[1:2] == ":":
        raise InputError("its name leads out of the archive; it is not read", code="F115")
    if inner in seen:
        raise InputError("the archive has two files of this name; the second one is not read", code="F115")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        what = "a link" if kind == stat.S_IFLNK else "no regular file"
        raise InputError(f"{what} inside of an archive is not followed", code="F116")
    if member.flag_bits & 1:
        raise InputError(
            "it is protected by a password", code="F112", hint="unpack the archive and add the folder instead"
        )


class _Checked(io.RawIOBase):
    """A file of an archive whose damage is an `InputError` F111."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name, self._file = name, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        with translated(self._name):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        with translated(self._name):
            return self._file.read(size)

    def close(self) -> None:
        self._file.close()
        super().close()


def _reader(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
    """Opens it, as often as it is asked to. It holds the archive open, until nobody needs it any more."""

    def opener() -> BinaryIO:
        with translated(member.filename):
            return cast(BinaryIO, _Checked(member.filename, cast(BinaryIO, archive.open(member))))

    return opener


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Damage inside of an archive as an `InputError`."""
    try:
        yield
    except BROKEN as error:
        raise InputError(f"{name} is damaged inside of its archive: {error}", code="F111") from None
    except RuntimeError:  # zipfile's way to say that it is encrypted
        raise InputError(f"{name} is protected by a password", code="F112") from None


def _open(outer: Found) -> zipfile.ZipFile:
    file = outer.open()
    try:
        if _directory_size(file) > DIRECTORY:
            raise _too_much("has a table of contents of more than 32 MiB")
        archive = zipfile.ZipFile(file)
    except BaseException:
        file.close()
        raise
    weakref.finalize(archive, file.close)  # its readers hold the archive, and nobody says when the last one is done
    return archive


def _directory_size(file: BinaryIO) -> int:
    """What the archive says about its table of contents, before anything reads that."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - TAIL))
    tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) < place + 22:
        raise zipfile.BadZipFile("no end of a table of contents")
    (length,) = struct.unpack_from("<L", tail, place + 12)
    locator = tail.rfind(b"PK\x06\x07", 0, place)
    if length == 0xFFFFFFFF and locator >= 0:
        file.seek(struct.unpack_from("<Q", tail, locator + 8)[0])
        (length,) = struct.unpack_from("<Q", file.read(56), 40)
    return int(length)


def _too_much(words: str) -> InputError:
    return InputError(f"the archive {words}", code="F113", hint="unpack it yourself and add the folder")
