"""Performs the functions of the bare engine: calls them, keeps what they return, and enqueues what they ask for."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import asyncpg

from gristmill.db.statements import statements
from gristmill.engine.child_limits import Limits
from gristmill.engine.functions import TaskFunction, signature_of, to_json
from gristmill.engine.orders import TaskHandle, order
from gristmill.engine.performer import Outcome
from gristmill.engine.retry import Policy
from gristmill.engine.targets import find_target, target_of
from gristmill.engine.task import NewTask, Task
from gristmill.engine.threads import in_thread
from gristmill.errors import Busy, InputError

if TYPE_CHECKING:
    from gristmill.engine.children import Children
    from gristmill.engine.library import Engine

SQL = statements("library")
MOST_RESULT = 2**20  # bytes of JSON


class TaskContext:
    """What a function may ask about its own attempt: give it a parameter of this type, by any name.

    `attempt` counts from 1. `fence` grows with every claim: a store that remembers the highest one can refuse an older
    attempt that is still alive somewhere. `idempotency_key` is the same in all attempts of a task.
    """

    def __init__(self, engine: Engine | None, task: Task) -> None:
        self.task_id = task.id
        self.run_id = task.run_id
        self.attempt = task.attempt
        self.fence = task.fence
        self.idempotency_key = f"{task.run_id}-{task.id}"
        self.following: list[NewTask] = []
        self._engine = engine

    def enqueue(self, function: str | Callable[..., Any], *arguments: Any, **more: Any) -> TaskHandle:
        """A task that follows: it is made in the transaction that records this function's result, or not at all.

        Takes what `Engine.enqueue` takes except `connection`, needs no `await`, and belongs to the same batch.
        """
        if self._engine is None:
            raise InputError("a function in a process of its own cannot enqueue", code="T221",
                             hint="return what should follow; a function without process=True enqueues it")  # fmt: skip
        self.following.append(order(self._engine.tasks.find(function), arguments, more).task(self.run_id))
        return TaskHandle(self._engine)

    def snooze(self, seconds: float, reason: str = "snoozed") -> NoReturn:
        """Ends this attempt and asks for another one in `seconds`; neither a failure nor an attempt is charged."""
        raise Busy(reason, delay=float(seconds), reason=reason)


@dataclass(frozen=True, slots=True)
class Returned:
    """What an attempt brings home: its value as JSON text, and the tasks that follow."""

    value: str
    following: tuple[NewTask, ...] = ()


class FunctionPerformer:
    """The engine's `Performer` for plain functions: async ones in the loop, others in threads or child processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.kinds: Sequence[str] = engine.tasks.kinds()
        self.isolates = all(made.importable for made in engine.tasks.all() if made.here)
        self._children: Children | None = None

    async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
        """Calls the function. Raises what it raises; `InputError` T220 when its stored arguments fit no more."""
        made = self._engine.tasks.find(task.kind)
        context = TaskContext(self._engine, task)
        arguments = self._arguments(made, task, context)
        if made.process is not None or (alone and made.importable):
            return Outcome("ok", Returned(await self._in_child(made, task, alone)))
        if made.is_async:
            value = await made.function(**arguments)
        else:
            # The thread cannot be stopped: after a timeout it runs to its end, and what it returns is thrown away.
            value = await in_thread(made.function, **arguments)
        text = to_json(value, f'what task "{made.name}" returned', MOST_RESULT)
        return Outcome("ok", Returned(text, tuple(context.following)))

    async def policy(self, task: Task) -> Policy:
        """How long an attempt may take, and how its errors are charged."""
        return self._engine.tasks.find(task.kind).policy

    def _arguments(self, made: TaskFunction, task: Task, context: TaskContext) -> dict[str, Any]:
        arguments: dict[str, Any] = json.loads(task.payload)
        try:
            signature_of(made.function, made.context).bind(**arguments)
        except TypeError as error:
            raise InputError(
                f'the stored arguments do not fit "{made.name}" any more: {error}', code="T220",
                hint="keep old parameters, with defaults, until their tasks are done",
            ) from None  # fmt: skip
        if made.context is not None:
            arguments[made.context] = context
        return arguments

    async def _in_child(self, made: TaskFunction, task: Task, alone: bool) -> str:
        call = {
            "target": target_of(made.function), "name": made.name, "context": made.context,
            "arguments": json.loads(task.payload), "task": task._asdict() | {"token": str(task.token)},
        }  # fmt: skip
        target = f"{__name__}:{call_in_child.__name__}"
        if self._children is None:
            from gristmill.engine.children import Children

            self._children = Children()
        limits = made.process or Limits()
        return await self._children.call(target, json.dumps(call), limits=limits, fresh=alone, path=_path())

    async def save(
        self, connection: asyncpg.Connection[Any], finished: Sequence[tuple[Task, Outcome]]
    ) -> Sequence[NewTask]:
        """Writes the results and returns the follow-ups, inside the settling transaction."""
        await connection.execute(
            SQL["save_results"], [task.id for task, _ in finished], [task.token for task, _ in finished],
            [outcome.value.value for _, outcome in finished],
        )  # fmt: skip
        return [new for _, outcome in finished for new in outcome.value.following]

    async def close(self) -> None:
        """Ends the child processes. Threads that still run a function end by themselves."""
        if self._children is not None:
            await self._children.close()


async def call_in_child(call: dict[str, Any]) -> Any:
    """What runs in the child process: finds the function and calls it. The context there cannot enqueue."""
    function = find_target(call["target"])
    arguments = call["arguments"]
    if call["context"]:
        arguments[call["context"]] = TaskContext(None, Task(**call["task"]))
    value = function(**arguments)
    if inspect.isawaitable(value):
        value = await value
    to_json(value, f'what task "{call["name"]}" returned', MOST_RESULT)
    return value


def _path() -> list[str]:
    """Where this process finds modules that a fresh interpreter would not find."""
    return [folder or os.getcwd() for folder in sys.path]
