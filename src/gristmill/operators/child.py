"""A child process of a worker: runs one operator at a time and may die without harm to anything else."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import traceback
from typing import Any, BinaryIO

from pydantic import BaseModel

from gristmill.data.blobs import Blobs
from gristmill.data.kinds import canonical_json, kind_of
from gristmill.llm.model import Answer, Binding, Request
from gristmill.llm.structured import Asker
from gristmill.operators import protocol
from gristmill.operators.operator import Context, Operator, find_operator, load_file, parse_body, run_operator


class RemoteModel:
    """The worker's model, seen from a child: every request goes through the pipe."""

    def __init__(self, spec: str) -> None:
        self._binding = Binding(spec=spec, provider="", model=spec)
        self._one_at_a_time = asyncio.Lock()  # answers carry no number: each belongs to the request before it

    @property
    def binding(self) -> Binding:
        return self._binding

    async def complete(self, request: Request) -> Answer:
        async with self._one_at_a_time:
            _write({"call": protocol.request_to_json(request)})
            reply = await asyncio.to_thread(_read)
        if "error" in reply:
            raise protocol.error_from_json(reply["error"])
        return protocol.answer_from_json(reply["answer"])

    async def close(self) -> None:
        """Nothing to close: the connection belongs to the worker."""


_channel: BinaryIO  # to the worker; opened by `main`
_orders: BinaryIO  # from the worker; opened by `main`


def _read() -> dict[str, Any]:
    line = _orders.readline()
    if not line:
        os._exit(0)  # the worker is gone
    message: dict[str, Any] = json.loads(line)
    return message


def _write(message: dict[str, Any]) -> None:
    try:
        _channel.write(protocol.encode(message))
        _channel.flush()
    except BrokenPipeError:
        os._exit(0)


def load_operator(message: dict[str, Any]) -> Operator:
    """The operator by name, after importing the module, or the script, that defines it."""
    if message["module"].startswith("__"):  # a script: run by its user, or loaded by the worker
        load_file(message["path"])
    else:
        importlib.import_module(message["module"])
    return find_operator(message["operator"])


async def perform(message: dict[str, Any]) -> dict[str, Any]:
    """Runs what the message asks for and returns the reply."""
    notes: dict[str, Any] = {}
    try:
        made = load_operator(message)
        inputs = [parse_body((made.input_type,), kind, body) for kind, body in message["inputs"]]
        ancestors: dict[str, BaseModel] = {
            name: parse_body((made.ancestor_types[name],), kind, body)
            for name, (kind, body) in message["ancestors"].items()
        }
        about = message["context"]
        model = None
        if about["model"]:
            model = Asker(RemoteModel(about["model"]), notes=notes, task=about["task"], run=about["run"])
        ctx = Context(
            blobs=Blobs(about["blobs"]), model=model, language=about["language"], attempt=about["attempt"],
            fence=about["fence"], idempotency_key=about["idempotency_key"], notes=notes,
        )  # fmt: skip
        produced = await run_operator(made, inputs, ancestors, message["options"], ctx)
        result = [[kind_of(p.body), canonical_json(p.body.model_dump(mode="json")), p.parents] for p in produced]
        return {"result": result, "notes": notes}
    except (Exception, SystemExit) as error:
        print("".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
        if isinstance(error, SystemExit):  # an operator that asks its process to end has not succeeded
            os._exit(70)
        return {"error": protocol.error_to_json(error), "notes": notes}


def main() -> None:
    from gristmill.engine.beat import die_with

    die_with(int(sys.argv[1]))
    global _channel, _orders  # noqa: PLW0603 - one process, one channel
    # What an operator prints must not end up between our messages, and what its own children read must not be ours:
    # the channels are copies that nobody inherits, its output goes to stderr and its input is empty.
    _channel = os.fdopen(os.dup(1), "wb")
    _orders = os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    _write({"ready": True})
    while True:
        _write(asyncio.run(perform(_read())))


if __name__ == "__main__":
    main()
