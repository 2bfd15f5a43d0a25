"""gristmill worker: one worker process here, or orders to the workers of a crew."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say
from gristmill.errors import GristmillError

if TYPE_CHECKING:
    from gristmill.app import App
    from gristmill.crew.orders import Verb
    from gristmill.crew.places import Place
    from gristmill.engine.worker import Worker

LOOK = 3.0  # seconds between two looks for other pools, and for packs
PATIENT = 1e8  # seconds that a draining worker finishes what it has begun
log = logging.getLogger("gristmill.worker")


@click.group(name="worker", invoke_without_command=True)
@click.option(
    "--load", multiple=True, type=click.Path(exists=True, dir_okay=False), help="A Python file with operators."
)
@click.option("--name", default="", help="A name for people; identity is given by the database.")
@click.option("--supervised", is_flag=True, help="Stop when standard input closes.")
@options.home
@click.pass_context
def command(
    context: click.Context, load: tuple[str, ...], name: str, supervised: bool, home: Path | None
) -> None:  # fmt: skip
    """Claims tasks and works on them until SIGTERM or Ctrl-C: the first drains, the second gives everything back.

    With one of the commands below: orders to the workers that `gristmill up` keeps alive.
    """
    if context.invoked_subcommand is None:
        options.call(_work(home, load, name, supervised))


async def _work(home: Path | None, load: tuple[str, ...], name: str, supervised: bool) -> int:
    from gristmill import logs
    from gristmill.operators.operator import load_file

    app = options.open_app(home, workers=0)
    options.set_up_logs(app.settings)
    logs.bind(**{key: os.environ.get(f"GRISTMILL_{key.upper()}") for key in ("annotator", "domain")})
    for path in load:
        load_file(path)
    if nonce := os.environ.get("GRISTMILL_CREW_NONCE"):
        import uuid

        app.nonce = uuid.UUID(nonce)
    async with app:
        worker = app.worker(name)
        _listen(worker, supervised)
        following = asyncio.create_task(_follow(app, worker)) if nonce else None
        packs = asyncio.create_task(follow_packs(app, worker))
        await worker.run(app.pool)
        packs.cancel()
        if following is not None:
            following.cancel()
    return 1 if worker.worn else 0  # 0: it was told to end, and nobody has to start it again


def _listen(worker: Worker, supervised: bool) -> None:
    """Signals, and the end of standard input. The supervisor's SIGUSR1 is a SIGTERM that gives all the time needed."""
    loop = asyncio.get_running_loop()
    signals: list[int] = []

    def on_signal() -> None:
        signals.append(1)
        if len(signals) > 2:
            os._exit(130)
        worker.stop(at_once=len(signals) == 2 or worker.settings.shutdown == PATIENT)

    def on_drain() -> None:
        worker.settings = dataclasses.replace(worker.settings, shutdown=PATIENT)
        worker.stop()

    def on_input() -> None:
        if not os.read(0, 1024):  # whoever started us is gone
            loop.remove_reader(0)
            worker.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGUSR1, on_drain)
    if supervised:
        loop.add_reader(0, on_input)


async def follow_packs(app: App, worker: Worker) -> None:
    """Packs that are installed or removed while the worker runs: it knows their actions within seconds."""
    import asyncpg

    from gristmill.db.database import RECONNECT
    from gristmill.engine.performer import Performers
    from gristmill.packs.store import digests, take_packs

    settings = app.settings
    known: dict[str, str] = {}
    while True:
        await asyncio.sleep(LOOK)
        try:
            found = await digests(app.pool)
            if found != known and isinstance(worker.performer, Performers):
                await take_packs(app.pool, settings.home, settings.packs, fetch=settings.packs_from_database)
                worker.performer.refresh()
                await worker.change_kinds()
                known = found
        except (*RECONNECT, asyncpg.PostgresError):
            continue
        except GristmillError as error:  # its settings do not fit: told, and tried again when it changes
            log.error("the installed packs are not taken over: %s", error.message)
            known = found


async def _follow(app: Any, worker: Worker) -> None:
    """Takes over other pools that the supervisor has read in changed settings."""
    import asyncpg

    from gristmill.crew.places import SQL
    from gristmill.db.database import RECONNECT

    while True:
        await asyncio.sleep(LOOK)
        try:
            row = await app.pool.fetchrow(SQL["own_place"], worker.nonce)
            pools = json.loads(row["settings"]).get("pools") if row else None
            if pools and pools != dict(worker.settings.pools):
                await worker.change_pools(pools)
        except (*RECONNECT, asyncpg.PostgresError):
            continue


names = click.argument("workers", nargs=-1, metavar="NAME...")
everyone = click.option("--all", "everyone", is_flag=True, help="All workers of the crew.")
other_crew = click.option("--crew", help="Another crew than that of this machine.")


@command.command(name="list")
@other_crew
@options.home
@options.as_json
def list_(crew: str | None, home: Path | None, as_json: bool) -> None:
    """Lists crews, their workers, and why one does not run."""
    options.call(_list(home, crew, as_json))


async def _list(home: Path | None, crew: str | None, as_json: bool) -> int:
    from gristmill.crew import places

    async with options.open_app(home, workers=0) as app:
        crews = [one for one in await places.crews(app.pool) if crew in (None, one.name)]
        found = await places.places(app.pool, crew)
    if as_json:
        documents = [{**dataclasses.asdict(one), "standing": one.standing} for one in found]
        print_json("worker.list", crews=[dataclasses.asdict(one) for one in crews], workers=documents)
        return 0
    for one in crews:
        who = f"supervisor {one.pid} on {one.host}" if one.held else "no supervisor: gristmill up"
        say(f"crew {one.name}: {one.workers} of at most {one.most} workers, {who}")
        if one.problem:
            say(f"  changed settings were not taken over: {one.problem}")
        for place in found:
            if place.crew == one.name:
                click.echo(_line(place))
    if not crews:
        say("there is no crew yet: gristmill up")
    return 0


def _line(place: Place) -> str:
    pools = " ".join(f"{pool}={slots}" for pool, slots in place.settings.get("pools", {}).items())
    told = [f"pid {place.pid}" if place.pid else ""]
    if place.worker_id is not None:
        told += [f"worker {place.worker_id}", f"{place.tasks:,} tasks", f"beat {place.beat_age or 0:.0f} s ago"]
    if place.restarts:
        told.append(f"{place.restarts} restarts in a row")
    if place.state == "due" and place.due_in:
        told.append(f"in {place.due_in:.0f} s")
    if place.cause and place.state != "running":
        told.append(place.cause)
    return f"  {place.name:<16} {place.standing:<11}  {', '.join(word for word in told if word)}  {pools}".rstrip()


def _ordering(verb: Verb, text: str, *, name: str | None = None) -> None:
    """Makes the command of a verb that needs nothing but names."""

    @command.command(name=name or verb, help=text)
    @names
    @everyone
    @other_crew
    @options.home
    @options.as_json
    def run(workers: tuple[str, ...], everyone: bool, crew: str | None, home: Path | None, as_json: bool) -> None:
        options.call(_order(verb, workers, everyone, crew, home, as_json))


_ordering("start", "Starts workers; refused for what is disabled or blacklisted, and when the crew is full.")
_ordering("drain", "Lets workers finish all that is under way, however long it takes, and end.")
_ordering("restart", "Stops workers and starts them again, with the settings of now.")
_ordering(
    "pause", "Lets workers claim nothing more; what is under way finishes, and they stay. Holds for restarts too."
)
_ordering("resume", "Lets workers go on after a pause.")
_ordering("blacklist", "Stops workers and keeps them from being started until they are reset.")
_ordering("reset", "Takes workers from the blacklist, forgets their deaths, and starts them.")


@command.command()
@click.option("--now", is_flag=True, help="Give work under way back instead of finishing it.")
@names
@everyone
@other_crew
@options.home
@options.as_json
def stop(
    now: bool, workers: tuple[str, ...], everyone: bool, crew: str | None, home: Path | None, as_json: bool
) -> None:  # fmt: skip
    """Lets workers finish what is under way and end; SIGKILL after `shutdown` and 5 s more. They stay stopped."""
    options.call(_order("now" if now else "stop", workers, everyone, crew, home, as_json))


async def _order(
    verb: Verb, wanted: tuple[str, ...], everyone: bool, crew: str | None, home: Path | None, as_json: bool
) -> int:  # fmt: skip
    from gristmill.crew import orders, places
    from gristmill.errors import UsageError

    if bool(wanted) == everyone:
        raise UsageError("say which workers: names, or --all", code="U363", hint="list them: gristmill worker list")
    async with options.open_app(home, workers=0) as app:
        name = crew or places.crew_name(app.settings)
        meant = await orders.chosen(app.pool, name, wanted, everyone=everyone)
        told = await orders.order(app.pool, name, verb, [place.name for place in meant], by=options.me())
        held = (await orders.find_crew(app.pool, name)).held
    if as_json:
        documents = [dataclasses.asdict(one) for one in told]
        print_json("worker.order", order=verb, crew=name, supervised=held, workers=documents)
    for one in told if not as_json else ():
        done = f"{verb}: the supervisor does it" if held else f"{verb}: noted"
        click.echo(f"{one.place} {one.refused or (done if one.changed else f'{verb}: it was so already')}")
    if not held and not as_json:
        say("no supervisor runs: it holds from the next gristmill up on")
    return 1 if any(one.refused for one in told) else 0


@command.command()
@click.argument("spec")
@click.argument("count")
@other_crew
@options.home
@options.as_json
def scale(spec: str, count: str, crew: str | None, home: Path | None, as_json: bool) -> None:
    """Keeps COUNT workers of a kind instead of what the settings say; `none` goes back to them."""
    options.call(_scale(home, crew, spec, count, as_json))


async def _scale(home: Path | None, crew: str | None, spec: str, count: str, as_json: bool) -> int:
    from gristmill.crew import orders, places
    from gristmill.errors import UsageError

    if count != "none" and not count.isdecimal():
        raise UsageError(f"{count!r} workers cannot be", code="U343", hint="a whole number from 0 to 100, or none")
    number = None if count == "none" else int(count)
    async with options.open_app(home, workers=0) as app:
        name = crew or places.crew_name(app.settings)
        await orders.scale(app.pool, name, spec, number, by=options.me())
    if as_json:
        print_json("worker.scale", crew=name, spec=spec, count=number)
    else:
        click.echo(f"{spec}: {'as the settings say' if number is None else number}")
    return 0


@command.command(name="logs")
@click.argument("worker")
@click.option(
    "--lines", "-n", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The latest so many."
)
@click.option("--follow", "-f", is_flag=True, help="Go on until Ctrl-C.")
@other_crew
@options.home
@options.as_json
def logs_(
    worker: str, lines: int, follow: bool, crew: str | None, home: Path | None, as_json: bool
) -> None:  # fmt: skip
    """Prints the latest lines of a worker's log, or of the supervisor's."""
    options.call(_logs(home, crew, worker, lines, follow, as_json))


async def _logs(home: Path | None, crew: str | None, worker: str, most: int, follow: bool, as_json: bool) -> int:
    from gristmill.crew import log_files, orders, places
    from gristmill.errors import UsageError

    async with options.open_app(home, workers=0) as app:
        name = crew or places.crew_name(app.settings)
        row = await orders.find_crew(app.pool, name)
        if worker != "supervisor":
            (place, *_) = await orders.chosen(app.pool, name, [worker])
            worker = place.name
    file = Path(row.logs or "logs") / f"{worker}.log"
    if not file.exists():
        raise UsageError(f"there is no log of {worker} here", code="U344", hint=f"it would be {file} on {row.host}")
    follower = log_files.Follower(file)
    found = log_files.latest(file, most)
    if as_json:
        print_json("worker.logs", worker=worker, file=str(file), lines=[log_files.parsed(line) for line in found])
        return 0
    for line in found:
        click.echo(log_files.for_people(line))
    while follow:
        for line in follower.newer():
            click.echo(log_files.for_people(line))
        await asyncio.sleep(0.3)
    return 0
