"""gristmill run --plan: what would be done, what it would cost, and how long it would take, before anything is paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gristmill.app import App
    from gristmill.data.selection import Inputs
    from gristmill.run import Run
    from gristmill.workflow import Workflow


async def forecast(app: App, flow: Workflow, paths: Sequence[Path | str] | Inputs) -> dict[str, Any]:
    """Foresees a run from a sample of its inputs. Sends nothing; keeps the forecast alone, for a comparison later."""
    from gristmill.forecast import foreseen

    return await foreseen(app, flow, paths)


def show_forecast(plan: Mapping[str, Any]) -> None:
    """The forecast for people; nothing in it is a promise, and it says so."""
    from gristmill.cli.progress import duration

    click.echo(f"{plan['files']:,} files ({plan['bytes'] / 1e6:,.3g} MB), {plan['unreadable']:,} unreadable")
    for step in plan["steps"]:
        if step["barrier"]:
            continue
        made = f"  {step['name']:<12} {about(step['inputs']):>22} in {about(step['outputs']):>22} out"
        asked = f"  {about(step['calls'])} calls of {step['model']}" if step["calls"][2] else ""
        known = f", {about(step['known'])} known" if step["known"][1] else ""
        click.echo(made + asked + known)
    if plan["calls"][2]:
        click.echo(
            f"{about(plan['calls'])} calls, {about(plan['tokens_in'])} tokens in, {about(plan['tokens_out'])} out"
        )
        for currency, (low, likely, high) in plan["cost"].items():
            click.echo(f"{_money(likely, currency)} ({_money(low, currency)} to {_money(high, currency)})")
        if plan["unpriced"]:
            click.echo(f"{plan['unpriced']:,} of the calls have no known price and are in no amount")
    elif plan["known"][1]:
        click.echo("no calls to pay: the ledger has all answers")
    else:
        click.echo(f"no paid calls: {plan['model'] or 'no step with a model'} works on this machine")
    low, likely, high = plan["seconds"]
    click.echo(f"{duration(likely)} ({duration(low)} to {duration(high)}), waiting mostly for: {plan['bound_by']}")
    click.echo(
        f"about {plan['disk_bytes'] / 1e6:,.1f} MB of disk; from a sample of {plan['sampled']} files. Nothing was sent."
    )
    for note in plan["assumed"]:
        click.echo(f"  note: {note}")


async def truth(run: Run, usage: Mapping[str, Any], seconds: float) -> dict[str, Any] | None:
    """The forecast of a run beside what it took; None when nobody had asked for one."""
    from gristmill.forecast import compared

    return await compared(run.app.pool, run.id, usage, seconds)


def truth_lines(found: Mapping[str, Any]) -> list[str]:
    """The comparison for people."""
    from gristmill.cli.progress import duration

    foreseen, took = found["foreseen"], found["truth"]
    line = (
        f"foreseen: {about(foreseen['calls'])} calls, {duration(foreseen['seconds'][1])}; "
        f"it took {took['calls']:,} calls, {duration(took['seconds'])}"
    )
    money = [
        f"foreseen: {_money(values[1], currency)} ({_money(values[0], currency)} to {_money(values[2], currency)}); "
        f"it cost {_money(took['cost'].get(currency, 0), currency)}"
        for currency, values in foreseen["cost"].items()
    ]
    return [line, *money]


def about(values: Sequence[float]) -> str:
    """A range for people: "about 214 (190 to 240)"; the number alone where it is certain."""
    low, likely, high = (round(value) for value in values)
    return f"{likely:,}" if low == high else f"about {likely:,} ({low:,} to {high:,})"


def _money(amount: float | str, currency: str) -> str:
    from gristmill.llm.prices import money

    return money(Decimal(str(amount)), currency)
