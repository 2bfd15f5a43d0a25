"""The ledger of paid answers: which calls were made, for whom, and what came back."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import Field

from gristmill.api.routing import router as new_router
from gristmill.api.shapes import LARGEST, After, Answer, Limit, OpenApp, Page, cursor, place
from gristmill.db.statements import statements
from gristmill.llm import calls as ledger

router = new_router("calls")
SQL = statements("api_calls")
Number = Annotated[int | None, Query(ge=1, le=LARGEST)]
State = Literal["intent", "ok", "unusable"]
LONGEST = 1_000_000  # characters of an answer that are shown


class Call(Answer):
    """A call. `id` is its key in hex; `state` intent: it is under way. `cost` is an exact amount as text."""

    id: str
    state: State
    provider: str
    model: str
    prompt: str | None
    status: int | None
    finish_reason: str | None
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    tokens_reasoning: int
    latency_ms: int | None
    cost: Decimal | None
    currency: str | None
    task: int | None
    run: int | None
    tries: int
    note: str | None
    made_at: datetime | None


class AskedPart(Answer):
    """A part of a message: its `text`, or a `picture`: the sha256 of its file."""

    text: str | None = None
    picture: str | None = None
    media_type: str | None = None


class AskedMessage(Answer):
    """One turn of a conversation. `role`: system, user or assistant."""

    role: str
    parts: list[AskedPart]


class AskedOf(Answer):
    """What a model was asked. `schema`: what the answer must be like; `sample`: which of several answers was wanted;
    `attempt`: how often it was asked again because an answer was of no use; `cut`: some of it was too long."""

    messages: list[AskedMessage]
    schema_: Any = Field(None, alias="schema")
    parameters: dict[str, Any]
    base_url: str
    sample: int
    attempt: int
    cut: bool


class WholeCall(Call):
    """A call with what was asked (`request`; null: it was not kept) and its answer: `response` as it came, `parsed` the
    same if it is JSON. `step` and `item`: whose task it was."""

    request: AskedOf | None
    response: str | None
    cut: bool
    parsed: Any
    step: str | None
    item: str | None


@router.get("/calls")
async def calls(
    app: OpenApp, run: Number = None, task: Number = None,
    model: Annotated[str | None, Query(max_length=400, description='"provider:model", or the model')] = None,
    state: State | None = None, after: After = None, limit: Limit = 50,
) -> Page[Call]:  # fmt: skip
    """The newest calls, without their answers; those under way come first, on the first page only."""
    behind = place(after, str, str)
    at, key = (datetime.fromisoformat(behind[0]), bytes.fromhex(behind[1])) if behind else (None, None)
    rows = await app.pool.fetch(SQL["page"], run, task, model, state, at, key, limit + 1)
    found = [Call(**{**dict(row), "id": row["key"].hex()}) for row in rows[:limit]]
    settled = [one for one in found if one.made_at is not None]
    more = len(rows) > limit and settled
    last = settled[-1] if more else None
    return Page(items=found, next=cursor(last.made_at.isoformat(), last.id) if last and last.made_at else None)


@router.get("/calls/{id}")
async def call(id: Annotated[str, Path(min_length=1, max_length=64, pattern="^[0-9a-f]+$")], app: OpenApp) -> WholeCall:
    """One call with its answer; `id` may be the beginning of its key."""
    found = await ledger.find(app.pool, id)
    raw: bytes | None = found.pop("response")
    text = None if raw is None else raw.decode("utf-8", "replace")
    whose = found.pop("whose") or {}
    return WholeCall(
        **{**found, "id": found["key"].hex()}, response=text and text[:LONGEST],
        cut=text is not None and len(text) > LONGEST, parsed=_parsed(text), step=whose.get("step"),
        item=whose.get("item"),
    )  # fmt: skip


def _parsed(text: str | None) -> Any:
    if text is None or len(text) > LONGEST:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
