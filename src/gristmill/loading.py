"""What tasks look up when they begin, asked for by many at once: tasks are claimed in batches, and begin together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from gristmill.data import records
from gristmill.data.records import Record
from gristmill.llm.batches import Batches


class Loading:
    """Records and finished work of one database: what is asked for at the same time is one statement."""

    def __init__(self, pool: asyncpg.Pool[Any]) -> None:
        self._pool = pool
        self._records: Batches[int, Record | None] = Batches(self._load, key=int)
        self._families: Batches[int, list[Record]] = Batches(self._load_families, key=int)
        self._works: Batches[bytes, tuple[str, list[int]] | None] = Batches(self._outputs, key=bytes)

    async def own(self, ids: Sequence[int]) -> list[Record]:
        """The records themselves, in order. Raises `LookupError` for one that does not exist."""
        if len(ids) == 1:
            found = {ids[0]: await self._records.add(ids[0])}
        else:
            found = dict(await records.load(self._pool, ids))
        if missing := [number for number in ids if found.get(number) is None]:
            raise LookupError(f"there is no record {missing[0]}")
        return [record for number in ids if (record := found[number]) is not None]

    async def family(self, ids: Sequence[int]) -> list[Record]:
        """The records and all their ancestors, nearest first."""
        return await (self._families.add(ids[0]) if len(ids) == 1 else records.load_family(self._pool, ids))

    async def outputs(self, key: bytes) -> tuple[str, list[int]] | None:
        """Outcome and record ids of work that was done before, or None."""
        return await self._works.add(key)

    async def _load(self, ids: list[int]) -> list[Record | None]:
        found = await records.load(self._pool, ids)
        return [found.get(number) for number in ids]

    async def _load_families(self, ids: list[int]) -> list[list[Record]]:
        found = await records.load_families(self._pool, ids)
        return [found.get(number, []) for number in ids]

    async def _outputs(self, keys: list[bytes]) -> list[tuple[str, list[int]] | None]:
        found = await records.outputs_of(self._pool, keys)
        return [found.get(key) for key in keys]
