"""What became of a task, and the thread of a record: put together from what is looked up by key."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from gristmill.api.problems import NotFound
from gristmill.api.run_views import plain
from gristmill.api.story_shapes import AttemptRow, CallRow, KnownCall, Made, Span, Story, TaskDetail, Thread, Wait
from gristmill.app import App
from gristmill.db.statements import statements
from gristmill.llm.structured import LEDGER_KEYS
from gristmill.run import WHY

SQL = statements("stories")
ATTEMPTS = 200  # of a task that are told
CALLS = 200
FAMILY = 200  # records of a thread, on either side
SHORT = 600  # characters of a record's content
HANDED_ON = ("crashed", "stalled")
_KEY = re.compile("(?:[0-9a-f]{2}){1,64}")


async def task_row(app: App, task_id: int) -> Any:
    """A task of the project with its names. Raises `NotFound` A404."""
    row = await app.pool.fetchrow(SQL["task"], task_id)
    if row is None or row["project"] not in (None, app.settings.project):
        raise NotFound(f"there is no task {task_id}", hint="ids are in events, failures and /api/runs/{run}/tasks")
    return row


async def task_detail(app: App, row: Any) -> TaskDetail:
    """The task of that row, with the reason for which it waits."""
    payload = _payload(row["payload"])
    held = None
    if row["state"] in ("available", "waiting"):
        reasons = await app.pool.fetch(WHY["held_by"], row["run_id"], row["id"])
        held = reasons[0]["reason"] if reasons else None
    steps = json.loads(row["definition"] or "{}").get("steps", [])
    names = (
        "id", "stage", "pool", "state", "item", "attempt", "failures", "crashes", "max_attempts", "max_crashes",
        "run_at", "claimed_at", "ended_at", "held", "history",
    )  # fmt: skip
    return TaskDetail(
        **{name: row[name] for name in names}, run=row["run_id"], run_name=row["run_name"] or "", operator=row["kind"],
        held_by=held, inputs=_ids(payload), barrier=bool(payload.get("barrier")),
        model=steps[row["step"]].get("model") if row["step"] < len(steps) else None,
        command=f"gristmill why --task {row['id']}",
    )  # fmt: skip


def _payload(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:  # a task of the bare engine may hold anything
        return {}
    return found if isinstance(found, dict) else {}


def _ids(payload: Mapping[str, Any]) -> list[int]:
    given = payload.get("inputs", [])
    return [number for number in given if type(number) is int][:1000] if isinstance(given, list) else []


async def story(app: App, task_id: int) -> Story:
    """Attempts, calls, lineage and records of a task. Raises `NotFound` A404."""
    row = await task_row(app, task_id)
    task = await task_detail(app, row)
    attempts = await attempts_of(app.pool, row)
    waits = await app.pool.fetch(SQL["waits"], task_id, ATTEMPTS)
    if task.inputs:
        made = await app.pool.fetch(SQL["made_by"], row["run_id"], row["step"], task.inputs, task_id)
    elif task.barrier and row["state"] == "completed":
        made = await app.pool.fetch(SQL["gathered_by"], row["run_id"], row["step"])
    else:
        made = []
    known = await _known(app, task_id, [one["id"] for one in made], attempts)
    above = [one for number in task.inputs[:5] for one in await ancestors(app.pool, number)]
    return Story(
        task=task, attempts=attempts, known=known, waits=[Wait(**dict(one)) for one in waits],
        attempts_more=len(attempts) > ATTEMPTS, calls_more=sum(len(one.calls) for one in attempts) >= CALLS,
        lineage=_once(sorted(above, key=lambda one: -one.distance)),
        records=[Made(record=one["id"], kind=one["kind"]) for one in made],
    )  # fmt: skip


def _once(thread: Sequence[Thread]) -> list[Thread]:
    return list({one.record: one for one in thread}.values())


async def attempts_of(pool: asyncpg.Pool[Any], row: Any) -> list[AttemptRow]:
    """The latest attempts of the task of that row, each with the calls that it paid; the one under way is the last."""
    made = await _ended(pool, row)
    if row["state"] == "running" and row["worker_id"] is not None:
        made.append(await _under_way(pool, row))
    paid = await pool.fetch(SQL["calls"], row["run_id"], row["id"], CALLS)
    _share_out(made, [CallRow(**_priced(one)) for one in paid])
    return made


async def _ended(pool: asyncpg.Pool[Any], row: Any) -> list[AttemptRow]:
    return [
        AttemptRow(
            n=one["attempt"], **{k: v for k, v in one.items() if k not in ("attempt", "worker_cause")},
            handed_on=one["outcome"] in HANDED_ON,
        )
        for one in await pool.fetch(SQL["attempts"], row["id"], ATTEMPTS)
    ]  # fmt: skip


async def _under_way(pool: asyncpg.Pool[Any], row: Any) -> AttemptRow:
    worker = await pool.fetchrow(SQL["worker"], row["worker_id"])
    known = dict(worker) if worker else {}
    return AttemptRow(
        n=row["attempt"], worker_id=row["worker_id"], worker=known.get("name"), host=known.get("host"),
        pid=known.get("pid"), worker_state=known.get("state"), started_at=row["claimed_at"], outcome="running",
        beat_at=known.get("beat_at"), lease_until=known.get("lease_until"),
    )  # fmt: skip


def _priced(row: Any) -> dict[str, Any]:
    """A call of the ledger, with its cost as text."""
    given = dict(row)
    return given | {"cost": None if given["cost"] is None else plain(given["cost"])}


async def _known(app: App, task_id: int, made: Sequence[int], attempts: Sequence[AttemptRow]) -> list[KnownCall]:
    """The calls behind records that this task has not paid itself: their work was done by another task, or its own work
    found answers in the ledger."""
    works = await app.pool.fetch(SQL["works_of"], made) if made else []
    others = [row["task_id"] for row in works if row["task_id"] not in (None, task_id)]
    keys = [bytes.fromhex(key) for row in works for key in _ledger_keys(row["notes"])]
    own = {call.id for attempt in attempts for call in attempt.calls}
    given = (others, keys, CALLS, app.settings.project)
    found = await app.pool.fetch(SQL["known"], *given) if others or keys else []
    return [KnownCall(**_priced(row)) for row in found if row["id"] not in own]


def _ledger_keys(notes: str | None) -> list[str]:
    """What an operator notes is its own affair: only what can be a key counts."""
    keys = _payload(notes or "").get(LEDGER_KEYS)
    return [key for key in keys if isinstance(key, str) and _KEY.fullmatch(key)] if isinstance(keys, list) else []


def _share_out(attempts: Sequence[AttemptRow], calls: Sequence[CallRow]) -> None:
    """Each call to the attempt in whose time its answer came; what came later, to the last one before it."""
    if not attempts:
        return
    for call in calls:
        fitting = [one for one in attempts if _began(one, call.made_at)]
        (fitting[-1] if fitting else attempts[0]).calls.append(call)


def _began(attempt: AttemptRow, at: datetime | None) -> bool:
    return at is not None and attempt.started_at is not None and attempt.started_at <= at


async def ancestors(pool: asyncpg.Pool[Any], record_id: int, most: int = FAMILY) -> list[Thread]:
    """A record and what it came from, nearest first."""
    return await _threads(pool, await pool.fetch(SQL["ancestors"], record_id, most), 1)


async def descendants(pool: asyncpg.Pool[Any], record_id: int, most: int = FAMILY) -> list[Thread]:
    """What was made of a record, nearest first, with distances below 0."""
    return await _threads(pool, await pool.fetch(SQL["descendants"], record_id, most), -1)


async def _threads(pool: asyncpg.Pool[Any], rows: Sequence[Any], sign: int) -> list[Thread]:
    tasks = [row["task_id"] for row in rows if row["task_id"]]
    names = {one["id"]: one for one in await pool.fetch(SQL["tasks_named"], tasks)} if tasks else {}
    documents = {row["id"]: row["id"] for row in rows if row["kind"] == "document"}
    document = next(iter(documents), None)
    made = []
    for row in rows:
        body = json.loads(row["body"])
        where = names.get(row["task_id"])
        made.append(
            Thread(
                record=row["id"], kind=row["kind"], distance=sign * row["distance"], title=title_of(row["kind"], body),
                text=text_of(row["kind"], body)[:SHORT], place=place_of(row["kind"], body, document),
                parents=row["parents"], operator=row["operator"], task=row["task_id"], made_at=row["made_at"],
                run=where["run_id"] if where else None, run_name=where["run_name"] if where else None,
                stage=where["stage"] if where else None, score=score_of(body), image=image_of(row["kind"], body),
            )
        )  # fmt: skip
    return made


def title_of(kind: str, body: Mapping[str, Any]) -> str:
    """One line that names a record: a file's name, a document's title, a chunk's headings, a question."""
    given = {
        "source": body.get("name"), "document": body.get("title") or body.get("media_type"), "image": body.get("name"),
        "chunk": " > ".join(body.get("heading_path") or ()) or f"chunk {int(body.get('ordinal') or 0) + 1}",
        "question": body.get("text"), "example": body.get("question"), "test_item": body.get("question"),
        "evaluation": body.get("rubric"), "judgement": body.get("by"), "rejection": body.get("rule"),
        "duplicate": body.get("method"),
    }.get(kind)  # fmt: skip
    return str(given or kind)[:200]


def text_of(kind: str, body: Mapping[str, Any]) -> str:
    """The content of a record in a few words, whatever kind it is."""
    for name in ("answer", "text", "reason", "comment", "explanation"):
        if isinstance(body.get(name), str) and body[name]:
            return str(body[name])
    if kind == "conversation":
        return "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in body.get("turns", []))
    left_out = ("pages", "headings", "blob", "text_blob")
    shown = {key: value for key, value in body.items() if key not in left_out and value not in (None, [], "", False)}
    return ", ".join(f"{key}: {value}" for key, value in shown.items())


def place_of(kind: str, body: Mapping[str, Any], document: int | None) -> Span | None:
    """Where it stands in the text of its document."""
    start, end = ("start", "end") if kind == "chunk" else ("evidence_start", "evidence_end")
    if kind == "chunk" and body.get("cleaned"):
        return None
    if not isinstance(body.get(start), int) or not isinstance(body.get(end), int) or kind == "document":
        return None
    pages = {name: body.get(name) for name in ("page_start", "page_end")}
    return Span(document=document, start=body[start], end=body[end], **pages)


def score_of(body: Mapping[str, Any]) -> float | None:
    """The score that a verdict gives."""
    for name in ("overall", "score"):
        value = body.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None


def image_of(kind: str, body: Mapping[str, Any]) -> str | None:
    """The hash of the picture that it is, or is about."""
    value = body.get("blob") if kind == "image" else body.get("image")
    return value if isinstance(value, str) else None
