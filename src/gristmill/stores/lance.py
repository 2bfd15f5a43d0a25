"""The search index in a LanceDB folder: one table for each model, written under the lock of the folder, read without.

Needs `pip install "gristmill[lancedb]"` (about 420 MB, which is why it is an extra). Writers of one folder (workflows,
`gristmill vacuum`, the API) take the lock `path:<canonical path>`, which every spelling of the path leads to.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import warnings
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg

from gristmill.engine.holding import hold
from gristmill.engine.lock_keys import lock_key
from gristmill.engine.locks import Held, HolderKind
from gristmill.errors import EnvironmentProblem
from gristmill.llm.hashed import terms
from gristmill.operators.embed import Entry


class LanceEntries:
    """`ctx.index` of one task: `ids` are the records of its inputs, by position.

    Each write takes the lock of the folder, without waiting: `LockHeld`, and the task comes again uncharged.
    """

    def __init__(self, pool: asyncpg.Pool[Any], folder: Path, ids: Sequence[int], holder: str) -> None:
        library()
        self.store = f"lancedb:{folder}"
        self._pool, self._folder, self._ids, self._holder = pool, folder, ids, holder

    async def add(self, entries: Sequence[Entry], model: str) -> None:
        """Writes entries; those that are there already are replaced. Raises `LockHeld`, `LockLost`."""
        rows = [
            {"chunk_id": self._ids[one.position], "words": " ".join(terms(one.text)), "vector": list(one.vector)}
            for one in entries
        ]
        async with writing(self._pool, self._folder, "worker", self._holder, wait=0) as held:
            database = await library().connect_async(str(self._folder))
            table = await database.create_table(
                table_name(model), schema=_schema(len(entries[0].vector)), exist_ok=True
            )
            held.check()
            await table.merge_insert("chunk_id").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    async def finish(self) -> None:
        """Tidies the folder up: small pieces become large ones, old versions go, the words are indexed."""
        async with writing(self._pool, self._folder, "worker", self._holder, wait=0) as held:
            await tidy(self._folder, held)


def library() -> Any:
    """The module `lancedb`. Raises `EnvironmentProblem` F301 where it is not installed."""
    try:
        import lancedb
    except ImportError:
        raise EnvironmentProblem(
            "LanceDB is not installed", code="F301", hint='pip install "gristmill[lancedb]" where the workers run',
            safe="the vectors are kept; the same command goes on",
        ) from None  # fmt: skip
    return lancedb


def table_name(model: str) -> str:
    """One table for each model: only its own vectors can be compared."""
    return f"{re.sub('[^a-z0-9]+', '_', model.lower())[:60]}_{hashlib.sha256(model.encode()).hexdigest()[:8]}"


@contextlib.asynccontextmanager
async def writing(
    pool: asyncpg.Pool[Any], folder: Path, kind: HolderKind, holder: str, wait: float | None
) -> AsyncIterator[Held]:
    """The right to write to a folder. Raises `LockHeld`, `LockLost`; see `hold`."""
    async with hold(pool, lock_key("path", folder), holder_kind=kind, holder=holder, wait=wait) as held:
        yield held


async def tidy(folder: Path, held: Held) -> None:
    """Makes each table of a folder small and quick to read. The caller holds the lock."""
    module = library()
    warnings.filterwarnings("ignore", message=r"optimize\(cleanup_older_than=0\)")  # readers of old versions try again
    database = await module.connect_async(str(folder))
    for name in await tables(database):
        table = await database.open_table(name)
        if "words_idx" not in {one.name for one in await table.list_indices()}:
            held.check()
            words = module.index.FTS(with_position=False, stem=False, remove_stop_words=False, lower_case=True)
            await table.create_index("words", config=words)
        held.check()
        await table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)


async def tables(database: Any) -> list[str]:
    """Names of the tables, sorted."""
    return sorted((await database.list_tables(limit=1000)).tables)


async def search(
    folder: Path, model: str, vector: Sequence[float], text: str, most: int
) -> dict[int, tuple[int | None, int | None]]:
    """Chunk -> its places (from 1) among the `most` nearest vectors and the `most` best by words. Takes no lock.

    Raises `EnvironmentProblem` F301 without the library, F302 when there is no index of that model in the folder.
    """
    try:
        return await _search(folder, model, vector, text, most)
    except (RuntimeError, OSError):  # a vacuum took the version away that we were reading: there is a newer one
        return await _search(folder, model, vector, text, most)


async def _search(
    folder: Path, model: str, vector: Sequence[float], text: str, most: int
) -> dict[int, tuple[int | None, int | None]]:
    is_there = await asyncio.to_thread(os.path.isdir, folder)  # connecting would make it
    database = await library().connect_async(str(folder)) if is_there else None
    if database is None or table_name(model) not in await tables(database):
        raise EnvironmentProblem(f"there is no index of {model} in {folder}", code="F302", hint="was it moved?")
    table = await database.open_table(table_name(model))
    near: list[int] = []
    worded: list[int] = []
    if vector:
        found = table.query().nearest_to(list(vector)).distance_type("cosine").limit(most)
        near = [row["chunk_id"] for row in await found.to_list()]
    if words := " ".join(dict.fromkeys(terms(text))):
        found = table.query().nearest_to_text(words, columns="words").limit(most)
        worded = [row["chunk_id"] for row in await found.to_list()]
    return {
        number: (_place(near, number), _place(worded, number)) for number in dict.fromkeys([*near, *worded])
    }  # fmt: skip


def _place(places: list[int], number: int) -> int | None:
    return places.index(number) + 1 if number in places else None


def _schema(dimensions: int) -> Any:
    import pyarrow as arrow

    fields = [
        ("chunk_id", arrow.int64()),
        ("words", arrow.utf8()),
        ("vector", arrow.list_(arrow.float32(), dimensions)),
    ]
    return arrow.schema(fields)
