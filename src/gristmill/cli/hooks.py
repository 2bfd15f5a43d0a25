"""gristmill hooks: what is told to whom when something happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say

if TYPE_CHECKING:
    from gristmill.app import App
    from gristmill.engine.hooks import Hook


@click.group(name="hooks")
def command() -> None:
    """Hooks: add, list, remove, test. What is told to whom when something happens."""


@command.command()
@click.argument("name")
@click.option("--on", "on", multiple=True, required=True, help="Event, or its beginning with a star; may be repeated.")
@click.option("--webhook", help="POST to this URL (env:NAME or file:/path when it is a secret).")
@click.option("--secret", help="Where the secret is that signs the POST: env:NAME or file:/path.")
@click.option("--allow-private", is_flag=True, help="The URL may lead to this machine or a private network.")
@click.option("--timeout", type=float, default=10.0, show_default=True, help="Seconds that a POST may take.")
@click.option("--email", "emails", multiple=True, help="Send an e-mail to this address; may be repeated.")
@click.option("--subject", help="Template of the e-mail's subject.")
@click.option("--text", help="Template of the e-mail's text.")
@click.option("--task", help="Enqueue a task of this kind, with --options (JSON) in its payload.")
@click.option("--options", "task_options", default="{}", help="JSON object for --task.")
@click.option("--pool", help='Pool of the hook\'s tasks (default: "notify"; with --task "*").')
@click.option("--every", type=float, help="One message for all alike within so many seconds (e-mail: 60; 0: each).")
@click.option("--run", "of_run", help="Only events of this run.")
@options.home
@options.as_json
def add(home: Path | None, as_json: bool, **given: Any) -> None:
    """Tells what happens from now on, by webhook, e-mail or a task of your own."""
    options.call(_add(home, as_json, given))


async def _add(home: Path | None, as_json: bool, given: dict[str, Any]) -> int:
    from gristmill.db.database import transaction
    from gristmill.engine import hooks

    kind, settings = _kind_and_options(given)
    pool = given["pool"] or ("*" if given["task"] else hooks.POOL)
    async with options.open_app(home, workers=0) as app:
        run = await app.find(given["of_run"]) if given["of_run"] else None
        async with transaction(app.pool) as connection:
            hook = await hooks.add(
                connection, given["name"], given["on"], kind, options=settings, pool=pool,
                project=app.settings.project, of_run=run.id if run else None,
            )  # fmt: skip
        if as_json:
            print_json("hook", **_document(hook))
            return 0
        say(f"{hook.name}: {_what(hook)} on {', '.join(hook.events)}")
        say(f"try it now: gristmill hooks test {hook.name}")
        if "email" in kind and app.settings.smtp_host is None:
            say("no mail server is set here: set smtp_host and mail_from in gristmill.toml where the workers run")
    return 0


def _kind_and_options(given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    from gristmill import notify
    from gristmill.errors import UsageError

    chosen = [name for name in ("webhook", "emails", "task") if given[name]]
    if len(chosen) != 1:
        raise UsageError("a hook does one of three things: --webhook URL, --email ADDRESS or --task KIND", code="U357",
                         hint="for two of them add two hooks")  # fmt: skip
    every = given["every"]
    if chosen[0] == "webhook":
        made = notify.webhook_options(
            given["webhook"], secret=given["secret"], private=given["allow_private"], timeout=given["timeout"],
            every=every or 0,
        )  # fmt: skip
        return notify.WEBHOOK, made
    if chosen[0] == "emails":
        if every is None:  # the end of a run is told at once; of ten thousand failures nobody reads ten thousand mails
            every = 0 if all(pattern.startswith("run.") for pattern in given["on"]) else 60
        made = notify.email_options(given["emails"], subject=given["subject"], text=given["text"], every=every)
        return notify.EMAIL, made
    try:
        made = json.loads(given["task_options"])
    except ValueError as error:
        raise UsageError(f"--options is not JSON: {error}", code="U351") from None
    if not isinstance(made, dict):
        raise UsageError("--options is a JSON object", code="U351", hint='for example {"channel": "mill"}')
    return given["task"], made | ({"every": every} if every else {})


@command.command(name="list")
@options.home
@options.as_json
def list_(home: Path | None, as_json: bool) -> None:
    """All hooks, and what became of their latest tasks."""
    options.call(_list(home, as_json))


async def _list(home: Path | None, as_json: bool) -> int:
    from gristmill.engine import hooks

    async with options.open_app(home, workers=0) as app:
        documents = []
        for hook in await hooks.listed(app.pool, app.settings.project):
            last = await app.pool.fetch(hooks.SQL["attempts"], hook.run_id, 5)
            documents.append(_document(hook) | {"latest": [_attempt(row) for row in last]})
    if as_json:
        print_json("hooks", hooks=documents)
    for told in [] if as_json else documents:
        click.echo(f"{told['name']:<16} {told['what']}  on {', '.join(told['events'])}")
        for task in told["latest"]:
            said = f": {task['message']}" if task["message"] else ""
            click.echo(f"    task {task['task']}  {task['event']}  {task['state']} after {task['attempts']}{said}")
    if not as_json and not documents:
        say("there is no hook yet; add one: gristmill hooks add done --on run.end --webhook URL")
    return 0


@command.command()
@click.argument("name")
@options.home
@options.as_json
def remove(name: str, home: Path | None, as_json: bool) -> None:
    """Takes a hook away; what it still had to tell is told no more."""
    options.call(_remove(name, home, as_json))


async def _remove(name: str, home: Path | None, as_json: bool) -> int:
    from gristmill.db.database import transaction
    from gristmill.engine import hooks

    async with options.open_app(home, workers=0) as app, transaction(app.pool) as connection:
        cancelled = await hooks.remove(connection, name, app.settings.project)
    if as_json:
        print_json("hook_removed", name=name, cancelled=cancelled)
    else:
        say(f"{name} is gone; {cancelled} tasks of it were cancelled")
    return 0


@command.command()
@click.argument("name")
@options.home
@options.as_json
def test(name: str, home: Path | None, as_json: bool) -> None:
    """Sends a sample now, from this process, and says what came of it."""
    options.call(_test(name, home, as_json))


async def _test(name: str, home: Path | None, as_json: bool) -> int:
    from gristmill import notify
    from gristmill.engine import hooks
    from gristmill.errors import TaskError, UsageError

    async with options.open_app(home, workers=0) as app:
        hook = await hooks.find(app.pool, name, app.settings.project)
        perform = notify.HANDLERS.get(hook.kind)
        if perform is None:
            raise UsageError(f'"{hook.kind}" is performed by your own workers; there is nothing to try here',
                             code="U358", safe="nothing was enqueued")  # fmt: skip
        try:
            result, error = await perform(await _sample(app, hook), app), None
        except TaskError as problem:
            result, error = {}, problem
    if as_json:
        told = {"code": error.code, "message": error.message, "hint": error.hint} if error else None
        print_json("hook_test", name=name, ok=error is None, result=result, error=told)
    elif error is None:
        say(f"{name}: sent ({', '.join(f'{key} {value}' for key, value in result.items())})")
    if error is not None and not as_json:
        from gristmill.cli import show

        show(error)
    return 1 if error else 0


async def _sample(app: App, hook: Hook) -> dict[str, Any]:
    """A payload like those of real events, about the run that was started last, if there is one."""
    from gristmill.engine import events, hooks

    row = await app.pool.fetchrow(hooks.SQL["sample"], app.settings.project)
    name = next((n for n in events.CATALOGUE if any(events.matches(p, n) for p in hook.events)), "run.end")
    body = {"state": "completed", "epoch": 1} if name == "run.end" else {"message": "this is a test", "cause": "a test"}
    event = {
        "seq": 0, "name": name, "run_id": row["run_id"], "item_id": None, "task_id": None,
        "worker_id": None, "at": row["at"].isoformat(), "body": {**body, "test": True},
    }  # fmt: skip
    sample = {name: value for name, value in hook.options.items() if name != "every"}
    return {"event": event, "options": sample, "hook": {"id": hook.id, "name": hook.name}}


def _what(hook: Hook) -> str:
    """In words, without the parts of a URL that may be secret."""
    from gristmill import notify
    from gristmill.webhook import check_url

    if hook.kind == notify.WEBHOOK:
        url = hook.options.get("url", "")
        return f"webhook {url if notify.REFERENCE.fullmatch(url) else check_url(url)[2]}"
    if hook.kind == notify.EMAIL:
        return f"e-mail to {', '.join(hook.options.get('to', ()))}"
    return f"task {hook.kind}"


def _document(hook: Hook) -> dict[str, Any]:
    return {
        "name": hook.name, "what": _what(hook), "events": list(hook.events), "kind": hook.kind, "pool": hook.pool,
        "of_run": hook.of_run, "run": hook.run_id, "created_at": hook.created_at.isoformat(),
    }  # fmt: skip


def _attempt(row: Any) -> dict[str, Any]:
    event = json.loads(row["payload"]).get("event", {})
    return {
        "task": row["task_id"], "event": event.get("name"), "seq": event.get("seq"), "state": row["state"],
        "attempts": row["attempts"], "code": row["code"], "message": row["message"],
    }  # fmt: skip
