"""gristmill schedule: runs and tasks that start at certain times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say

if TYPE_CHECKING:
    from datetime import datetime

    from gristmill.app import App
    from gristmill.engine.schedule import Schedule
    from gristmill.engine.ticks import Timing

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.group(name="schedule")
def command() -> None:
    """Schedules: add, list, pause, resume, remove, next. Runs that start by themselves, each tick exactly once."""


@command.command()
@click.argument("name")
@click.option("--cron", help='Five fields, or six with seconds first: "0 3 * * *" is every day at 3:00.')
@click.option("--every", help="Instead of --cron: 30s, 15m, 2h, 1d, or a number of seconds; at least 1 s.")
@click.option(
    "--timezone", default="UTC", show_default=True, help="In which --cron is read, for example Europe/Berlin."
)
@click.option(
    "--catch-up", type=click.Choice(["all", "last", "none"]), default="last", show_default=True,
    help="Ticks that were missed while no worker ran.",
)  # fmt: skip
@click.option(
    "--run",
    "paths",
    multiple=True,
    type=click.Path(path_type=str),
    help="Start a run of this file, folder, glob or URL.",
)
@click.option("--workflow", "-w", default="qa", show_default=True, help="Workflow of --run.")
@click.option("--model", "-m", default="extractive", show_default=True, help="Model of --run.")
@click.option("--set", "assignments", multiple=True, metavar="STEP.OPTION=VALUE", help="Option of a step of --run.")
@click.option("--task", help="Instead of --run: enqueue a task of this kind.")
@click.option("--payload", default="{}", help="JSON object for --task.")
@click.option("--pool", default="*", show_default=True, help="Pool of the task.")
@click.option("--attempts", type=click.IntRange(1, 1000), default=5, show_default=True, help="Attempts of each task.")
@options.home
@options.as_json
def add(home: Path | None, as_json: bool, **given: Any) -> None:
    """Starts a run, or a task, at every tick. The same command again changes nothing, another one the schedule."""
    options.call(_add(home, as_json, given))


async def _add(home: Path | None, as_json: bool, given: dict[str, Any]) -> int:
    from gristmill.db.database import transaction
    from gristmill.engine import schedule

    kind, payload = _what(given)
    async with options.open_app(home, workers=0) as app:
        if given["paths"] and given["model"]:
            await app.models.open(given["model"])  # a wrong name or a missing key is found now, not at night
        new = schedule.NewSchedule(
            given["name"], kind, given["cron"], _interval(given["every"]), given["timezone"], given["catch_up"],
            app.settings.project, given["pool"], payload, given["attempts"],
        )  # fmt: skip
        async with transaction(app.pool) as connection:
            added = await schedule.add(connection, new)
            entry = await schedule.find(connection, new.name, new.project)
        if as_json:
            print_json("schedule", what=added.what, **_document(entry))
            return 0
        say(f"{entry.name}: {added.what}")
        for tick in _ticks(entry, 3):
            click.echo(tick)
        await _say_who_works(app, kind)
    return 0


def _what(given: dict[str, Any]) -> tuple[str, str]:
    """Kind and payload of the task."""
    from gristmill.errors import UsageError
    from gristmill.starting import RUN_START, start_options

    if bool(given["paths"]) == bool(given["task"]):
        raise UsageError("a schedule needs --run PATH or --task KIND, one of them", code="U337")
    if given["task"]:
        return given["task"], given["payload"]
    made = start_options(given["paths"], given["workflow"], given["model"], given["assignments"])
    return RUN_START, json.dumps(made, ensure_ascii=False)


def _interval(text: str | None) -> float | None:
    """Seconds of "90", "30s", "15m", "2h" or "1d". Raises `UsageError` U333."""
    from gristmill.errors import UsageError

    if text is None:
        return None
    number, unit = (text[:-1], UNITS[text[-1]]) if text[-1:] in UNITS else (text, 1)
    try:
        return float(number) * unit
    except ValueError:
        hint = "write 30s, 15m, 2h, 1d, or a number of seconds"
        raise UsageError(f'cannot read the interval "{text}"', code="U333", hint=hint) from None


async def _say_who_works(app: App, kind: str) -> None:
    from gristmill.db.statements import statements

    rows = await app.pool.fetch(statements("schedule")["who_performs"], kind)
    if not rows:
        say(f"no worker that runs now performs {kind}: ticks come only while one does (gristmill worker)")


@command.command(name="list")
@options.home
@options.as_json
def list_(home: Path | None, as_json: bool) -> None:
    """All schedules: their next tick, and what became of the latest one."""
    options.call(_list(home, as_json))


async def _list(home: Path | None, as_json: bool) -> int:
    from gristmill.engine import schedule

    async with options.open_app(home, workers=0) as app, app.pool.acquire() as connection:
        entries = await schedule.listed(connection, app.settings.project)
    if as_json:
        print_json("schedules", schedules=[_document(entry) for entry in entries])
        return 0
    if not entries:
        say('there is no schedule; add one: gristmill schedule add NAME --cron "0 3 * * *" --run FOLDER')
    for entry in entries:
        if entry.timing is None:
            click.echo(f"{entry.name:<20} broken: {entry.message}; add it again, then resume it")
            continue
        state = "paused" if entry.paused else "late" if entry.next_at < entry.now else "next"
        when = "" if entry.paused else f" {entry.timing.local(entry.next_at)}"
        click.echo(f"{entry.name:<20} {_times(entry.timing):<28} {entry.task['kind']:<16} {state}{when}")
        if entry.outcome is not None and entry.last_at is not None:
            said = f": {entry.message}" if entry.message else ""
            click.echo(f"    latest {entry.timing.local(entry.last_at)}  {entry.outcome}{said}")
    return 0


@command.command()
@click.argument("name")
@options.home
@options.as_json
def pause(name: str, home: Path | None, as_json: bool) -> None:
    """No more ticks until it is resumed."""
    options.call(_change(home, name, as_json, "pause"))


@command.command()
@click.argument("name")
@options.home
@options.as_json
def resume(name: str, home: Path | None, as_json: bool) -> None:
    """Goes on; ticks of the pause count as missed (--catch-up)."""
    options.call(_change(home, name, as_json, "resume"))


@command.command()
@click.argument("name")
@options.home
@options.as_json
def remove(name: str, home: Path | None, as_json: bool) -> None:
    """Takes it away; what it has started goes on."""
    options.call(_change(home, name, as_json, "remove"))


async def _change(home: Path | None, name: str, as_json: bool, what: str) -> int:
    from gristmill.db.database import transaction
    from gristmill.engine import schedule

    async with options.open_app(home, workers=0) as app, transaction(app.pool) as connection:
        project = app.settings.project
        if what == "remove":
            await schedule.remove(connection, name, project)
            changed = True
        else:
            changed = await (schedule.pause if what == "pause" else schedule.resume)(connection, name, project)
    state = {"remove": "removed", "pause": "paused", "resume": "resumed"}[what]
    if as_json:
        print_json("schedule", name=name, state=state, changed=changed)
    else:
        click.echo(f"{name} is {state}" if changed else f"{name} was not {'running' if what == 'pause' else 'paused'}")
    return 0


@command.command(name="next")
@click.argument("name")
@click.option("--count", "-n", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many ticks.")
@options.home
@options.as_json
def next_(name: str, count: int, home: Path | None, as_json: bool) -> None:
    """The next ticks, in the schedule's time zone."""
    options.call(_next(home, name, count, as_json))


async def _next(home: Path | None, name: str, count: int, as_json: bool) -> int:
    from gristmill.engine import schedule

    async with options.open_app(home, workers=0) as app, app.pool.acquire() as connection:
        entry = await schedule.find(connection, name, app.settings.project)
    ticks = _ticks(entry, count)
    if as_json:
        print_json("ticks", name=name, paused=entry.paused, ticks=ticks)
        return 0
    if entry.paused:
        say(f"{name} is paused; without that:")
    for tick in ticks:
        click.echo(tick)
    return 0


def _ticks(entry: Schedule, count: int) -> list[str]:
    """The next ticks as they read in the schedule's time zone."""
    from gristmill.engine import schedule

    ticks = schedule.upcoming(entry, count)
    return [tick.isoformat() if entry.timing is None else entry.timing.local(tick) for tick in ticks]


def _times(timing: Timing) -> str:
    if timing.every is not None:
        return f"every {timing.every.total_seconds():g} s"
    return f"{timing.cron} {timing.timezone}"


def _document(entry: Schedule) -> dict[str, Any]:
    def iso(moment: datetime | None) -> str | None:
        return None if moment is None else moment.isoformat()

    timing = entry.timing
    return {
        "name": entry.name, "cron": timing and timing.cron,
        "every": timing and timing.every and timing.every.total_seconds(),
        "timezone": timing and timing.timezone, "catch_up": entry.catch_up, "task": entry.task, "paused": entry.paused,
        "next_at": iso(entry.next_at), "last_at": iso(entry.last_at), "outcome": entry.outcome,
        "message": entry.message,
    }  # fmt: skip
