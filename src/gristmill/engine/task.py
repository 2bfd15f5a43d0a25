"""What a task is before, during and after its claim; and what is refused before it is ever stored."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple, NoReturn

from gristmill.engine import tracing
from gristmill.errors import UsageError

LARGEST_PAYLOAD = 256 * 1024  # bytes; larger things are blobs or records, and a task names them
DEEPEST_PAYLOAD = 64  # levels; a driver or a JSON reader that gives up at depth must not do so in a claim
LARGEST_NAME = 200  # characters of a kind, a pool or a lock


class NewTask(NamedTuple):
    """A task to enqueue. `payload` is JSON text of at most 256 KiB; lower `priority` first.

    `run_at` (aware) or `delay` (seconds) say when at the earliest; `expires` (seconds) by when it must have ended.
    Of two tasks of a run with the same `key`, one is made. `after` are ids of tasks that must have completed first.
    It runs only while it holds one of the `lock_slots` slots of `lock`. `timeout` (seconds) bounds each attempt;
    None: its operator's. `trace` is a W3C trace context.
    """

    run_id: int
    kind: str
    pool: str = "*"
    payload: str = "{}"
    item_id: int | None = None
    step: int = 0
    delay: float = 0.0
    max_attempts: int = 5
    max_crashes: int = 3
    priority: int = 0
    run_at: datetime | None = None
    key: bytes | None = None
    after: tuple[int, ...] = ()
    timeout: float | None = None
    expires: float | None = None
    lock: str | None = None
    lock_slots: int = 1
    trace: str | None = None

    @property
    def waits(self) -> bool:
        """Whether it needs others to have completed."""
        return bool(self.after)

    def check(self) -> None:
        """Raises `UsageError` U400 for what must not get into the queue: nothing was stored then."""
        _check_name("kind", self.kind)
        _check_name("pool", self.pool)
        if self.run_at is not None and self.run_at.tzinfo is None:
            _refuse(f'"{self.kind}": run_at has no time zone', "datetime.now(UTC) + timedelta(...)")
        if self.max_attempts < 1 or self.max_crashes < 1 or self.lock_slots < 1:
            _refuse(f'"{self.kind}": max_attempts, max_crashes and lock_slots count from 1')
        if any(seconds is not None and not 0 <= seconds < 1e9 for seconds in (self.delay, self.timeout, self.expires)):
            _refuse(f'"{self.kind}": delay, timeout and expires are seconds, and not negative')
        check_each((self,))


# What tasks have in common that are made by one statement, in the order of its parameters.
_alike = attrgetter(
    "run_id", "step", "kind", "pool", "priority", "max_attempts", "max_crashes", "timeout", "lock_slots", "waits",
    "run_at", "delay", "expires",
)  # fmt: skip


def check_each(tasks: Sequence[NewTask]) -> None:
    """The part of `NewTask.check` that has to look at every task of a group. Raises `UsageError` U400."""
    for task in tasks:
        if task.lock is not None:
            _check_name("lock", task.lock)
        if task.trace is not None and not tracing.valid(task.trace):
            _refuse(f'"{task.kind}": {task.trace[:60]!r} is no W3C trace context', "tracing.current() gives one")
        if task.payload != "{}":
            check_payload(task.kind, task.payload)


def _check_name(what: str, text: str) -> None:
    if not text or len(text) > LARGEST_NAME or not text.isprintable():
        _refuse(f"{text[:50]!r} is no name of a {what}", f"1 to {LARGEST_NAME} characters that can be printed")


def check_payload(kind: str, payload: str) -> None:
    """Raises `UsageError` U400 when `payload` is not JSON that every reader can take."""
    if len(payload) > LARGEST_PAYLOAD // 4 and len(payload.encode("utf-8", "replace")) > LARGEST_PAYLOAD:
        _refuse(f'"{kind}": the payload is larger than {LARGEST_PAYLOAD // 1024} KiB', "store it and hand over its id")
    if payload.count("[") + payload.count("{") > DEEPEST_PAYLOAD and _depth(payload) > DEEPEST_PAYLOAD:
        _refuse(f'"{kind}": the payload is nested deeper than {DEEPEST_PAYLOAD} levels')
    try:
        value = json.loads(payload, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        _refuse(f'"{kind}": the payload is not JSON: {error}')
    if "\x00" in payload or "\\u" in payload:
        plain = json.dumps(value, ensure_ascii=False)
        if "\\u0000" in plain.replace("\\\\", ""):
            _refuse(f'"{kind}": the payload holds a NUL character', "take it out: PostgreSQL cannot store it")
        payload = plain
    try:
        payload.encode()
    except UnicodeEncodeError:
        _refuse(f'"{kind}": the payload holds half of a surrogate pair', "text.encode('utf-8', 'replace').decode()")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _depth(payload: str) -> int:
    """How deeply lists and objects are nested, brackets inside of strings left out."""
    deepest = depth = 0
    for mark in re.sub(r'"(?:[^"\\]|\\.)*"', "", payload):
        if mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "]}":
            depth -= 1
    return deepest


def _refuse(message: str, hint: str = "") -> NoReturn:
    raise UsageError(message, code="U400", hint=hint, safe="nothing was enqueued")


class Task(NamedTuple):
    """A claimed task. `token` is the right to finish it; `fence` grows with every claim of the whole database.

    `remaining` are the seconds until its deadline at the moment of the claim. `detail` says which events are told: 0
    the run's, 1 the items' too, 2 its own too.
    """

    id: int
    run_id: int
    item_id: int | None
    step: int
    kind: str
    pool: str
    seq: int
    payload: str
    attempt: int
    failures: int
    crashes: int
    token: uuid.UUID
    fence: int
    timeout: float | None = None
    remaining: float | None = None
    lock_key: str | None = None
    trace: str | None = None
    detail: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. `retry` False gives up at once; `backoff` and `longest` are seconds."""

    code: str
    error: str
    message: str
    retry: bool
    backoff: float = 1.0
    longest: float = 300.0

    @property
    def cause(self) -> bytes:
        """Failures with the same cause differ in numbers, quoted values and paths only (32 bytes)."""
        plain = re.sub(r"""\d+|"[^"]*"|'[^']*'|\S*/\S*""", "#", clean_text(self.message))
        return hashlib.sha256(f"{self.code}:{self.error}:{plain[:500]}".encode()).digest()


@dataclass(frozen=True, slots=True)
class Claimer:
    """Who claims: the id and the nonce of a live worker row."""

    id: int
    nonce: uuid.UUID


def clean_text(text: str, limit: int = 8000) -> str:
    """Text that PostgreSQL takes: no NUL, no lone surrogate, bounded."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")[:limit]


def grouped(tasks: Sequence[NewTask]) -> dict[tuple[Any, ...], list[int]]:
    """Places of tasks that one statement can make together."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    last: tuple[Any, ...] = ()
    group: list[int] = []
    for place, task in enumerate(tasks):
        alike = _alike(task)
        if alike != last:  # cheaper than a look-up: mostly they are the same objects
            last, group = alike, groups.setdefault(alike, [])
        group.append(place)
    return groups
