"""Hybrid search in the index of a run: vectors and words, fused by place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import asyncpg

from gristmill.data.kinds import Chunk, Indexed
from gristmill.errors import UsageError
from gristmill.llm.embeddings import Embedder, check_embeds
from gristmill.run import Run
from gristmill.stores import pgvector
from gristmill.stores.opening import folder_of

Mode = Literal["hybrid", "vector", "words"]


@dataclass(frozen=True, slots=True)
class Hit:
    """One chunk. `near` and `worded` are its places (from 1) among the nearest vectors and the best by words, None
    where it is not among the first 50; `score` is the sum of 1 / (60 + place). `item` is the name of its input."""

    chunk_id: int
    item: str
    chunk: Chunk
    score: float
    near: int | None
    worded: int | None


class Models(Protocol):
    async def open(self, spec: str) -> Any: ...


async def search(
    run: Run, pool: asyncpg.Pool[Any], models: Models, query: str, *, limit: int = 10, mode: Mode = "hybrid"
) -> list[Hit]:
    """The chunks of a run that fit a question best, at most `limit` (default 10, at most 1,000).

    The question is embedded by the model that made the index, through the ledger. Reads only; needs no lock. Raises
    `UsageError` U391 when the run has no index yet, U392 for an empty question or a limit out of range, and what the
    model raises.
    """
    if not query.strip() or not 1 <= limit <= 1000:
        raise UsageError("a search needs a question, and a limit of 1 to 1,000", code="U392")
    body = await pool.fetchval(pgvector.SQL["index_of_run"], run.id)
    if body is None:
        raise UsageError(
            f"{run.name} has no search index", code="U391", safe="nothing was changed",
            hint="its workflow needs the step index, as rag has: gristmill run FOLDER --workflow rag",
        )  # fmt: skip
    said = Indexed.model_validate_json(body)
    vector: list[float] = []
    if mode != "words":
        model = await models.open(said.model)
        check_embeds(model.binding)
        [vector] = await Embedder(model, run=run.id).embed([query])
    text = query if mode != "vector" else ""
    folder = folder_of(said.store, run.app.settings.home)
    if folder is None:
        rows = await pgvector.search(pool, run.id, said.model, vector, text, limit)
        return [
            Hit(row["chunk_id"], row["item"] or "", Chunk.model_validate_json(row["body"]), row["score"], row["near"],
                row["worded"])
            for row in rows
        ]  # fmt: skip
    from gristmill.stores import lance

    places = await lance.search(folder, said.model, vector, text, max(pgvector.POOL, limit))
    known = {row["chunk_id"]: row for row in await pool.fetch(pgvector.SQL["found"], run.id, list(places))}
    hits = [
        Hit(number, known[number]["item"] or "", Chunk.model_validate_json(known[number]["body"]),
            sum(1 / (60 + place) for place in both if place), *both)
        for number, both in places.items() if number in known
    ]  # fmt: skip
    return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))[:limit]
