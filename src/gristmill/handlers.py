"""Performs tasks that are no operator's: small functions of this package, such as `run.start` and `notify.webhook`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import asyncpg

from gristmill.db.statements import statements
from gristmill.engine.performer import Outcome
from gristmill.engine.retry import Policy
from gristmill.engine.task import NewTask, Task
from gristmill.errors import InputError

RESULTS = statements("library")
Handler = Callable[[dict[str, Any], Any], Awaitable[dict[str, Any]]]


class Handlers:
    """The engine's `Performer` for handlers: kind -> async function of the payload and `context` (the App). What those
    of the kinds in `kept` return is stored as the result of their task."""

    isolates = True

    def __init__(
        self, handlers: Mapping[str, Handler], context: Any, policy: Policy | None = None, kept: Collection[str] = ()
    ) -> None:
        self._handlers = handlers
        self._kept = kept
        self._context = context
        self._policy = policy or Policy()
        self.kinds: Sequence[str] = sorted(handlers)

    async def policy(self, task: Task) -> Policy:
        return self._policy

    async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
        """Raises what the handler raises.

        A task that has killed its process twice is not tried a third time: it cannot run in a process of its own, for a
        handler works with what the App holds open.
        """
        if alone:
            raise InputError(f"{task.kind} has died with its process {task.crashes} times", code="T322")
        return Outcome("ok", await self._handlers[task.kind](json.loads(task.payload), self._context))

    async def save(
        self, connection: asyncpg.Connection[Any], finished: Sequence[tuple[Task, Outcome]]
    ) -> Sequence[NewTask]:
        done = [(task, json.dumps(outcome.value)) for task, outcome in finished if task.kind in self._kept]
        if done:
            await connection.execute(
                RESULTS["save_results"], [task.id for task, _ in done], [task.token for task, _ in done],
                [value for _, value in done],
            )  # fmt: skip
        return []
