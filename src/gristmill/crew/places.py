"""Crews and their places in the database: what a supervisor does with them, each step one guarded statement.

A place is a worker that ought to run ("parse-2"), whatever process fills it now. Its row survives supervisors: pid and
start time of its process, restarts, the blacklist and what people want of it.
"""

from __future__ import annotations

import json
import os
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg

from gristmill.config import Settings
from gristmill.db.database import transaction
from gristmill.db.statements import statements
from gristmill.engine import processes
from gristmill.engine.worker_spec import WorkerSpec
from gristmill.errors import UsageError
from gristmill.version import __version__

SQL = statements("crew")
Pool: TypeAlias = "asyncpg.Pool[Any]"
API = "api"  # the place of the API server
LEASE = 15.0  # seconds until another machine may take over the crew of a supervisor that says nothing more
# what the table allows; docs/concepts/supervision.md draws it
TRANSITIONS = {
    "idle": ("due",),
    "due": ("starting", "idle"),
    "starting": ("running", "due", "idle"),
    "running": ("stopping", "due", "idle"),
    "stopping": ("idle", "due"),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A place as the settings want it. `settings`: pools, models, annotator, domain."""

    name: str
    kind: str
    spec: str
    number: int
    settings: dict[str, Any]
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """A row of `crew_place`, and the worker that its process has become. Times in seconds; `deaths`: of the last hour
    as of the latest one; `late`: its lease is over."""

    crew: str
    name: str
    kind: str
    spec: str
    number: int
    settings: dict[str, Any]
    enabled: bool
    wanted: bool
    blacklisted: bool
    dropped: bool
    paused: bool
    again: bool
    ending: str | None
    state: str
    restarts: int
    deaths: int
    due_in: float | None
    nonce: uuid.UUID | None
    machine: str | None
    pid: int | None
    pid_started: int | None
    started_at: datetime | None
    cause: str | None
    worker_id: int | None
    worker_state: str | None
    late: bool
    beat_age: float | None
    tasks: int

    @property
    def should_run(self) -> bool:
        return self.enabled and self.wanted and not self.blacklisted and not self.dropped

    @property
    def standing(self) -> str:
        """One word for people: running, paused, starting, restarting, stopping, blacklisted, disabled, stopped."""
        if self.state == "running":
            return "paused" if self.paused else "running" if self.worker_id or self.kind == API else "starting"
        if self.state in ("starting", "stopping"):
            return self.state
        if self.blacklisted:
            return "blacklisted"
        if self.state == "due":
            return "restarting" if self.restarts else "starting"
        return "stopped" if self.enabled else "disabled"


@dataclass(frozen=True, slots=True)
class CrewRow:
    """A crew. `held`: a supervisor looks after it; `workers`: processes that run; `scale`: counts that a person set."""

    name: str
    state: str
    held: bool
    host: str | None
    pid: int | None
    most: int
    workers: int
    scale: dict[str, int]
    problem: str | None
    logs: str | None
    version: str | None
    started_at: datetime | None
    ended_at: datetime | None
    cause: str | None


def crew_name(settings: Settings) -> str:
    """The crew of this machine, or the one that the settings name."""
    return settings.crew_name or platform.node() or "localhost"


def wanted_places(settings: Settings, scale: Mapping[str, int], *, api: bool) -> list[Wanted]:
    """What the settings ask for; without any `[workers.NAME]` there are `workers` of one kind."""
    specs = settings.crew or {"worker": WorkerSpec(count=settings.workers)}
    found = [Wanted(API, "api", API, 1, {})] if api else []
    for name, spec in specs.items():
        for number in range(1, scale.get(name, spec.count) + 1):
            body: dict[str, Any] = {
                "pools": {"notify": 4, **(spec.pools or settings.pools)},
                "models": list(spec.models),
            }
            body |= {"annotator": spec.annotator, "domain": spec.domain}
            found.append(Wanted(f"{name}-{number}", "worker", name, number, body, spec.enabled))
    return found


async def places(database: Pool, crew: str | None = None) -> list[Place]:
    """The places of a crew, or of all."""
    rows = await database.fetch(SQL["places"], crew)
    fields = Place.__dataclass_fields__
    return [
        Place(**{name: row[name] for name in fields if name != "settings"}, settings=json.loads(row["settings"]))
        for row in rows
    ]  # fmt: skip


async def crews(database: Pool) -> list[CrewRow]:
    """All crews that the database has heard of, by name. A supervisor of this machine that was killed holds nothing."""
    found = []
    for row in await database.fetch(SQL["crews"]):
        values = {name: row[name] for name in CrewRow.__dataclass_fields__}
        values |= {"scale": json.loads(row["scale"]), "held": row["held"] and row["state"] != "down" and not _gone(row)}
        found.append(CrewRow(**values))
    return found


def _gone(row: Any) -> bool:
    """Whether the supervisor of a crew has surely ended."""
    return row["machine"] == processes.machine() != "" and processes.ended(row["pid"], row["pid_started"])


@dataclass(frozen=True, slots=True)
class Hold:
    """A supervisor's right over a crew. `fresh`: the crew had ended in order before."""

    crew: str
    fence: int
    fresh: bool
    scale: dict[str, int]


async def take_crew(database: Pool, name: str, logs: Path) -> Hold:
    """Takes a crew that nobody looks after: its supervisor left, has ended on this machine, or let its lease run out.

    Raises `Supervised` when somebody does.
    """
    async with transaction(database) as connection:
        await connection.execute(SQL["enter_crew"], name)
        row = await connection.fetchrow(SQL["lock_crew"], name)
        if row["state"] != "down" and row["held"] and not _gone(row):
            near = row["machine"] == processes.machine() != ""
            raise Supervised(name, row["host"], row["pid"], near=near, left=row["left"])
        fence = await connection.fetchval(
            SQL["take_crew"], name, platform.node(), processes.machine(), os.getpid(), processes.started(os.getpid()),
            __version__, str(logs), LEASE,
        )  # fmt: skip
        return Hold(name, fence, row["state"] == "down", json.loads(row["scale"]))


class Supervised(UsageError):
    """The crew has a supervisor. `near`: it lives on this machine; `left`: seconds until its lease is over."""

    code = "U340"

    def __init__(self, crew: str, host: str, pid: int, *, near: bool, left: float) -> None:
        super().__init__(
            f'crew "{crew}" has a supervisor: process {pid} on {host}',
            hint="gristmill worker list shows it, gristmill down stops it", safe="nothing was started",
        )  # fmt: skip
        self.near, self.left = near, left


async def plan(database: Pool, hold: Hold, wanted: Sequence[Wanted], most: int, *, fresh: bool) -> None:
    """Makes the rows fit the settings. With `fresh` a word of a person from before is forgotten, but no blacklist."""
    async with transaction(database) as connection:
        await connection.fetchrow(SQL["lock_crew"], hold.crew)
        await connection.execute(SQL["set_most"], hold.crew, hold.fence, most)
        for one in wanted:
            await connection.execute(
                SQL["put_place"], hold.crew, hold.fence, one.name, one.kind, one.spec, one.number,
                json.dumps(one.settings), one.enabled, fresh,
            )  # fmt: skip
        await connection.execute(SQL["drop_places"], hold.crew, hold.fence, [one.name for one in wanted])


async def call_up(database: Pool, hold: Hold, place: Place) -> bool:
    """Makes an idle place due, or refuses it when the crew is full; False only then."""
    async with transaction(database) as connection:
        row = await connection.fetchrow(SQL["lock_crew"], hold.crew)
        if row["fence"] != hold.fence:
            return True
        if await connection.fetchval(SQL["call_up"], hold.crew, place.name) is not None:
            return True
        reason = full(row["most"])
        return await connection.fetchval(SQL["refuse"], hold.crew, hold.fence, place.name, reason, "idle") is None


def full(most: int) -> str:
    """Why one more worker is refused."""
    return f"refused: the crew has its {most} workers (setting most_workers)"
