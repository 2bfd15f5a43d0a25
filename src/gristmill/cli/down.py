"""gristmill down: the crew ends in order, whoever looks after it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say


@click.command(name="down")
@click.option("--now", is_flag=True, help="Give work under way back instead of finishing it.")
@click.option("--no-wait", is_flag=True, help="Only ask.")
@click.option("--crew", help="Another crew than that of this machine.")
@options.home
@options.as_json
def command(now: bool, no_wait: bool, crew: str | None, home: Path | None, as_json: bool) -> None:
    """Stops supervisor, workers and API: first SIGTERM, after `shutdown` and 5 s more SIGKILL. Nothing is lost."""
    options.call(_down(home, crew, now=now, wait=not no_wait, as_json=as_json))


async def _down(home: Path | None, crew: str | None, *, now: bool, wait: bool, as_json: bool) -> int:
    from gristmill.crew import orders, places

    async with options.open_app(home, workers=0) as app:
        name = crew or places.crew_name(app.settings)
        row = await orders.find_crew(app.pool, name)
        left = [place.name for place in await places.places(app.pool, name) if place.nonce]
        if row.held:
            await orders.ask_to_stop(app.pool, name, at_once=now)
        elif left:
            await _without_supervisor(app, name, now=now)
        if wait:
            while True:
                row = await orders.find_crew(app.pool, name)
                if not row.held or row.state == "down":
                    break
                await asyncio.sleep(0.1)
    if as_json:
        print_json("down", crew=name, state=row.state, stopped=left)
    elif row.state == "down":
        say(f"crew {name} is down" + (f": {', '.join(left)}" if left else ""))
    else:
        say(f"crew {name} was asked to end")
    return 0


async def _without_supervisor(app: object, name: str, *, now: bool) -> None:
    """Its supervisor was killed, its workers go on: this command takes the crew over for as long as it takes."""
    from gristmill.crew.places import take_crew
    from gristmill.crew.supervisor import Orders, Supervisor

    settings = app.settings  # type: ignore[attr-defined]
    pool = app.pool  # type: ignore[attr-defined]

    async def never(_: object) -> str | None:
        return "refused: the crew ends"

    hold = await take_crew(pool, name, settings.home / "logs")
    orders = Orders(lambda _: [], lambda _: {}, never, settings.home / "logs", settings.shutdown + 5)
    supervisor = Supervisor(pool, hold, orders, say)
    supervisor.stop(at_once=now)
    await supervisor.run()
