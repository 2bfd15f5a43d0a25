"""gristmill api: serve the API and the page; gristmill token: who may use them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say

if TYPE_CHECKING:
    from gristmill.api.server import Place

ROLES = ("viewer", "reviewer", "operator", "admin")


@click.command(name="api")
@click.option("--host", help="Address to serve on (default: the setting api_host).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port (default: the setting api_port); 0: a free one.")
@options.home
@options.as_json
def command(host: str | None, port: int | None, home: Path | None, as_json: bool) -> None:
    """Serves the API and the page until SIGTERM or Ctrl-C.

    On the loopback address everybody on this machine may use it until there is a token. Elsewhere it starts only when
    there is one: gristmill token add NAME --role admin.
    """
    options.call(_serve(host, port, home, as_json))


async def _serve(host: str | None, port: int | None, home: Path | None, as_json: bool) -> int:
    from gristmill.api.server import serve

    def ready(place: Place) -> None:
        if as_json:
            print_json("api", url=place.url, host=place.host, port=place.port)
        else:
            say(f"{place.url}   (stop: Ctrl-C)")

    app = options.open_app(home, workers=0)
    options.set_up_logs(app.settings)
    async with app:
        await serve(app, host=host, port=port, on_ready=ready)
    return 0


@click.group(name="token", invoke_without_command=True)
@options.home
@options.as_json
@click.pass_context
def token(context: click.Context, home: Path | None, as_json: bool) -> None:
    """Lists the tokens, never their secrets. Then: add, rotate, remove."""
    if context.invoked_subcommand is None:
        options.call(_list(home, as_json))


async def _list(home: Path | None, as_json: bool) -> int:
    from gristmill.api import tokens

    async with options.open_app(home, workers=0) as app:
        found = await tokens.listed(app.pool)
    if as_json:
        print_json("tokens", tokens=found)
        return 0
    for one in found:
        used = f"used {one['used_at']:%Y-%m-%d %H:%M} UTC" if one["used_at"] else "never used"
        ends = f", ends {one['expires_at']:%Y-%m-%d %H:%M} UTC" if one["expires_at"] else ""
        state = "" if one["in_force"] else "  not in force"
        click.echo(f"{one['name']}  {one['role']}  made by {one['made_by']}, {used}{ends}{state}")
    if not found:
        say("there is no token: on 127.0.0.1 everybody on this machine may use the API, elsewhere it is not served")
    return 0


@token.command(name="add")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="viewer", show_default=True, help="What it may do.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="It ends after so many days.")
@options.home
@options.as_json
def add(name: str, role: str, days: float | None, home: Path | None, as_json: bool) -> None:
    """Makes a token and prints it, this once: only its hash is kept. From the first token on everybody needs one."""
    options.call(_made(home, as_json, name, role, days=days))


@token.command(name="rotate")
@click.argument("name")
@click.option("--keep", type=click.FloatRange(min=0), default=3600.0, show_default=True, metavar="SECONDS",
              help="How long the former one stays in force.")  # fmt: skip
@options.home
@options.as_json
def rotate(name: str, keep: float, home: Path | None, as_json: bool) -> None:
    """Makes a new secret for the token NAME, with its role, and prints it; the former ends after a while."""
    options.call(_made(home, as_json, name, None, keep=keep))


async def _made(
    home: Path | None, as_json: bool, name: str, role: str | None, *, days: float | None = None, keep: float = 0.0
) -> int:
    from gristmill.api import tokens

    async with options.open_app(home, workers=0) as app:
        if role is not None:
            secret = await tokens.add(app.pool, name, role, by=options.me(), seconds=days and days * 86_400)
        else:
            role, secret = await tokens.rotate(app.pool, name, by=options.me(), keep=keep)
    if as_json:
        print_json("token", name=name, role=role, token=secret)
    else:
        click.echo(secret)
        say(f"the token {name} ({role}); it is shown this once")
    return 0


@token.command(name="remove")
@click.argument("name")
@options.home
@options.as_json
def remove(name: str, home: Path | None, as_json: bool) -> None:
    """Takes the token NAME out of force at once, with its sessions."""
    options.call(_remove(home, as_json, name))


async def _remove(home: Path | None, as_json: bool, name: str) -> int:
    from gristmill.api import tokens

    async with options.open_app(home, workers=0) as app:
        await tokens.remove(app.pool, name)
    if as_json:
        print_json("token.remove", name=name)
    else:
        click.echo(f"{name} is out of force")
    return 0
