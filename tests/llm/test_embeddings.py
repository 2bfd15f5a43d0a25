"""Vectors: batches, the ledger, and answers that do not fit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gristmill.errors import InvalidOutput
from gristmill.llm.embeddings import Embedder, OpenAIEmbeddings, vectors
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import UnusableAnswer
from tests.llm.conftest import ScriptedServer

TEXTS = [f"text {number}" for number in range(10)]


@pytest.fixture
async def model(model_server: ScriptedServer) -> AsyncIterator[OpenAIEmbeddings]:
    made = OpenAIEmbeddings("scripted", base_url=model_server.base_url)
    yield made
    await made.close()


async def test_vectors_come_in_batches_in_the_order_of_the_texts(
    model: OpenAIEmbeddings, model_server: ScriptedServer
) -> None:
    whole = await Embedder(model).embed(TEXTS)
    in_parts = await Embedder(model, batch=4).embed(TEXTS)
    assert whole == in_parts
    assert [len(vector) for vector in whole] == [8] * 10
    assert len({tuple(vector) for vector in whole}) == 10
    assert (await model_server.stats())["requests"] == 1 + 3
    assert await Embedder(model).embed([]) == []


async def test_a_batch_is_bought_once(
    model: OpenAIEmbeddings, open_ledger: Callable[..., Ledger], pool: Any, model_server: ScriptedServer
) -> None:
    first = await Embedder(LedgeredModel(model, open_ledger()), batch=4, run=7).embed(TEXTS)
    again = await Embedder(LedgeredModel(model, open_ledger()), batch=4).embed([*TEXTS, "one more"])
    assert again[:10] == first
    assert (await model_server.stats())["requests"] == 3 + 1  # the last batch has changed
    row = await pool.fetchrow("SELECT count(*), min(tokens_in) AS tokens FROM call WHERE state = 'ok' AND run = 7")
    assert row["count"] == 3
    assert row["tokens"] > 0


async def test_a_missing_vector_is_asked_for_again_and_never_filled_in(
    model: OpenAIEmbeddings, open_ledger: Callable[..., Ledger], pool: Any, model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[{"kind": "empty_choices", "first": 1}])
    ledgered = LedgeredModel(model, open_ledger())
    assert len(await Embedder(ledgered).embed(TEXTS)) == 10
    assert await pool.fetchval("SELECT note FROM call WHERE state = 'unusable'") == (
        "10 texts were sent and 9 vectors came back"
    )
    await model_server.control(faults=[{"kind": "empty_choices"}])
    with pytest.raises(InvalidOutput, match="9 vectors"):
        await Embedder(model).embed(TEXTS)


@pytest.mark.parametrize(
    "data",
    [
        [{"index": 0, "embedding": []}], [{"index": 1, "embedding": [1]}], [{"index": 0, "embedding": [1, None]}],
        [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [2]}], [{"index": 0, "embedding": "AAA"}],
        [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1, 2]}], [{"index": 0}], [3], None,
        [{"index": 0, "embedding": [float("nan")]}],
    ],
)  # fmt: skip
def test_what_is_no_vector_is_refused(data: Any) -> None:
    with pytest.raises((ValueError, LookupError, TypeError)):
        vectors({"data": data})
    from gristmill.llm.model import Reply

    with pytest.raises(UnusableAnswer):
        OpenAIEmbeddings("m", base_url="http://127.0.0.1:1/v1").read(Reply(json.dumps({"data": data}).encode()))
