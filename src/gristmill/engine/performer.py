"""The one thing the engine asks of the rooms above it: perform this task, and save what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import asyncpg

from gristmill.engine.retry import Policy
from gristmill.engine.task import NewTask, Task
from gristmill.errors import TransientError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to. `name` is "ok", "empty" or "reused"; `value` is the performer's own."""

    name: str = "ok"
    value: Any = None


class Performer(Protocol):
    """Runs the operators of a process. One worker may have several, each with kinds of its own (`Performers`)."""

    @property
    def kinds(self) -> Sequence[str]:
        """Names of the operators that this process can run; it claims no others."""
        ...

    @property
    def isolates(self) -> bool:
        """Whether `alone` is heard: then a suspect is charged for the death of its child, not of its worker."""
        ...

    async def policy(self, task: Task) -> Policy:
        """How long an attempt may take, and what its errors mean. May raise what `perform` may."""
        ...

    async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
        """Runs the task's operator. `alone` asks for a process of its own: the task has killed its process before."""
        ...

    async def save(
        self, connection: asyncpg.Connection[Any], finished: Sequence[tuple[Task, Outcome]]
    ) -> Sequence[NewTask]:
        """Saves results inside the settling transaction and returns the tasks that follow."""
        ...


class Performers:
    """Several performers as one: each task goes to the one that knows its kind; the first wins."""

    def __init__(self, *performers: Performer) -> None:
        self._performers = performers
        self.isolates = all(performer.isolates for performer in performers)
        self.refresh()

    def refresh(self) -> None:
        """Asks each again what it knows."""
        self._of = {kind: performer for performer in reversed(self._performers) for kind in performer.kinds}
        self.kinds: Sequence[str] = sorted(self._of)

    async def policy(self, task: Task) -> Policy:
        return await self._of[task.kind].policy(task)

    async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
        return await self._of[task.kind].perform(task, alone=alone)

    async def save(
        self, connection: asyncpg.Connection[Any], finished: Sequence[tuple[Task, Outcome]]
    ) -> Sequence[NewTask]:
        following: list[NewTask] = []
        for performer in self._performers:
            mine = [entry for entry in finished if self._of[entry[0].kind] is performer]
            if mine:
                following.extend(await performer.save(connection, mine))
        return following


class ChildCrashed(TransientError):
    """The process that ran this task alone has died; the message says how. Charged as a crash, not as a failure."""

    code = "T500"
