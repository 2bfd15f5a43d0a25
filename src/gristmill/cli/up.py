"""gristmill up: the supervisor, its workers and the API, in the foreground or behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say

if TYPE_CHECKING:
    from gristmill.app import App
    from gristmill.crew.places import Hold, Place
    from gristmill.crew.supervisor import Orders

PATIENCE = 60.0  # seconds that --detach waits for the supervisor


@click.command(name="up")
@click.option("--detach", "-d", is_flag=True, help="Come back when it runs; gristmill down stops it.")
@click.option("--no-api", is_flag=True, help="Workers only.")
@click.option(
    "--load", multiple=True, type=click.Path(exists=True, dir_okay=False), help="A Python file with operators."
)
@click.option("--systemd", is_flag=True, help="Print a unit for systemd instead, and how to install it.")
@click.option("--on", "place", type=click.Choice(["here", "ray"]), default="here", help="Where the workers run.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="On Ray: how many.")
@click.option("--ray-address", default="auto", show_default=True, metavar="HOST:PORT", help="On Ray: the cluster.")
@click.option("--cpus", type=click.FloatRange(0), default=1.0, show_default=True, help="On Ray: of each worker.")
@click.option("--environment", multiple=True, metavar="NAME", help="On Ray: a variable that workers get from here.")
@options.home
@options.as_json
def command(
    detach: bool, no_api: bool, load: tuple[str, ...], systemd: bool, place: str, workers: int, ray_address: str,
    cpus: float, environment: tuple[str, ...], home: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Starts the workers of gristmill.toml and the API, and keeps them alive until Ctrl-C or `gristmill down`."""
    more = [
        *(["--no-api"] if no_api else []),
        *(part for path in load for part in ("--load", str(Path(path).resolve()))),
    ]
    if place == "ray":
        given = tuple(part for path in load for part in ("--load", str(Path(path).resolve())))
        options.call(_on_ray(home, given, workers, ray_address, cpus, environment))
    elif systemd:
        from gristmill.config import load_settings
        from gristmill.crew.systemd import unit

        click.echo(unit(load_settings(home=home).values, more, Path.cwd()), nl=False)
    elif detach:
        options.call(_detach(home, more, as_json))
    else:
        options.call(_up(home, load, api=not no_api, as_json=as_json))


async def _up(home: Path | None, load: tuple[str, ...], *, api: bool, as_json: bool) -> int:
    from gristmill import logs
    from gristmill.config import load_settings
    from gristmill.crew.following import Following
    from gristmill.crew.places import crew_name
    from gristmill.crew.supervisor import Supervisor, log
    from gristmill.crew.systemd import notify

    loaded = load_settings(home=home)
    settings = loaded.values
    options.set_up_logs(settings)
    logs.bind(crew=crew_name(settings))
    async with options.open_app(None, settings=settings) as app:
        hold = await _take(app, crew_name(settings))
        api = api and _has_api()
        following = Following(app.pool, hold, loaded, lambda: load_settings(home=home), api=api, tell=log.warning)
        supervisor = Supervisor(
            app.pool, hold, _orders(app, following, load), log.warning, app.revive, following,
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        signals: list[int] = []

        def on_signal() -> None:
            signals.append(1)
            notify("STOPPING=1")
            if len(signals) > 2:
                for watched in supervisor.watched.values():
                    watched.process.kill()
            say("stopping: work under way is finished (again: it is given back at once, nothing is lost)")
            supervisor.stop(at_once=len(signals) > 1)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        notify("READY=1")
        if as_json:
            print_json("up", crew=hold.crew, pid=os.getpid(), home=str(settings.home))
        log.info("crew %s is up", hold.crew)
        await supervisor.run()
        log.info("crew %s is down; nothing is lost, gristmill up goes on", hold.crew)
    return 0


async def _on_ray(
    home: Path | None, load: tuple[str, ...], workers: int, address: str, cpus: float, names: tuple[str, ...]
) -> int:
    """Workers as actors of a Ray cluster, until Ctrl-C: it has no API, no supervisor and nothing durable."""
    from gristmill.config import HANDED_ON, load_settings
    from gristmill.crew.on_ray import Wish, keep
    from gristmill.errors import UsageError

    settings = load_settings(home=home).values
    if not settings.database_url:
        raise UsageError(
            "workers on other hosts cannot reach an embedded database", code="U397", safe="nothing was started",
            hint="gristmill db move --to postgresql://..., then set GRISTMILL_DATABASE_URL",
        )  # fmt: skip
    told = {HANDED_ON: settings.model_dump_json(exclude={"home", "workers", "crew"})}
    told |= {name: os.environ[name] for name in names if name in os.environ}
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await keep(Wish(workers, address, cpus, load, told, settings.shutdown + 5), say, stopping)
    return 0


async def _take(app: App, crew: str) -> Hold:
    """The crew; waits for the lease of a supervisor on a machine that is gone, as after a restart of a container."""
    from gristmill.crew.places import Supervised, take_crew

    waited = 0.0
    while True:
        try:
            return await take_crew(app.pool, crew, app.settings.home / "logs")
        except Supervised as held:
            if held.near or waited > 20 or held.left <= 0:
                raise
            say(f"{held.message}, which may be gone; waiting {held.left:.0f} s for its lease")
            await asyncio.sleep(held.left + 0.2)
            waited += held.left + 0.2


def _orders(app: App, following: Any, load: tuple[str, ...]) -> Orders:
    from gristmill.crew.supervisor import Orders
    from gristmill.errors import GristmillError

    def command(place: Place) -> list[str]:
        where = ["--home", str(app.settings.home)]
        given = [part for path in load for part in ("--load", path)]
        started = ["api", *where] if place.kind == "api" else ["worker", "--name", place.name, *where, *given]
        return [sys.executable, "-m", "gristmill", *started]

    def environment(place: Place) -> dict[str, str]:
        from gristmill.config import HANDED_ON

        if place.kind == "api":
            return {}
        mine = following.settings.model_copy(update={"pools": place.settings["pools"]})
        told = {key: place.settings[key] for key in ("annotator", "domain") if place.settings.get(key)}
        named = {f"GRISTMILL_{key.upper()}": value for key, value in told.items()}
        return {HANDED_ON: mine.model_dump_json(exclude={"workers", "crew"}), **named}

    async def ready(place: Place) -> str | None:
        if place.kind == "api":
            from gristmill.api.server import check_place

            try:
                await check_place(app, following.settings.api_host)
            except GristmillError as error:
                return f"refused: {error.message} ({error.hint}); then: gristmill worker start api"
        for spec in place.settings.get("models", ()):
            try:
                await app.models.open(spec)
            except GristmillError as error:
                return f"refused: {error.message}"
        return None

    return Orders(command, environment, ready, app.settings.home / "logs", app.settings.shutdown + 5)


def _has_api() -> bool:
    from gristmill.cli import COMMANDS

    return "api" in COMMANDS


async def _detach(home: Path | None, more: list[str], as_json: bool) -> int:
    """Starts the same command in a session of its own, and waits until it holds the crew."""
    from gristmill.config import load_settings
    from gristmill.crew.places import crew_name, crews

    settings = load_settings(home=home).values
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    file = logs / "supervisor.log"
    with file.open("ab") as output:
        where = ["--home", str(settings.home)]
        process = subprocess.Popen(
            [sys.executable, "-m", "gristmill", "up", *where, *more], stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, start_new_session=True, env={**os.environ, "GRISTMILL_LOG_FILE": str(file)},
        )  # fmt: skip
    name = crew_name(settings)
    async with options.open_app(None, settings=settings, workers=0) as app:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while process.poll() is None:
                    if any(one.name == name and one.pid == process.pid and one.held for one in await crews(app.pool)):
                        _say_up(name, process.pid, file, as_json)
                        return 0
                    await asyncio.sleep(0.1)
    with contextlib.suppress(OSError):
        say(file.read_text("utf-8", "replace")[-2000:].strip())
    say(f"the supervisor did not start; see {file}")
    return process.returncode or 3


def _say_up(crew: str, pid: int, file: Path, as_json: bool) -> None:
    if as_json:
        print_json("up", crew=crew, pid=pid, log=str(file))
    else:
        say(f"crew {crew} is up (process {pid}, log {file}): gristmill worker list, gristmill down")
