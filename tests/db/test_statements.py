"""Every named statement is valid on the newest schema, and the hot ones touch rows in proportion to their batch."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from gristmill.db.statements import statement_files, statements
from gristmill.engine import queue
from tests.engine.conftest import register


@pytest.mark.parametrize("file", statement_files())
async def test_the_server_prepares_every_statement_of_the_file(pool: Any, file: str) -> None:
    async with pool.acquire() as connection:
        for name, text in statements(file).items():
            try:
                await connection.prepare(text)
            except asyncpg.PostgresError as error:
                pytest.fail(f"{file}.sql, {name}: {error}")


async def rows_read(connection: Any, sql: str, *arguments: Any) -> int:
    """Rows that all scans of a statement have produced or thrown away, from EXPLAIN ANALYZE; nothing is kept."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        plan = json.loads(await connection.fetchval(f"explain (analyze, format json) {sql}", *arguments))
    finally:
        await transaction.rollback()

    def walk(node: dict[str, Any]) -> int:
        own = 0
        if "Relation Name" in node:
            dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            own = round((node["Actual Rows"] + dropped) * node["Actual Loops"])
        return own + sum(walk(child) for child in node.get("Plans", []))

    return walk(plan[0]["Plan"])


@pytest.fixture
async def crowded(pool: Any) -> Any:
    """A hundred thousand waiting, failed and finished tasks each, with fresh statistics."""
    run_id = await pool.fetchval(
        "insert into run (name, workflow, definition, sealed) values ('r', 'w', '{}', true) returning id"
    )
    await pool.execute("insert into step (run_id, ordinal, name, kind, pool) values ($1, 0, 's', 'bare', '*')", run_id)
    for state in ("available", "completed", "failed"):
        await pool.execute(
            "insert into task (run_id, kind, pool, state) select $1, 'bare', '*', $2 from generate_series(1, 100000)",
            run_id, state,
        )  # fmt: skip
    await pool.execute("analyze task")
    return run_id


async def test_claim_settle_and_rescue_read_rows_in_proportion_to_the_batch(pool: Any, crowded: int) -> None:
    claimer = await register(pool)
    tasks = await queue.claim(pool, claimer, {"*": 20}, ["bare"])
    assert len(tasks) == 20
    async with pool.acquire() as connection:
        import uuid

        read = {
            "claim": await rows_read(
                connection, queue.SQL["claim"], claimer.id, claimer.nonce, ["*"], [20], [-1], ["bare"],
                uuid.uuid4(), False,
            ),
            "settle": await rows_read(
                connection, queue.SQL["settle"], [t.id for t in tasks], [t.token for t in tasks], ["ok"] * 20,
                claimer.id,
            ),
            "release": await rows_read(
                connection, queue.SQL["release"], [t.id for t in tasks], [t.token for t in tasks], [0.0] * 20, [""] * 20
            ),
            "rescue": await rows_read(connection, queue.SQL["rescue"], claimer.id, True, "test"),
            "suspects": await rows_read(connection, queue.SQL["suspects"], queue.LOCK_CLASS, 0, 0.5, "here"),
            "beat": await rows_read(connection, queue.SQL["beat"], claimer.id, claimer.nonce),
            "sealed_runs": await rows_read(connection, statements("workflow")["sealed_runs"]),
        }  # fmt: skip
    assert {name: n for name, n in read.items() if n > 20 * 10} == {}


async def test_the_reason_of_waiting_tasks_is_found_without_reading_them_all(pool: Any, crowded: int) -> None:
    async with pool.acquire() as connection:
        assert await rows_read(connection, statements("workflow")["held_by"], crowded) <= 10_100
