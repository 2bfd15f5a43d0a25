"""gristmill why: why something waits, why it failed, where a row came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say

if TYPE_CHECKING:
    from gristmill.run import FailedPiece


@click.command(name="why")
@click.argument("run", required=False)
@click.option("--record", type=int, help="Where this record (record_id of a dataset row) came from.")
@click.option("--task", type=int, help="Why this task waits, or what became of it.")
@options.home
@options.as_json
def command(run: str | None, record: int | None, task: int | None, home: Path | None, as_json: bool) -> None:
    """Why RUN (default: the last one) waits or failed; with --record, where a row came from."""
    if record is not None:
        options.call(_lineage(home, record, as_json))
    else:
        options.call(_why(home, run, as_json) if task is None else _task(home, task, as_json))


async def _why(home: Path | None, name: str | None, as_json: bool) -> int:
    async with options.open_app(home, workers=0) as app:
        run = await options.chosen_run(app, name)
        progress = await run.progress()
        failures = await run.failures()
        held = await run.held_by()
        before = await run.waits_for()
    if as_json:
        print_json(
            "why", run=run.name, state=progress.state, waits_for=before,
            held_by=[{"step": step, "reason": reason, "tasks": n} for step, reason, n in held],
            failures=[failure_json(piece) for piece in failures],
        )  # fmt: skip
        return 0
    click.echo(f"{run.name}: {progress.state}" + (f" for {', '.join(before)}" if before else ""))
    show_held(held)
    if failures:
        show_failures(run.name, failures, to_stdout=True)
    elif not held:
        click.echo("  nothing waits and nothing failed")
    return 0


def show_held(held: list[tuple[str, str, int]]) -> None:
    """Reasons, and how many tasks each holds; a barrier has none yet."""
    for step, reason, count in held:
        number = f"{count:,}" if count else "barrier"
        click.echo(f"  {number:>8} {step:<10} held by: {reason}")


async def _task(home: Path | None, task_id: int, as_json: bool) -> int:
    from gristmill.db.statements import statements
    from gristmill.errors import UsageError

    async with options.open_app(home, workers=0) as app:
        sql = statements("why")
        row = await app.pool.fetchrow(sql["task_story"], task_id)
        if row is None:
            raise UsageError(f"there is no task {task_id}", code="U318", hint="ids are in events and in `why --json`")
        held = await app.pool.fetch(sql["held_by"], row["run_id"], task_id)
    reason = held[0]["reason"] if held else None
    if as_json:
        print_json("why-task", task=task_id, held_by=reason, **{k: v for k, v in row.items() if k != "id"})
        return 0
    click.echo(f"task {task_id}, step {row['step']} of {row['run']}" + (f", {row['item']}" if row["item"] else ""))
    if reason is not None:
        click.echo(f"  held by: {reason}")
    elif row["state"] == "running":
        click.echo(f"  running on {row['worker']} (pid {row['pid']}) since {row['claimed_at']:%H:%M:%S} UTC")
    else:
        click.echo(f"  {row['state']}" + (f": {row['code']} {row['message']}" if row["message"] else ""))
    click.echo(f"  claimed {row['attempt']} times, {row['failures']} failures, {row['crashes']} crashes")
    return 0


def failure_json(piece: FailedPiece) -> dict[str, Any]:
    return {
        "item": piece.item, "step": piece.step, "state": piece.state, "code": piece.code, "message": piece.message,
        "cause": piece.cause,
    }  # fmt: skip


def show_failures(run: str, failures: list[Any], *, to_stdout: bool = False, most: int = 8) -> None:
    """Failures grouped by cause, each with a sample and what to type."""
    from gristmill.run import by_cause

    out = click.echo if to_stdout else say
    groups = by_cause(failures)
    out(f"{len(failures):,} failed, {len(groups)} {'cause' if len(groups) == 1 else 'causes'}:")
    for piece, count in groups[:most]:
        where = piece.item + (f" ({piece.step})" if piece.step else "")
        more = f" and {count - 1:,} more" if count > 1 else ""
        out(f"  {piece.code:<5} {where}{more}: {piece.message}")
        if piece.cause and count > 1:
            out(f"        only these: gristmill retry {run} --cause {piece.cause[:12]}")
    if len(groups) > most:
        out(f"  ... and {len(groups) - most} more causes: gristmill why {run}")
    out(f"  after a repair: gristmill retry {run}")


async def _lineage(home: Path | None, record: int, as_json: bool) -> int:
    import json

    from gristmill.data import records
    from gristmill.errors import UsageError

    async with options.open_app(home, workers=0) as app:
        family = await records.load_family(app.pool, [record])
    if not family:
        raise UsageError(f"there is no record {record}", code="U313")
    if as_json:
        chain = [{"record": r.id, "kind": r.kind, "hash": r.hash.hex(), "body": json.loads(r.body)} for r in family]
        print_json("lineage", record=record, chain=chain)
        return 0
    for depth, member in enumerate(family):
        body = json.loads(member.body)
        shown = {k: v for k, v in body.items() if v not in (None, [], "", False) and k not in ("pages", "headings")}
        click.echo("  " * depth + f"{member.kind} {member.id}")
        for key, value in shown.items():
            text = str(value).replace("\n", " ")
            click.echo("  " * depth + f"  {key}: {text if len(text) <= 160 else text[:157] + '...'}")
    return 0
