"""Typed answers: ask, parse, validate, and ask again with the reason when the answer is of no use."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, TypeAlias, runtime_checkable

from pydantic import BaseModel, TypeAdapter, ValidationError

from gristmill.errors import InvalidOutput, ModelError, UsageError
from gristmill.llm.ladder import NoJson, inline_reasoning, parse_answer, without_reasoning
from gristmill.llm.model import Answer, Image, Message, Model, Request, Text, UnusableAnswer
from gristmill.llm.outcomes import outcome_of
from gristmill.llm.prompt import Prompt
from gristmill.llm.responses import clean_text

_QUOTED = 4_000  # characters of a bad answer that a re-ask shows to the model
_MOST_ATTEMPTS = 8  # of one question, over all tries of its task
LEDGER_KEYS = "ledger_keys"  # in the notes of a piece
_MOST_KNOWN = 20  # of them
_RAISE = object()
_MADE_UP = ("invalid_output", "refused", "too_long", "rejected")  # outcomes that `otherwise` may stand in for
Asked: TypeAlias = str | Prompt | Sequence[Text | Image] | Sequence[Message]


@runtime_checkable
class Rejecting(Protocol):
    """A model that wants to know which of its answers were of no use (the ledger notes it)."""

    async def reject(self, request: Request, why: str) -> None: ...


@dataclass(frozen=True)
class _Shape:
    """How a schema is asked for and read back."""

    name: str
    json_schema: Mapping[str, Any] | None
    adapter: TypeAdapter[Any] | None
    is_list: bool

    def read(self, text: str) -> tuple[Any, bool]:
        """The typed value and whether it was repaired. Raises `NoJson` or `ValidationError`."""
        if self.adapter is None:
            thought = text.lstrip().startswith("<") or inline_reasoning(text)
            plain = without_reasoning(text) if thought else text.strip()
            if not plain:
                raise NoJson("the answer is empty")
            return plain, False
        problem: ValidationError | None = None
        for parsed in parse_answer(text):
            try:
                return self.adapter.validate_python(self._unwrap(parsed.value)), parsed.repaired
            except ValidationError as error:
                problem = problem or error
        assert problem is not None  # noqa: S101 - parse_answer never returns an empty list
        raise problem

    def _unwrap(self, value: Any) -> Any:
        if self.is_list and isinstance(value, dict):
            if "items" in value:
                return value["items"]
            lists = [part for part in value.values() if isinstance(part, list)]
            return lists[0] if len(value) == len(lists) == 1 else value
        if not self.is_list and isinstance(value, list) and len(value) == 1:
            return value[0]
        return value


class Asker:
    """The model as an operator sees it (`ctx.model`).

    `reasks` is how often a useless answer is asked for again (default 1); answers that were found in the ledger cost
    nothing and do not count. `notes`, when given, is where it leaves "calls", "from_ledger", "reasked", "repaired", and
    "ledger_keys": the first calls that the ledger answered. `task` and `run` are noted in the ledger.
    """

    def __init__(
        self, model: Model, *, parameters: Mapping[str, Any] | None = None, reasks: int = 1,
        task: int | None = None, run: int | None = None, notes: MutableMapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self._model = model
        self._parameters = dict(parameters or {})
        self._reasks = reasks
        self._task, self._run = task, run
        self._notes: MutableMapping[str, Any] = {} if notes is None else notes
        self._known: list[str] = []

    @property
    def name(self) -> str:
        """What the user wrote: "openai:gpt-4.1-mini"."""
        return self._model.binding.spec

    async def generate(self, prompt: Asked, schema: Any = str, *, sample: int = 0, otherwise: Any = _RAISE) -> Any:
        """Asks the model and returns text (`str`), one object (`SomeModel`) or a list (`list[SomeModel]`).

        `prompt` is text, a rendered prompt, text and pictures, or a whole conversation. `sample` asks for deliberate
        variety: another number is another paid call. `otherwise` is returned where the model gave nothing of use; the
        outcome of the work is then "degraded", and the reason is noted.

        Raises `InvalidOutput` when the answers stay useless after the re-asks: M202, M209 the model refused, M210 the
        provider filtered; M205 when an answer was cut at max_tokens; and what the model raises: `ModelUnavailable`,
        `ModelRefused`, `Busy`.
        """
        try:
            return (await self.answer(prompt, schema, sample=sample))[0]
        except ModelError as error:
            outcome = outcome_of(error)
            if otherwise is _RAISE or outcome not in _MADE_UP:
                raise
            self._notes["degraded"] = clean_text(f"{outcome}: {error.message}")[:600]
            return otherwise

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector a text, in order. Raises `ModelSetupError` M108 for a model that makes none, and what
        `Embedder.embed` raises."""
        from gristmill.llm.embeddings import Embedder, check_embeds

        check_embeds(self._model.binding)
        return await Embedder(self._model, task=self._task, run=self._run).embed(texts)

    async def answer(self, prompt: Asked, schema: Any = str, *, sample: int = 0) -> tuple[Any, Answer]:
        """The same, with the answer that the value was read from: its reasoning, its tokens, its raw body."""
        shape = _shape(schema)
        first = self._request(prompt, shape, sample)
        request, fresh, why, code, text = first, 0, "", "M202", ""
        for attempt in range(_MOST_ATTEMPTS):
            text, code = "", "M202"
            try:
                answer = await self._ask(request)
                text, from_ledger = answer.text, answer.from_ledger
                value, repaired = shape.read(text)
            except UnusableAnswer as error:
                why, from_ledger = error.message, error.from_ledger
                code = error.code if outcome_of(error) != "invalid_output" else code
            except (NoJson, ValidationError) as error:
                why = _explain(error)
                await self._reject(request, why)
            else:
                if repaired:
                    self._count("repaired")
                return value, answer
            fresh += not from_ledger
            if fresh > self._reasks:
                break
            self._count("reasked")
            request = _ask_again(first, attempt + 1, text, why, shape)
        raise InvalidOutput(
            f"{self.name} gave no usable answer: {why}",
            hint="the raw answers are kept in the ledger; another model or a shorter prompt may help", code=code,
            raw=text,
        )  # fmt: skip

    def _request(self, prompt: Asked, shape: _Shape, sample: int) -> Request:
        if isinstance(prompt, Prompt):
            messages, name, fields = prompt.messages, prompt.name, prompt.fields
        else:
            messages, name, fields = _conversation(prompt), "", {}
        return Request(
            messages=messages, schema=shape.json_schema, schema_name=shape.name, parameters=self._parameters,
            sample=sample, prompt=name, fields=fields, task=self._task, run=self._run,
        )  # fmt: skip

    async def _ask(self, request: Request) -> Answer:
        try:
            answer = await self._model.complete(request)
        except UnusableAnswer as error:
            self._count("from_ledger" if error.from_ledger else "calls")
            raise
        self._count("from_ledger" if answer.from_ledger else "calls")
        if answer.key and len(self._known) < _MOST_KNOWN:
            self._known.append(answer.key)
            self._notes[LEDGER_KEYS] = self._known
        return answer

    async def _reject(self, request: Request, why: str) -> None:
        if isinstance(self._model, Rejecting):
            await self._model.reject(request, why)

    def _count(self, what: str) -> None:
        self._notes[what] = self._notes.get(what, 0) + 1


def _conversation(prompt: str | Sequence[Text | Image] | Sequence[Message]) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    turns = tuple(part for part in prompt if isinstance(part, Message))
    parts = tuple(part for part in prompt if isinstance(part, Text | Image))
    if len(turns) + len(parts) != len(prompt) or bool(turns) == bool(parts):
        raise UsageError("generate() takes text, a prompt, a list of Text and Image, or a list of Message")
    return turns or (Message("user", parts),)


def _ask_again(first: Request, attempt: int, text: str, why: str, shape: _Shape) -> Request:
    """The same question with the useless answer and the reason. `attempt` makes it another call for the ledger."""
    wanted = (
        "Answer again." if shape.adapter is None else "Answer again, with nothing but JSON that follows the schema."
    )
    told = Message("user", f"Your last answer could not be used: {why}\n{wanted}")
    shown = (Message("assistant", text[:_QUOTED]),) if text else ()
    return replace(first, messages=(*first.messages, *shown, told), attempt=attempt)


def _explain(error: NoJson | ValidationError) -> str:
    """The first three problems in one line of at most 600 characters."""
    if isinstance(error, NoJson):
        return str(error)
    problems = [
        f"{'.'.join(str(part) for part in problem['loc']) or 'the answer'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)[:3]
    ]
    return clean_text("; ".join(problems))[:600]


@lru_cache(maxsize=512)  # some schemas are made for one question
def _shape(schema: Any) -> _Shape:
    if schema is str:
        return _Shape("answer", None, None, False)
    if isinstance(schema, type) and not isinstance(schema, types.GenericAlias) and issubclass(schema, BaseModel):
        return _Shape(schema.__name__, schema.model_json_schema(), TypeAdapter(schema), False)
    if typing.get_origin(schema) is list:
        adapter: TypeAdapter[Any] = TypeAdapter(schema)
        inner = adapter.json_schema()
        definitions = inner.pop("$defs", {})
        # Schema mode of most servers wants an object at the top.
        wrapped = {
            "type": "object", "properties": {"items": inner}, "required": ["items"], "additionalProperties": False,
            **({"$defs": definitions} if definitions else {}),
        }  # fmt: skip
        (element,) = typing.get_args(schema)
        return _Shape(f"{getattr(element, '__name__', 'item')}_list", wrapped, adapter, True)
    raise UsageError(f"generate() takes str, a pydantic model or a list of one, not {schema!r}")
