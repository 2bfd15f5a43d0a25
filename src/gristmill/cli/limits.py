"""gristmill limits: what providers allow, how much of it is used, and changing it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say

if TYPE_CHECKING:
    from gristmill.llm.quota_limits import LimitReport


@click.group(name="limits", invoke_without_command=True)
@options.home
@options.as_json
@click.pass_context
def command(context: click.Context, home: Path | None, as_json: bool) -> None:
    """Lists the limits: what was used today, what may be sent now, how long to wait. Then: set, unset."""
    if context.invoked_subcommand is None:
        options.call(_list(home, as_json))


async def _list(home: Path | None, as_json: bool) -> int:
    from gristmill.llm.quota_limits import report

    async with options.open_app(home, workers=0) as app:
        await app.models.take_limits()
        found = await report(app.pool)
    if as_json:
        print_json("limits", limits=[dataclasses.asdict(one) for one in found])
        return 0
    for one in found:
        click.echo(f"{one.name}\n  {_now(one)}\n  {_rates(one)}")
    if not found:
        say("no limit is set, and no provider has refused a call yet")
    return 0


def _now(one: LimitReport) -> str:
    used = f"{one.requests_today:,} requests today"
    if one.quota_limit is not None:
        used += f" of {one.quota_limit:,} ({one.percentage_used} %, day of {one.zone})"
    parts = [used, f"{one.in_flight:,} under way" + (f" of {one.concurrency:,}" if one.concurrency else "")]
    if one.blocked_until is not None:
        parts.append(f"blocked until {one.blocked_until:%Y-%m-%d %H:%M:%S} UTC: {one.blocked_why}")
    elif one.can_make_request:
        parts.append("a request can leave now")
    else:
        parts.append(f"the next request can leave in {one.wait_time_seconds} s")
    return ", ".join(parts)


def _rates(one: LimitReport) -> str:
    parts = []
    for what, limit, learned, now, left in (
        ("requests", one.requests_per_minute, one.learned_requests, one.requests_per_minute_now, one.tokens_available),
        ("tokens", one.tokens_per_minute, one.learned_tokens, one.tokens_per_minute_now, one.model_tokens_available),
    ):
        if limit is not None or learned is not None:
            said = f"limit {limit:,.10g}" if limit is not None else f"limit learned {learned:,.0f}"
            parts.append(f"{now:,.10g} {what} a minute now ({said}; {left:,.10g} at once)")
    if one.pace < 1:
        parts.append(f"slowed to {one.pace:.0%} by an answer 429")
    return ", ".join(parts) or "no rate is limited"


@command.command(name="set")
@click.argument("name")
@click.option("--requests-per-minute", metavar="N", help="In any 60 seconds; `none` takes it away, as in all of these.")
@click.option("--tokens-per-minute", metavar="N", help="Of questions and answers together.")
@click.option("--requests-per-day", metavar="N", help="Until midnight in the time zone.")
@click.option("--time-zone", metavar="ZONE", help="In which the provider's day begins, such as America/Los_Angeles.")
@click.option(
    "--burst", metavar="N", help="Requests at once after a pause; each costs one a minute of the steady rate."
)
@click.option("--concurrency", metavar="N", help="Requests under way at once, of all workers.")
@options.home
@options.as_json
def set_(name: str, home: Path | None, as_json: bool, time_zone: str | None, **given: str | None) -> None:
    """Changes the limit NAME, or makes it; what is not named stays as it is. Workers notice within a beat.

    NAME is what `gristmill limits` lists: a model's `limit`, by default the provider and the place of its key. Setting
    it again ends a pause that an answer of the provider began.
    """
    changes: dict[str, Any] = {key: _number(value, key) for key, value in given.items() if value is not None}
    options.call(_set(home, name, changes | ({"timezone": time_zone} if time_zone else {}), as_json))


def _number(text: str, option: str) -> float | None:
    if text.strip().lower() == "none":
        return None
    try:
        return float(text.replace(",", "").replace("_", ""))
    except ValueError:
        from gristmill.errors import UsageError

        raise UsageError(
            f'--{option.replace("_", "-")} takes a number or none, not "{text[:60]}"', code="U461",
            safe="nothing was changed",
        ) from None  # fmt: skip


async def _set(home: Path | None, name: str, changes: dict[str, Any], as_json: bool) -> int:
    from pydantic import ValidationError

    from gristmill.errors import UsageError
    from gristmill.llm.quota_limits import change_limit

    async with options.open_app(home, workers=0) as app:
        await app.models.take_limits()
        try:
            limit = await change_limit(app.pool, name, changes, by=options.me())
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            where = "-".join(str(part) for part in problem["loc"]).replace("_", "-").replace("timezone", "time-zone")
            text = f"--{where}: {problem['msg'].removeprefix('Value error, ')}"
            raise UsageError(text, code="U461", safe="nothing was changed") from None
    if as_json:
        print_json("limits.set", limit=name, **limit.model_dump())
    else:
        told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in limit.model_dump().items() if value)
        click.echo(f"{name}: {told}")
    return 0


@command.command()
@click.argument("name")
@options.home
@options.as_json
def unset(name: str, home: Path | None, as_json: bool) -> None:
    """Forgets the limit NAME and what was learned of it. One that stands in gristmill.toml comes back."""
    options.call(_unset(home, name, as_json))


async def _unset(home: Path | None, name: str, as_json: bool) -> int:
    from gristmill.llm.quota_limits import remove_limit

    async with options.open_app(home, workers=0) as app:
        gone = await remove_limit(app.pool, name, by=options.me())
    if as_json:
        print_json("limits.unset", limit=name, removed=gone)
    else:
        click.echo(f"{name} is not limited any more" if gone else f"there was no limit {name}")
    return 0
