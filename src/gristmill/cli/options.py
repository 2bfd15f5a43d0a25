"""What several commands share: opening the App, printing JSON, naming a run."""

from __future__ import annotations

import asyncio
import gc
import getpass
import json
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.app import App
    from gristmill.config import Settings
    from gristmill.run import Run

F = TypeVar("F", bound=Callable[..., Any])

home = click.option(
    "--home", type=click.Path(path_type=Path), help="Folder of the data (default: .gristmill, or GRISTMILL_HOME)."
)
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


def say(text: str = "") -> None:
    """Talk, for people: goes to standard error."""
    click.echo(text, err=True)


def print_json(schema: str, **document: Any) -> None:
    """A document for programs; its first key names its shape."""
    click.echo(json.dumps({"schema": f"gristmill.{schema}/1", **document}, ensure_ascii=False, default=str))


def call(main: Coroutine[Any, Any, int | None]) -> None:
    """Runs a command's coroutine and ends the process with what it returns."""
    code = asyncio.run(main)
    if code:
        raise SystemExit(code)


def open_app(home: Path | None, **arguments: Any) -> App:
    from gristmill.app import App

    gc.freeze()
    gc.set_threshold(700, 10, 10)  # Python's own; `main` says why it was another one
    return App(home=home, **arguments)


def set_up_logs(settings: Settings) -> None:
    """Logs as the settings say: to standard error, or to the file that the supervisor names."""
    from gristmill import logs

    file = os.environ.get("GRISTMILL_LOG_FILE")
    as_json = {"text": False, "json": True}.get(settings.log_format)
    logs.set_up(level=settings.log_level, file=Path(file) if file else None, as_json=as_json)


def know_packs(home: Path | None = None) -> None:
    """Makes the packs known that were installed on this machine, for workflows that are read before a database is."""
    from gristmill.config import load_settings

    settings = load_settings(home=home).values
    if settings.packs or (settings.home / "packs").is_dir():
        from gristmill.packs.store import take_local

        take_local(settings.home, settings.packs)


async def chosen_run(app: App, name: str | None) -> Run:
    """The run of that name, or the one that was started last."""
    return await (app.find(name) if name else app.last())


def me() -> str:
    """The person at the keyboard, for the record."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # an account without a name, as containers have
        name = f"user {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def check_no_workflow(missing: Sequence[str]) -> None:
    """Raises `UsageError` U101 where a workflow stands among inputs that there are not."""
    from gristmill.workflow_files import shipped

    if named := [path for path in missing if path in shipped()]:
        raise UsageError(
            f"there is no file or folder {named[0]}: it is a workflow", code="U101", safe="nothing was started",
            hint=f"gristmill run PATH --workflow {named[0]}",
        )  # fmt: skip
