"""Asserts on what was enqueued, whatever has become of it since."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from gristmill.db.statements import statements
from gristmill.engine.library import Engine
from gristmill.engine.orders import TaskHandle

SQL = statements("testing")
MOST_SHOWN = 5


async def assert_enqueued(engine: Engine, function: str | Callable[..., Any], /, **arguments: Any) -> list[TaskHandle]:
    """The tasks of this function that have (at least) these arguments, in any state; fails when there are none.

    The message shows what came nearest. `len(await assert_enqueued(...))` says how many there are.
    """
    made = engine.tasks.find(function)
    rows = await engine.pool.fetch(SQL["of_kinds"], [made.name, *made.aliases])
    found = [row["id"] for row in rows if _fits(json.loads(row["payload"]), arguments)]
    if found:
        return [TaskHandle(engine, number) for number in found]
    wanted = f"no task {made.name}({_shown(arguments)}) was enqueued"
    if rows:
        near = sorted(rows, key=lambda row: len(_differences(json.loads(row["payload"]), arguments)))[:MOST_SHOWN]
        lines = [
            f"  task {row['id']} ({row['state']}): {'; '.join(_differences(json.loads(row['payload']), arguments))}"
            for row in near
        ]
        raise AssertionError("\n".join([f"{wanted}; the nearest of {len(rows)}:", *lines]))
    kinds = ", ".join(f"{row['kind']} ({row['tasks']})" for row in await engine.pool.fetch(SQL["kinds_enqueued"]))
    raise AssertionError(f"{wanted}, nor any other of it; there are: {kinds or 'no tasks at all'}")


async def refute_enqueued(engine: Engine, function: str | Callable[..., Any], /, **arguments: Any) -> None:
    """Fails when there is a task of this function with these arguments, in any state."""
    made = engine.tasks.find(function)
    for row in await engine.pool.fetch(SQL["of_kinds"], [made.name, *made.aliases]):
        if _fits(json.loads(row["payload"]), arguments):
            raise AssertionError(
                f"task {row['id']} ({row['state']}) is {made.name}({_shown(json.loads(row['payload']))})"
            )


_MISSING = object()


def _fits(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return not _differences(stored, wanted)


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What is other than wanted, one phrase each; tuples count as the lists that they are stored as."""
    found = []
    for name, value in wanted.items():
        have = stored.get(name, _MISSING)
        if have is _MISSING:
            found.append(f"{name} was not given")
        elif have != json.loads(json.dumps(value, default=repr)):
            found.append(f"{name}={have!r:.100} instead of {value!r:.100}")
    return found


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r:.100}" for name, value in arguments.items())
