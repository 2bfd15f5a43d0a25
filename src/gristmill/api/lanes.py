"""Swim-lanes: what each worker was at, put together from attempts that ended and tasks under way."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

import asyncpg

from gristmill.api.shapes import Answer
from gristmill.db.statements import statements

SQL = statements("api_live")
SPANS = 240  # parts of the time asked for: finer than a screen shows
What = Literal["work", "quota", "idle", "paused", "late", "dead"]


class Segment(Answer):
    """`tasks` ended in it, `failed` of them badly. `quota`: nothing ran, because what it had claimed was sent away by a
    quota."""

    since: datetime
    until: datetime
    what: What
    tasks: int = 0
    failed: int = 0


class Lane(Answer):
    worker: int
    name: str
    state: str
    cause: str | None
    segments: list[Segment]


async def lanes_of(pool: asyncpg.Pool[Any], seconds: float) -> tuple[datetime, datetime, list[Lane]]:
    """The last `seconds` of all workers that lived in them: beginning, end, lanes by id."""
    async with pool.acquire() as connection:
        until: datetime = await connection.fetchval("select clock_timestamp()")
        since = until - timedelta(seconds=seconds)
        workers = await connection.fetch(SQL["lane_workers"], since)
        spans = await connection.fetch(SQL["lane_spans"], since, seconds / SPANS)
        waits = await connection.fetch(SQL["lane_waits"], since, seconds / SPANS)
    width = timedelta(seconds=seconds / SPANS)
    by_worker, sent_away = _by_worker(spans), _by_worker(waits)
    lanes = [
        Lane(
            worker=one["id"], name=one["name"], state=one["state"], cause=one["cause"],
            segments=with_quota(
                segments(one, by_worker.get(one["id"], []), since, until, width), sent_away.get(one["id"], [])
            ),
        )
        for one in workers
    ]  # fmt: skip
    return since, until, lanes


def _by_worker(rows: list[Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for row in rows:
        found.setdefault(row["worker"], []).append(row)
    return found


def with_quota(found: list[Segment], waits: list[Any]) -> list[Segment]:
    """The same time, with the parts of idleness in which a quota held the worker up; `waits` come in order."""
    made: list[Segment] = []
    for segment in found:
        if segment.what != "idle":
            made.append(segment)
            continue
        at = segment.since
        for wait in waits:
            begin, end = max(at, wait["began"]), min(segment.until, wait["ended"])
            if begin >= end:
                continue
            if begin > at:
                made.append(Segment(since=at, until=begin, what="idle"))
            if made and made[-1].what == "quota" and made[-1].until == begin:
                begin = made.pop().since
            made.append(Segment(since=begin, until=end, what="quota"))
            at = end
        if at < segment.until:
            made.append(Segment(since=at, until=segment.until, what="idle"))
    return made


def segments(worker: Any, spans: list[Any], since: datetime, until: datetime, width: timedelta) -> list[Segment]:
    """A worker's time without gaps: work where attempts lie, idle between them, and how it stands at the end."""
    at = max(since, worker["started_at"])
    alive_until = min(until, worker["ended_at"] or until)
    if worker["state"] == "late":
        alive_until = max(at, min(alive_until, worker["seen_at"]))
    found: list[Segment] = []
    for span in spans:
        begin, end = max(at, span["began"]), min(alive_until, max(span["ended"], span["began"]))
        if found and found[-1].what == "work" and begin - found[-1].until <= width:
            last = found.pop()
            begin, end = last.since, max(end, last.until)
            tasks, failed = last.tasks + span["tasks"], last.failed + span["failed"]
        else:
            tasks, failed = span["tasks"], span["failed"]
            if begin > at:
                found.append(Segment(since=at, until=begin, what="idle"))
        if end >= begin:
            found.append(Segment(since=begin, until=end, what="work", tasks=tasks, failed=failed))
            at = end
    if at < alive_until:
        found.append(Segment(since=at, until=alive_until, what="paused" if worker["state"] == "paused" else "idle"))
    rest: What | None = {"dead": "dead", "late": "late"}.get(worker["state"])  # type: ignore[assignment]
    if rest is not None and alive_until < until:
        found.append(Segment(since=alive_until, until=until, what=rest))
    return found
