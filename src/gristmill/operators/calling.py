"""Calling an operator: its function gets what it declares, and what it returns is what it declares."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel

from gristmill.data.kinds import kind_of
from gristmill.engine.threads import bearable, in_thread
from gristmill.errors import InputError, UsageError
from gristmill.operators.operator import Context, Derived, Operator
from gristmill.operators.signatures import Ancestor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Produced:
    """One output as the engine saves it: `parents` are positions in the list of inputs."""

    body: BaseModel
    parents: tuple[int, ...]


async def together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of them return, in order. The first that fails says what to do (wait, retry, give up): its error is
    raised as it is, and the others are cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            under_way = [group.create_task(call) for call in calls]
    except ExceptionGroup as problems:
        raise problems.exceptions[0] from None
    return [one.result() for one in under_way]


def find_ancestors(made: Operator, family: Iterable[T], kind: Callable[[T], str]) -> dict[str, list[T]]:
    """What the operator asks for by parameter name, out of what its input came from, the nearest first.

    Raises `InputError` T210 when one that must be there is missing.
    """
    members = list(family)
    found: dict[str, list[T]] = {}
    for name, wanted in made.ancestors.items():
        fitting = [member for member in members if kind(member) == wanted.kind]
        if not fitting and wanted.how == "one":
            raise InputError(f'"{made.name}" needs a {wanted.kind} above its input, and there is none', code="T210")
        found[name] = fitting if wanted.how == "all" else fitting[:1]
    return found


async def run_operator(
    made: Operator, inputs: Sequence[BaseModel], ancestors: Mapping[str, Sequence[BaseModel]],
    options: Mapping[str, Any], ctx: Context, *, threads: bool = True,
) -> list[Produced]:  # fmt: skip
    """Calls the operator and checks what it returned. A plain `def` runs in a thread; without `threads` right here.

    `ancestors` are those of `find_ancestors`; a name without any is one that may be missing.
    """
    kwargs: dict[str, Any] = dict(made.options_model.model_validate(dict(options)))
    kwargs |= {name: _argument(made, name, wanted, ancestors.get(name, ())) for name, wanted in made.ancestors.items()}
    if made.context_parameter is not None:
        kwargs[made.context_parameter] = ctx
    given = list(inputs) if made.barrier else inputs[0]
    if inspect.iscoroutinefunction(made.function):
        result = await _awaited(made.function(given, **kwargs), threads)
    elif threads:
        result = await in_thread(made.function, given, **kwargs)
    else:
        result = made.function(given, **kwargs)
    return _collect(made, result, len(inputs))


def _argument(made: Operator, name: str, wanted: Ancestor, found: Sequence[BaseModel]) -> Any:
    if wanted.how == "all":
        return list(found)
    if not found and wanted.how == "one":
        raise UsageError(f'operator "{made.name}" also needs a {wanted.type.__name__} ("{name}")')
    return found[0] if found else None


async def _awaited(coroutine: Any, in_worker: bool) -> Any:
    """A native extension that panics raises what is no `Exception`; inside of a worker it is the task's own failure."""
    try:
        return await coroutine
    except (Exception, asyncio.CancelledError, SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if not in_worker:
            raise
        raise bearable(error) from error


def _collect(made: Operator, result: Any, inputs: int) -> list[Produced]:
    if result is None:
        return []
    everything = tuple(range(inputs))
    produced: list[Produced] = []
    for entry in result if isinstance(result, list | tuple) else [result]:
        body, parents = (entry.body, entry.parents) if isinstance(entry, Derived) else (entry, everything)
        if not isinstance(body, made.output_types):
            wanted = " or ".join(cls.__name__ for cls in made.output_types)
            raise UsageError(f'operator "{made.name}" returned {type(body).__name__}, it declares {wanted}')
        if any(not 0 <= position < inputs for position in parents):
            raise UsageError(f'operator "{made.name}" named a parent outside of its {inputs} inputs')
        produced.append(Produced(body, tuple(parents)))
    return produced


def parse_body(types: Sequence[type[BaseModel]], kind: str, text: str) -> BaseModel:
    """A stored body back as its type; raises `UsageError` when no type in `types` has that kind."""
    for cls in types:
        if kind_of(cls) == kind:
            return cls.model_validate_json(text)
    raise UsageError(f'no type for a record of kind "{kind}"')
