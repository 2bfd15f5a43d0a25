"""gristmill db: the database, for people who want to look inside."""

from __future__ import annotations

import os
from pathlib import Path

import click

from gristmill.cli import options
from gristmill.cli.options import print_json


@click.group(name="db")
def command() -> None:
    """The database: status, url, psql, migrate, move, roles, pooler, prune, stop."""


@command.command()
@options.home
@options.as_json
def status(home: Path | None, as_json: bool) -> None:
    """Whether it runs, its version, place, size and schema."""
    options.call(_status(home, as_json))


async def _status(home: Path | None, as_json: bool) -> int:
    from dataclasses import asdict

    from gristmill.config import load_settings
    from gristmill.db import embedded
    from gristmill.db.database import connect, without_password
    from gristmill.db.migrate import newest, schema_version

    settings = load_settings(home=home).values
    if settings.database_url:
        connection = await connect(settings.database_url)
        document = {
            "server": without_password(settings.database_url), "running": True,
            "version": str(connection.get_server_version().major), "schema_version": await schema_version(connection),
        }  # fmt: skip
        await connection.close()
    else:
        document = asdict(await embedded.server_status(settings.home))
    document["newest_schema"] = newest()
    if as_json:
        print_json("database", **document)
    else:
        for name, value in document.items():
            click.echo(f"{name:<16} {value}")
    return 0


@command.command()
@options.home
def url(home: Path | None) -> None:
    """Starts the server if needed and prints its URL."""
    options.call(_url(home))


async def _url(home: Path | None) -> int:
    async with options.open_app(home, workers=0) as app:
        click.echo(app.url)
    return 0


@command.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@options.home
def psql(arguments: tuple[str, ...], home: Path | None) -> None:
    """Opens psql on the database; arguments go to psql."""
    options.call(_psql(home, arguments))


async def _psql(home: Path | None, arguments: tuple[str, ...]) -> int:
    import asyncio

    from gristmill.db import embedded

    async with options.open_app(home, workers=0) as app:
        environment = {**os.environ, "PGOPTIONS": "-c search_path=gristmill,public"}
        process = await asyncio.create_subprocess_exec(str(embedded.psql_path()), app.url, *arguments, env=environment)
        return await process.wait()


@command.command()
@options.home
def migrate(home: Path | None) -> None:
    """Brings the schema up to date."""
    options.call(_migrate(home))


async def _migrate(home: Path | None) -> int:
    from gristmill.db.migrate import schema_version

    async with options.open_app(home, workers=0) as app:
        click.echo(f"schema version {await schema_version(app.pool)}")
    return 0


@command.command()
@click.option("--name", default="gristmill", show_default=True, help="The database's name on the server.")
def pooler(name: str) -> None:
    """Prints SQL that lets a database be used through a PgBouncer in transaction mode; apply it once, with psql."""
    from gristmill.db.database import pooler_settings

    click.echo(pooler_settings(name), nl=False)


@command.command()
def roles() -> None:
    """Prints SQL that makes roles with least privilege: worker, api, reader; apply it as the owner, with psql."""
    from gristmill.db.roles import grants

    click.echo(grants(), nl=False)


@command.command()
@click.option("--to", "target", metavar="URL", help="Copy the project's database to this empty one.")
@click.option("--from", "source", metavar="URL", help="Copy that one into the project's embedded database.")
@click.option("--stay", is_flag=True, help="Forget that the data has moved away; it is in use again, as it was then.")
@options.home
@options.as_json
def move(target: str | None, source: str | None, stay: bool, home: Path | None, as_json: bool) -> None:
    """Moves everything to another PostgreSQL, or back, and compares each row. Killed, the same command goes on."""
    options.call(_move(home, target, source, stay, as_json))


async def _move(home: Path | None, target: str | None, source: str | None, stay: bool, as_json: bool) -> int:
    from gristmill.config import load_settings
    from gristmill.db import embedded, moving
    from gristmill.db.database import without_password
    from gristmill.db.moving import Moved
    from gristmill.errors import UsageError

    if (target is not None) + (source is not None) + stay != 1:
        raise UsageError("say where to, or where from", code="U395", hint="gristmill db move --to postgresql://...")
    settings = load_settings(home=home).values
    server = None if settings.database_url and not source else await embedded.open_server(settings.home)
    here = server.url if server is not None else str(settings.database_url)
    try:
        if stay:
            click.echo("in use again" if await moving.stay(here) else "it had not moved away")
            return 0

        def told(one: Moved) -> None:
            if one.rows or one.left:
                options.say(
                    f"{one.table:<20} " + ("left out: no such table there" if one.left else f"{one.rows:,} rows")
                )

        done = await moving.move(source or here, target or here, told=told)
    finally:
        if server is not None:
            await embedded.close_server(server)
    place = without_password(target or here)
    if as_json:
        print_json("database.move", to=place, rows={one.table: one.rows for one in done},
                   copied=sum(one.copied for one in done))  # fmt: skip
        return 0
    options.say(f"everything is in {place}, compared row by row; the old one refuses to be opened")
    if target is not None:
        options.say("now set GRISTMILL_DATABASE_URL, or database_url in gristmill.toml, to that address")
    options.say(f"the files stay where they are: {settings.blobs or settings.home / 'blobs'}")
    return 0


@command.command()
@click.option("--dry-run", is_flag=True, help="Only count what would go.")
@options.home
@options.as_json
def prune(dry_run: bool, home: Path | None, as_json: bool) -> None:
    """Moves what has ended into the history now, and drops what is older than keep_history."""
    options.call(_prune(home, dry_run, as_json))


async def _prune(home: Path | None, dry_run: bool, as_json: bool) -> int:
    from gristmill.engine import history

    async with options.open_app(home, workers=0) as app, app.pool.acquire() as connection:
        act = history.count_due if dry_run else history.prune
        moved = await act(connection, app.settings.keep_finished, app.settings.keep_history)
    document = {
        "tasks_to_history": moved.tasks, "events_to_history": moved.events, "tasks_forgotten": moved.forgotten,
        "results_forgotten": moved.results, "partitions_dropped": moved.dropped,
    }  # fmt: skip
    if as_json:
        print_json("prune", dry_run=dry_run, **document)
        return 0
    if dry_run:
        click.echo("nothing was changed; this would be done:")
    for name, value in document.items():
        click.echo(f"{name.replace('_', ' '):<20} {', '.join(value) or 0 if isinstance(value, list) else value}")
    return 0


@command.command()
@options.home
def stop(home: Path | None) -> None:
    """Stops the embedded server; it starts again by itself when it is needed."""
    options.call(_stop(home))


async def _stop(home: Path | None) -> int:
    from gristmill.config import load_settings
    from gristmill.db import embedded

    stopped = await embedded.stop_server(load_settings(home=home).values.home)
    click.echo("stopped" if stopped else "it was not running")
    return 0
