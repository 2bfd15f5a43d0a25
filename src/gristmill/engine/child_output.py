"""What children print: logged line by line within bounds, and the last of it kept for the story of a crash."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

log = logging.getLogger("gristmill.child")
ERRORS_KEPT = 64 * 1024  # bytes that a story may hold
LINE_LIMIT = 64 * 1024  # bytes of one line; what is longer is cut and marked
TASK_LIMIT = 2**20  # bytes of one task that are logged; the rest is counted only
PIECE = 64 * 1024
_CONTROLS = dict.fromkeys((*range(9), *range(10, 32), 127), "\ufffd")


class Output:
    """The standard output and standard error of one child, as they come."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._tail: deque[bytes] = deque()
        self._kept = 0  # bytes in the tail
        self._line = bytearray()
        self._cut = False  # the rest of this line is dropped
        self._dropped = False
        self.seen = 0  # bytes of this task

    def begin_task(self) -> None:
        """What an earlier task has said is no part of the next one's story."""
        self._tail.clear()
        self._kept = self.seen = 0
        self._dropped = False

    async def collect(self, reader: asyncio.StreamReader) -> None:
        """Until the pipe ends. A flood is slowed down, so that it does not hold up the event loop."""
        while piece := await reader.read(PIECE):
            self.feed(piece)
            if self.seen > TASK_LIMIT:
                await asyncio.sleep(0.001)
        self._end_line()

    def feed(self, piece: bytes) -> None:
        """Takes the next bytes."""
        room = max(0, TASK_LIMIT - self.seen)
        self.seen += len(piece)
        self._tail.append(piece)
        self._kept += len(piece)
        while self._kept - len(self._tail[0]) >= ERRORS_KEPT:
            self._kept -= len(self._tail.popleft())
        if room:
            self._log(piece[:room])
        if self.seen > TASK_LIMIT and not self._dropped:
            self._dropped = True
            self._end_line()
            log.warning("child %d: it prints too much; the rest of this task is not logged [truncated]", self._pid)

    def text(self) -> str:
        """The last 64 KiB, with lines of over 64 KiB and what is missing marked."""
        kept = b"".join(self._tail)
        missing = self.seen - len(kept) + max(0, len(kept) - ERRORS_KEPT)
        said = kept[-ERRORS_KEPT:].decode("utf-8", "replace")
        return f"[truncated: {missing:,} bytes before this]\n{said}" if missing else said

    def _log(self, piece: bytes) -> None:
        first, *others = piece.split(b"\n")
        self._add(first)
        for part in others:
            self._end_line()
            self._add(part)

    def _add(self, part: bytes) -> None:
        if not self._cut:
            self._line += part
            if len(self._line) > LINE_LIMIT:
                self._line[LINE_LIMIT:] = b" [truncated]"
                self._cut = True

    def _end_line(self) -> None:
        if self._line:
            text = self._line.decode("utf-8", "replace").rstrip("\r").translate(_CONTROLS)
            log.info("child %d: %s", self._pid, text)
        self._line.clear()
        self._cut = False
