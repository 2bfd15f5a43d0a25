"""gristmill locks: who holds what, and taking it away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json

if TYPE_CHECKING:
    from gristmill.engine.locks import Holder


@click.group(name="locks", invoke_without_command=True)
@options.home
@options.as_json
@click.pass_context
def command(context: click.Context, home: Path | None, as_json: bool) -> None:
    """Lists the locks that are held: who, since when, until when; and who waits at the door."""
    if context.invoked_subcommand is None:
        options.call(_list(home, as_json))


async def _list(home: Path | None, as_json: bool) -> int:
    from gristmill.engine.locks import holders

    async with options.open_app(home, workers=0) as app:
        found = await holders(app.pool)
    if as_json:
        print_json("locks", locks=[as_document(one) for one in found])
        return 0
    for one in found:
        click.echo(f"{one.key}  {'waits' if one.slot == 0 else f'slot {one.slot}'}  {one}, {_until(one)}")
    if not found:
        click.echo("nobody holds a lock")
    return 0


def as_document(one: Holder) -> dict[str, Any]:
    """What programs read about a holder; `waits` says that it holds nothing yet, `live` False that its time is over."""
    return {
        "key": one.key, "slot": one.slot, "waits": one.slot == 0, "holder_kind": one.kind, "holder": one.who,
        "since": one.since.isoformat(), "expires_at": one.expires_at and one.expires_at.isoformat(), "live": one.live,
        "fence": one.fence, "task": one.task_id, "operator": one.operator, "run": one.run_id, "worker": one.worker_id,
    }  # fmt: skip


def _until(one: Holder) -> str:
    if one.expires_at is None:
        return "for as long as it runs"
    return f"until {one.expires_at:%H:%M:%S} unless renewed" if one.live else "expired: anybody may take it"


@command.command()
@click.argument("key")
@click.option("--force", is_flag=True, help="Take it away from whoever holds it; kept as an event with your name.")
@click.option("--reason", default="", help="Why, for those who read the event.")
@options.home
@options.as_json
def release(key: str, force: bool, reason: str, home: Path | None, as_json: bool) -> None:
    """Takes the lock KEY away from its holder: a key as it is listed, or the path of a file or folder.

    A task that held it is put back uncharged and can never finish what it had begun; any other holder is stopped at its
    next renewal, within about 2 s. Without --force it only says who holds it, and fails.
    """
    options.call(_release(home, key, force, reason, as_json))


async def _release(home: Path | None, name: str, force: bool, reason: str, as_json: bool) -> int:
    from gristmill.engine.lock_keys import spelled
    from gristmill.engine.locks import force_release, held_by, holders

    async with options.open_app(home, workers=0) as app:
        key = name if await holders(app.pool, name) else spelled(name)  # as it is listed, whoever made it
        if not force:
            found = [one for one in await holders(app.pool, key) if one.slot > 0 and one.live]
            if found:
                raise held_by(key, found)
        forced = await force_release(app.pool, key, by=options.me(), reason=reason) if force else []
    if as_json:
        print_json("locks.release", key=key, forced=[as_document(one) for one in forced])
    elif not forced:
        click.echo(f"nobody holds {key}")
    for one in () if as_json else forced:
        click.echo(f"{key} was taken away from {one}")
    return 0
