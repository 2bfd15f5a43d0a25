"""An action once, here and now: what `gristmill packs try` does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gristmill.data.blobs import Blobs
from gristmill.data.kinds import Chunk, kind_of
from gristmill.errors import UsageError
from gristmill.operators.calling import run_operator
from gristmill.operators.operator import Context, Operator


def assigned(assignments: Sequence[str]) -> dict[str, Any]:
    """Parameters from texts NAME=VALUE; the value is JSON, or text. Raises `UsageError` K310."""
    found: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f'"{text[:80]}" is not NAME=VALUE', code="K310")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def body_of(made: Operator, kind: str, text: str, body: str | None) -> BaseModel:
    """The record to work on: a chunk of that text, or the JSON of a body. Raises `UsageError` K310."""
    types = {kind_of(cls): cls for cls in made.input_types}
    if kind not in types:
        raise UsageError(
            f"{made.name} takes no {kind}", code="K310", hint=f"--kind, one of: {', '.join(sorted(types))}"
        )
    try:
        if body is None:
            return Chunk(text=text) if kind == "chunk" else types[kind].model_validate({})
        return types[kind].model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise UsageError(
            f"that is no {kind}: {place}: {problem['msg']}", code="K310", hint="--body with its JSON"
        ) from None


async def try_action(
    made: Operator, body: BaseModel, options: Mapping[str, Any], home: Path
) -> list[tuple[str, dict[str, Any]]]:  # fmt: skip
    """Runs it in this process, under its limits; returns kinds and bodies of what it made. Raises what it raises."""
    checked = made.check_options(options)
    ctx = Context(blobs=Blobs(home / "blobs"), idempotency_key="try")
    produced = await run_operator(made, [body], {}, checked, ctx)
    return [(kind_of(one.body), one.body.model_dump(mode="json")) for one in produced]
