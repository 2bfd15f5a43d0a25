"""gristmill watch: the live picture of a run."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click

from gristmill.cli import options
from gristmill.cli.options import print_json

STATES = ("waiting", "running", "paused", "completed", "partial", "failed", "cancelled")


@click.command(name="watch")
@click.argument("run", required=False)
@click.option("--once", is_flag=True, help="Show it once and return.")
@click.option("--list", "list_runs", is_flag=True, help="List the latest runs.")
@click.option("--state", type=click.Choice(STATES), help="With --list: only runs in this state.")
@click.option("--workflow", help="With --list: only runs of this workflow.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, help="With --list: at most so many (default 50).")
@options.home
@options.as_json
def command(
    run: str | None, once: bool, list_runs: bool, state: str | None, workflow: str | None, limit: int,
    home: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Shows RUN (default: the last one). Ctrl-C only stops watching."""
    if list_runs:
        options.call(_list(home, as_json, state, workflow, limit))
    else:
        options.call(_watch(home, run, once or as_json, as_json))


async def _watch(home: Path | None, name: str | None, once: bool, as_json: bool) -> int:
    from gristmill.cli.progress import Rates, follow, plain_line
    from gristmill.cli.run import _step_json
    from gristmill.cli.why import show_held
    from gristmill.db.statements import statements

    async with options.open_app(home, workers=0) as app:
        run = await options.chosen_run(app, name)
        if not once:
            stop = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
            progress = await follow(run, stop)
            return 1 if progress.failed else 0
        progress = await run.progress()
        workers = await app.pool.fetch(statements("workflow")["workers"])
        held = await run.held_by()
    if as_json:
        print_json(
            "watch", run=run.name, state=progress.state, seconds=round(progress.seconds, 3),
            steps=[_step_json(step) for step in progress.steps], unreadable=progress.unreadable,
            held_by=[{"step": step, "reason": reason, "tasks": n} for step, reason, n in held],
            workers=[{"id": w["id"], "name": w["name"], "pid": w["pid"], "state": w["state"], "cause": w["cause"]}
                     for w in workers],
        )  # fmt: skip
        return 0
    click.echo(plain_line(progress, Rates()))
    show_held(held)
    for w in workers:
        click.echo(f"  worker {w['name']} (pid {w['pid']}): {w['state']}" + (f", {w['cause']}" if w["cause"] else ""))
    return 0


async def _list(home: Path | None, as_json: bool, state: str | None, workflow: str | None, limit: int) -> int:
    from gristmill.db.statements import statements

    async with options.open_app(home, workers=0) as app:
        rows = await app.pool.fetch(statements("workflow")["list_runs"], app.settings.project, limit, state, workflow)
    if as_json:
        print_json("runs", runs=[dict(row) for row in rows])
        return 0
    for row in rows:
        click.echo(f"{row['name']:<24} {row['state']:<10} {row['created_at']:%Y-%m-%d %H:%M} UTC")
    return 0
