"""gristmill pools: what waits and runs in each pool, limits over all workers, pauses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say

if TYPE_CHECKING:
    from gristmill.app import App

new = click.option("--new", is_flag=True, help="A pool that no worker and no step has named yet.")


@click.group(name="pools", invoke_without_command=True)
@options.home
@options.as_json
@click.pass_context
def command(context: click.Context, home: Path | None, as_json: bool) -> None:
    """Lists the pools: slots of all workers, limit, what runs and what waits. Then: limit, pause, resume."""
    if context.invoked_subcommand is None:
        options.call(_list(home, as_json))


async def _list(home: Path | None, as_json: bool) -> int:
    from gristmill.engine import fleet

    async with options.open_app(home, workers=0) as app:
        found = await fleet.pools(app.pool)
    if as_json:
        print_json("pools", pools=[dataclasses.asdict(pool) for pool in found])
        return 0
    for pool in found:
        waiting = f"{pool.waiting:,}{'+' if pool.waiting == fleet.MOST else ''}"
        limit = "" if pool.limit is None else f"  at most {pool.limit:,}"
        click.echo(
            f"{pool.name:<16} {pool.running:>6,} running {waiting:>7} waiting {pool.slots:>5,} slots of"
            f" {pool.workers:,} workers{limit}{'  paused' if pool.paused else ''}"
        )
    if not found:
        say("no pool has a worker, a task or a limit")
    return 0


@command.command()
@click.argument("name")
@click.argument("slots", metavar="N|none")
@new
@options.home
@options.as_json
def limit(name: str, slots: str, new: bool, home: Path | None, as_json: bool) -> None:
    """At most N tasks of pool NAME run at once over all workers; "none" takes the limit away.

    What runs already goes on.
    """
    options.call(_change(home, name, new, as_json, "limit", slots))


@command.command()
@click.argument("name")
@new
@options.home
@options.as_json
def pause(name: str, new: bool, home: Path | None, as_json: bool) -> None:
    """Nothing more of pool NAME begins, on any worker; what is under way finishes."""
    options.call(_change(home, name, new, as_json, "pause"))


@command.command()
@click.argument("name")
@options.home
@options.as_json
def resume(name: str, home: Path | None, as_json: bool) -> None:
    """Lets pool NAME go on after a pause."""
    options.call(_change(home, name, False, as_json, "resume"))


async def _change(home: Path | None, name: str, new: bool, as_json: bool, what: str, slots: str = "") -> int:
    from gristmill.engine import fleet

    limit = _limit(slots) if what == "limit" else None
    async with options.open_app(home, workers=0) as app:
        if not new:
            await _check_known(app, name)
        me = options.me()
        if what == "limit":
            changed = await fleet.limit_pool(app.pool, name, limit, by=me)
        else:
            changed = await (fleet.pause_pool if what == "pause" else fleet.resume_pool)(app.pool, name, by=me)
    if as_json:
        print_json("pool", name=name, what=what, changed=changed, **({"limit": limit} if what == "limit" else {}))
        return 0
    said = {
        "limit": "has no limit" if limit is None else f"runs at most {limit:,} at once over all workers",
        "pause": f"is paused: gristmill pools resume {name}", "resume": "goes on" if changed else "was not paused",
    }  # fmt: skip
    click.echo(f"{name} {said[what]}")
    return 0


def _limit(text: str) -> int | None:
    from gristmill.errors import UsageError

    if text == "none":
        return None
    if not text.isascii() or not text.isdigit():
        raise UsageError(f'"{text}" is no limit', code="U360", hint="tasks at once: a whole number from 0, or none")
    return int(text)


async def _check_known(app: App, name: str) -> None:
    """A typing error must not become the limit of a pool that nobody has."""
    from gristmill.engine import fleet
    from gristmill.errors import UsageError

    known = {*await fleet.known_pools(app.pool), *app.settings.pools, *(p.name for p in await fleet.pools(app.pool))}
    if name not in known:
        raise UsageError(
            f'no worker and no step has named a pool "{name}"', code="U361", safe="nothing was changed",
            hint=f"{fleet.nearest(name, known)} (a pool that is still to come: --new)",
        )  # fmt: skip
