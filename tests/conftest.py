"""One real PostgreSQL per test process; every test that asks for `database_url` gets a fresh database of its own."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.app import App
from gristmill.db import embedded
from gristmill.db.database import open_pool
from gristmill.db.migrate import migrate
from tests.by_hand import Hand, hand_of

# Hundreds of processes of ours are started: where nobody may keep what was compiled, each of them compiles everything.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def at(url: str, database: str) -> str:
    """The same server, another database."""
    return url.replace("/gristmill?", f"/{database}?")


def own(name: str) -> str:
    """A database's name that no other test process has, which may share the server."""
    return f"{name}_{os.getpid()}"


_numbers = itertools.count(1)
MEMORY = 6 << 30  # free bytes from which the server of the tests lives in memory


@contextmanager
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In memory where there is plenty: a thousand databases of some 600 files each are made and dropped in it."""
    memory = Path("/dev/shm")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if not memory.is_dir() or min(free, shutil.disk_usage(memory).free) < MEMORY:
        yield tmp_path_factory.mktemp("server")
        return
    for left in memory.glob("gristmill-tests-*"):  # by test processes that were killed
        if not Path(f"/proc/{left.name.rpartition('-')[2]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = memory / f"gristmill-tests-{os.getpid()}"
    folder.mkdir(mode=0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def server_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The embedded server, without fsync: killed processes are what these tests are about, not lost power. Or the one
    that GRISTMILL_TEST_SERVER names, as tests/own_postgres.py does."""
    if given := os.environ.get("GRISTMILL_TEST_SERVER"):
        yield given
        return
    with server_folder(tmp_path_factory) as folder:
        server = await embedded.open_server(folder / "home")
        connection = await asyncpg.connect(server.url)
        for setting in ("fsync = off", "max_wal_size = '256MB'"):
            await connection.execute(f"alter system set {setting}")
        await connection.execute("select pg_reload_conf()")
        await connection.close()
        yield server.url
        await embedded.stop_server(folder / "home")
        await embedded.close_server(server)


@pytest.fixture(scope="session")
async def template_database(server_url: str) -> str:
    """The name of a database with the newest schema, which every test's database is a copy of."""
    name = own("gristmill_template")
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"create database {name}")
    await connection.close()
    connection = await asyncpg.connect(at(server_url, name))
    await migrate(connection)
    await connection.close()
    return name


@pytest.fixture
async def database_url(server_url: str, template_database: str) -> AsyncIterator[str]:
    name = own(f"test_{next(_numbers)}")
    connection = await asyncpg.connect(server_url)
    copied = f"create database {name} template {template_database}"
    if connection.get_server_version() >= (15,):
        copied += " strategy file_copy"  # half the work of the other way where nothing waits for a disk
    await connection.execute(copied)
    yield at(server_url, name)
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool[Any]]:
    opened = await open_pool(database_url, size=8)
    yield opened
    opened.terminate()


@pytest.fixture
async def app(database_url: str, tmp_path: Path) -> AsyncIterator[App]:
    """An App on the test's database, without workers."""
    async with App(database_url, home=tmp_path / "home", workers=0) as opened:
        yield opened


@pytest.fixture
async def hand(app: App) -> AsyncIterator[Hand]:
    """A worker for that App, whichever `app` the test has, which works in the test's own loop."""
    async with hand_of(app) as made:
        yield made
