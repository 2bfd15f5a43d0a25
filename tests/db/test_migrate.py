"""Migrations go forward, once, and refuse what they do not know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.db import migrate as module
from gristmill.db.database import connect, open_pool
from gristmill.db.migrate import check_schema, migrate, migrations, newest, schema_version
from gristmill.engine import Engine
from gristmill.errors import DatabaseProblem
from tests.conftest import at, own


@pytest.fixture
async def empty_url(server_url: str) -> AsyncIterator[str]:
    connection = await asyncpg.connect(server_url)
    name = own("empty_one")
    await connection.execute(f"create database {name}")
    yield at(server_url, name)
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


def test_every_migration_has_a_number_of_its_own() -> None:
    numbers = [m.version for m in migrations()]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1


async def test_an_empty_database_becomes_the_newest_schema(empty_url: str) -> None:
    connection = await connect(empty_url)
    assert await schema_version(connection) == 0
    assert [m.version for m in await migrate(connection)] == [m.version for m in migrations()]
    assert await schema_version(connection) == newest()
    await check_schema(connection)
    await connection.close()


async def test_migrating_again_changes_nothing(empty_url: str) -> None:
    connection = await connect(empty_url)
    await migrate(connection)
    assert await migrate(connection) == []
    await connection.close()


async def test_two_processes_may_migrate_at_once(empty_url: str) -> None:
    first, second = await connect(empty_url), await connect(empty_url, lock_timeout="30s")
    applied = await asyncio.gather(migrate(first), migrate(second))
    assert sorted(len(part) for part in applied) == [0, len(migrations())]
    await first.close()
    await second.close()


async def test_a_newer_schema_that_only_adds_lets_older_workers_go_on_and_start(pool: Any, database_url: str) -> None:
    """A fleet is upgraded one host after the other: the first new process migrates, the others go on."""
    await pool.execute(
        "insert into schema_migration (version, name, checksum, expands) values ($1, 'next', '', true)", newest() + 1
    )
    await pool.execute("alter table run add column of_the_next_release text")
    async with pool.acquire() as connection:
        assert await migrate(connection) == []
        await check_schema(connection)
    engine = Engine(database_url)

    @engine.task("add")
    async def add(one: int, other: int) -> int:
        return one + other

    async with engine, engine.working({"*": 1}):
        assert await (await engine.enqueue(add, one=1, other=2)).result(wait=20) == 3
    await pool.execute(
        "insert into schema_migration (version, name, checksum, expands) values ($1, 'contract', '', false)",
        newest() + 2,
    )
    with pytest.raises(DatabaseProblem) as refused:
        await check_schema(pool)
    assert refused.value.code == "D120"


async def test_a_newer_schema_is_refused_and_left_alone(pool: Any) -> None:
    await pool.execute("insert into schema_migration (version, name, checksum) values (999, 'future', '')")
    async with pool.acquire() as connection:
        with pytest.raises(DatabaseProblem, match="version 999") as caught:
            await migrate(connection)
    assert caught.value.code == "D120"
    assert "upgrade" in caught.value.hint
    with pytest.raises(DatabaseProblem):
        await check_schema(pool)


async def test_an_older_schema_is_refused_by_a_worker_and_the_command_is_named(pool: Any) -> None:
    await pool.execute("delete from schema_migration where version = $1", newest())
    with pytest.raises(DatabaseProblem) as caught:
        await check_schema(pool)
    assert (caught.value.code, caught.value.hint) == ("D123", "run: gristmill db migrate")


async def test_a_migration_that_was_applied_with_another_text_is_noticed(pool: Any) -> None:
    await pool.execute("update schema_migration set checksum = 'other' where version = 1")
    async with pool.acquire() as connection:
        with pytest.raises(DatabaseProblem) as caught:
            await migrate(connection)
    assert caught.value.code == "D121"


async def test_an_unreachable_server_is_a_clear_error_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(DatabaseProblem) as caught:
        await open_pool(f"postgresql://me:canary@/nothing?host={tmp_path}")
    assert caught.value.code == "D110"
    assert "canary" not in str(caught.value)


def test_every_migration_is_shipped_as_a_file() -> None:
    folder = Path(module.__file__).parent / "migrations"
    assert len(list(folder.glob("[0-9]*.sql"))) == len(migrations())


async def test_a_schema_that_is_up_to_date_is_left_alone_even_while_another_process_migrates(pool: Any) -> None:
    async with pool.acquire() as other, other.transaction(), pool.acquire() as connection:
        await other.execute("select pg_advisory_xact_lock($1)", 0x6772_6973)
        await connection.execute("set lock_timeout = '200ms'")
        assert await migrate(connection) == []
