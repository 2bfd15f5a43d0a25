"""A walk of a few real inputs through a workflow, in memory: what would be asked, and how much of it is known already.

Steps without a model run as they are, in a child process where they are marked so. A step with a model makes its real
prompts; their answers come from the ledger where it has them, else from a stand-in: the `extractive` model for the
built-in prompts, the smallest thing that fits the schema for others. Nothing is stored or sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gristmill.data.blobs import Blobs
from gristmill.data.kinds import Source, canonical_json, kind_of
from gristmill.data.records import body_text
from gristmill.data.scan import Found
from gristmill.engine.workflow import INPUTS
from gristmill.errors import GristmillError, ModelRefused
from gristmill.llm.extractive import ExtractiveModel
from gristmill.llm.model import Answer, Binding, Model, Request, Usage
from gristmill.llm.quota_estimate import question
from gristmill.llm.structured import Asker
from gristmill.operators.calling import Produced, find_ancestors, parse_body, run_operator
from gristmill.operators.children import Children
from gristmill.operators.operator import Context, StepSpec
from gristmill.operators.protocol import error_from_json
from gristmill.workflow import Workflow

ASKED = 24  # records of one file for which a step with a model makes its prompts; more are counted, not made
WORDS_A_MENTION = 12  # about as dense as names are in prose
ROW = 400  # bytes that the database needs for a record beside its body: keys, lineage, membership, indexes


@dataclass(slots=True)
class Tally:
    """What one step does to one file; calls and tokens are of what is not known yet. `words`: tokens of the stand-ins'
    answers."""

    inputs: float = 0.0
    outputs: float = 0.0
    calls: float = 0.0
    known: float = 0.0
    tokens_in: float = 0.0
    words: float = 0.0
    bytes: float = 0.0
    failed: float = 0.0
    prompts: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Piece:
    body: BaseModel
    family: tuple[BaseModel, ...]  # what it came from, the nearest first
    weight: float  # how many it stands for


class _Counted:
    """A model that counts what it is asked and buys nothing."""

    def __init__(self, model: Model, tally: Tally) -> None:
        self._model, self._tally, self.weight = model, tally, 1.0

    @property
    def binding(self) -> Binding:
        return self._model.binding

    async def complete(self, request: Request) -> Answer:
        tally = self._tally
        tally.prompts.add(request.prompt)
        if not self._model.binding.paid:
            return await self._model.complete(request)
        look = getattr(self._model, "known", None)
        answer: Answer | None = await look(request) if look is not None else None
        if answer is not None:
            tally.known += self.weight
            return answer
        given = await _stand_in(request)
        tally.calls += self.weight
        tally.tokens_in += self.weight * question(request)
        tally.words += self.weight * len(given.text.encode()) / 4
        return given

    async def close(self) -> None:
        """Its model is somebody else's."""


async def _stand_in(request: Request) -> Answer:
    if request.prompt == "extract":
        return Answer(_mentions(request.fields), "stand-in")
    try:
        given = await ExtractiveModel().complete(request)
        if request.prompt != "ask":
            return given
        # A language model finds as many questions as it is asked for.
        asked = json.loads(given.text)
        quote = str(request.fields.get("passage", ""))[:100]
        more = range(len(asked), int(request.fields.get("count", 3)))
        asked += [{"question": f"What does part {number} of this passage tell?", "quote": quote} for number in more]
        return replace(given, text=json.dumps(asked))
    except (ModelRefused, KeyError):
        if request.schema is None:
            return Answer("An answer of some length stands here.", "stand-in", usage=Usage())
        return Answer(canonical_json(smallest(request.schema, request.schema)), "stand-in")


def _mentions(fields: Mapping[str, Any]) -> str:
    """One word of each dozen, under the first label: steps behind it have something to ask about."""
    label = str(fields.get("labels", "")).partition("\n")[0].removeprefix("- ").partition(":")[0]
    found = str(fields.get("text", "")).split()[::WORDS_A_MENTION]
    return canonical_json([{"text": word[:100], "label": label, "confidence": 0.9} for word in found])


def smallest(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> Any:
    """Something small that fits a JSON schema of pydantic's kind; lists have one entry."""
    if "$ref" in schema:
        return smallest(root.get("$defs", {})[schema["$ref"].rsplit("/", 1)[-1]], root, depth + 1)
    for choice in ("const", "default"):
        if choice in schema:
            return schema[choice]
    if "enum" in schema:
        return schema["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return smallest(schema[several][0], root, depth + 1)
    kind = schema.get("type", "string")
    if kind == "object":
        parts = schema.get("properties", {})
        return {name: smallest(part, root, depth + 1) for name, part in parts.items()} if depth < 8 else {}
    if kind == "array":
        most = max(1, schema.get("minItems", 1)) if depth < 8 else 0
        return [smallest(schema.get("items", {}), root, depth + 1)] * most
    simple = {"integer": schema.get("minimum", 1), "number": schema.get("minimum", 1), "boolean": True, "null": None}
    return simple.get(kind, "words")


class Sampler:
    """Walks files through a workflow. `models` are the opened models by what their steps name."""

    def __init__(
        self, flow: Workflow, blobs: Blobs, models: Mapping[str, Model], language: str, prompts: Path | None = None
    ) -> None:
        self._prompts = prompts
        self._flow, self._blobs, self._models, self._language = flow, blobs, models, language
        self._children = Children()

    async def close(self) -> None:
        await self._children.close()

    async def walk(self, file: Found) -> list[Tally]:
        """For each step of the workflow what it does to this file. Pieces that fail are counted and go no further."""
        steps = self._flow.steps
        tallies = [Tally() for _ in steps]
        made: dict[int, list[_Piece]] = {INPUTS: [_Piece(await self._source(file), (), 1.0)]}
        for place, spec in enumerate(steps):
            made[place] = []
            if spec.operator.barrier:
                continue
            pieces = [
                piece for before in self._flow.edges[place] for piece in made[before]
                if kind_of(type(piece.body)) in spec.operator.input_kinds
            ]  # fmt: skip
            made[place] = await self._step(spec, pieces, tallies[place])
        return tallies

    async def _source(self, file: Found) -> Source:
        digest, size = await self._blobs.write_from(file.open, file.size)
        return Source(name=file.name, blob=digest, size=size, media_type=file.media_type)

    async def _step(self, spec: StepSpec, pieces: Sequence[_Piece], tally: Tally) -> list[_Piece]:
        tally.inputs = sum(piece.weight for piece in pieces)
        chosen = list(pieces)
        if spec.model and len(pieces) > ASKED:
            chosen = [pieces[number * len(pieces) // ASKED] for number in range(ASKED)]
            scale = tally.inputs / sum(piece.weight for piece in chosen)
            chosen = [replace(piece, weight=piece.weight * scale) for piece in chosen]
        if spec.operator.acts:
            tally.outputs, tally.bytes = tally.inputs, ROW * tally.inputs
            return []  # what it would make is not known
        counted = _Counted(self._models[spec.model], tally) if spec.model else None
        following: list[_Piece] = []
        for piece in chosen:
            if counted is not None:
                counted.weight = piece.weight
            try:
                produced = await self._perform(spec, piece, counted)
            except (GristmillError, ValueError, KeyError, TypeError):
                tally.failed += piece.weight
                continue
            family = (piece.body, *piece.family)
            following += [_Piece(one.body, family, piece.weight) for one in produced]
            tally.outputs += piece.weight * len(produced)
            tally.bytes += piece.weight * sum(len(body_text(one.body).encode()) + ROW for one in produced)
        return following

    async def _perform(self, spec: StepSpec, piece: _Piece, model: _Counted | None) -> Sequence[Produced]:
        made = spec.operator
        ancestors = find_ancestors(made, piece.family, kind_of)
        if made.isolate:
            return await self._in_child(spec, piece, ancestors, model)
        asker = Asker(model) if model is not None else None
        ctx = Context(
            blobs=self._blobs,
            model=asker,
            language=self._language,
            attempt=1,
            fence=0,
            idempotency_key="plan",
            notes={},
            prompts=self._prompts,
        )
        return await run_operator(made, [piece.body], ancestors, spec.options, ctx)

    async def _in_child(
        self, spec: StepSpec, piece: _Piece, ancestors: Mapping[str, Sequence[BaseModel]], model: _Counted | None
    ) -> Sequence[Produced]:
        made = spec.operator
        message = {
            "operator": made.name, "module": made.module, "path": made.path,
            "inputs": [[kind_of(type(piece.body)), body_text(piece.body)]],
            "ancestors": {
                name: [[kind_of(type(body)), body_text(body)] for body in found] for name, found in ancestors.items()
            },
            "options": _here(spec.options),
            "context": {
                "blobs": str(self._blobs.folder), "language": self._language, "attempt": 1, "fence": 0,
                "idempotency_key": "plan", "task": None, "run": None, "model": spec.model,
                "prompts": str(self._prompts) if self._prompts else None,
            },
        }  # fmt: skip
        ask = model.complete if model is not None else _nobody
        reply = await self._children.run(message, ask, limits=spec.limits)
        if "error" in reply:
            raise error_from_json(reply["error"])
        return [
            Produced(parse_body(made.output_types, kind, body), tuple(parents))
            for kind, body, parents in reply["result"]
        ]


def _here(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a step that asks no other server: a plan sends nothing."""
    return {**options, "backend": "auto"} if options.get("backend") == "docling" else dict(options)


async def _nobody(request: Request) -> Answer:
    raise ModelRefused("this step has no model")
