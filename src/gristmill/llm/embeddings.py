"""Vectors of texts, by OpenAI's embeddings protocol, which the others serve too.

An answer of the ledger is one batch, as it came: splitting it into one answer per text would mean to parse what was
paid before it is kept. Batches are cut by position alone, so that the same list asks the same questions again.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from gristmill.errors import InvalidOutput, ModelSetupError
from gristmill.llm import responses
from gristmill.llm.model import Binding, Message, Model, Request, UnusableAnswer, Usage
from gristmill.llm.openai import DEFAULT_URL
from gristmill.llm.remote import HttpModel
from gristmill.llm.responses import Said
from gristmill.llm.structured import Rejecting

_FACTS = responses.facts("prompt_tokens", "total_tokens")


class OpenAIEmbeddings(HttpModel):
    """A model behind `/embeddings`. Each message of a request is a text; the vectors are in `Answer.raw`."""

    provider = "openai-embeddings"
    default_url = DEFAULT_URL
    modes = ("text",)
    reserved = ("model", "input", "stream")
    defaults: ClassVar[Mapping[str, Any]] = {"encoding_format": "float"}

    def _path(self, stream: bool) -> str:
        return "/embeddings"

    def _body(self, request: Request, mode: str, stream: bool) -> dict[str, Any]:
        texts = [message.text for message in request.messages]
        return {"model": self._binding.model, "input": texts, **self._parameters(request)}

    def _said(self, document: dict[str, Any]) -> Said:
        vectors(document)
        return Said("", str(document.get("model") or ""))

    def _fold(self, events: list[dict[str, Any]]) -> Said:
        raise ValueError("vectors do not come as a stream")

    def _piece(self, event: dict[str, Any]) -> str:
        return ""

    def _glance(self, body: bytes) -> tuple[str, Usage]:
        found = responses.scan(body, _FACTS, (b'"usage"',))
        return "", Usage(input=responses.count(found, b"prompt_tokens"))


def check_embeds(binding: Binding) -> None:
    """Raises `ModelSetupError` M108 for a model that makes no vectors."""
    if binding.provider != "openai-embeddings" and binding.spec != "hashed":
        raise ModelSetupError(
            f"{binding.spec} makes no vectors", code="M108", safe="nothing was sent",
            hint="openai-embeddings:NAME, or hashed, which needs no key",
        )  # fmt: skip


class Embedder:
    """Texts to vectors through any model of this protocol, with or without the ledger.

    `batch` texts go into one request (default 64). `task` and `run` are noted in the ledger.
    """

    def __init__(
        self, model: Model, *, batch: int = 64, parameters: Mapping[str, Any] | None = None, task: int | None = None,
        run: int | None = None,
    ) -> None:  # fmt: skip
        self._model, self._batch, self._parameters = model, max(1, batch), dict(parameters or {})
        self._task, self._run = task, run

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text, in order, all of the same length. No text, no call.

        Raises what the model raises, and `InvalidOutput` M204 when vectors are missing or of different lengths, after
        one re-ask for each batch.
        """
        found: list[list[float]] = []
        for start in range(0, len(texts), self._batch):
            found += await self._ask(texts[start : start + self._batch])
        if len({len(vector) for vector in found}) > 1:
            raise InvalidOutput("the vectors are not all of the same length", code="M204")
        return found

    async def _ask(self, texts: Sequence[str]) -> list[list[float]]:
        messages = tuple(Message("user", text) for text in texts)
        for attempt in (0, 1):
            request = Request(
                messages, parameters=self._parameters, attempt=attempt, task=self._task, run=self._run
            )  # fmt: skip
            try:
                answer = await self._model.complete(request)
                got = vectors(json.loads(answer.raw))
                if len(got) == len(texts):
                    return got
                problem = UnusableAnswer(f"{len(texts)} texts were sent and {len(got)} vectors came back")
            except UnusableAnswer as error:
                problem = error
            else:
                if isinstance(self._model, Rejecting):
                    await self._model.reject(request, problem.message)
        raise problem


def vectors(document: Mapping[str, Any]) -> list[list[float]]:
    """The vectors in the body of an answer, in the order of the texts; numbers, or base64 of 32-bit floats.

    Raises what indexing raises, and `ValueError` for a vector that is empty, or holds what is no finite number, and for
    lengths or places that do not fit together.
    """
    rows = document["data"]
    found: dict[int, list[float]] = {}
    for place, row in enumerate(rows):
        given = row["embedding"]
        if isinstance(given, str):
            data = base64.b64decode(given, validate=True)
            if len(data) % 4:
                raise ValueError("a vector is cut")
            given = struct.unpack(f"<{len(data) // 4}f", data)
        vector = [float(number) for number in given]
        if not vector or not all(map(math.isfinite, vector)):
            raise ValueError("a vector is empty or holds no number")
        found[int(row.get("index", place))] = vector
    if sorted(found) != list(range(len(rows))) or len({len(vector) for vector in found.values()}) > 1:
        raise ValueError("the vectors do not fit together")
    return [found[place] for place in range(len(rows))]
