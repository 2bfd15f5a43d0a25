"""The log files of a crew, read: the latest lines, and those that come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_BLOCK = 65_536


def latest(file: Path, most: int) -> list[str]:
    """The last `most` lines, the oldest first; of older files too, as long as the newest has not enough."""
    found: list[str] = []
    for name in (file, *(file.with_name(f"{file.name}.{number}") for number in range(1, 6))):
        if len(found) >= most or not name.exists():
            break
        found = _tail(name, most - len(found)) + found
    return found


def _tail(file: Path, most: int) -> list[str]:
    with file.open("rb") as lines:
        at = lines.seek(0, 2)
        text = b""
        while at and text.count(b"\n") <= most:
            step = min(_BLOCK, at)
            at -= step
            lines.seek(at)
            text = lines.read(step) + text
    return text.decode("utf-8", "replace").splitlines()[-most:]


class Follower:
    """What is added to a file from now on, also after it was turned over."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inode, self._at = self._state()

    def _state(self) -> tuple[int, int]:
        try:
            state = self._file.stat()
        except OSError:
            return 0, 0
        return state.st_ino, state.st_size

    def newer(self) -> list[str]:
        """Whole lines since the last call."""
        inode, size = self._state()
        if inode != self._inode or size < self._at:
            self._inode, self._at = inode, 0
        if size <= self._at:
            return []
        with self._file.open("rb") as lines:
            lines.seek(self._at)
            text = lines.read(size - self._at)
        whole = text.rpartition(b"\n")[0]
        self._at += len(whole) + 1 if whole else 0
        return whole.decode("utf-8", "replace").splitlines()


def parsed(line: str) -> dict[str, Any]:
    """A line as an object; what is no JSON is its `event`."""
    try:
        found = json.loads(line)
    except ValueError:
        return {"event": line}
    return found if isinstance(found, dict) else {"event": line}


def for_people(line: str) -> str:
    """Time, level and event first, then the rest as name=value."""
    found = parsed(line)
    if "timestamp" not in found:
        return line
    time, level, event = (str(found.pop(name, "")) for name in ("timestamp", "level", "event"))
    trace = found.pop("exception", None)
    rest = " ".join(f"{name}={value}" for name, value in found.items())
    return f"{time[:23]} {level:<8} {event}  {rest}".rstrip() + (f"\n{trace}" if trace else "")
