"""How runs stand: read from counters, pace and spending, for one run or a page of them at once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeAlias, cast

import asyncpg
from pydantic import BaseModel

from gristmill.api.problems import NotFound
from gristmill.api.run_shapes import Counts, Money, RunDetail, RunSummary, Stage
from gristmill.app import App
from gristmill.data.dataset import Steps
from gristmill.data.kinds import kind_of
from gristmill.db.statements import statements
from gristmill.engine.workflow import ENDED
from gristmill.errors import UsageError
from gristmill.review.pieces import REVIEWABLE
from gristmill.run import WHY, Run
from gristmill.workflow import Workflow

PAGES = statements("pages")
SQL = statements("progress")
RECENT = 10  # minutes that a pace is taken over
SAMPLE = 200  # attempts of a step that its times are taken from
HELD = 5  # runs of a page, the newest, that are asked what holds them

Pool: TypeAlias = "asyncpg.Pool[Any]"


async def find_run(app: App, run: str) -> Run:
    """The run of that number or name. Raises `NotFound` A404, `UsageError` A410 for a workflow that is unknown here."""
    row = await run_row(app, run)
    try:
        flow = Workflow.from_definition(row["definition"])
    except UsageError as error:
        raise UsageError(
            f"{row['name']} cannot be read here: {error.message}", code="A410",
            hint="load its operators where the server runs: gristmill api --load FILE",
            safe="the run goes on where they are known",
        ) from None  # fmt: skip
    except (KeyError, TypeError):
        raise UsageError(f"{row['name']} is no run of a workflow: it has no records", code="A410") from None
    return Run(app, row["id"], flow, row["name"])


async def steered(app: App, run: str) -> Run:
    """A run to be paused, resumed or cancelled: for that nobody has to know its workflow. Raises `NotFound` A404."""
    row = await run_row(app, run)
    return Run(app, row["id"], cast(Workflow, None), row["name"])


async def run_row(app: App, run: str) -> Any:
    """The row of a run by number or name. Raises `NotFound` A404."""
    row = await app.pool.fetchrow(PAGES["run"], app.settings.project, run)
    if row is None:
        raise NotFound(f'there is no run "{run[:100]}"', hint="those there are: GET /api/runs")
    return row


async def summaries(app: App, rows: Sequence[Any]) -> list[RunSummary]:
    """Rows of runs with their progress, money, what holds them, and when they may be ready."""
    ids = [row["id"] for row in rows]
    counts = await counters(app.pool, ids)
    money = await spending(app.pool, ids)
    paces = await pace(app.pool, ids)
    held = await _held(app.pool, [row["id"] for row in rows if row["state"] in ("running", "waiting")][:HELD])
    now = await app.pool.fetchval("select clock_timestamp()")
    made = []
    for row in rows:
        steps = counts.get(row["id"], {})
        cost, budget = money.get(row["id"], ([], None))
        reason = row["held"] or ("paused" if row["state"] == "paused" else None) or held.get(row["id"])
        made.append(
            RunSummary(
                **_fields(row), progress=whole(list(steps.values())), cost=cost, budget=budget, held_by=reason,
                ready_at=ready_at(row["state"], steps, paces.get(row["id"], {}), now),
            )
        )  # fmt: skip
    return made


async def detail(app: App, row: Any) -> RunDetail:
    """One run, with its stages."""
    summary = (await summaries(app, [row]))[0]
    run_id = row["id"]
    unreadable = await app.pool.fetchval(statements("workflow")["count_unreadable"], run_id)
    before = await app.pool.fetch(WHY["waits_for"], run_id)
    made = made_by(row["definition"])
    return RunDetail(
        **summary.model_dump(), stages=await stages(app, row), inputs=json.loads(row["inputs"])[:1000],
        waits_for=[f"{one['name'] or one['id']} ({one['state'] or 'gone'})" for one in before], unreadable=unreadable,
        makes_rows=bool(Steps.of(made).making), reviewable=reviewable(made),
        command=f"gristmill watch {row['name']}",
    )  # fmt: skip


def made_by(definition: str) -> list[Sequence[type[BaseModel]]]:
    """What each step of a workflow makes; nothing where this process does not know its operators."""
    try:
        return [spec.operator.output_types for spec in Workflow.from_definition(definition).steps]
    except (UsageError, KeyError, TypeError):  # also a bulk action or an export, which are runs of no workflow
        return []


def reviewable(made: Sequence[Sequence[type[BaseModel]]]) -> bool:
    """Whether what the steps of a workflow make is what people review."""
    return any(kind_of(one) in REVIEWABLE for types in made for one in types)


def _fields(row: Any) -> dict[str, Any]:
    names = (
        "id", "name", "workflow", "project", "state", "epoch", "created_at", "started_at", "ended_at", "seconds",
    )  # fmt: skip
    return {name: row[name] for name in names}


async def counters(pool: Pool, ids: Sequence[int]) -> dict[int, dict[int, Stage]]:
    """Of each run its steps with their counts; `rate` and times are not looked up."""
    found: dict[int, dict[int, Stage]] = defaultdict(dict)
    for row in await pool.fetch(SQL["counts"], list(ids)):
        found[row["run_id"]][row["step"]] = counted(
            json.loads(row["counts"]), name=row["stage"], operator="", pool="", barrier=row["barrier"]
        )
    return found


def counted(counts: Mapping[str, int], **fields: Any) -> Stage:
    """A stage from its counters."""
    done, running = counts.get("completed", 0), counts.get("running", 0)
    waiting = counts.get("available", 0) + counts.get("waiting", 0)
    failed = counts.get("failed", 0) + counts.get("quarantined", 0)
    return Stage(
        **fields, done=done, running=running, waiting=waiting, failed=failed, total=done + running + waiting + failed,
        empty=counts.get("empty", 0), reused=counts.get("reused", 0), skipped=counts.get("cancelled", 0),
    )  # fmt: skip


def whole(steps: Sequence[Stage]) -> Counts:
    """All steps of a run together."""
    names = Counts.model_fields
    return Counts(**{name: sum(getattr(step, name) for step in steps) for name in names})


async def spending(pool: Pool, ids: Sequence[int]) -> dict[int, tuple[list[Money], Money | None]]:
    """Of each run what it has spent, as far as that is summed up, and its cap."""
    found: dict[int, tuple[list[Money], Money | None]] = {}
    for row in await pool.fetch(SQL["money"], [str(number) for number in ids]):
        spent, cap = found.get(int(row["name"]), ([], None))
        if row["spent"] is not None:
            spent.append(Money(amount=plain(row["spent"]), currency=row["currency"]))
        if row["cap"] is not None:
            cap = Money(amount=plain(row["cap"]), currency=row["cap_currency"])
        found[int(row["name"])] = (spent, cap)
    return found


def plain(amount: Any) -> str:
    """A decimal as text without an exponent."""
    return format(amount.normalize(), "f") if amount else "0"


async def pace(pool: Pool, ids: Sequence[int]) -> dict[int, dict[int, float]]:
    """Of each run the pieces a second of each step, over the last minutes."""
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for row in await pool.fetch(SQL["pace_of"], list(ids), RECENT):
        found[row["run_id"]][row["step"]] = row["rate"]
    return found


def ready_at(state: str, steps: Mapping[int, Stage], rates: Mapping[int, float], now: datetime) -> datetime | None:
    """When a run may be ready, counted from `now`: what each step still has to do, grown by what the steps before it
    will hand on, at its pace; the slowest step decides. None where it does not run, or a step with work left has no
    pace yet."""
    if state != "running" or not steps:
        return None
    longest, growth = 0.0, 1.0
    for number in sorted(steps):
        step = steps[number]
        expected = step.total * growth
        if step.barrier:
            continue
        left = expected - step.done - step.failed
        if left > 0.5:
            if not rates.get(number):
                return None
            longest = max(longest, left / rates[number])
        finished = step.done + step.failed
        if finished:
            growth = max(1.0, expected / finished)
    return now + timedelta(seconds=longest) if longest < 86_400 * 365 else None


async def _held(pool: Pool, ids: Sequence[int]) -> dict[int, str]:
    """Of each run the reason that most of what waits in it has."""
    found = {}
    for number in ids:
        rows = await pool.fetch(WHY["held_by"], number, None)
        reasons = [row["reason"] for row in rows if row["tasks"] and row["reason"] != "about to be claimed"]
        if reasons:
            found[number] = reasons[0]
    return found


async def stages(app: App, row: Any) -> list[Stage]:
    """The steps of a run, with counts, pace and times."""
    run_id = row["id"]
    known = await counters(app.pool, [run_id])
    rates = (await pace(app.pool, [run_id])).get(run_id, {})
    times = {one["step"]: one for one in await app.pool.fetch(SQL["times"], run_id, SAMPLE)}
    models = {at: step.get("model") for at, step in enumerate(json.loads(row["definition"]).get("steps", []))}
    made = []
    steps = await app.pool.fetch(SQL["steps"], run_id)
    names = {step["step"]: step["stage"] for step in steps} | {-1: "inputs"}
    for step in steps:
        number = step["step"]
        counts = known.get(run_id, {}).get(number)
        rate = rates.get(number, 0.0)
        if row["state"] in ENDED and counts is not None:
            rate = (counts.done + counts.failed) / max(0.001, row["seconds"])
        took = times.get(number)
        base = counts.model_dump(exclude={"operator", "pool", "barrier", "name"}) if counts else {}
        base |= {
            "rate": round(rate, 3), "median": took["median"] if took else None, "p95": took["p95"] if took else None,
            "model": models.get(number), "after": [names[at] for at in step["after"] if at in names],
        }  # fmt: skip
        made.append(
            Stage(name=step["stage"], operator=step["operator"], pool=step["pool"], barrier=step["barrier"], **base)
        )
    return made
