"""The search index in the database: one row for each chunk and model, read and written without any lock of ours."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

import asyncpg

from gristmill.db.database import LONG, transaction
from gristmill.db.statements import statements
from gristmill.errors import DatabaseProblem
from gristmill.llm.hashed import terms
from gristmill.operators.embed import Entry

SQL = statements("vectors")
POOL = 50  # places of each list that are fused


async def make_ready(pool: asyncpg.Pool[Any]) -> None:
    """Makes the table where it is missing. Raises `DatabaseProblem` D150 when the server has no extension `vector`."""
    if await pool.fetchval(SQL["ready"]):
        return
    text = resources.files("gristmill.db").joinpath("migrations", "0011_vectors.sql").read_text("utf-8")
    await pool.execute(text)
    if not await pool.fetchval(SQL["ready"]):
        raise DatabaseProblem(
            "this PostgreSQL has no extension vector that we may use", code="D150", safe="the vectors are kept",
            hint="install pgvector and run: create extension vector; or give the step index store: lancedb:FOLDER",
        )  # fmt: skip


class DatabaseEntries:
    """`ctx.index` of one task: `ids` are the records of its inputs, by position."""

    store = "database"

    def __init__(self, pool: asyncpg.Pool[Any], ids: Sequence[int]) -> None:
        self._pool, self._ids = pool, ids

    async def add(self, entries: Sequence[Entry], model: str) -> None:
        """Writes what is new or has changed. Raises `DatabaseProblem` D150."""
        await make_ready(self._pool)
        ids = [self._ids[one.position] for one in entries]
        words = [" ".join(terms(one.text)) for one in entries]
        async with transaction(self._pool) as connection:
            await connection.execute(SQL["add"], model, ids, [spelled(one.vector) for one in entries], words)

    async def finish(self) -> None:
        """Nothing: the server tidies up by itself."""


def spelled(vector: Sequence[float]) -> str:
    """A vector as PostgreSQL reads it."""
    return f"[{','.join(map(repr, vector))}]"


def word_query(text: str) -> str:
    """A tsquery that any of the words fulfils; "" without a word."""
    return " | ".join(f"'{word}'" for word in dict.fromkeys(terms(text)))  # terms hold letters and digits only


async def search(
    pool: asyncpg.Pool[Any], run: int, model: str, vector: Sequence[float], text: str, limit: int
) -> list[asyncpg.Record]:
    """Rows of chunk_id, item, body, near, worded, score: the best first. An empty `vector` or `text` leaves that list
    out. Raises `DatabaseProblem` D150."""
    await make_ready(pool)
    given = spelled(vector) if vector else ""
    most = max(POOL, limit)
    rows: list[asyncpg.Record] = await pool.fetch(SQL["search"], run, model, given, word_query(text), limit, most)
    return rows


async def vacuum(pool: asyncpg.Pool[Any]) -> int:
    """Drops entries of chunks that no run has any more, gives their space back; returns how many."""
    await make_ready(pool)
    status = await pool.execute(SQL["forget_unused"], timeout=LONG)
    await pool.execute("vacuum (analyze) vector_entry", timeout=LONG)
    return int(status.rpartition(" ")[2])
