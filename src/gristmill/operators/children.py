"""Operators in child processes: those that block, crash or eat memory, and all that have crashed a process before."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from gristmill.engine import children
from gristmill.engine.children import Limits
from gristmill.llm.model import Answer, Request
from gristmill.operators import protocol

PERFORM = "gristmill.operators.child:perform"
LOAD = "gristmill.operators.child:load"
Ask = Callable[[Request], Awaitable[Answer]]


class Children(children.Children):
    """The children of one worker's operators."""

    async def run(
        self, message: dict[str, Any], ask: Ask, *, limits: Limits = Limits(), fresh: bool = False,  # noqa: B008
    ) -> dict[str, Any]:  # fmt: skip
        """Runs one task in a child and returns its reply (`operators/protocol.py`). Raises `ChildCrashed`.

        `fresh` asks for a process that no other task has touched or will touch. `ask` is called for each request to
        the model. The result may be of 64 MiB: each body is bounded, a list of them is not.
        """

        async def answer(question: str) -> str:
            try:
                given = await ask(protocol.request_from_json(json.loads(question)))
            except Exception as error:
                return json.dumps({"error": protocol.error_to_json(error)})
            return json.dumps({"answer": protocol.answer_to_json(given)})

        limits = replace(limits, result=protocol.LINE_LIMIT)
        payload = json.dumps(message, allow_nan=False)
        text = await self.call(PERFORM, payload, limits=limits, fresh=fresh, answer=answer)
        reply: dict[str, Any] = json.loads(text)
        return reply

    async def warm(self, target: str = LOAD, limits: Limits = Limits()) -> None:  # noqa: B008
        """Starts one child before the first task needs it; what it imports takes most of a second."""
        await super().warm(target, limits)
