"""gristmill budget: what may be spent, and what was."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gristmill.cli import options
from gristmill.cli.options import print_json
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.llm.budget import Standing

in_run = click.option("--run", "run", metavar="RUN", help="The run: its name or number (default: the last one).")


@click.group(name="budget", invoke_without_command=True)
@in_run
@options.home
@options.as_json
@click.pass_context
def command(context: click.Context, run: str | None, home: Path | None, as_json: bool) -> None:
    """Shows what may be spent and what was: by the run, today, by the whole project."""
    if context.invoked_subcommand is None:
        options.call(_show(home, run, as_json))


async def _show(home: Path | None, name: str | None, as_json: bool) -> int:
    from gristmill.llm.budget import standing

    async with options.open_app(home, workers=0) as app:
        try:
            run = await options.chosen_run(app, name)
        except UsageError:
            if name is not None:
                raise
            run = None
        settings = app.settings
        found = await standing(
            app.pool, run=run.id if run is not None else None, project=settings.project, caps=settings.budget
        )
    if as_json:
        print_json("budget", run=run.name if run is not None else None, budgets=[
            {"scope": one.scope, "name": one.name, "cap": None if one.cap is None else str(one.cap),
             "currency": one.currency, "spent": str(one.spent), "uncertain": str(one.uncertain), "held": str(one.held)}
            for one in found
        ])  # fmt: skip
        return 0
    for one in found:
        click.echo(_line(one, run.name if run is not None and one.scope == "run" else one.name))
    return 0


def _line(one: Standing, name: str) -> str:
    from gristmill.llm.prices import money

    cap = f"of {money(one.cap, one.currency)}" if one.cap is not None else f"{one.currency}, no limit"
    text = f"{one.scope:<8} {name:<24} {money(one.spent, '')} {cap}"
    if one.uncertain:
        text += f"; {money(one.uncertain, '')} of it estimated, for calls that were never answered"
    if one.held:
        text += f"; {money(one.held, '')} set aside for calls in flight"
    return text


@command.command(name="set")
@click.argument("scope", type=click.Choice(["run", "day", "project"]))
@click.argument("amount")
@click.option("--currency", default=None, help="Three letters (default: that of the settings).")
@in_run
@options.home
@options.as_json
def set_(scope: str, amount: str, currency: str | None, run: str | None, home: Path | None, as_json: bool) -> None:
    """Sets how much a run, a day or the project may spend; "none" takes the limit away.

    Takes effect within 2 s and wins over the settings. A run that was paused goes on with `gristmill resume`.
    """
    options.call(_set(home, scope, amount, currency, run, as_json))


async def _set(
    home: Path | None, scope: str, amount: str, currency: str | None, name: str | None, as_json: bool
) -> int:
    from gristmill.llm.budget import set_cap
    from gristmill.llm.prices import money

    cap = parse_amount(amount)
    async with options.open_app(home, workers=0) as app:
        unit = (currency or app.settings.budget.currency).upper()
        if len(unit) != 3 or not unit.isascii() or not unit.isalpha():
            raise UsageError(f'"{currency}" is no currency', code="U371", hint="three letters: USD, EUR")
        run = await options.chosen_run(app, name) if scope == "run" else None
        await set_cap(app.pool, scope, run.id if run is not None else app.settings.project, cap, unit)
        held = run is not None and (await run.progress()).state == "paused"
    whose = run.name if run is not None else app.settings.project
    if as_json:
        print_json("budget.set", scope=scope, name=whose, cap=None if cap is None else str(cap), currency=unit)
    else:
        click.echo(f"{scope} {whose}: {'no limit' if cap is None else money(cap, unit)}")
        if held:
            click.echo(f"{whose} is paused: gristmill resume {whose}")
    return 0


def parse_amount(text: str) -> Decimal | None:
    """An amount of money; None for "none". Raises `UsageError` U370."""
    if text.lower() in ("none", "unlimited"):
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise UsageError(f'"{text}" is no amount of money', code="U370", hint='5, 0.25, or "none"')
    return amount
