"""What a caller asks for, checked at the door, until it becomes a row of the queue."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict

from gristmill.engine import tracing
from gristmill.engine.functions import OPTIONS, TaskFunction
from gristmill.engine.lock_keys import check_key
from gristmill.engine.queue import NewTask
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.engine.library import Engine

LONGEST = 100 * 365 * 86_400.0  # seconds


class Options(TypedDict, total=False):
    """What `enqueue` takes beside the arguments of the function.

    `run_at` (aware datetime) or `delay` (seconds): not before then. `expires` (seconds): fails if it has not ended by
    then. `key`: of all tasks of this function in one run with this key, one is made. `after`: runs when these tasks
    have completed. `lock`: runs only while it holds one of the `lock_slots` slots of this key, for example
    `lock_key("printer", "hall")`. `priority`: lower goes first. `attempts`, `timeout` (seconds an attempt) and `pool`
    replace those of the function.
    """

    run_at: datetime | None
    delay: float
    key: str | None
    after: Sequence[TaskHandle | int]
    lock: str | None
    lock_slots: int | None
    priority: int | None
    timeout: float | None
    expires: float | None
    attempts: int | None
    pool: str | None


class TaskHandle:
    """A task that was enqueued. `id` is None until the block or the function that asked for it has ended."""

    def __init__(self, engine: Engine, task_id: int | None = None) -> None:
        self._engine = engine
        self.id = task_id

    def __await__(self) -> Generator[None, None, TaskHandle]:
        """Nothing to wait for: lets `await batch.enqueue(...)` read like `await engine.enqueue(...)`."""
        return self
        yield

    def __repr__(self) -> str:
        return f"<task {self.id}>"

    async def result(self, wait: float = 0.0) -> Any:
        """As `Engine.result`."""
        return await self._engine.result(self, wait)

    async def cancel(self) -> bool:
        """As `Engine.cancel`."""
        return await self._engine.cancel(self)

    async def why(self) -> str:
        """As `Engine.why`."""
        return await self._engine.why(self)


@dataclass(frozen=True, slots=True)
class Order:
    """A task to be made: the function, its arguments as JSON, and options that were found good."""

    made: TaskFunction
    payload: str
    options: Options

    def task(self, run_id: int) -> NewTask:
        """The row, once the tasks it waits for have ids."""
        made, given = self.made, self.options
        pick = _pick(given)
        key = given.get("key")
        return NewTask(
            run_id, made.name, pick("pool", made.pool), self.payload, delay=given.get("delay", 0.0),
            run_at=given.get("run_at"), max_attempts=pick("attempts", made.attempts), max_crashes=made.crashes,
            priority=pick("priority", made.priority), timeout=pick("timeout", made.timeout),
            expires=given.get("expires"), lock=pick("lock", made.lock), lock_slots=pick("lock_slots", made.lock_slots),
            key=None if key is None else hashlib.sha256(f"{made.name}\0{key}".encode()).digest(),
            trace=tracing.current(), after=tuple(task_id(entry) for entry in given.get("after", ())),
        )  # fmt: skip


def _pick(given: Options) -> Callable[[str, Any], Any]:
    def pick(name: str, otherwise: Any) -> Any:
        value = given.get(name)
        return otherwise if value is None else value

    return pick


def task_id(task: TaskHandle | int) -> int:
    """The id of a handle or the number itself. Raises `UsageError` U533 for what is not enqueued yet."""
    number = task.id if isinstance(task, TaskHandle) else task
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 2**63:
        raise UsageError(f"{task!r} is no task that was enqueued", code="U533",
                         hint="pass what enqueue returned, or its id")  # fmt: skip
    return number


def order(made: TaskFunction, positional: Sequence[Any], keywords: Mapping[str, Any]) -> Order:
    """Tells options from arguments and checks both. Raises `UsageError` U520 to U532; nothing is stored then."""
    options = check_options(made.name, {name: value for name, value in keywords.items() if name in OPTIONS})  # type: ignore[arg-type]
    named = {name: value for name, value in keywords.items() if name not in OPTIONS}
    return Order(made, made.bind(positional, named), options)


def check_options(name: str, options: Options) -> Options:
    """The options, if they make sense. Raises `UsageError` U531 (a bad value) or U532 (two are at odds)."""
    run_at = options.get("run_at")
    if run_at is not None and (not isinstance(run_at, datetime) or run_at.tzinfo is None):
        raise _bad(name, "run_at", run_at, "a datetime with a time zone", "datetime.now(UTC) + timedelta(hours=1)")
    if run_at is not None and options.get("delay"):
        raise UsageError(f'task "{name}": run_at and delay both say when', code="U532", hint="give one of them")
    for option, least in (("delay", 0.0), ("timeout", 1e-3), ("expires", 1e-3)):
        value = options.get(option)
        if value is not None and not (_is_number(value) and least <= value <= LONGEST):  # type: ignore[operator]
            raise _bad(name, option, value, "seconds, at most a hundred years", f"{option}=30")
    for option, least, most in (("priority", -1000, 1000), ("attempts", 1, 1000), ("lock_slots", 1, 1000)):
        value = options.get(option)
        if value is not None and not (type(value) is int and least <= value <= most):
            raise _bad(name, option, value, f"a whole number from {least:.0f} to {most}", f"{option}=1")
    for option in ("key", "lock", "pool"):
        value = options.get(option)
        if value is not None and not _is_name(value):
            raise _bad(name, option, value, "text of 1 to 200 characters without NUL", f'{option}="mail"')
    if options.get("lock") is not None:
        check_key(str(options["lock"]))
    after = options.get("after", ())
    if isinstance(after, str | TaskHandle | int) or not all(isinstance(entry, TaskHandle | int) for entry in after):
        raise _bad(name, "after", after, "a list of tasks", "after=[first, second]")
    return options


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 200 and "\x00" not in value and value.isprintable()


def _bad(name: str, option: str, value: Any, wanted: str, example: str) -> UsageError:
    return UsageError(f'task "{name}": {option} is {value!r:.80}, and has to be {wanted}', code="U531",
                      safe="nothing was enqueued", hint=f"for example {example}")  # fmt: skip
