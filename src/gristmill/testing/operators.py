"""One operator, once: a scripted model and blobs in memory; no database, no network, no key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from gristmill.data.kinds import kind_of
from gristmill.errors import InputError, UsageError
from gristmill.llm.model import Answer, Binding, Model, Request
from gristmill.llm.structured import Asker
from gristmill.operators.calling import run_operator
from gristmill.operators.operator import Context, Operator, StepSpec

Scripted = str | Answer | BaseModel | Mapping[str, Any] | list[Any] | Exception | Callable[[Request], Any]


class ScriptedModel:
    """A model that gives the answers of a list, one per call, and remembers what it was asked.

    An answer is text, an `Answer` (with its reasoning), a pydantic object, a dict or a list (sent as JSON), an
    exception (raised), or a function from the request to one of these. Text is taken as the model's own words, so
    `'Sure! [{"question": ...'` tests how broken
    answers fare. Raises `UsageError` when it is asked more often than it has answers.

        model = ScriptedModel(["not JSON", [{"name": "Ada"}]])   # the second is the answer to the re-ask
    """

    def __init__(self, answers: Iterable[Scripted]) -> None:
        self._answers = list(answers)
        self.requests: list[Request] = []

    @property
    def binding(self) -> Binding:
        return Binding(spec="scripted", provider="gristmill", model="scripted", paid=False)

    async def complete(self, request: Request) -> Answer:
        self.requests.append(request)
        number = len(self.requests)
        if number > len(self._answers):
            raise UsageError(f"the scripted model has {len(self._answers)} answers and was asked {number} times")
        answer = self._answers[number - 1]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Answer) else Answer(_as_text(answer), "scripted")

    async def close(self) -> None:
        return None


class MemoryBlobs:
    """Blobs in memory, under the sha256 of their bytes."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    async def read(self, digest: str) -> bytes:
        """The bytes under a digest. Raises `InputError` when there are none."""
        try:
            return self._blobs[digest]
        except KeyError:
            raise InputError(f"there is no blob {digest}") from None

    async def write(self, data: bytes) -> str:
        """Keeps the bytes and returns their sha256 (64 hex digits)."""
        digest = hashlib.sha256(data).hexdigest()
        self._blobs[digest] = data
        return digest


async def perform(
    operator: Operator | StepSpec, *inputs: BaseModel, model: Model | None = None,
    options: Mapping[str, Any] | None = None, language: str = "en", blobs: MemoryBlobs | None = None,
) -> list[BaseModel]:  # fmt: skip
    """Runs an operator once, as a worker would, and returns the bodies that it made.

    `inputs` are the input (all inputs, for a barrier), then one body for each ancestor that the operator asks for (any
    number where it asks for a list), in any order. `blobs` holds what the inputs refer to (default: empty). What the
    operator raises comes through as it is. Raises `UsageError` when an input or an ancestor is missing.

        chunks = await perform(split.using(size=800), document, blobs=blobs)
    """
    made, chosen = (operator.operator, dict(operator.options)) if isinstance(operator, StepSpec) else (operator, {})
    checked = made.check_options(chosen | dict(options or {}))
    own, ancestors = _assign(made, inputs)
    context = Context(
        blobs=blobs or MemoryBlobs(), language=language, idempotency_key="test",
        model=None if model is None else Asker(model),
    )  # fmt: skip
    if made.uses_model and model is None:
        raise UsageError(f'operator "{made.name}" needs a model', hint="perform(..., model=ScriptedModel([...]))")
    return [produced.body for produced in await run_operator(made, own, ancestors, checked, context)]


def _assign(made: Operator, bodies: tuple[BaseModel, ...]) -> tuple[list[BaseModel], dict[str, list[BaseModel]]]:
    """Which of the bodies are the inputs and which are ancestors."""
    rest = list(bodies)
    own: list[BaseModel] = []
    while rest and isinstance(rest[0], made.input_types) and (made.barrier or not own):
        own.append(rest.pop(0))
    if not own and not made.barrier:
        names = " or ".join(cls.__name__ for cls in made.input_types)
        raise UsageError(f'operator "{made.name}" takes a {names} first')
    ancestors: dict[str, list[BaseModel]] = {}
    for name, wanted in made.ancestors.items():
        found = [body for body in rest if isinstance(body, wanted.type)][: None if wanted.how == "all" else 1]
        if not found and wanted.how == "one":
            raise UsageError(f'operator "{made.name}" also needs a {wanted.type.__name__} ("{name}")')
        for body in found:
            rest.remove(body)
        ancestors[name] = found
    if rest:
        raise UsageError(f'operator "{made.name}" has no use for a {kind_of(rest[0])}')
    return own, ancestors


def _as_text(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    return json.dumps(answer, default=lambda body: body.model_dump(mode="json"), ensure_ascii=False)
