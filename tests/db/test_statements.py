"""Every named statement is valid on the newest schema. What the hot ones read: tests/engine/test_plans.py."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from gristmill.db.statements import statement_files, statements


@pytest.mark.parametrize("file", statement_files())
async def test_the_server_prepares_every_statement_of_the_file(pool: Any, file: str) -> None:
    async with pool.acquire() as connection:
        if file == "vectors" and await connection.fetchval("select to_regclass('vector_entry') is null"):
            pytest.skip("this server has no pgvector")
        for name, text in statements(file).items():
            try:
                await connection.prepare(text)
            except asyncpg.PostgresError as error:
                pytest.fail(f"{file}.sql, {name}: {error}")
