"""The checklist by which an earlier platform tried its workers by hand (003-45..54), as one story with its numbers:
supervisor, API and ten real workers, of which the eleventh is refused."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import asyncpg
import httpx
import pytest
import websockets

from gristmill.crew import log_files
from tests.crew.conftest import make_documents, until
from tests.crew.test_up import all_work, ended, listed
from tests.scenarios.conftest import Home, make_home, model_server, scripted_server

__all__ = ["make_home", "model_server", "scripted_server"]
SETTINGS = """
crew_name = "mill"
shutdown = 5
[workers.parse]
count = 11
pools = {parse = 1, model = 2, "*" = 1}
[limits.gemini]
requests_per_minute = 15
requests_per_day = 1500
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.thorough
async def test_the_whole_checklist_with_ten_workers(
    make_home: Callable[..., Home], database_url: str, pool: asyncpg.Pool[Any]
) -> None:
    home = make_home(GRISTMILL_DATABASE_URL=database_url)
    port = free_port()
    (home.folder / "gristmill.toml").write_text(f"api_port = {port}\n{SETTINGS}")
    make_documents(home.folder / "documents", 12)
    crew = home.start("up")

    # 003-45, 46, 48: everything starts by itself, and each of the ten has a heartbeat.
    before = await all_work(pool, 10)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as api:

        async def healthy(wanted: int) -> bool:
            try:
                answer = await api.get("/api/monitoring/health")
            except httpx.TransportError:
                return False
            return answer.status_code == 200 and answer.json()["healthy"] == wanted

        await until(lambda: healthy(10), 60)

        # 003-49: the eleventh is refused, and says why.
        _, document = await home.json("worker", "list")
        (idle,) = (one for one in document["workers"] if one["standing"] == "stopped")
        assert idle["cause"] == "refused: the crew has its 10 workers (setting most_workers)"
        code, out, _ = await home.call("worker", "start", idle["name"])
        assert (code, "refused: the crew has its 10 workers" in out) == (1, True)

        # 003-51: a page's socket; it tells what follows.
        origin: Any = f"http://127.0.0.1:{port}"
        async with websockets.connect(f"ws://127.0.0.1:{port}/api/ws", origin=origin) as live:
            # 003-47: one is killed by hand, and comes back as another process.
            name = min(before)
            os.kill(before[name]["pid"], signal.SIGKILL)
            await until(lambda: _other(pool, name, before[name]["id"]), 60)
            assert json.loads(await live.recv())["frames"]
        await until(lambda: healthy(10), 60)

        # 003-50: the limiter.
        (limit,) = (one for one in (await api.get("/api/monitoring/quota")).json()["items"] if one["name"] == "gemini")
        assert (limit["quota_limit"], limit["requests_today"], limit["can_make_request"]) == (1500, 0, True)

        # 003-52: pause all, resume all, stop one.
        for order, state in (("pause", "paused"), ("resume", "alive")):
            code, told = await home.json("worker", order, "--all")
            assert (code, {one["changed"] for one in told["workers"]}) == (0, {True})
            await until(functools.partial(_all_are, pool, state), 30)
        await home.json("worker", "stop", name)
        await until(lambda: _runs(pool, 9), 30)

        # 003-54: progress is right, here and over the API.
        code, _, err = await home.call("run", "documents", "--workers", "0", "--quiet", "--model", "extractive")
        assert (code, "12 rows" in err) == (0, True), err
        (run,) = (await api.get("/api/runs")).json()["items"]
        assert (run["state"], run["progress"]["failed"]) == ("completed", 0), run

    # 003-53: no errors in the logs of anybody.
    assert (await home.call("down"))[0] == 0
    assert (await ended(crew))[0] == 0
    lines = [log_files.parsed(line) for line in home.logs().splitlines() if line]
    assert {line["worker"] for line in lines if line.get("worker")} >= set(before)
    assert not [line for line in lines if line.get("level") in ("error", "critical")]


async def _other(pool: asyncpg.Pool[Any], name: str, former: int) -> bool:
    found = await listed(pool)
    return name in found and found[name]["id"] != former


async def _all_are(pool: asyncpg.Pool[Any], state: str) -> bool:
    found = await listed(pool)
    return len(found) == 10 and all(row["state"] == state for row in found.values())


async def _runs(pool: asyncpg.Pool[Any], wanted: int) -> bool:
    return len(await listed(pool)) == wanted
