"""What a program prints, in bounded memory: its beginning and its end, with a mark where something is left out."""

from __future__ import annotations

import base64
import json
import re
from collections import deque
from collections.abc import Sequence
from urllib.parse import quote

LEAST_SECRET = 4  # characters: what is shorter stands everywhere, and cannot be hidden
HIDDEN = "***"


class Capture:
    """One stream: at most `limit` bytes are kept, three quarters of them from the beginning."""

    def __init__(self, limit: int, edge: int = 0) -> None:
        """`edge`: so many bytes more are kept beside the cut, for a secret that would be cut in two."""
        self.seen = 0  # bytes
        self._edge = edge
        self._head_limit = limit - limit // 4
        self._tail_limit = limit // 4
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._kept = 0

    def feed(self, piece: bytes) -> None:
        """Takes the next bytes."""
        self.seen += len(piece)
        room = self._head_limit + self._edge - len(self._head)
        if room > 0:
            self._head += piece[:room]
            piece = piece[room:]
        if piece:
            self._tail.append(piece)
            self._kept += len(piece)
            while self._kept - len(self._tail[0]) >= self._tail_limit + self._edge:
                self._kept -= len(self._tail.popleft())

    @property
    def truncated(self) -> bool:
        """Whether something was left out."""
        return self.seen > len(self._head) + self._kept or self._kept > self._tail_limit + self._edge

    def read(self, hide: Redaction) -> bytes:
        """What is kept, with every secret hidden and a mark in the place of what was left out."""
        head, tail = bytes(self._head), b"".join(self._tail)
        if not self.truncated:
            return hide.in_bytes(head + tail)
        left_out = self.seen - self._head_limit - self._tail_limit
        tail = tail[-(self._tail_limit + self._edge) :]
        head, tail = hide.in_bytes(head), hide.in_bytes(tail)
        head = head[: len(head) - self._edge]
        mark = f"\n[truncated: {left_out:,} bytes are left out here]\n".encode()
        return head + mark + tail[self._edge :]


class Redaction:
    """Hides secrets wherever they stand, also as JSON, in a URL and in base64 write them."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        forms: set[str] = set()
        for secret in secrets:
            lines = [line.strip() for line in secret.splitlines() if len(line.strip()) >= 8]  # a key of several lines
            for text in (secret, *lines):
                encoded = base64.b64encode(text.encode()).decode().rstrip("=")
                forms |= {
                    text,
                    json.dumps(text)[1:-1],
                    json.dumps(text, ensure_ascii=False)[1:-1],
                    quote(text, safe=""),
                }
                forms |= {encoded} if len(text) >= 8 else set()
        self._forms = sorted((form for form in forms if len(form) >= LEAST_SECRET), key=len, reverse=True)
        pattern = "|".join(map(re.escape, self._forms))
        self._text = re.compile(pattern) if pattern else None
        self._bytes = re.compile(pattern.encode()) if pattern else None

    @property
    def edge(self) -> int:
        """Bytes of the longest form."""
        return max((len(form.encode()) for form in self._forms), default=0)

    def in_bytes(self, data: bytes) -> bytes:
        return self._bytes.sub(HIDDEN.encode(), data) if self._bytes else data

    def in_text(self, text: str) -> str:
        return self._text.sub(HIDDEN, text) if self._text else text

    def in_value(self, value: object) -> object:
        """In every text of a JSON value, keys too."""
        if self._text is None:
            return value
        if isinstance(value, str):
            return self.in_text(value)
        if isinstance(value, dict):
            return {self.in_text(key): self.in_value(one) for key, one in value.items()}
        return [self.in_value(one) for one in value] if isinstance(value, list) else value
