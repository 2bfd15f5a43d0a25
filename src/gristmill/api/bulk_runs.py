"""Bulk actions: what matches, what it would take, and the durable run that does it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from gristmill import bulk
from gristmill.api.access import Caller
from gristmill.api.bulk_shapes import ActionState, Forecast, WantedAction
from gristmill.api.listing import condition
from gristmill.api.problems import NotFound, Refused
from gristmill.api.run_views import PAGES, counters, plain
from gristmill.api.run_views import SQL as PROGRESS
from gristmill.api.task_lists import COLUMNS, TaskList
from gristmill.app import App
from gristmill.data.filter import Kind
from gristmill.db.database import transaction
from gristmill.db.statements import statements
from gristmill.engine import queue
from gristmill.errors import UsageError
from gristmill.review.queues import Review
from gristmill.run import Run

SQL = statements("bulk")
MOST = 200_000  # things that one action is about
SAMPLE = 200  # tasks that a forecast rests on
PAGE = 200
TASK_STATES = {"retry": ("failed",), "cancel": ("running", "available", "waiting")}
ITEM_VERBS = {"pause": "pause", "resume": "resume", "drop": "cancel"}
DECISIONS = ("accept", "reject", "skip")
ITEM_COLUMNS: dict[str, Kind] = {
    "id": "number", "name": "text", "uri": "text", "state": "text", "outcome": "text", "code": "text", "reason": "text",
    "paused": "truth",
}  # fmt: skip
PIECE_COLUMNS: dict[str, Kind] = {
    "id": "number", "kind": "text", "score": "number", "disagreement": "number", "assignee": "text", "source": "text",
    "disputed": "truth", "body": "text",
}  # fmt: skip


async def foreseen(app: App, run: Run, wanted: WantedAction) -> tuple[list[int], ActionState]:
    """What matches, and what doing it would take. Raises `UsageError` A424 for words that do not go together, U420."""
    _check(wanted)
    stages: Counter[int] = Counter()
    if wanted.action in TASK_STATES:
        chosen, stages = await _tasks(app, run, wanted)
    elif wanted.action in ITEM_VERBS:
        chosen = await _items(app, run, wanted)
    else:
        chosen = await _pieces(run, wanted)
    forecast = (
        await _forecast(app, run, stages) if wanted.action == "retry" else Forecast(seconds=0.0, basis="no calls")
    )
    return chosen, ActionState(
        id=None, name=f"{wanted.action} of {run.name}", action=wanted.action, run=run.id, count=len(chosen),
        state="foreseen", forecast=forecast, parts=-(-len(chosen) // bulk.PART),
    )  # fmt: skip


async def begin(app: App, run: Run, wanted: WantedAction, chosen: Sequence[int], caller: Caller) -> ActionState:
    """Begins the durable run. Raises `Refused` 409 when another number matches than was confirmed."""
    if wanted.confirm != len(chosen):
        raise Refused(
            409, f"{len(chosen):,} match now, and {wanted.confirm:,} were confirmed", code="A411",
            hint=f'look again, then send "confirm": {len(chosen)}', safe="nothing was done",
        )  # fmt: skip
    kind, verb = _kind(wanted.action)
    said = {"do": verb, "run": run.id, "by": caller.name, "action": wanted.action, "count": len(chosen)}
    if wanted.note is not None:
        said["note"] = wanted.note
    async with transaction(app.pool) as connection:
        number = await bulk.begin(connection, app.settings.project, wanted.action, kind, chosen, said)
    await queue.hint(app.pool)
    await app.start_crew()
    return await action(app, number)


def _kind(verb: str) -> tuple[str, str]:
    if verb in TASK_STATES:
        return bulk.TASKS, verb
    return (bulk.ITEMS, ITEM_VERBS[verb]) if verb in ITEM_VERBS else (bulk.REVIEW, verb)


def _check(wanted: WantedAction) -> None:
    about_tasks = wanted.action in TASK_STATES
    about_records = wanted.action in DECISIONS
    says = {"stage": about_tasks, "cause": wanted.action == "retry", "kind": about_records, "note": about_records}
    for name, fits in says.items():
        if getattr(wanted, name) is not None and not fits:
            raise UsageError(
                f'"{name}" says nothing about what {wanted.action} is for', code="A424", safe="nothing was done",
                hint="tasks have stage and cause, records have kind and note; all have filter",
            )  # fmt: skip


async def _tasks(app: App, run: Run, wanted: WantedAction) -> tuple[list[int], Counter[int]]:
    steps = {row["step"]: row["stage"] for row in await app.pool.fetch(PROGRESS["steps"], run.id)}
    chosen = [step for step, name in steps.items() if wanted.stage in (None, name)]
    if not chosen:
        raise UsageError(f'{run.name} has no stage "{wanted.stage}"', code="U302", hint=", ".join(steps.values()))
    keep = condition(wanted.filter, COLUMNS)
    places = {name: step for step, name in steps.items()}
    found: list[int] = []
    stages: Counter[int] = Counter()
    tasks = TaskList(app.pool, run.id, steps, chosen)
    async for row in tasks.every(TASK_STATES[wanted.action]):
        if keep(row.__dict__) and wanted.cause in (None, row.cause):
            found.append(row.id)
            stages[places[row.stage]] += 1
            _bound(found)
    return found, stages


async def _items(app: App, run: Run, wanted: WantedAction) -> list[int]:
    keep = condition(wanted.filter, ITEM_COLUMNS)
    found: list[int] = []
    behind: tuple[Any, ...] = (None, None)
    while rows := await app.pool.fetch(PAGES["items"], run.id, *behind, 1_000):
        behind = (rows[-1]["uri"], rows[-1]["id"])
        for row in rows:
            under_way = row["state"] == "active" and row["outcome"] is None
            fits = wanted.action == "drop" or row["paused"] == (wanted.action == "resume")
            if under_way and fits and keep(row):
                found.append(row["id"])
                _bound(found)
    return found


async def _pieces(run: Run, wanted: WantedAction) -> list[int]:
    keep = condition(wanted.filter, PIECE_COLUMNS)
    review = Review.of(run)
    await review.look()
    found: list[int] = []
    last = 0
    while pieces := await review.pieces(state="proposed", kind=wanted.kind, after=last, limit=PAGE):
        last = pieces[-1].record_id
        for piece in pieces:
            values: Mapping[str, Any] = {
                "id": piece.record_id, "kind": piece.kind, "score": piece.score, "disagreement": piece.disagreement,
                "assignee": piece.assignee, "source": piece.source.name, "disputed": piece.disputed,
                "body": json.dumps(piece.body, ensure_ascii=False),
            }  # fmt: skip
            if keep(values):
                found.append(piece.record_id)
                _bound(found)
    return found


def _bound(found: Sequence[int]) -> None:
    if len(found) > MOST:
        raise UsageError(
            f"more than {MOST:,} match", code="A425", hint="narrow the filter; /api/runs/{run}/retry is about all",
            safe="nothing was done",
        )  # fmt: skip


async def _forecast(app: App, run: Run, stages: Mapping[int, int]) -> Forecast:
    """From what the latest tasks of the same stages have taken."""
    calls = tokens = seconds = 0.0
    cost: dict[str, Decimal] = {}
    known = 0
    times = {row["step"]: row for row in await app.pool.fetch(PROGRESS["times"], run.id, SAMPLE)}
    for step, count in stages.items():
        row = await app.pool.fetchrow(SQL["sample"], run.id, step, SAMPLE)
        if not row["tasks"]:
            continue
        known += count
        share = count / row["tasks"]
        calls += row["calls"] * share
        tokens += (row["tokens_in"] + row["tokens_out"]) * share
        if row["cost"] is not None:
            cost[row["currency"]] = cost.get(row["currency"], Decimal(0)) + row["cost"] * Decimal(str(share))
        slots = app.settings.pools.get(run.workflow.steps[step].operator.pool, 3) * max(1, app.settings.workers)
        seconds += (times[step]["median"] if step in times else 0.0) * count / slots
    total = sum(stages.values())
    if not known:
        return Forecast(basis="nothing of these stages has been finished yet")
    basis = f"the latest {SAMPLE} finished pieces of each stage" + (
        "" if known == total else f"; {total - known} unknown"
    )
    return Forecast(
        calls=round(calls, 1), tokens=round(tokens), seconds=round(seconds, 1), basis=basis,
        cost={currency: plain(round(amount, 6)) for currency, amount in cost.items()},
    )  # fmt: skip


async def action(app: App, number: int) -> ActionState:
    """A bulk action by its number. Raises `NotFound` A404."""
    found = await actions(app, None, 1, number)
    if not found:
        raise NotFound(f"there is no action {number}", hint="those there are: GET /api/actions")
    return found[0]


async def actions(app: App, before: int | None, limit: int, only: int | None = None) -> list[ActionState]:
    """Bulk actions, the newest first."""
    rows = await app.pool.fetch(SQL["runs"], app.settings.project, bulk.WORKFLOW, before, limit, only)
    counts = await counters(app.pool, [row["id"] for row in rows])
    made = []
    for row in rows:
        said = json.loads(row["definition"]).get("said", {})
        stage = counts.get(row["id"], {}).get(0)
        parts = -(-int(said.get("count", 0)) // bulk.PART)
        made.append(
            ActionState(
                id=row["id"], name=row["name"], action=said.get("action", ""), run=said.get("run", 0), parts=parts,
                count=said.get("count", 0), state=row["state"], created_at=row["created_at"],
                ended_at=row["ended_at"], by=said.get("by"), done=stage.done if stage else 0,
                failed=stage.failed if stage else 0,
            )
        )  # fmt: skip
    return made
