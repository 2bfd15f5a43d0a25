"""gristmill calls: what models were asked, what it cost, and keeping the ledger."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.app import App

_UNITS = {"m": 1 / 1440, "h": 1 / 24, "d": 1.0, "w": 7.0}
_GROUPS = ("run", "model", "day", "task", "step", "record")

of_run = click.option("--run", "run", metavar="RUN", help="Only calls that this run has paid: its name or number.")
of_model = click.option("--model", metavar="NAME", help="Only this model: provider:model, or the model alone.")
since = click.option("--since", metavar="TIME", help="Only what is newer: 90d, 12h, 30m, or a date.")


@click.group(name="calls", invoke_without_command=True)
@of_run
@of_model
@click.option("--state", type=click.Choice(["intent", "ok", "unusable"]), help="intent: in flight now.")
@since
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many.")
@options.home
@options.as_json
@click.pass_context
def command(context: click.Context, run: str | None, model: str | None, state: str | None, since: str | None,
            limit: int, home: Path | None, as_json: bool) -> None:  # fmt: skip
    """Lists calls to models, the newest first: what each took, and on whose behalf it was paid."""
    if context.invoked_subcommand is None:
        options.call(_list(home, run, model, state, since, limit, as_json))


async def _list(
    home: Path | None, run: str | None, model: str | None, state: str | None, since: str | None, limit: int,
    as_json: bool,
) -> int:  # fmt: skip
    from gristmill.llm import calls

    newer = when(since)
    async with options.open_app(home, workers=0) as app:
        found = await calls.listed(
            app.pool,
            run=await number_of(app, run),
            model=model,
            state=state,
            since=await moment(app, newer),
            limit=limit,
        )
    if as_json:
        print_json("calls", calls=[_document(one) for one in found])
        return 0
    for one in found:
        click.echo(_line(one))
    if not found:
        click.echo("there are no such calls")
    return 0


@command.command()
@click.argument("key")
@options.home
@options.as_json
def show(key: str, home: Path | None, as_json: bool) -> None:
    """Shows one call: what was asked, and the answer as it was received. KEY is the beginning of its key."""
    options.call(_show(home, key, as_json))


async def _show(home: Path | None, key: str, as_json: bool) -> int:
    from gristmill.llm import calls

    async with options.open_app(home, workers=0) as app:
        one = await calls.find(app.pool, key)
    body, whose = (one.pop("response") or b"").decode("utf-8", "replace"), one.pop("whose")
    asked = one.pop("request")
    if as_json:
        print_json("call", **_document(one), whose=whose, request=asked, response=body)
        return 0
    for name, value in {**_document(one), **(whose or {})}.items():
        if value not in (None, ""):
            click.echo(f"{name:<17} {value}")
    for line in _asked(asked) if asked else ["", "What was asked was not kept."]:
        click.echo(line)
    click.echo(f"\n--- answer\n{body}")
    return 0


def _asked(request: Mapping[str, Any]) -> list[str]:
    """What a model was asked, as lines."""
    shown = {name: request[name] for name in ("parameters", "schema") if request[name]}
    lines = ["", *(f"--- {name}\n{json.dumps(value, ensure_ascii=False)}" for name, value in shown.items())]
    for message in request["messages"]:
        lines.append(f"--- {message['role']}")
        lines += [one["text"] if "text" in one else f"({one['media_type']}, sha256 {one['picture']})"
                  for one in message["parts"]]  # fmt: skip
    return [*lines, "(some of it was too long and is cut)"] if request["cut"] else lines


@command.command()
@click.option("--by", type=click.Choice(_GROUPS), default="model", show_default=True, help="What is summed up.")
@of_run
@since
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many rows.")
@options.home
@options.as_json
def cost(by: str, run: str | None, since: str | None, limit: int, home: Path | None, as_json: bool) -> None:
    """What calls have cost: by run, model, day (UTC), task, step, or record of a run's dataset."""
    options.call(_cost(home, by, run, since, limit, as_json))


async def _cost(home: Path | None, by: str, run: str | None, since: str | None, limit: int, as_json: bool) -> int:
    from gristmill.llm import calls
    from gristmill.llm.prices import money

    newer = when(since)
    async with options.open_app(home, workers=0) as app:
        rows = await calls.cost(
            app.pool, by, run=await number_of(app, run), since=await moment(app, newer), limit=limit
        )
    if as_json:
        print_json("calls.cost", by=by, rows=[_document(row) for row in rows])
        return 0
    width = max([len(row["name"]) for row in rows], default=0)
    for row in rows:
        amount = money(row["cost"], row["currency"])
        tokens = f"  {row['tokens_in']:>12,} in  {row['tokens_out']:>12,} out" if "tokens_in" in row else ""
        blind = f"  {row['unpriced']:,} without a price" if row["unpriced"] else ""
        click.echo(f"{row['name']:<{width}}  {amount:>14}  {row['calls']:>9,} calls{tokens}{blind}")
    if any(row["unpriced"] for row in rows):
        say('calls without a price are in no amount; say it in gristmill.toml: [prices."provider:model"]')
    if not rows:
        click.echo("nothing was paid")
    return 0


@command.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@of_run
@of_model
@since
@options.home
@options.as_json
def export(file: Path, run: str | None, model: str | None, since: str | None, home: Path | None, as_json: bool) -> None:
    """Writes answered calls to FILE, one JSON object a line ("-" is standard output): a backup, or for another project.

    They hold what was asked and the answers, so keep them as you keep your data. Keys of providers are never in them.
    """
    options.call(_export(home, file, run, model, since, as_json))


async def _export(
    home: Path | None, file: Path, run: str | None, model: str | None, since: str | None, as_json: bool
) -> int:
    from gristmill.llm import calls

    newer = when(since)
    count = 0
    async with options.open_app(home, workers=0) as app:
        lines = calls.exported(app.pool, run=await number_of(app, run), model=model, since=await moment(app, newer))
        if str(file) == "-":
            async for line in lines:
                sys.stdout.write(line + "\n")
            return 0
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as target:
                async for line in lines:
                    target.write(line + "\n")
                    count += 1
                target.flush()
                os.fsync(target.fileno())
            os.replace(name, file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    if as_json:
        print_json("calls.export", file=str(file), calls=count)
    else:
        say(f"{count:,} calls")
        click.echo(file)
    return 0


@command.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@options.home
@options.as_json
def import_(file: Path, home: Path | None, as_json: bool) -> None:
    """Takes over calls from FILE of `gristmill calls export`: the same questions are not bought again here."""
    options.call(_import(home, file, as_json))


async def _import(home: Path | None, file: Path, as_json: bool) -> int:
    from gristmill.llm import calls

    async with options.open_app(home, workers=0) as app:
        lines, new = await calls.imported(app.pool, file)
    if as_json:
        print_json("calls.import", lines=lines, new=new)
    else:
        click.echo(f"{new:,} calls taken over, {lines - new:,} were known")
    return 0


@command.command()
@click.option("--older-than", required=True, metavar="TIME", help="90d, 12h, or a date: what is older goes.")
@click.option("--unusable", is_flag=True, help="Only answers that were of no use.")
@click.option("--requests", is_flag=True, help="Only what was asked; the answers stay.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@options.home
@options.as_json
def prune(
    older_than: str, unusable: bool, requests: bool, dry_run: bool, home: Path | None, as_json: bool
) -> None:  # fmt: skip
    """Removes old calls. Never what a run that has not ended may ask for again."""
    if unusable and requests:
        raise UsageError("--unusable and --requests do not go together", code="U362", hint="one after the other")
    options.call(_prune(home, older_than, unusable, requests, dry_run, as_json))


async def _prune(
    home: Path | None, older_than: str, unusable: bool, requests: bool, dry_run: bool, as_json: bool
) -> int:
    from gristmill.llm import calls

    older = when(older_than)
    async with options.open_app(home, workers=0) as app:
        names = {
            one.name: f"{one.settings.provider}:{one.settings.model}" for one in reversed(await app.models.named())
        }
        before = await moment(app, older)
        assert before is not None  # noqa: S101 - the option is required
        if requests:
            done = await calls.forget_requests(app.pool, before, dry_run=dry_run)
        else:
            done = await calls.prune(app.pool, before, unusable=unusable, dry_run=dry_run, models=names)
    if as_json:
        print_json(
            "calls.prune", calls=done.calls, bytes=done.bytes, spared=done.spared, because=done.because,
            removed=done.removed, dry_run=dry_run,
        )  # fmt: skip
        return 0
    named = "requests" if requests else "calls"
    what = f"{done.calls:,} {named} would go" if dry_run else f"{done.removed:,} {named} removed"
    click.echo(f"{what} ({done.bytes / 1e6:,.1f} MB of {'requests' if requests else 'answers'})")
    if done.spared:
        click.echo(f"{done.spared:,} older ones stay: {', '.join(done.because)} may need them")
    return 0


When = timedelta | datetime


def when(text: str | None) -> When | None:
    """A moment: "90d", "12h", "30m", "2w" before now, or a date or time in ISO 8601 (UTC without an offset). Raises
    `UsageError` U363."""
    if text is None:
        return None
    if match := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        return timedelta(days=int(match[1]) * _UNITS[match[2]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        hint = "90d, 12h, 30m, 2w, 2026-01-31 or 2026-01-31T12:00"
        raise UsageError(f'"{text}" is no time', code="U363", hint=hint) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


async def moment(app: App, given: When | None) -> datetime | None:
    """That moment by the database's clock, which dated the calls."""
    if not isinstance(given, timedelta):
        return given
    found: datetime = await app.pool.fetchval("select clock_timestamp() - $1::interval", given)
    return found


async def number_of(app: App, run: str | None) -> int | None:
    """The number of a run by its name. Raises `UsageError` U311."""
    return (await app.find(run)).id if run is not None else None


def _document(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for programs: keys in hex, amounts as text, so that nothing is rounded."""
    plain = {name: value for name, value in row.items() if name != "deadline"}
    if isinstance(plain.get("key"), bytes):
        plain["key"] = plain["key"].hex()
    for name in ("cost", "own_cost"):
        if plain.get(name) is not None:
            plain[name] = format(plain[name].normalize(), "f")
    if plain.get("made_at") is not None:
        plain["made_at"] = plain["made_at"].isoformat()
    return {name: int(value) if name.startswith("tokens_") else value for name, value in plain.items()}


def _line(one: Mapping[str, Any]) -> str:
    from gristmill.llm.prices import money

    made = f"{one['made_at']:%Y-%m-%d %H:%M:%S}" if one["made_at"] else "in flight          "
    state = "" if one["state"] in ("ok", "intent") else f"  {one['state']}: {one['note'] or ''}"
    what = f"{one['tokens_in']:,} in, {one['tokens_out']:,} out, {money(one['cost'], one['currency'])}"
    if one["state"] == "intent":
        what = f"try {one['tries']}"
    elif one["latency_ms"] is not None:
        what += f", {one['latency_ms'] / 1000:.1f} s"
    whose = f"  run {one['run']}" if one["run"] is not None else "  imported" if one["imported"] else ""
    whose += f" task {one['task']}" if one["task"] is not None else ""
    prompt = f" {one['prompt']}" if one["prompt"] else ""
    return f"{one['key'].hex()[:12]}  {made}  {one['provider']}:{one['model']}{prompt}  {what}{whose}{state}"
