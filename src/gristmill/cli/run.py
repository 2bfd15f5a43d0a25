"""gristmill run: from files to a dataset, in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.budget import parse_amount
from gristmill.cli.options import print_json, say
from gristmill.cli.plan import truth, truth_lines
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.app import App
    from gristmill.run import Progress, Run

TELLING = 10.0  # seconds that a command waits for what hooks still have to tell
SAMPLES = 3  # finished rows that are shown at the end, each of another source


@click.command(name="run")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=str), metavar="PATH...")
@click.option(
    "--workflow", "-w", default="qa", show_default=True,
    help="A shipped workflow, a file.yaml, or file.py:NAME.",
)  # fmt: skip
@click.option(
    "--model",
    "-m",
    default="extractive",
    show_default=True,
    help="extractive (needs no key), PROVIDER:NAME, or a name of your own.",
)
@click.option("--include", multiple=True, metavar="GLOB", help="Only inputs with such names; may be repeated.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="No inputs with such names; may be repeated.")
@click.option("--max-bytes", type=click.IntRange(min=1), metavar="BYTES", help="No input that is larger.")
@click.option("--parameters", metavar="SET", help="One of the workflow's sets of parameters, before --set.")
@click.option("--set", "assignments", multiple=True, metavar="STEP.OPTION=VALUE", help="Set an option of a step.")
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="Where the dataset goes (default: in the data folder)."
)
@click.option(
    "--format", "-f", "format_", help="jsonl, alpaca, sharegpt, messages, csv or parquet (default: by suffix)."
)
@click.option(
    "--workers", type=click.IntRange(0, 10), help="Worker processes (default: 2); 0: those of gristmill up do it."
)
@click.option("--plan", is_flag=True, help="Only say what would be done, and about how much.")
@click.option("--budget", metavar="AMOUNT", help="What the run may spend; it is paused before that could be passed.")
@click.option("--no-reuse", is_flag=True, help="Use no work and no answers of other runs.")
@click.option("--fresh", is_flag=True, help="A new run, even if the same command has run before.")
@click.option("--after", multiple=True, metavar="RUN", help="Begin when this run has completed; may be repeated.")
@click.option(
    "--events", type=click.Choice(["run", "items", "tasks"]), default="items", show_default=True,
    help="How much is told as events.",
)  # fmt: skip
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@options.home
@options.as_json
def command(
    paths: tuple[str, ...], include: tuple[str, ...], exclude: tuple[str, ...], max_bytes: int | None,
    workflow: str, model: str, parameters: str | None, assignments: tuple[str, ...],
    out: Path | None, format_: str | None, workers: int | None, plan: bool, fresh: bool, after: tuple[str, ...],
    budget: str | None, no_reuse: bool, events: str, quiet: bool, home: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Makes a dataset from files, folders, globs in quotes, zip archives, and http or https URLs.

    Running the same command again goes on where it stopped, and does only what is new.
    """
    from gristmill.data import exports
    from gristmill.data.selection import Inputs, is_glob, is_url

    if out is not None:
        exports.infer_format(out, format_)  # a wrong name is found before the work, not after it
    missing = [path for path in paths if not (os.path.lexists(path) or is_url(path) or is_glob(path))]
    if missing:
        options.check_no_workflow(missing)
    if len(missing) == len(paths):
        raise UsageError(f"there is no such file or folder: {', '.join(map(str, missing))}", code="U101")
    inputs = Inputs.of(paths, include=include, exclude=exclude, max_bytes=max_bytes)
    wanted = {"workflow": workflow, "model": model, "assignments": assignments,
              "parameters": parameters, "paths": inputs, "fresh": fresh, "after": after, "events": events,
              "budget": parse_amount(budget) if budget else None, "reuse": not no_reuse}  # fmt: skip
    if plan:
        options.call(_plan(home, wanted, as_json))
    else:
        options.call(_run(home, workers, wanted, out, format_, quiet or as_json, as_json))


async def _plan(home: Path | None, wanted: dict[str, Any], as_json: bool) -> int:
    from gristmill.cli.plan import forecast, show_forecast
    from gristmill.workflow_files import configured

    options.know_packs(home)
    flow = configured(wanted["workflow"], wanted["assignments"], wanted["parameters"]).with_model(wanted["model"])
    async with options.open_app(home, workers=0) as app:
        flow = flow if wanted["reuse"] else flow.apart()
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
    from gristmill.workflow_files import configured

    talk: deque[str] = deque(maxlen=1)

    def on_event(text: str) -> None:
        talk.append(text)
        if not sys.stderr.isatty() and not quiet:
            say(text)

    options.know_packs(home)
    flow = configured(wanted["workflow"], wanted["assignments"], wanted["parameters"])
    async with options.open_app(home, workers=workers, on_event=on_event) as app:
        stop = interruptible(app)
        before = [await app.find(name) for name in wanted["after"]]
        run = await app.start(
            flow, wanted["paths"], model=wanted["model"], fresh=wanted["fresh"], after=before, events=wanted["events"],
            budget=wanted["budget"], reuse=wanted["reuse"],
        )  # fmt: skip
        await check_workers(app, workers)
        if never := await _wait_for_others(run, stop):
            return _never(run, never, as_json)
        return await finish(run, stop, out, format_, quiet=quiet, as_json=as_json, talk=talk)


async def check_workers(app: App, workers: int | None) -> None:
    """Raises `EnvironmentProblem` E121 when others ought to do the work, and nobody is there."""
    from gristmill.engine import fleet
    from gristmill.errors import EnvironmentProblem

    if workers == 0 and not any(member.live for member in await fleet.workers(app.pool)):
        raise EnvironmentProblem(
            "no worker runs that could do it", code="E121", hint="gristmill up starts them; or leave --workers 0 out",
            safe="the run is kept, and begins as soon as there is one",
        )  # fmt: skip


async def _wait_for_others(run: Run, stop: asyncio.Event) -> list[Any]:
    """Until the runs before this one have completed, or `stop` is set; returns those that ended otherwise."""
    from gristmill.run import WHY

    said = False
    while (await run.progress()).state == "waiting" and not stop.is_set():
        rows = await run.app.pool.fetch(WHY["waits_for"], run.id)
        if never := [row for row in rows if row["state"] in (None, "partial", "failed", "cancelled")]:
            return never
        if rows and not said:
            said = True
            say(f"{run.name} waits for {', '.join(await run.waits_for())}")
        run.app.check_crew()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.25)
    return []


def _never(run: Run, before: list[Any], as_json: bool) -> int:
    if as_json:
        waits = [{"run": row["name"], "state": row["state"]} for row in before]
        print_json("run", run=run.name, state="waiting", waits_for=waits)
    for row in before:
        what = "is gone" if row["state"] is None else f"ended {row['state']}"
        then = f": gristmill retry {row['name']}" if row["state"] in ("partial", "failed") else ""
        say(f"{run.name} waits for {row['name'] or row['id']}, which {what}{then}")
    say(f"it is kept and begins by itself when they have completed; or end it: gristmill cancel {run.name}")
    return 4


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
    from gristmill.data.dataset import Steps

    before = await run.progress()
    nothing_to_do = before.ended
    progress = await follow(run, stop, quiet=quiet or nothing_to_do, talk=talk, paused=True)
    if not progress.ended:
        return await _interrupted(run, as_json)
    if not Steps.of([spec.operator.output_types for spec in run.workflow.steps]).making:
        return await _without_rows(run, progress, as_json)
    target = out or run.app.settings.home / "datasets" / f"{run.name}.{_suffix(format_)}"
    manifest = await run.export(target, format_)
    await _told(run)
    failures = await run.failures()
    if as_json:
        print_json(
            "run", run=run.name, state=progress.state, seconds=round(progress.seconds, 3),
            nothing_to_do=nothing_to_do, rows=manifest.rows, dataset=str(manifest.path), format=manifest.format,
            steps=[_step_json(step) for step in progress.steps], usage=(usage := await run.app.models.usage(run.id)),
            forecast=await truth(run, usage, progress.seconds),
            failures=[failure_json(piece) for piece in failures],
        )  # fmt: skip
    else:
        await _report(run, progress, manifest, failures, nothing_to_do)
    return 1 if progress.failed else 4 if progress.state == "cancelled" else 0


async def _without_rows(run: Run, progress: Progress, as_json: bool) -> int:
    """The end of a run that makes no dataset: a search index, or annotations."""
    from gristmill.cli.progress import say_degraded, told_step
    from gristmill.cli.why import failure_json, show_failures
    from gristmill.operators.annotation_labels import label_sets

    await _told(run)
    failures = await run.failures()
    if as_json:
        print_json(
            "run", run=run.name, state=progress.state, seconds=round(progress.seconds, 3), rows=0, dataset=None,
            steps=[_step_json(step) for step in progress.steps], usage=await run.app.models.usage(run.id),
            failures=[failure_json(piece) for piece in failures],
        )  # fmt: skip
    else:
        say(f"{progress.state}: {', '.join(map(told_step, progress.steps))}; no dataset")
        annotating = label_sets(run.workflow.steps, run.workflow.edges)
        if any(step.completed for step in progress.steps if step.name in annotating):
            say(f"what was said: gristmill annotators {run.name}; for people: gristmill review next {run.name}")
        say_degraded(progress)
        if failures:
            show_failures(run.name, failures)
        click.echo(run.name)
    return 1 if progress.failed else 4 if progress.state == "cancelled" else 0


async def _told(run: Run) -> None:
    """Waits a little for what hooks have to tell of this end: with this command its workers end."""
    from gristmill.engine import hooks, queue

    until = asyncio.get_running_loop().time() + TELLING
    await queue.hint(run.app.pool)
    while left := await run.app.pool.fetchval(hooks.SQL["untold"], run.app.settings.project):
        if asyncio.get_running_loop().time() > until:
            say(f"{left:,} notifications are still to be sent; the next worker goes on with them: gristmill worker")
            return
        run.app.check_crew()
        await asyncio.sleep(0.1)


async def _interrupted(run: Run, as_json: bool) -> int:
    from gristmill.run import SQL

    progress = await run.progress()
    done = sum(step.completed for step in progress.steps)
    if as_json:
        print_json("run", run=run.name, state="interrupted", finished=done)
    state = "paused" if progress.state == "paused" else "interrupted"
    held = (await run.app.pool.fetchrow(SQL["run_row"], run.id))["held"] if state == "paused" else None
    if held:
        say(f"{held}: raise it with --budget AMOUNT, or with `gristmill budget set`, then `gristmill resume`")
    say(f"{state}: nothing lost, {done:,} finished pieces are kept; the same command goes on with {run.name}")
    return 4 if state == "paused" else 130


async def _report(run: Run, progress: Progress, manifest: Any, failures: list[Any], nothing_to_do: bool) -> None:
    from gristmill.cli.progress import duration, say_degraded, told_step
    from gristmill.cli.why import show_failures

    if nothing_to_do:
        say(f"nothing left to do: {run.name} has finished all of its inputs ({progress.state})")
    else:
        say(f"\n{progress.state} in {duration(progress.seconds)}: {run.name}")
    say("  " + ", ".join(map(told_step, progress.steps)) + f"; {manifest.rows:,} rows in the dataset")
    say_degraded(progress)
    usage = await run.app.models.usage(run.id)
    if usage["calls"] or usage["from_ledger"]:
        say(
            f"  {usage['calls']:,} calls paid, {usage['from_ledger']:,} answered from the ledger,"
            f" {usage['input']:,} tokens in, {usage['output']:,} out{_cost(usage)}"
        )
    if (found := await truth(run, usage, progress.seconds)) is not None and not nothing_to_do:
        for line in truth_lines(found):
            say(f"  {line}")
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


def _cost(usage: dict[str, Any]) -> str:
    """What the calls have cost, and how many of them nobody knows the price of."""
    from decimal import Decimal

    from gristmill.llm.prices import money

    known = "".join(f", {money(Decimal(amount), currency)}" for currency, amount in usage["cost"].items())
    return known + (f", {usage['unpriced']:,} calls without a known price" if usage["unpriced"] else "")


def _suffix(format_: str | None) -> str:
    return format_ if format_ in ("csv", "parquet") else "jsonl"


def _step_json(step: Any) -> dict[str, Any]:
    return {
        "name": step.name, "completed": step.completed, "running": step.running, "waiting": step.waiting,
        "failed": step.failed, "empty": step.empty, "reused": step.reused, "degraded": step.degraded,
    }  # fmt: skip
