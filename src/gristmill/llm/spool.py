"""Where paid answers wait on disk while the database is away.

A file of records, each `length, crc32, payload`, appended with one write and one fsync. The process that writes a file
holds a lock on it for life, so a file without a lock belonged to a process that is gone, and anyone may replay it.
Replaying twice does no harm: the ledger keeps the first answer.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEAD = struct.Struct(">II")  # length and crc32 of the payload
_META = struct.Struct(">I")  # length of the JSON in front of the body


class Spool:
    """The spool files of a folder. Its methods block on the disk for some milliseconds; call them on a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"{uuid.uuid4().hex}.calls"
        self._file: int | None = None

    @property
    def pending(self) -> bool:
        """True while answers of this process wait to be replayed."""
        return self._file is not None

    @property
    def orphans(self) -> bool:
        """True while other processes' files are there: of dead ones, or of living ones that hold their lock."""
        return self._folder.is_dir() and any(path != self._path for path in self._folder.glob("*.calls"))

    def append(self, meta: dict[str, Any], body: bytes) -> None:
        """Returns when the record is on disk. Raises `OSError` when it cannot be."""
        head = json.dumps(meta).encode()
        payload = _META.pack(len(head)) + head + body
        record = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        file = self._own_file()
        size = os.fstat(file).st_size
        try:
            if os.write(file, record) != len(record):
                raise OSError(f"{self._path} took only a part of a record")
            os.fsync(file)
        except OSError:
            os.ftruncate(file, size)  # half a record would hide the whole ones that follow it
            raise

    def take(self) -> Iterator[tuple[Path, list[tuple[dict[str, Any], bytes]]]]:
        """Every file that is ours to replay, with its records. Hand each path to `done` when they are safe."""
        for path in sorted(self._folder.glob("*.calls")) if self._folder.is_dir() else []:
            if path == self._path:
                if self._file is not None:
                    yield path, _read(path)[0]
                continue
            lock = _lock(path)
            if lock is None:
                continue
            try:
                records, whole = _read(path)
                yield path, records
                if not whole and path.exists():
                    # The last record was cut by a crash before it was safe. Kept aside: it may be more than that.
                    path.rename(path.with_suffix(".damaged"))
            finally:
                os.close(lock)

    def done(self, path: Path) -> None:
        """All records of the file are in the database."""
        if path == self._path:
            file, self._file = self._file, None
            self._path = self._folder / f"{uuid.uuid4().hex}.calls"
            path.unlink(missing_ok=True)
            if file is not None:
                os.close(file)
        elif _read(path)[1]:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Gives up the lock; what still waits is replayed by whoever starts next."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _own_file(self) -> int:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)  # or the name of the file is lost with the power
            finally:
                os.close(folder)
            self._file = file
        return self._file


def _lock(path: Path) -> int | None:
    """The file with a lock on it; None when a living process holds it or it is gone."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    if os.fstat(file).st_nlink == 0:  # replayed and removed by another process while we waited
        os.close(file)
        return None
    return file


def _read(path: Path) -> tuple[list[tuple[dict[str, Any], bytes]], bool]:
    """All whole records, and whether nothing else is in the file."""
    data = path.read_bytes()
    records: list[tuple[dict[str, Any], bytes]] = []
    position = 0
    while position + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, position)
        payload = data[position + _HEAD.size : position + _HEAD.size + length]
        if len(payload) != length or zlib.crc32(payload) != checksum:
            return records, False
        (size,) = _META.unpack_from(payload)
        records.append((json.loads(payload[_META.size : _META.size + size]), payload[_META.size + size :]))
        position += _HEAD.size + length
    return records, position == len(data)
