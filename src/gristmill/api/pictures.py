"""The series behind the pictures: the cumulative flow of a run, and pieces a minute with what happened meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from gristmill.api.run_shapes import Flow, FlowStage, Mark, Series, Stage, Throughput
from gristmill.api.run_views import SQL, counters
from gristmill.app import App
from gristmill.engine.workflow import ENDED

MOST_SERIES = 12  # stages of a ribbon; the smaller ones are put together
MARKS = (
    "run.start", "run.end", "run.retry", "run.pause", "run.resume", "budget.spent", "limit.spent", "limit.changed",
    "pool.changed", "worker.started", "worker.died", "worker.drain", "worker.stopped", "step.quarantined",
    "lock.forced",
)  # fmt: skip
FACTS = ("state", "tasks", "scope", "limit", "why", "pool", "what", "key", "holder")  # of an event's body
STATES = ("waiting", "running", "completed", "failed")


async def flow(app: App, row: Any, points: int) -> Flow:
    """The cumulative flow of the run of that row, at most so many times."""
    run_id = row["id"]
    steps = await app.pool.fetch(SQL["steps"], run_id)
    noted = await app.pool.fetch(SQL["flow"], run_id)
    now = (await counters(app.pool, [run_id])).get(run_id, {})
    end = row["ended_at"] if row["state"] in ENDED else None
    end = end or await app.pool.fetchval("select clock_timestamp()")
    return binned(
        {step["step"]: step["stage"] for step in steps}, noted, row["created_at"], end, now, points,
    )  # fmt: skip


def binned(
    names: Mapping[int, str], noted: Sequence[Any], begin: datetime, end: datetime, now: Mapping[int, Stage],
    points: int,
) -> Flow:  # fmt: skip
    """From what was noted of each step at times, one series a step over common times: what a step was at a time is
    what was noted last. Of times that are too many, the last of each of equally many is kept."""
    every = sorted({row["at"] for row in noted if begin < row["at"] < end})
    share = max(1, -(-len(every) // max(1, points - 2)))
    kept = every[share - 1 :: share]
    times = [begin, *kept, max(end, begin)]
    series = {step: {state: [0] * len(times) for state in STATES} for step in names}
    place = 0
    current: dict[int, Any] = {}
    ordered = sorted(noted, key=lambda row: row["at"])
    for at, time in enumerate(times[:-1]):
        while place < len(ordered) and ordered[place]["at"] <= time:
            current[ordered[place]["step"]] = ordered[place]
            place += 1
        for step, row in current.items():
            if step in series:
                for state in STATES:
                    series[step][state][at] = row[state]
    for step, stage in now.items():
        if step in series:
            last = (stage.waiting, stage.running, stage.done, stage.failed)
            for state, value in zip(STATES, last, strict=True):
                series[step][state][-1] = value
    stages = [
        FlowStage(
            name=name, waiting=series[step]["waiting"], running=series[step]["running"],
            done=series[step]["completed"], failed=series[step]["failed"],
        )
        for step, name in names.items()
    ]  # fmt: skip
    return Flow(times=times, stages=stages)


async def throughput(app: App, run_id: int | None, minutes: int) -> Throughput:
    """Pieces a minute by stage, of one run or of all of the project, and what happened in that time."""
    project = app.settings.project
    rows = await app.pool.fetch(SQL["throughput"], run_id, minutes, project)
    now: datetime = await app.pool.fetchval(SQL["minutes"])
    marks = await app.pool.fetch(SQL["marks"], run_id, minutes, project, list(MARKS))
    times = [now - timedelta(minutes=back) for back in range(minutes - 1, -1, -1)]
    return Throughput(minutes=times, series=_series(rows, times), marks=[mark_of(row) for row in reversed(marks)])


def _series(rows: Sequence[Any], times: Sequence[datetime]) -> list[Series]:
    places = {time: at for at, time in enumerate(times)}
    volume: dict[str, int] = {}
    for row in rows:
        volume[row["stage"]] = volume.get(row["stage"], 0) + row["completed"] + row["failed"]
    largest = sorted(volume, key=lambda name: -volume[name])[:MOST_SERIES]
    order = [name for name in volume if name in largest]
    made = {name: Series(stage=name, completed=[0] * len(times), failed=[0] * len(times)) for name in order}
    if len(volume) > len(largest):
        made["(others)"] = Series(stage="(others)", completed=[0] * len(times), failed=[0] * len(times))
    for row in rows:
        at = places.get(row["minute"])
        if at is not None:
            series = made.get(row["stage"]) or made["(others)"]
            series.completed[at] += row["completed"]
            series.failed[at] += row["failed"]
    return list(made.values())


def mark_of(row: Any) -> Mark:
    """An event as a mark, with a line for people."""
    body: dict[str, Any] = json.loads(row["body"])
    known = row["worker"] or (f"worker {row['worker_id']}" if row["worker_id"] else None)
    worker, run = known or "a worker", row["run"] or ""
    facts = {"run": run, "worker": known} | {
        name: body[name] for name in FACTS if isinstance(body.get(name), str | int)
    }
    lines = {
        "run.start": f"{run} began", "run.end": f"{run} ended {body.get('state')}",
        "run.retry": f"{run}: {body.get('tasks')} pieces begin anew", "run.pause": f"{run} was paused",
        "run.resume": f"{run} goes on", "budget.spent": f"{run}: budget of the {body.get('scope')} is spent",
        "limit.spent": f"{body.get('limit')}: {body.get('why')}", "limit.changed": f"limit {body.get('limit')} changed",
        "pool.changed": f"pool {body.get('pool')}: {body.get('what')}", "worker.started": f"{worker} began",
        "worker.died": f"{worker} died, {body.get('tasks', 0)} pieces handed on", "worker.drain": f"{worker} drains",
        "worker.stopped": f"{worker} left", "step.quarantined": f"{run}: a piece was quarantined",
        "lock.forced": f"lock {body.get('key')} was taken from {body.get('holder')}",
    }  # fmt: skip
    return Mark(
        seq=row["seq"], at=row["at"], event=row["name"], run=row["run_id"], text=lines.get(row["name"], row["name"]),
        facts=facts,
    )  # fmt: skip
