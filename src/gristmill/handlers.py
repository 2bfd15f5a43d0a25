"""Performs tasks that are no operator's: small functions of this package, such as `run.start` and `notify.webhook`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg

from gristmill.engine.performer import Outcome
from gristmill.engine.retry import Policy
from gristmill.engine.task import NewTask, Task
from gristmill.errors import InputError

Handler = Callable[[dict[str, Any], Any], Awaitable[dict[str, Any]]]


class Handlers:
    """The engine's `Performer` for handlers: kind -> async function of the payload and `context` (the App)."""

    isolates = True

    def __init__(self, handlers: Mapping[str, Handler], context: Any, policy: Policy | None = None) -> None:
        self._handlers = handlers
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
        return []
