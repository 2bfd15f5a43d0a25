"""Files of an upload: a folder of their own below `uploads` in the home, complete or not there at all.

The name that a client gives is data: a plain file name or an error, never a path.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import re
import shutil
import time
import unicodedata
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from gristmill.api.problems import NotFound, Refused
from gristmill.app import App
from gristmill.errors import EnvironmentProblem

MOST_FILES = 10_000
LONGEST_NAME = 255  # bytes
LARGEST_HEADER = 16 * 1024  # bytes before each file
LEFTOVER = 86_400.0  # seconds after which an upload that was never finished is swept away
PARTIAL = "partial-"
NAME = re.compile("[0-9a-f]{32}")  # of a complete upload's folder
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(slots=True)
class Stored:
    """A file of an upload; `size` in bytes."""

    name: str
    size: int
    sha256: str


async def upload_folder(app: App, upload: str) -> Path:
    """The folder of an upload, to be given to a run as its source. Raises `NotFound`."""
    folder = app.settings.home / "uploads" / upload
    if not NAME.fullmatch(upload) or not await asyncio.to_thread(folder.is_dir):
        raise NotFound("there is no such upload", hint="POST /api/uploads gives its name", safe="nothing was changed")
    return folder


async def listed(app: App, upload: str) -> list[Stored]:
    """The files of an upload, by name. Raises `NotFound`."""
    folder = await upload_folder(app, upload)

    def look() -> list[Stored]:
        found = []
        for path in sorted(folder.iterdir()):
            with path.open("rb") as file:
                found.append(Stored(path.name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()))
        return found

    return await asyncio.to_thread(look)


async def receive(app: App, request: Request) -> tuple[str, list[Stored]]:
    """Takes the files of a multipart body in as they come, and returns the upload's name and its files.

    Raises `Refused` 413 (too large), 415 (not multipart), 422 (no file, or not well formed), 507 (the disk is full),
    also for a name that is none (A430). Then nothing of it is kept.
    """
    kind, given = parse_options_header(request.headers.get("content-type", ""))
    boundary = given.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise Refused(415, "files come as multipart/form-data with a boundary", code="A415")
    name, root = uuid.uuid4().hex, app.settings.home / "uploads"
    folder = root / f"{PARTIAL}{name}"
    await asyncio.to_thread(_make_room, root, folder)
    taking = _Taking(folder, boundary)
    try:
        await _take(app, request, taking)
        await asyncio.to_thread(folder.rename, root / name)
    except MultipartParseError:
        raise Refused(422, "the body is no well-formed multipart", code="A422", safe="nothing was kept") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _full() from error
        raise EnvironmentProblem(f"the upload cannot be stored: {error.strerror}", code="F204") from error
    finally:
        taking.close()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return name, taking.files


async def _take(app: App, request: Request, taking: _Taking) -> None:
    most, size = app.settings.api_upload, 0
    room = await asyncio.to_thread(app.blobs.room)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > room:
        raise _full()
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise Refused(
                413, f"an upload has at most {most:,} bytes", code="A413", safe="nothing was kept",
                hint="send several, or start the run on the server: gristmill run FOLDER; setting api_upload",
            )  # fmt: skip
        if size > room:
            raise _full()
        if piece:
            await asyncio.to_thread(taking.feed, piece)
    taking.finish()
    if not taking.files:
        raise Refused(422, "there is no file in it", code="A422", hint="each file is a part with a filename")


def _make_room(root: Path, folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    for left in root.glob(f"{PARTIAL}*"):
        try:
            if time.time() - left.stat().st_mtime > LEFTOVER:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            continue


def _full() -> Refused:
    return Refused(
        507, "there is not enough room on the disk", code="F203", safe="nothing was kept",
        hint="make room; the setting disk_reserve says how much has to stay free",
    )  # fmt: skip


@dataclass
class _Taking:
    """Writes the files of a multipart body, a piece at a time."""

    folder: Path
    boundary: bytes
    files: list[Stored] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._header = [bytearray(), bytearray()]
        self._headers: dict[bytes, bytes] = {}
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._ended = False
        names = (
            "part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "part_end",
            "end",
        )  # fmt: skip
        callbacks: Any = {f"on_{name}": getattr(self, f"_{name}") for name in names}
        self._parser = MultipartParser(self.boundary, callbacks)

    def feed(self, piece: bytes) -> None:
        self._parser.write(piece)

    def finish(self) -> None:
        self._parser.finalize()
        if not self._ended:
            raise MultipartParseError("it ends too early")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _part_begin(self) -> None:
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._grow(0, data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(1, data[start:end])

    def _grow(self, which: int, more: bytes) -> None:
        self._header[which] += more
        if len(self._header[which]) > LARGEST_HEADER or len(self._headers) > 20:
            raise MultipartParseError("its headers are too long")

    def _header_end(self) -> None:
        name, value = (bytes(part) for part in self._header)
        self._headers[name.lower()] = value
        self._header = [bytearray(), bytearray()]

    def _headers_finished(self) -> None:
        _, given = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"filename" not in given and b"filename*" not in given:
            return  # a field of the form, not a file
        if len(self.files) >= MOST_FILES:
            raise Refused(413, f"an upload has at most {MOST_FILES:,} files", code="A413", safe="nothing was kept")
        name = self._free(checked_name(given.get(b"filename", b"")))
        self._file = (self.folder / name).open("xb")
        self._hash = hashlib.sha256()
        self.files.append(Stored(name, 0, ""))

    def _free(self, name: str) -> str:
        """Two files of one name are numbered."""
        path, number = Path(name), 1
        while (self.folder / name).exists():
            number += 1
            name = f"{path.stem[:200]}-{number}{path.suffix}"
        return name

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            self._hash.update(data[start:end])
            self.files[-1].size += end - start

    def _part_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self.files[-1].sha256 = self._hash.hexdigest()

    def _end(self) -> None:
        self._ended = True


def checked_name(raw: bytes) -> str:
    """A plain file name. Raises `Refused` 422 A430 for a path, a device, or what is not what it looks like."""
    try:
        name = unicodedata.normalize("NFC", raw.decode("utf-8"))
    except UnicodeDecodeError:
        name = ""
    hidden = any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in name)
    wrong = hidden or any(letter in name for letter in "/\\:") or name.strip(". ") == "" or name != name.strip()
    if wrong or len(name.encode()) > LONGEST_NAME or DEVICES.fullmatch(name):
        raise Refused(
            422, "a file's name is none: it has to be plain, without folders, at most 255 bytes", code="A430",
            hint="rename the file", safe="nothing was kept",
        )  # fmt: skip
    return name
