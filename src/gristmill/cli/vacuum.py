"""gristmill vacuum, gristmill verify: tidy search indexes up, and check them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gristmill.cli import options
from gristmill.cli.options import print_json
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.app import App

EXITS = {"done": 0, "sound": 0, "not_found": 2, "locked": 4, "failed": 3, "damaged": 1}


@click.command(name="vacuum")
@click.argument("path", required=False)
@click.option("--all", "everything", is_flag=True, help="All that runs have written to; those in use are left out.")
@click.option("--wait", type=click.FloatRange(min=0), help="Seconds to wait for its lock (default: for ever).")
@click.option("--fail-fast", is_flag=True, help="Do not wait for its lock.")
@click.option("--force", is_flag=True, help="Take the lock away from its holder; kept as an event with your name.")
@click.option("--reason", default="", help="Why, for those who read the event.")
@options.home
@options.as_json
def command(
    path: str | None, everything: bool, wait: float | None, fail_fast: bool, force: bool, reason: str,
    home: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Tidies a search index up: PATH is "database" or the folder of a LanceDB.

    Exit code 2: there is none; 4: somebody else is writing to it; 3: it went wrong.
    """
    if force and everything:
        raise UsageError("--force with --all would stop everybody", code="U393", hint="name the one that you mean")
    patience = 0.0 if fail_fast or everything else wait
    options.call(_vacuum(path, everything, patience, force, reason, home, as_json))


async def _vacuum(
    path: str | None, everything: bool, wait: float | None, force: bool, reason: str, home: Path | None, as_json: bool
) -> int:  # fmt: skip
    from gristmill.stores.vacuum import vacuum

    async with options.open_app(home, workers=0) as app:
        results = [
            await vacuum(app.pool, store, app.settings.home, by=options.me(), wait=wait, force=force, reason=reason)
            for store in await _chosen(app, path, everything)
        ]
    if as_json:
        print_json("vacuum", stores=[asdict(one) for one in results])
    for one in () if as_json else results:
        done = f"{one.before:,} bytes before, {one.after:,} after"
        more = f", {one.dropped:,} entries dropped" if one.dropped else ""
        click.echo(f"{one.store}: {done + more if one.status == 'done' else f'{one.status}: {one.message}'}")
    counted = [EXITS[one.status] for one in results if not (everything and one.status == "locked")]
    return max(counted, default=0)


@click.command(name="verify")
@click.argument("path", required=False)
@options.home
@options.as_json
def verify(path: str | None, home: Path | None, as_json: bool) -> None:
    """Reads a whole search index ("database", a LanceDB folder; default: all of them) and says whether it is sound."""
    options.call(_verify(path, home, as_json))


async def _verify(path: str | None, home: Path | None, as_json: bool) -> int:
    from gristmill.stores import vacuum

    async with options.open_app(home, workers=0) as app:
        chosen = await _chosen(app, path, path is None)
        results = [await vacuum.verify(app.pool, store, app.settings.home) for store in chosen]
    if as_json:
        print_json("verify", stores=[asdict(one) for one in results])
    for one in () if as_json else results:
        click.echo(f"{one.store}: {one.status}, {one.entries:,} entries ({one.unused:,} unused), {one.size:,} bytes")
        for problem in one.problems:
            click.echo(f"  {problem}")
    return max((EXITS[one.status] for one in results), default=0)


async def _chosen(app: App, path: str | None, everything: bool) -> list[str]:
    from gristmill.stores.vacuum import stores_of

    if everything:
        return await stores_of(app.pool, app.settings.project)
    if path is None:
        raise UsageError("name a search index, or --all", code="U393", hint="gristmill vacuum database")
    if path == "database" or path.startswith("lancedb:"):
        return [path]
    return [f"lancedb:{await asyncio.to_thread(os.path.realpath, path)}"]
