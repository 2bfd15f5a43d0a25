"""Behind a PgBouncer in transaction mode: no session is ours, and nothing is lost but the quick notice of a death.

Needs PgBouncer 1.21 or newer (prepared statements) on the path, or at GRISTMILL_TEST_PGBOUNCER.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from gristmill.db.database import connect, pooler_settings
from gristmill.db.moving import move
from gristmill.errors import DatabaseProblem
from tests.engine.conftest import Enqueue, Processes, bare_run, enqueue, until, watching
from tests.scenarios.conftest import Home, make_home, model_server, scripted_server

__all__ = ["bare_run", "enqueue", "make_home", "model_server", "scripted_server", "watching"]
PROGRAM = os.environ.get("GRISTMILL_TEST_PGBOUNCER") or shutil.which("pgbouncer")


def _version() -> tuple[int, ...]:
    if PROGRAM is None:
        return (0,)
    told = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)\.(\d+)", told)
    return tuple(int(number) for number in found.groups()) if found else (0,)


pytestmark = pytest.mark.skipif(_version() < (1, 21), reason="needs PgBouncer 1.21 or newer")


async def relay(socket_file: Path) -> asyncio.Server:
    """A TCP port that leads to the embedded server, which the account of PgBouncer could not reach by itself."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(65536):
                writer.write(block)
                await writer.drain()
        writer.close()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(socket_file)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    return await asyncio.start_server(lead, "127.0.0.1", 0)


@pytest.fixture
async def behind(database_url: str) -> AsyncIterator[str]:
    """The URL of the test's database behind a PgBouncer with four server connections."""
    parts = urlsplit(database_url)
    folder = Path(parse_qs(parts.query)["host"][0])
    name = parts.path.lstrip("/")
    leading = await relay(folder / ".s.PGSQL.5432")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        file = Path(place) / "pgbouncer.ini"
        file.write_text(f"""
[databases]
{name} = host=127.0.0.1 port={leading.sockets[0].getsockname()[1]} dbname={name} user=gristmill
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
max_prepared_statements = 200
""")
        account = ["-u", "nobody"] if os.getuid() == 0 else []
        with subprocess.Popen([PROGRAM, *account, str(file)], stderr=subprocess.DEVNULL) as process:

            async def answers() -> bool:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    return True
                return False

            await until(answers)
            yield f"postgresql://gristmill@127.0.0.1:{port}/{name}"
            process.send_signal(signal.SIGQUIT)
    leading.close()


async def told_our_settings(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(pooler_settings(urlsplit(url).path.lstrip("/")))
    await connection.close()


async def test_a_database_that_does_not_know_our_settings_is_refused_with_the_command(behind: str) -> None:
    with pytest.raises(DatabaseProblem) as refused:
        await connect(behind)
    assert refused.value.code == "D137"
    assert "gristmill db pooler" in refused.value.hint
    with pytest.raises(DatabaseProblem):
        await move(behind, behind)


async def test_a_whole_run_goes_through_a_pooler(
    behind: str, database_url: str, make_home: Callable[..., Home]
) -> None:
    await told_our_settings(database_url)
    home = make_home(GRISTMILL_DATABASE_URL=behind)
    for number in range(8):
        (home.folder / f"sieve-{number}.md").write_text(
            f"Sieve {number} is a part that holds {number} units of grain.\n"
        )
    code, done = await home.json("run", ".", "--model", "extractive", "--workers", "2")
    assert (code, done["state"]) == (0, "completed"), home.logs()
    connection = await asyncpg.connect(database_url, server_settings={"search_path": "gristmill"})
    assert await connection.fetchval("select bool_and(postmaster_started is null) from worker")
    assert not await connection.fetchval("select count(*) from pg_locks where locktype = 'advisory'")
    await connection.close()
    code, out, _ = await home.call("doctor")
    assert "pooler" in out


async def test_the_tasks_of_a_worker_killed_behind_a_pooler_are_taken_over(
    behind: str, database_url: str, enqueue: Enqueue, tmp_path: Path, watching: Callable[..., Awaitable[Any]]
) -> None:
    await told_our_settings(database_url)
    workers = Processes(behind, tmp_path / "workers.log")
    try:
        (task,) = await enqueue({"do": "sleep", "seconds": 60})
        first = workers.start(lease=3.0)
        await watching("select state = 'running' from task where id = $1", task)
        first.kill()
        workers.start(lease=3.0)
        await watching("select state = 'running' and attempt = 2 from task where id = $1", task, limit=60)
        assert await watching("select cause from worker where state = 'dead'")
    finally:
        workers.end()
