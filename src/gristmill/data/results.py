"""The results of a run in memory: rows one by one, or one table of Arrow, pandas or polars."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from gristmill.data.export_shapes import Layout
from gristmill.data.export_writers import arrow_schema, arrow_table, import_pyarrow
from gristmill.data.rows import Row
from gristmill.errors import UsageError

BATCH = 5_000  # rows


class Results:
    """`async for row in results` streams; the tables hold every row at once. Columns as in the format parquet."""

    def __init__(self, rows: Callable[[], AsyncIterator[Row]]) -> None:
        self._rows = rows

    def __aiter__(self) -> AsyncIterator[Row]:
        return self._rows()

    async def arrow(self) -> Any:
        """A `pyarrow.Table`. Raises `UsageError` U410 without pyarrow."""
        pyarrow = import_pyarrow("a table")
        schema = arrow_schema(None)
        tables = []
        batch: list[Row] = []
        async for row in self._rows():
            batch.append(row)
            if len(batch) >= BATCH:
                tables.append(await asyncio.to_thread(arrow_table, batch, Layout(), schema))
                batch = []
        tables.append(await asyncio.to_thread(arrow_table, batch, Layout(), schema))
        return pyarrow.concat_tables(tables)

    async def pandas(self) -> Any:
        """A `pandas.DataFrame`. Raises `UsageError` U410 without pyarrow or pandas."""
        _import("pandas")
        table = await self.arrow()
        return await asyncio.to_thread(table.to_pandas)

    async def polars(self) -> Any:
        """A `polars.DataFrame`. Raises `UsageError` U410 without pyarrow or polars."""
        polars = _import("polars")
        return polars.from_arrow(await self.arrow())


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"this needs the package {name}", hint=f"pip install {name}", code="U410") from None
