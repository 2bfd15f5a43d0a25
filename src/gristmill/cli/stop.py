"""gristmill stop: pause a run, or cancel it. The same as `gristmill pause` and `gristmill cancel`."""

from __future__ import annotations

from pathlib import Path

import click

from gristmill.cli import options
from gristmill.cli.options import print_json


@click.command(name="stop")
@click.argument("run", required=False)
@click.option("--cancel", is_flag=True, help="End it for good; what was recorded stays.")
@options.home
@options.as_json
def command(run: str | None, cancel: bool, home: Path | None, as_json: bool) -> None:
    """Pauses RUN (default: the last one): nothing more begins, what is under way finishes.

    `gristmill run` with the same arguments goes on.
    """
    options.call(_stop(home, run, cancel, as_json))


async def _stop(home: Path | None, name: str | None, cancel: bool, as_json: bool) -> int:
    async with options.open_app(home, workers=0) as app:
        run = await options.chosen_run(app, name)
        if cancel:
            cancelled = await run.cancel()
            text = f"{run.name} is cancelled; {cancelled:,} open pieces were dropped, finished ones are kept"
        elif await run.pause():
            text = f"{run.name} is paused; the same `gristmill run` goes on"
        else:
            text = f"{run.name} was not running"
        state = (await run.progress()).state
    if as_json:
        print_json("stop", run=run.name, state=state)
    else:
        click.echo(text)
    return 0
