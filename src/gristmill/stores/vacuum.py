"""Tidying search indexes up, and checking them: for the command line, the API, and the end of a run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import asyncpg

from gristmill.engine.lock_keys import lock_key
from gristmill.engine.locks import HolderKind, force_release
from gristmill.errors import GristmillError, LockHeld
from gristmill.stores import lance, pgvector
from gristmill.stores.opening import folder_of


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What came of one store: `status` is done (200), not_found (404), locked (409) or failed (500). Sizes in bytes."""

    store: str
    status: Literal["done", "not_found", "locked", "failed"]
    before: int = 0
    after: int = 0
    dropped: int = 0  # entries of chunks that no run has any more
    message: str = ""

    @property
    def http_status(self) -> int:
        return {"done": 200, "not_found": 404, "locked": 409, "failed": 500}[self.status]


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look at one store says. `unused`: entries of chunks that no run has; `problems`: none when it is sound."""

    store: str
    status: Literal["sound", "not_found", "damaged"]
    entries: int = 0
    unused: int = 0
    size: int = 0  # bytes
    problems: tuple[str, ...] = ()


async def vacuum(
    pool: asyncpg.Pool[Any], store: str, home: Path, *, by: str, kind: HolderKind = "cli", wait: float | None = None,
    force: bool = False, reason: str = "",
) -> Vacuumed:  # fmt: skip
    """Tidies one store up: "database", or "lancedb:FOLDER".

    `wait` None waits for the folder's lock for ever, 0 fails at once, else seconds; the database needs none. `force`
    takes the lock away from whoever holds it, which is kept as an event `lock.forced` with `by` and `reason`. Never
    raises for what can go wrong with the store: that is its result. Raises `UsageError` U390 for no such kind.
    """
    folder = folder_of(store, home)
    try:
        if folder is None:
            before = await pool.fetchval("select pg_total_relation_size(to_regclass('vector_entry'))") or 0
            dropped = await pgvector.vacuum(pool)
            after = await pool.fetchval("select pg_total_relation_size('vector_entry')")
            return Vacuumed(store, "done", before, after, dropped)
        if not _is_store(folder):
            return Vacuumed(store, "not_found", message=f"there is no LanceDB in {folder}")
        lance.library()
        if force:
            await force_release(pool, lock_key("path", folder), by=by, reason=reason or "vacuum")
        async with lance.writing(pool, folder, kind, by, wait) as held:
            before = await asyncio.to_thread(_size, folder)
            await lance.tidy(folder, held)
        return Vacuumed(store, "done", before, await asyncio.to_thread(_size, folder))
    except LockHeld as error:
        return Vacuumed(store, "locked", message=error.message)
    except (GristmillError, asyncpg.PostgresError, OSError, RuntimeError, ValueError) as error:
        return Vacuumed(store, "failed", message=getattr(error, "message", "") or f"{type(error).__name__}: {error}")


async def stores_of(pool: asyncpg.Pool[Any], project: str) -> list[str]:
    """The stores that runs of a project have written to, sorted."""
    return [row["store"] for row in await pool.fetch(pgvector.SQL["stores"], project)]


async def verify(pool: asyncpg.Pool[Any], store: str, home: Path) -> Verified:
    """Reads a whole store and says whether it is sound; changes nothing, needs no lock. Raises `UsageError` U390,
    `EnvironmentProblem` F301 without LanceDB, `DatabaseProblem` D150 without pgvector."""
    folder = folder_of(store, home)
    if folder is None:
        await pgvector.make_ready(pool)
        row = await pool.fetchrow(pgvector.SQL["verify"])
        wrong = (f"{row['orphans']:,} entries of chunks that are gone",) if row["orphans"] else ()
        return Verified(store, "damaged" if wrong else "sound", row["entries"], row["unused"], row["bytes"], wrong)
    if not _is_store(folder):
        return Verified(store, "not_found")
    database = await lance.library().connect_async(str(folder))
    problems: list[str] = []
    ids: list[int] = []
    for name in await lance.tables(database):
        try:
            table = await database.open_table(name)
            found = (await table.query().select(["chunk_id", "vector"]).to_arrow()).column("chunk_id").to_pylist()
        except Exception as error:  # whatever a damaged file makes of itself
            problems.append(f"table {name} cannot be read: {type(error).__name__}: {str(error)[:200]}")
            continue
        if len(found) != len(set(found)):
            problems.append(f"table {name} has {len(found) - len(set(found)):,} chunks twice")
        ids += found
    used = await pool.fetchval("select count(*) from record where kind = 'chunk' and id = any ($1::bigint[])", ids)
    size = await asyncio.to_thread(_size, folder)
    state: Literal["sound", "damaged"] = "damaged" if problems else "sound"
    return Verified(store, state, len(ids), len(set(ids)) - used, size, tuple(problems))


def _is_store(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.lance"))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
