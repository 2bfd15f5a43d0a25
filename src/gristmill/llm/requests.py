"""What a model was asked, kept beside what it answered: for people to read, never to be sent again.

In two parts: the frame (system messages, schema, parameters, address), which many calls share and which is kept once
under its hash, and the rest. A picture is kept as its digest. Keys and headers are in neither.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import asyncpg

from gristmill.db.database import RECONNECT
from gristmill.db.statements import statements
from gristmill.llm.entries import Entry, encode
from gristmill.llm.model import Binding, Request
from gristmill.llm.schemas import schema_forms
from gristmill.logs import redact

LONGEST = 200_000  # characters of either part; what is longer is cut, and says so
_AGAIN = 3600.0  # seconds after which a frame is marked as used again; `calls prune` removes what is unused for a day
_log = logging.getLogger("gristmill.ledger")


class Asked(NamedTuple):
    """A request as it is kept: JSON of what is its own, and of its frame with the sha256 of that."""

    own: str
    frame: bytes
    frame_text: str


def asked(binding: Binding, request: Request, turns: list[str]) -> Asked:
    """The request in the form in which it is kept. `turns` are its messages as `entries.turns` encodes them."""
    first = 0
    while first < len(turns) and request.messages[first].role == "system":
        first += 1
    own = f'{{"messages": [{", ".join(turns[first:])}], "sample": {request.sample}, "attempt": {request.attempt}}}'
    if len(own) > LONGEST:
        parts = [message.identity() for message in request.messages[first:]]
        own = encode({"messages": _cut(parts), "sample": request.sample, "attempt": request.attempt, "cut": True})
    parameters = {**binding.parameters, **request.parameters}
    schema = schema_forms(request.schema).text if request.schema is not None else "null"
    return Asked(own, *_frame(", ".join(turns[:first]), schema, encode(parameters), binding.base_url))


@lru_cache(256)
def _frame(turns: str, schema: str, parameters: str, base_url: str) -> tuple[bytes, str]:
    made = {"messages": json.loads(f"[{turns}]"), "parameters": json.loads(parameters), "base_url": base_url}
    made = _without_secrets(made) | {"schema": json.loads(schema)}
    text = encode(made)
    if len(text) > LONGEST:
        text = encode({"messages": _cut(made["messages"]), "base_url": made["base_url"], "cut": True})
    return hashlib.sha256(text.encode()).digest(), text


def _without_secrets(node: Any) -> Any:
    """The node with every text as logs would show it: nobody writes a key into a prompt on purpose."""
    if isinstance(node, str):
        return redact(node)
    if isinstance(node, list):
        return [_without_secrets(part) for part in node]
    return {name: _without_secrets(part) for name, part in node.items()} if isinstance(node, dict) else node


def _cut(messages: list[list[Any]]) -> list[list[Any]]:
    """Messages so short that together they fit, even if every character takes six in JSON."""
    count = sum(1 if isinstance(content, str) else len(content) for _, content in messages)
    most = LONGEST // (7 * max(1, count))
    kept: list[list[Any]] = []
    for role, content in messages[: LONGEST // 100]:
        if isinstance(content, str):
            kept.append([role, content[:most]])
        else:
            kept.append([role, [[part[0][:most]] if len(part) == 1 else part for part in content]])
    return kept


def stored(own: str | None, frame: str | None) -> dict[str, Any] | None:
    """Both parts as one: `messages` as they are encoded, schema, parameters, base_url, sample, attempt, and `cut` if
    something is missing. None: the request was not kept."""
    if own is None:
        return None
    first: dict[str, Any] = _loaded(frame) if frame else {}
    rest: dict[str, Any] = _loaded(own)
    both = first | rest | {"messages": [*first.get("messages", []), *rest.get("messages", [])]}
    if first.get("cut"):
        both["cut"] = True
    return both


def _loaded(text: str) -> Any:
    """What the JSON says, with "?" for halves of characters, which no file and no answer could hold."""
    if "\\ud" in text:
        text = json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "replace").decode()
    return json.loads(text)


def readable(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What `stored` gives, for readers: each message with `role` and `parts`, which are {"text"} or {"picture",
    "media_type"} with the sha256 of the file."""
    messages = []
    for role, content in kept.get("messages", ()):
        parts = [[content]] if isinstance(content, str) else content
        messages.append({"role": role, "parts": [
            {"text": part[0]} if len(part) == 1 else {"media_type": part[0], "picture": part[1]} for part in parts
        ]})  # fmt: skip
    return {
        "messages": messages, "schema": kept.get("schema"), "parameters": kept.get("parameters") or {},
        "base_url": kept.get("base_url") or "", "sample": kept.get("sample") or 0, "attempt": kept.get("attempt") or 0,
        "cut": bool(kept.get("cut")),
    }  # fmt: skip


class Frames:
    """The frames that this process has brought into the database."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._known: dict[bytes, float] = {}

    async def keep(self, given: Iterable[Entry]) -> None:
        """Brings in those that nobody has brought in for an hour. Raises what a lost connection raises; whatever else
        goes wrong costs a text for readers, never the answer that was paid."""
        now = asyncio.get_running_loop().time()
        new = {
            one.frame: one.frame_text
            for one in given
            if one.frame is not None and now - self._known.get(one.frame, -_AGAIN) >= _AGAIN
        }
        if not new:
            return
        try:
            await self._pool.execute(statements("ledger")["keep_frames"], list(new), list(new.values()))
        except RECONNECT:
            raise
        except asyncpg.PostgresError as error:
            _log.warning("the frame of a request was not kept: %s", error)
        if len(self._known) > 10_000:
            self._known.clear()
        self._known.update(dict.fromkeys(new, now))
