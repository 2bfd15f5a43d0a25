"""gristmill run: from files to a dataset, in the foreground."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.app import App
    from gristmill.run import Progress, Run

SAMPLES = 3  # finished rows that are shown at the end, each of another source


@click.command(name="run")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--workflow", "-w", default="qa", show_default=True, help="Name of the workflow.")
@click.option(
    "--model", "-m", default="extractive", show_default=True, help="extractive (needs no key), or openai:NAME."
)
@click.option("--set", "assignments", multiple=True, metavar="STEP.OPTION=VALUE", help="Set an option of a step.")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="Where the dataset goes (default: in the data folder)."
)
@click.option(
    "--format", "-f", "format_", help="jsonl, alpaca, sharegpt, messages, csv or parquet (default: by suffix)."
)
@click.option("--workers", type=click.IntRange(1, 10), help="Worker processes (default: 2).")
@click.option("--plan", is_flag=True, help="Only say what would be done, and about how much.")
@click.option("--fresh", is_flag=True, help="A new run, even if the same command has run before.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@options.home
@options.as_json
def command(
    paths: tuple[Path, ...], workflow: str, model: str, assignments: tuple[str, ...], out: Path | None,
    format_: str | None, workers: int | None, plan: bool, fresh: bool, quiet: bool, home: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Makes a dataset from files and folders.

    Running the same command again goes on where it stopped, and does only what is new.
    """
    from gristmill.data import exports

    if out is not None:
        exports.infer_format(out, format_)  # a wrong name is found before the work, not after it
    missing = [path for path in paths if not path.exists() and not path.is_symlink()]
    if len(missing) == len(paths):
        raise UsageError(f"there is no such file or folder: {', '.join(map(str, missing))}", code="U101")
    wanted = {"workflow": workflow, "model": model, "assignments": assignments, "paths": paths, "fresh": fresh}
    if plan:
        options.call(_plan(home, wanted, as_json))
    else:
        options.call(_run(home, workers, wanted, out, format_, quiet or as_json, as_json))


async def _plan(home: Path | None, wanted: dict[str, Any], as_json: bool) -> int:
    from gristmill.cli.plan import forecast, show_forecast
    from gristmill.workflow import configured

    flow = configured(wanted["workflow"], wanted["assignments"]).with_model(wanted["model"])
    async with options.open_app(home, workers=0) as app:
        await app.models.open(wanted["model"])
        result = await forecast(app, flow, wanted["paths"])
    if as_json:
        print_json("plan", **result)
    else:
        show_forecast(result)
    return 0


async def _run(
    home: Path | None, workers: int | None, wanted: dict[str, Any], out: Path | None, format_: str | None,
    quiet: bool, as_json: bool,
) -> int:  # fmt: skip
    from gristmill.workflow import configured

    talk: deque[str] = deque(maxlen=1)

    def on_event(text: str) -> None:
        talk.append(text)
        if not sys.stderr.isatty() and not quiet:
            say(text)

    flow = configured(wanted["workflow"], wanted["assignments"])
    async with options.open_app(home, workers=workers, on_event=on_event) as app:
        stop = interruptible(app)
        run = await app.start(flow, wanted["paths"], model=wanted["model"], fresh=wanted["fresh"])
        return await finish(run, stop, out, format_, quiet=quiet, as_json=as_json, talk=talk)


def interruptible(app: App) -> asyncio.Event:
    """First Ctrl-C: drain, and say how to go on. Second: give everything back now. Third: kill. Nothing is lost."""
    stop = asyncio.Event()
    signals: list[int] = []

    def on_signal() -> None:
        signals.append(1)
        if len(signals) > 1 and app.crew is not None:
            app.crew.signal(signal.SIGTERM if len(signals) == 2 else signal.SIGKILL)
        if len(signals) > 2:
            os._exit(130)
        if stop.is_set():
            say("giving back what is under way")
            return
        stop.set()
        say("\nfinishing what has begun (Ctrl-C again: stop at once, nothing is lost by that either)")

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return stop


async def finish(
    run: Run, stop: asyncio.Event, out: Path | None, format_: str | None, *, quiet: bool, as_json: bool,
    talk: deque[str] | None = None,
) -> int:  # fmt: skip
    """Follows a run to its end, shows what came of it, and writes the dataset. Returns the exit code."""
    from gristmill.cli.progress import follow
    from gristmill.cli.why import failure_json

    before = await run.progress()
    nothing_to_do = before.ended
    progress = await follow(run, stop, quiet=quiet or nothing_to_do, talk=talk, paused=True)
    if not progress.ended:
        return await _interrupted(run, as_json)
    target = out or run.app.settings.home / "datasets" / f"{run.name}.{_suffix(format_)}"
    manifest = await run.export(target, format_)
    failures = await run.failures()
    if as_json:
        print_json(
            "run", run=run.name, state=progress.state, seconds=round(progress.seconds, 3),
            nothing_to_do=nothing_to_do, rows=manifest.rows, dataset=str(manifest.path), format=manifest.format,
            steps=[_step_json(step) for step in progress.steps], usage=await run.app.models.usage(run.id),
            failures=[failure_json(piece) for piece in failures],
        )  # fmt: skip
    else:
        await _report(run, progress, manifest, failures, nothing_to_do)
    return 1 if progress.failed else 4 if progress.state == "cancelled" else 0


async def _interrupted(run: Run, as_json: bool) -> int:
    progress = await run.progress()
    done = sum(step.completed for step in progress.steps)
    if as_json:
        print_json("run", run=run.name, state="interrupted", finished=done)
    state = "paused" if progress.state == "paused" else "interrupted"
    say(f"{state}: nothing lost, {done:,} finished pieces are kept; the same command goes on with {run.name}")
    return 4 if state == "paused" else 130


async def _report(run: Run, progress: Progress, manifest: Any, failures: list[Any], nothing_to_do: bool) -> None:
    from gristmill.cli.progress import duration
    from gristmill.cli.why import show_failures

    if nothing_to_do:
        say(f"nothing left to do: {run.name} has finished all of its inputs ({progress.state})")
    else:
        say(f"\n{progress.state} in {duration(progress.seconds)}: {run.name}")
    counts = [
        f"{step.completed:,} {step.name}" + (f" ({step.empty} empty)" if step.empty else "") for step in progress.steps
    ]
    say("  " + ", ".join(counts) + f"; {manifest.rows:,} rows in the dataset")
    usage = await run.app.models.usage(run.id)
    if usage["calls"] or usage["from_ledger"]:
        say(
            f"  {usage['calls']:,} calls paid, {usage['from_ledger']:,} answered from the ledger,"
            f" {usage['input']:,} tokens in, {usage['output']:,} out"
        )
    shown: set[str] = set()
    async for row in run.rows():
        if row.source in shown:
            continue
        where = f"{row.source}" + (f", page {row.page_start}" if row.page_start else "")
        where += f", characters {row.start} to {row.end}" if row.start is not None else ""
        say(f"\n  Q  {row.question}\n  A  {row.answer}\n     from {where}")
        shown.add(row.source)
        if len(shown) == SAMPLES:
            break
    if failures:
        say("")
        show_failures(run.name, failures)
    say(f"\ndataset: {manifest.rows:,} rows, {manifest.format}")
    click.echo(manifest.path)


def _suffix(format_: str | None) -> str:
    return format_ if format_ in ("csv", "parquet") else "jsonl"


def _step_json(step: Any) -> dict[str, Any]:
    return {
        "name": step.name, "completed": step.completed, "running": step.running, "waiting": step.waiting,
        "failed": step.failed, "empty": step.empty, "reused": step.reused,
    }  # fmt: skip
