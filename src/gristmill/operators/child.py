"""What a child process does for a worker's operators; how it is run and how it ends: `gristmill/engine/child.py`."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from gristmill.data.blobs import Blobs
from gristmill.data.kinds import canonical_json, kind_of
from gristmill.engine import child
from gristmill.llm.model import Answer, Binding, Request
from gristmill.llm.structured import Asker
from gristmill.operators import protocol
from gristmill.operators.calling import parse_body, run_operator
from gristmill.operators.operator import Context, Operator, find_operator, load_file


class RemoteModel:
    """The worker's model, seen from a child: every request goes to the worker, as many at once as there are askers."""

    def __init__(self, spec: str) -> None:
        self._binding = Binding(spec=spec, provider="", model=spec)

    @property
    def binding(self) -> Binding:
        return self._binding

    async def complete(self, request: Request) -> Answer:
        reply = json.loads(await child.ask(json.dumps(protocol.request_to_json(request))))
        if "error" in reply:
            raise protocol.error_from_json(reply["error"])
        return protocol.answer_from_json(reply["answer"])

    async def close(self) -> None:
        """Nothing to close: the connection belongs to the worker."""


def load_operator(message: dict[str, Any]) -> Operator:
    """The operator by name, after importing the module, or the script, that defines it."""
    if message["module"].startswith("__"):  # a script: run by its user, or loaded by the worker
        load_file(message["path"])
    else:
        module = importlib.import_module(message["module"])
        if hasattr(module, "load_operators"):  # its operators are described by a folder
            module.load_operators(message["path"])
    return find_operator(message["operator"])


def load(message: dict[str, Any] | None) -> None:
    """Imports what `perform` needs, ahead of time."""
    if message is not None:
        load_operator(message)


async def perform(message: dict[str, Any]) -> dict[str, Any]:
    """Runs what the message asks for and returns the reply. What asks for the end of the process is let through."""
    notes: dict[str, Any] = {}
    try:
        made = load_operator(message)
        inputs = [parse_body(made.input_types, kind, body) for kind, body in message["inputs"]]
        ancestors = {
            name: [parse_body((made.ancestors[name].type,), kind, body) for kind, body in found]
            for name, found in message["ancestors"].items()
        }
        about = message["context"]
        model = None
        if about["model"]:
            model = Asker(RemoteModel(about["model"]), notes=notes, task=about["task"], run=about["run"])
        ctx = Context(
            blobs=Blobs(about["blobs"], level=about.get("level")), model=model, language=about["language"],
            attempt=about["attempt"], fence=about["fence"], idempotency_key=about["idempotency_key"], notes=notes,
            prompts=Path(about["prompts"]) if about.get("prompts") else None, services=about.get("services", {}),
            given=about.get("given"), timeout=about.get("timeout"),
        )  # fmt: skip
        produced = await run_operator(made, inputs, ancestors, message["options"], ctx, threads=False)
        result = [[kind_of(p.body), protocol.body_to_json(p.body), p.parents] for p in produced]
        return {"result": result, "notes": json.loads(canonical_json(notes))}
    except MemoryError:
        raise
    except Exception as error:
        if child.from_memory(error):
            raise
        print("".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
        return {"error": protocol.error_to_json(error), "notes": {}}
