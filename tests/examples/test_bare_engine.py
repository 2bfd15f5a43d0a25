"""The examples of the bare engine run as their readers would run them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.engine.conftest import until

EXAMPLES = Path(__file__).parents[2] / "examples/bare_engine"


@pytest.fixture
def environment(database_url: str) -> dict[str, str]:
    return os.environ | {"GRISTMILL_DATABASE_URL": database_url}


async def test_own_functions_run_as_a_script(environment: dict[str, str], tmp_path: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, EXAMPLES / "own_functions.py"], cwd=tmp_path, env=environment, capture_output=True,
            text=True, timeout=100, check=False,
        )  # fmt: skip

    done = await asyncio.to_thread(run)
    assert done.stdout == "completed: 40 tasks\n", done.stdout + done.stderr


@pytest.fixture
def address(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "web:app", "--port", str(port)], cwd=EXAMPLES, env=environment,
            stdout=output, stderr=output,
        )  # fmt: skip
    yield f"http://127.0.0.1:{port}"
    server.send_signal(signal.SIGTERM)
    try:
        assert server.wait(30) in (0, -signal.SIGTERM), log.read_text()
    finally:
        server.kill()


async def ask(url: str, method: str = "GET") -> tuple[int, Any]:
    def send() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as reply:  # noqa: S310
                return reply.status, json.load(reply)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, None

    return await asyncio.to_thread(send)


async def test_a_web_application_enqueues_in_the_transaction_of_the_request(
    address: str, pool: asyncpg.Pool[Any]
) -> None:
    async def up() -> bool:
        return (await ask(f"{address}/tasks/999"))[0] == 404

    await until(up, 60)
    status, made = await ask(f"{address}/accounts?name=Ada", "POST")
    assert status == 201
    assert await ask(f"{address}/tasks/{made['task']}") == (200, {"result": "Dear Ada, you are account 1."})
    assert (await ask(f"{address}/accounts?name=Ada", "POST"))[0] == 409
    assert (await ask(f"{address}/accounts?name=nobody", "POST"))[0] == 422
    assert await pool.fetchval("select count(*) from public.account") == 1
    assert await pool.fetchval("select count(*) from task where kind = 'welcome'") == 1
