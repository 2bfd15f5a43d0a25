"""Server-sent events: the form in which an answer comes in pieces. The ledger keeps their bytes as they came."""

from __future__ import annotations

import json
import re
from typing import Any

_STARTS = (b"data:", b"event:", b":", b"id:", b"retry:")
_FAILED = re.compile(rb'^(?:event:\s*(?:error|response\.failed)\b|data:\s*\{\s*"error"\s*:\s*[{"])', re.MULTILINE)


def is_stream(body: bytes) -> bool:
    """True when the body is a stream of events and not one document."""
    return body[:64].lstrip().startswith(_STARTS)


def failure(body: bytes) -> bytes | None:
    """The document of an error that came in the middle of a stream; None when none did."""
    if not is_stream(body):
        return None
    found = _FAILED.search(body)
    if found is None:
        return None
    data = re.search(rb"^data:\s*(.*)$", body[found.start() :], re.MULTILINE)
    return data[1] if data else b""


class Events:
    """Cuts a stream into the documents of its events. `feed` takes the next bytes, cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, part: bytes) -> list[dict[str, Any]]:
        """The events that are whole now. Raises `ValueError` for one that is no JSON object."""
        lines = (self._rest + part).split(b"\n")
        self._rest = lines.pop()
        return [document for line in lines if (document := _document(line)) is not None]

    def end(self) -> list[dict[str, Any]]:
        """What a last line without a line end holds."""
        rest, self._rest = self._rest, b""
        document = _document(rest)
        return [] if document is None else [document]


def events(body: bytes) -> list[dict[str, Any]]:
    """All events of a stream. Raises `ValueError` where one is cut or is no JSON object."""
    reader = Events()
    return reader.feed(body) + reader.end()


def _document(line: bytes) -> dict[str, Any] | None:
    # Every provider writes an event's document on one line.
    if not line.startswith(b"data:"):
        return None
    data = line[5:].strip()
    if not data or data == b"[DONE]":
        return None
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("an event is not an object")
    return document
