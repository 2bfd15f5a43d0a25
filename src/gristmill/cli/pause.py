"""gristmill pause, resume and cancel: stop a run or one input of it for a while, or for good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from gristmill.cli import options
from gristmill.cli.options import print_json

item = click.option("--item", metavar="NAME", help="Only this input of the run: its name or path.")


@click.command(name="pause")
@click.argument("run", required=False)
@item
@options.home
@options.as_json
def pause(run: str | None, item: str | None, home: Path | None, as_json: bool) -> None:
    """Pauses RUN (default: the last one): nothing more begins, what is under way finishes."""
    options.call(_order("pause", run, item, home, as_json))


@click.command(name="resume")
@click.argument("run", required=False)
@item
@options.home
@options.as_json
def resume(run: str | None, item: str | None, home: Path | None, as_json: bool) -> None:
    """Lets RUN (default: the last one) go on after a pause. Workers that run will take it up; this starts none."""
    options.call(_order("resume", run, item, home, as_json))


@click.command(name="cancel")
@click.argument("run", required=False)
@item
@options.home
@options.as_json
def cancel(run: str | None, item: str | None, home: Path | None, as_json: bool) -> None:
    """Ends RUN (default: the last one) for good: what is under way is stopped, what was recorded stays."""
    options.call(_order("cancel", run, item, home, as_json))


SAID: dict[str, Callable[[str, int], str]] = {
    "pause": lambda name, n: f"{name} is paused: gristmill resume" if n else f"{name} was not under way",
    "resume": lambda name, n: f"{name} goes on" if n else f"{name} was not paused",
    "cancel": lambda name, n: f"{name} is cancelled; what was finished is kept" if n else f"nothing of {name} was open",
}


async def _order(verb: str, name: str | None, item: str | None, home: Path | None, as_json: bool) -> int:
    async with options.open_app(home, workers=0) as app:
        run = await options.chosen_run(app, name)
        changed = int(await getattr(run, verb)(item))
        state = (await run.progress()).state
    if as_json:
        print_json(verb, run=run.name, item=item, state=state, changed=changed)
    else:
        click.echo(SAID[verb](f'"{item}" of {run.name}' if item else run.name, changed or int(state == "cancelled")))
    return 0
