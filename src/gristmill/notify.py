"""What the built-in hooks do: a POST to a URL, or an e-mail. Both run as tasks, so both are sent at least once.

`HANDLERS` says which kind of task is performed by what. A handler takes the payload that `engine/hooks.py` made and
returns what to keep as its result. It raises `TransientError` when a later attempt may succeed, and `InputError` when
none can.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any, Protocol

import asyncpg

from gristmill.config import Settings
from gristmill.db.statements import statements
from gristmill.errors import InputError, TransientError, UsageError

SQL = statements("hooks")
WEBHOOK, EMAIL = "notify.webhook", "notify.email"
REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/.+")
_ADDRESS = re.compile(r"[^@\s,;:<>\"()\\]+@[^@\s,;:<>\"()\\]+")

RUN_ENDED = Template("""\
The run $run (workflow $workflow) is $state after $time.

  $completed tasks completed, $failed failed, $cancelled cancelled
  $unreadable inputs could not be read
$next""")
OTHER = Template("""\
$sentence
$more$next""")


class Context(Protocol):
    """What a handler needs of the process that runs it."""

    @property
    def pool(self) -> asyncpg.Pool[Any]: ...

    @property
    def settings(self) -> Settings: ...


Handler = Callable[[dict[str, Any], Context], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Notification:
    """What is to be told. `key` (32 hex digits) is the same for every attempt: receivers tell repeats by it.

    `run` has id, name, workflow, project, state, epoch, seconds, counts and unreadable, as they are now; None for what
    belongs to no run. `more` is how many events of the same name and run have followed since.
    """

    key: str
    hook: str
    event: Mapping[str, Any]
    run: Mapping[str, Any] | None
    more: int = 0

    @property
    def sentence(self) -> str:
        """One line for people."""
        body, run = self.event["body"], self.run["name"] if self.run else ""
        match self.event["name"]:
            case "run.end":
                counts = self.fields
                return f"{run} is {body.get('state')}: {counts['completed']} done, {counts['failed']} failed"
            case "worker.died":
                return (
                    f"worker {self.event['worker_id']} died: {body.get('cause')}; "
                    f"its {body.get('tasks', 0)} tasks were handed on"
                )
            case name:
                said = body.get("message") or body.get("cause") or ""
                return " ".join(f"{run or 'gristmill'}: {name}{': ' if said else ''}{said}".split())[:500]

    @property
    def fields(self) -> dict[str, Any]:
        """What templates may name; besides these $sentence, $more and $next (what to do now)."""
        run = self.run or {}
        counts: Mapping[str, int] = run.get("counts", {})
        failed = counts.get("failed", 0) + counts.get("quarantined", 0)
        seconds = round(run.get("seconds", 0))
        return {
            "event": self.event["name"], "hook": self.hook, "run": run.get("name", ""),
            "workflow": run.get("workflow", ""), "state": self.event["body"].get("state") or run.get("state", ""),
            "completed": counts.get("completed", 0), "failed": failed, "cancelled": counts.get("cancelled", 0),
            "unreadable": run.get("unreadable", 0), "time": f"{seconds // 60} min {seconds % 60} s",
        }  # fmt: skip

    def render(self, template: Template) -> str:
        """The template with the fields filled in; what it names and we do not know stays as it is."""
        fields = self.fields
        more = f"\nThe same has happened {self.more} times since.\n" if self.more else ""
        return template.safe_substitute(fields, sentence=self.sentence, more=more, next=self._next(fields))

    def _next(self, fields: Mapping[str, Any]) -> str:
        lines = []
        if fields["run"]:
            if fields["failed"] or fields["unreadable"]:
                lines.append(f"gristmill why {fields['run']}      what failed, grouped by cause")
                lines.append(f"gristmill retry {fields['run']}    try that once more")
            if self.event["name"] == "run.end" and fields["completed"]:
                lines.append(f"gristmill export {fields['run']}   write the dataset")
        elif self.event["name"] == "worker.died":
            lines.append("gristmill doctor   check database, models, disk and settings")
        return "\nWhat to do next:\n  " + "\n  ".join(lines) + "\n" if lines else ""

    def document(self) -> dict[str, Any]:
        """What a webhook is sent, as JSON values."""
        return {
            "id": self.key, "type": self.event["name"], "timestamp": self.event["at"], "text": self.sentence,
            "data": {"event": dict(self.event), "run": dict(self.run) if self.run else None, "hook": self.hook,
                     "more": self.more},
        }  # fmt: skip


async def read(payload: Mapping[str, Any], pool: asyncpg.Pool[Any]) -> Notification:
    """The notification of a hook's task. Raises `InputError` N201 for a payload that no hook made."""
    try:
        event, hook = payload["event"], payload["hook"]
        key = hashlib.sha256(f"{hook['id']} {event['seq']} {event['at']}".encode()).hexdigest()[:32]
        run_id, name, seq = event["run_id"], event["name"], event["seq"]
        every = bool(payload.get("options", {}).get("every"))
    except (KeyError, TypeError) as error:
        raise InputError(f"this is no payload of a hook: {error!r} is missing", code="N201") from None
    row = await pool.fetchrow(SQL["told_run"], run_id) if run_id is not None else None
    run = None
    if row is not None:
        run = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}
        run["counts"] = json.loads(row["counts"])
    more = await pool.fetchval(SQL["more_events"], seq, name, run_id) if every else 0
    return Notification(key, hook["name"], event, run, more)


def reveal(reference: str) -> str:
    """The secret that `env:NAME` or `file:/path` stands for, without white space around it.

    Raises `TransientError` N310 when it is not there: another worker may have it, or this one after a restart.
    """
    kind, _, place = reference.partition(":")
    try:
        found = os.environ.get(place, "") if kind == "env" else Path(place).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TransientError(f"the secret in {reference} cannot be read: {error}", code="N310") from None
    if not found.strip():
        raise TransientError(f"the secret in {reference} is not set where this worker runs", code="N310")
    return found.strip()


def check_reference(text: str, what: str) -> str:
    """Raises `UsageError` U355 for what is not `env:NAME` or `file:/path`; never shows it."""
    if not REFERENCE.fullmatch(text):
        raise UsageError(
            f"{what} has to be env:NAME or file:/path", code="U355", safe="nothing was stored",
            hint="secrets are never stored: name the variable or the file that holds it",
        )  # fmt: skip
    return text


def webhook_options(
    url: str, *, secret: str | None = None, private: bool = False, timeout: float = 10.0, every: float = 0.0
) -> dict[str, Any]:
    """Options of a webhook. `url`: http(s), or a reference when it is a secret itself; `secret` is a reference.

    `private` allows addresses of this machine and network; `timeout` is in seconds for the whole call. Raises
    `UsageError` U354 (the URL) or U355.
    """
    from gristmill.webhook import check_url

    if not REFERENCE.fullmatch(url):
        check_url(url)
    if not 1 <= timeout <= 120:
        raise UsageError("the timeout of a webhook is 1 to 120 seconds", code="U354")
    made: dict[str, Any] = {"url": url, "timeout": timeout}
    if secret is not None:
        made["secret"] = check_reference(secret, "the secret of a webhook")
    if private:
        made["private"] = True
    return made | ({"every": every} if every else {})


def email_options(
    to: Sequence[str], *, subject: str | None = None, text: str | None = None, every: float = 0.0
) -> dict[str, Any]:
    """Options of an e-mail to 1 to 20 addresses; `subject` and `text` are templates (`Notification.fields`).

    Raises `UsageError` U356 for what is no address.
    """
    for address in to:
        if not _ADDRESS.fullmatch(address) or not address.isascii():
            raise UsageError(f'"{address[:200]}" is no e-mail address', code="U356", hint="name@example.org")
    if not 1 <= len(to) <= 20:
        raise UsageError("an e-mail hook has 1 to 20 addresses", code="U356")
    given = {"subject": subject, "text": text, "every": every}
    return {"to": list(to)} | {name: value for name, value in given.items() if value}


async def _webhook(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    from gristmill.webhook import post

    notification = await read(payload, context.pool)
    options = payload["options"]
    url = reveal(options["url"]) if REFERENCE.fullmatch(options["url"]) else options["url"]
    secret = reveal(options["secret"]) if options.get("secret") else None
    status = await post(
        url, json.dumps(notification.document(), ensure_ascii=False).encode("utf-8", "replace"), notification.key,
        secret=secret, private=bool(options.get("private")), timeout=float(options.get("timeout", 10.0)),
    )  # fmt: skip
    return {"status": status}


async def _email(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    from gristmill.mail import send

    notification = await read(payload, context.pool)
    options, ended = payload["options"], notification.event["name"] == "run.end" and notification.run is not None
    subject = notification.render(Template(options.get("subject") or "[gristmill] $sentence"))
    text = notification.render(Template(options["text"]) if options.get("text") else RUN_ENDED if ended else OTHER)
    settings = context.settings
    password = reveal(settings.smtp_password) if settings.smtp_user and settings.smtp_password else None
    refused = await send(settings, options["to"], subject, text, notification.key, password)
    return {"accepted": len(options["to"]) - len(refused), "refused": refused}


HANDLERS: Mapping[str, Handler] = MappingProxyType({WEBHOOK: _webhook, EMAIL: _email})
