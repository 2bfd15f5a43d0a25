"""Tasks are made inside other people's transactions, through their own drivers, and exist when those commit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import psycopg
import pytest

from gristmill.engine import Engine, lock_key
from gristmill.engine.foreign import adapted
from gristmill.errors import UsageError


class Drivers:
    """The same few calls for every driver."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url

    async def __aenter__(self) -> Any:
        if self.name == "asyncpg":
            self.connection: Any = await asyncpg.connect(self.url)
            self.transaction = self.connection.transaction()
            await self.transaction.start()
        elif self.name == "psycopg":
            self.connection = await psycopg.AsyncConnection.connect(self.url)
        else:
            self.connection = psycopg.connect(self.url)
        await self.execute("create table if not exists public.account (name text)")
        return self.connection

    async def execute(self, sql: str) -> None:
        done = self.connection.execute(sql)
        if self.name != "psycopg (sync)":
            await done

    async def end(self, how: str) -> None:
        done = getattr(self.transaction if self.name == "asyncpg" else self.connection, how)()
        if self.name != "psycopg (sync)":
            await done

    async def __aexit__(self, *_: object) -> None:
        done = self.connection.close()
        if self.name != "psycopg (sync)":
            await done


@pytest.fixture(params=["asyncpg", "psycopg", "psycopg (sync)"])
def driver(request: pytest.FixtureRequest, database_url: str) -> Drivers:
    return Drivers(request.param, database_url)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    made = Engine(database_url)

    @made.task("welcome", lock=lock_key("server", "mail"))
    async def welcome(name: str) -> str:
        return f"hello {name}"

    async with made:
        yield made


COUNT = "select count(*) from task"


async def test_a_task_exists_exactly_when_its_transaction_commits(
    driver: Drivers, engine: Engine, pool: asyncpg.Pool[Any]
) -> None:
    async with driver as connection:
        await driver.execute("insert into public.account values ('Ada')")
        await engine.enqueue("welcome", name="Ada", connection=connection)
        assert await pool.fetchval(COUNT) == 0
        await driver.end("rollback")
    assert await pool.fetchval(COUNT) == 0
    async with driver as connection:
        await driver.execute("insert into public.account values ('Ada')")
        task = await engine.enqueue("welcome", name="Ada", connection=connection)
        await driver.end("commit")
    await engine.hint()
    async with engine.working({"*": 2}, poll=5.0):
        assert await task.result(20) == "hello Ada"
    assert await pool.fetchval("select count(*) from public.account") == 1


async def test_every_option_goes_through_every_driver(driver: Drivers, engine: Engine, pool: asyncpg.Pool[Any]) -> None:
    first = await engine.enqueue("welcome", name="first")
    async with engine.working({"*": 2}, poll=0.05):
        await first.result(20)
    async with driver as connection:
        options: dict[str, Any] = {
            "connection": connection, "delay": 0.5, "expires": 3600, "lock": "shop:corner", "lock_slots": 2,
            "priority": -5, "attempts": 7, "timeout": 2.5, "pool": "mail",
        }  # fmt: skip
        second = await engine.enqueue("welcome", name="second", key="two", **options)
        same = await engine.enqueue("welcome", name="second", key="two", **options)
        many = await engine.enqueue_many(
            "welcome", [{"name": "third"}, {"name": "é\U0001f600"}], after=[first, second], connection=connection
        )
        free = await engine.enqueue("welcome", name="free", after=[first], connection=connection)
        await driver.end("commit")
    assert second.id == same.id
    row = await pool.fetchrow("select * from task where id = $1", second.id)
    assert (row["lock_key"], row["lock_slots"], row["priority"], row["max_attempts"]) == ("shop:corner", 2, -5, 7)
    assert (row["timeout"], row["pool"], row["payload"]) == (2.5, "mail", '{"name":"second"}')
    assert row["deadline"] > row["run_at"]
    assert [await task.why() for task in many] == [f"waits for task {second.id} (available)"] * 2
    assert await free.why() == 'no worker for pool "*"'
    assert await pool.fetchval("select payload from task where id = $1", many[1].id) == '{"name":"é\U0001f600"}'


async def test_the_callers_session_is_left_as_it_was(driver: Drivers, engine: Engine) -> None:
    async with driver as connection:
        await driver.execute("set search_path = pg_catalog")
        await engine.enqueue("welcome", name="Ada", connection=connection)
        adapter = adapted(connection)
        assert await adapter.fetchval("select current_setting('search_path')") == "pg_catalog"


async def test_other_things_than_connections_are_named(engine: Engine) -> None:
    with pytest.raises(UsageError, match=r"builtins\.object") as refused:
        await engine.enqueue("welcome", name="Ada", connection=object())
    assert refused.value.code == "U541"
