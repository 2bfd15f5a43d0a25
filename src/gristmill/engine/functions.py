"""The functions of the bare engine: what is known about them, and their arguments, checked before they are stored."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from gristmill.engine.child_limits import Limits
from gristmill.engine.retry import DEFAULT, Policy, Rule
from gristmill.errors import UsageError

MOST_BYTES = 256 * 1024  # of a task's arguments as JSON
DEEPEST = 64
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,99}")
# Words of `enqueue` itself; a function with such a parameter could never be given it by name. Meanings: orders.Options
OPTIONS = frozenset({
    "run_at", "delay", "key", "after", "lock", "lock_slots", "priority", "timeout", "expires", "attempts", "pool",
    "connection",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class TaskFunction:
    """A registered function. `name` is what tasks store; `aliases` are names that stored tasks may still bear.

    `timeout` is seconds, `policy` says how failures are charged. `process`: in a child process, with these limits.
    `here` False: only enqueued here, performed by other processes.
    """

    function: Callable[..., Any]
    name: str
    aliases: tuple[str, ...] = ()
    pool: str = "*"
    attempts: int = 5
    crashes: int = 3
    timeout: float | None = None
    priority: int = 0
    lock: str | None = None
    lock_slots: int = 1
    policy: Policy = DEFAULT
    process: Limits | None = None
    here: bool = True
    context: str | None = None  # the parameter that takes the `TaskContext`

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    @property
    def importable(self) -> bool:
        """Whether another process can find the function again by its module and name."""
        return "<" not in self.function.__qualname__

    def bind(self, positional: Sequence[Any], named: Mapping[str, Any]) -> str:
        """The arguments as JSON text, by name. Raises `UsageError` U520 (they do not fit) to U523."""
        wanted = signature_of(self.function, self.context)
        try:
            bound = wanted.bind(*positional, **named)
        except TypeError as error:
            unknown = [name for name in named if name not in wanted.parameters]
            known = [*wanted.parameters, *OPTIONS]
            near = difflib.get_close_matches(unknown[0], known, 1) if unknown else []
            raise UsageError(
                f'task "{self.name}": {error}', code="U520", safe="nothing was enqueued",
                hint=f'did you mean "{near[0]}"?' if near else f"its arguments: {self.name}{wanted}",
            ) from None  # fmt: skip
        arguments = dict(bound.arguments)
        for parameter in wanted.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(parameter.name, {}))
        return to_json(arguments, f'task "{self.name}"')


@lru_cache(maxsize=1000)
def signature_of(function: Callable[..., Any], context: str | None) -> inspect.Signature:
    """What callers have to give: everything but the context."""
    signature = inspect.signature(function)
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.name != context])


class Registry:
    """All functions of one engine, by name, alias and function."""

    def __init__(self) -> None:
        self._by_name: dict[str, TaskFunction] = {}
        self._by_function: dict[Any, TaskFunction] = {}

    def add(self, made: TaskFunction) -> None:
        """Raises `UsageError` U510 to U513 when the function cannot be a task, or its name is taken."""
        for name in (made.name, *made.aliases):
            if not _NAME.fullmatch(name):
                raise UsageError(f'"{name}" is no name for a task', code="U510",
                                 hint="1 to 100 letters, digits and _ . : / -")  # fmt: skip
            taken = self._by_name.get(name)
            if taken is not None and not _same(taken.function, made.function):
                raise UsageError(f'the name "{name}" is already taken by {_place(taken.function)}', code="U511",
                                 hint="give this task another name")  # fmt: skip
        _check_parameters(made)
        if made.process is not None and not made.importable:
            raise UsageError(f'task "{made.name}" cannot run in a process of its own: it is inside another function',
                             code="U513", hint="move it to the top level of its module")  # fmt: skip
        for name in (made.name, *made.aliases):
            self._by_name[name] = made
        self._by_function[made.function] = made

    def find(self, wanted: str | Callable[..., Any]) -> TaskFunction:
        """By name, alias or function. Raises `UsageError` U501 with the nearest name."""
        found = self._by_name.get(wanted) if isinstance(wanted, str) else self._by_function.get(wanted)
        if found is not None:
            return found
        if not isinstance(wanted, str):
            raise UsageError(f"{_place(wanted)} is no task of this engine", code="U501", safe="nothing was enqueued",
                             hint='put @engine.task("a-name") on it')  # fmt: skip
        near = difflib.get_close_matches(wanted, self._by_name, 1)
        known = ", ".join(sorted(self._by_name)) or "none"
        raise UsageError(
            f'there is no task "{wanted}"', code="U501", safe="nothing was enqueued",
            hint=f'did you mean "{near[0]}"?' if near else f"known: {known}; import the module that registers it",
        )  # fmt: skip

    def kinds(self) -> list[str]:
        """The names and aliases that workers of this process may claim."""
        return sorted(name for name, made in self._by_name.items() if made.here)

    def all(self) -> list[TaskFunction]:
        return list(self._by_function.values())


def _check_parameters(made: TaskFunction) -> None:
    for parameter in inspect.signature(made.function).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise UsageError(f'task "{made.name}": parameter "{parameter.name}" cannot be given by name', code="U512",
                             hint="arguments are stored by name: no * and no / in the signature")  # fmt: skip
        if parameter.name in OPTIONS:
            raise UsageError(f'task "{made.name}": parameter "{parameter.name}" is also an option of enqueue',
                             code="U512", hint="rename the parameter")  # fmt: skip


def policy_of(name: str, timeout: float | None, retry: Policy | Mapping[str, Any] | None) -> Policy:
    """How failures are charged. `retry` maps the names of error classes to "retry", "fail", "snooze" or a `Rule`, and
    may give "backoff" and "longest" in seconds. Raises `UsageError` U514."""
    if isinstance(retry, Policy):
        return replace(retry, timeout=timeout if timeout is not None else retry.timeout)
    given = dict(retry or {})
    times = {key: given.pop(key) for key in ("backoff", "longest") if key in given}
    for key, value in times.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 86_400:
            raise UsageError(f'task "{name}": retry["{key}"] is {value!r}, and has to be seconds, at most a day',
                             code="U514", hint='retry={"backoff": 2, "longest": 60}')  # fmt: skip
    rules: dict[str, Rule] = {}
    for error, rule in given.items():
        if not error.isidentifier() or not (isinstance(rule, Rule) or rule in ("retry", "fail", "snooze")):
            raise UsageError(f'task "{name}": retry[{error!r}] is {rule!r}', code="U514",
                             hint='name an error class, and "retry", "fail", "snooze" or a Rule')  # fmt: skip
        rules[error] = rule if isinstance(rule, Rule) else Rule(rule)
    return Policy(timeout=timeout, rules=rules, **times)


def context_parameter(function: Callable[..., Any], context: type) -> str | None:
    """The name of the parameter that is annotated with the context's type; also when annotations are text."""
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # an annotation that exists for type checkers only
        hints = dict(getattr(function, "__annotations__", {}))
    for name, hint in hints.items():
        if hint is context or (isinstance(hint, str) and hint.split(".")[-1] == context.__name__):
            return str(name)
    return None


def to_json(value: Any, where: str, most: int = MOST_BYTES) -> str:
    """JSON text of a value that comes back as the very same value.

    Raises `UsageError` U521 (not JSON: says which part), U522 (too deep) or U523 (over `most` bytes).
    """
    problem = _problem(value, "", 0)
    if problem is not None:
        place, what = problem
        raise UsageError(f"{where}: {place.lstrip('.') or 'the value'} {what}",
                         code="U522" if "deep" in what else "U521", safe="nothing was stored",
                         hint="send plain data: text, numbers, true, false, null, lists, dicts")  # fmt: skip
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if (size := len(text.encode())) > most:
        raise UsageError(f"{where}: {size / 1024:.0f} KiB of JSON, over the limit of {most // 1024} KiB", code="U523",
                         safe="nothing was stored", hint="store the data elsewhere and send its key")  # fmt: skip
    return text


def _problem(value: Any, place: str, depth: int) -> tuple[str, str] | None:
    """(where, what) of the first part that JSON or the database cannot take."""
    if depth > DEEPEST:
        return place, f"is over {DEEPEST} levels deep"
    if isinstance(value, str):
        return _text_problem(value, place)
    if value is None or type(value) in (bool, int):
        return None
    if type(value) is float:
        return None if math.isfinite(value) else (place, f"is {value}, which JSON does not know")
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                return place, f"has the key {key!r}; keys are text in JSON"
            found = _text_problem(key, f"{place}.{key[:40]!r}") or _problem(part, f"{place}.{key}", depth + 1)
            if found is not None:
                return found
        return None
    if isinstance(value, list | tuple):
        return next((p for n, part in enumerate(value) if (p := _problem(part, f"{place}[{n}]", depth + 1))), None)
    return place, f"is {type(value).__name__}, which JSON does not know"


def _text_problem(text: str, place: str) -> tuple[str, str] | None:
    if "\x00" in text:
        return place, "contains a NUL character, which PostgreSQL does not take"
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        return place, "contains half of a surrogate pair, which is no text"
    return None


def _same(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """The same function, or the same line of code loaded again."""
    return one is other or _place(one) == _place(other)


def _place(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
