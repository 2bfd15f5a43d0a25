"""gristmill workers: who works where, and orders to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say

if TYPE_CHECKING:
    from gristmill.engine.fleet import Member, Verb

names = click.argument("workers", nargs=-1, metavar="[ID|NAME]...")
everyone = click.option("--all", "everyone", is_flag=True, help="All workers that run.")


@click.group(name="workers", invoke_without_command=True)
@options.home
@options.as_json
@click.pass_context
def command(context: click.Context, home: Path | None, as_json: bool) -> None:
    """Lists the workers: state, pools, latest beat, tasks under way. Then: pause, resume, stop."""
    if context.invoked_subcommand is None:
        options.call(_list(home, as_json))


async def _list(home: Path | None, as_json: bool) -> int:
    from gristmill.engine import fleet

    async with options.open_app(home, workers=0) as app:
        found = await fleet.workers(app.pool)
    if as_json:
        print_json("workers", workers=[dataclasses.asdict(member) for member in found])
        return 0
    for member in found:
        click.echo(_line(member))
    if not any(member.live for member in found):
        say("no worker runs: gristmill worker starts one, gristmill run brings its own")
    return 0


def _line(member: Member) -> str:
    pools = " ".join(f"{pool}={slots}" for pool, slots in member.pools.items())
    since = f"since {member.started_at:%Y-%m-%d %H:%M:%S} UTC"
    now = f"beat {member.beat_age:.0f} s ago, {member.tasks:,} tasks" if member.live else member.cause or ""
    where = "" if member.host in member.name else f" on {member.host}"
    return f"{member.id:>5} {member.name}{where} (pid {member.pid})  {member.state}, {now}  {since}  {pools}"


@command.command()
@names
@everyone
@options.home
@options.as_json
def pause(workers: tuple[str, ...], everyone: bool, home: Path | None, as_json: bool) -> None:
    """Lets workers claim nothing more; what is under way finishes, and they stay."""
    options.call(_order("pause", workers, everyone, home, as_json))


@command.command()
@names
@everyone
@options.home
@options.as_json
def resume(workers: tuple[str, ...], everyone: bool, home: Path | None, as_json: bool) -> None:
    """Lets workers go on after a pause."""
    options.call(_order("resume", workers, everyone, home, as_json))


@command.command()
@names
@everyone
@options.home
@options.as_json
def stop(workers: tuple[str, ...], everyone: bool, home: Path | None, as_json: bool) -> None:
    """Lets workers finish what is under way and end, wherever they run. They hear of it with their next beat."""
    options.call(_order("drain", workers, everyone, home, as_json))


SAID = {
    "pause": ("claims nothing more: gristmill workers resume", "was not running"),
    "resume": ("goes on", "was not paused"),
    "drain": ("finishes what is under way and ends", "was ending already"),
}


async def _order(verb: Verb, wanted: tuple[str, ...], everyone: bool, home: Path | None, as_json: bool) -> int:
    from gristmill.engine import fleet
    from gristmill.errors import UsageError

    if bool(wanted) == everyone:
        raise UsageError("say which workers: ids or names, or --all", code="U363", hint="list them: gristmill workers")
    async with options.open_app(home, workers=0) as app:
        members = await fleet.workers(app.pool)
        meant = [member for member in members if member.live] if everyone else fleet.chosen(members, wanted)
        told = await fleet.order(app.pool, verb, [member.id for member in meant], by=options.me())
    if as_json:
        documents = [{"id": member.id, "name": member.name, "changed": member.id in told} for member in meant]
        print_json("workers.order", order=verb, changed=len(told), workers=documents)
        return 0
    for member in meant:
        click.echo(f"{member.id} {member.name} {SAID[verb][member.id not in told]}")
    if not meant:
        say("no worker runs")
    return 0
