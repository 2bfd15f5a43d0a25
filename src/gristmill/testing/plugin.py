"""Fixtures for pytest; loaded by itself when Gristmill is installed. Nothing of them starts before a test asks for it.

`gristmill_database`: the URL of a fresh database for each test, also in GRISTMILL_DATABASE_URL. `gristmill_engine`: an
`Engine` on it, to be opened by the test. `hostile_workers`: worker processes that are killed, stopped and starved.
The server is an embedded one of this test session; GRISTMILL_TEST_SERVER (a URL whose user may create databases)
names another one.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import pytest

if TYPE_CHECKING:
    from gristmill.engine.library import Engine
    from gristmill.testing.hostile import HostileWorkers

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def gristmill_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server for the databases of this test session."""
    given = os.environ.get("GRISTMILL_TEST_SERVER")
    if given:
        yield given
        return
    from gristmill.db import embedded

    home = tmp_path_factory.mktemp("gristmill") / "home"
    server = _run(lambda: embedded.open_server(home))
    # Killed processes are what tests are about, not lost power: nothing waits for the disk.
    _run(lambda: _execute(server.url, "alter system set fsync = off", "select pg_reload_conf()"))
    yield server.url
    _run(lambda: embedded.close_server(server))


@pytest.fixture(scope="session")
def gristmill_template(gristmill_server: str) -> Iterator[str]:
    """The name of a database with the newest schema, which the database of each test is a copy of."""
    name = f"gristmill_template_{secrets.token_hex(4)}"
    _run(lambda: _execute(gristmill_server, f"create database {name}"))
    _run(lambda: _migrate(_at(gristmill_server, name)))
    yield name
    _run(lambda: _execute(gristmill_server, f"drop database {name} with (force)"))


@pytest.fixture
def gristmill_database(
    gristmill_server: str, gristmill_template: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The URL of a fresh database, which is also what `Engine()` and `App()` without a URL use during this test."""
    name = f"{gristmill_template}_{next(_numbers)}"
    _run(lambda: _execute(gristmill_server, f"create database {name} template {gristmill_template}"))
    url = _at(gristmill_server, name)
    monkeypatch.setenv("GRISTMILL_DATABASE_URL", url)
    yield url
    _run(lambda: _execute(gristmill_server, f"drop database {name} with (force)"))


@pytest.fixture
def gristmill_engine(gristmill_database: str) -> Engine:
    """An engine without functions on a fresh database: `async with gristmill_engine as engine:`."""
    from gristmill.engine.library import Engine

    return Engine(gristmill_database)


@pytest.fixture
def hostile_workers(gristmill_database: str, tmp_path: Path) -> HostileWorkers:
    """`await hostile_workers.run("my_tasks:engine")` performs all open tasks under attack; see `HostileWorkers`."""
    from gristmill.testing.hostile import HostileWorkers

    return HostileWorkers(gristmill_database, tmp_path / "hostile")


def _run(make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """In a thread of its own: whatever runs the tests may have an event loop in this one."""
    result: list[Any] = []
    problem: list[BaseException] = []

    def work() -> None:
        try:
            result.append(asyncio.run(make()))
        except BaseException as error:
            problem.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if problem:
        raise problem[0]
    return result[0]


async def _execute(url: str, *statements: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _migrate(url: str) -> None:
    from gristmill.db.database import connect
    from gristmill.db.migrate import migrate

    connection = await connect(url)
    try:
        await migrate(connection)
    finally:
        await connection.close()


def _at(url: str, database: str) -> str:
    """The same server, another database."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{database}"))
