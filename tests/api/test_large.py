"""What the page asks about a large run: no table of tasks is read whole, no answer grows with the number of tasks."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import SESSION
from tests.api.conftest import Api
from tests.api.large import large_run, looks
from tests.engine.plans import WATCH, _nodes, _rows

LARGE = ("task", "attempt", "event", "call")


@asynccontextmanager
async def explained(api: Api, url: str, seen: list[tuple[str, dict[str, Any]]]) -> AsyncIterator[None]:
    """The App's connections tell what they really did."""

    def heard(_connection: Any, message: Any) -> None:
        _, found, text = message.message.partition(" plan:\n")
        if found:
            plan = json.loads(text)
            seen.extend((plan["Query Text"], node) for node in _nodes(plan["Plan"]))

    async def watch(connection: Any) -> None:
        await connection.execute("load 'auto_explain'")
        for name, value in WATCH.items():
            await connection.execute(f"set {name} = '{value}'")

    async def listen(connection: Any) -> None:
        connection.add_log_listener(heard)  # a pool forgets it when a connection comes back

    async def keep(_: Any) -> None:
        """Settings stay."""

    former = api.app._pool
    api.app._pool = await asyncpg.create_pool(
        url, min_size=1, max_size=4, server_settings=SESSION, init=watch, setup=listen, reset=keep
    )
    try:
        yield
    finally:
        api.app._pool.terminate()
        api.app._pool = former


@pytest.mark.filterwarnings("ignore:.*active log listener")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("tasks", "most"), [(12_000, 5_500), pytest.param(1_300_000, 20_500, marks=pytest.mark.thorough)]
)
async def test_no_answer_about_a_run_reads_a_table_of_tasks_from_end_to_end(
    api: Api, database_url: str, tasks: int, most: int
) -> None:
    """`most`: rows of such a table that an answer may look at, however many there are."""
    run = await large_run(api, database_url, tasks)
    task = await api.app.pool.fetchval("select max(id) from task where state = 'completed'")
    seen: list[tuple[str, dict[str, Any]]] = []
    async with explained(api, database_url, seen):
        for path in looks(run, task):
            seen.clear()
            found = await api.get(path)
            assert found.status_code == 200, (path, found.text)
            assert seen or "workflows" in path, path
            for query, node in seen:
                if node.get("Relation Name") in LARGE:
                    assert node["Node Type"] != "Seq Scan" or not _rows(node), (path, query[:300])
                    assert _rows(node) <= most, (path, _rows(node), query[:300])
    for path in looks(run, task) if tasks > 1_000_000 else ():
        began = time.monotonic()
        assert (await api.get(path)).status_code == 200
        print(f"{(time.monotonic() - began) * 1000:8.0f} ms  {path}")
