"""gristmill api and gristmill token, as commands in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable

import httpx
import pytest

from tests.scenarios.conftest import Home, make_home, model_server, scripted_server

__all__ = ["make_home", "model_server", "scripted_server"]


@pytest.fixture
def home(make_home: Callable[..., Home], database_url: str) -> Home:
    return make_home(GRISTMILL_DATABASE_URL=database_url)


async def test_it_serves_until_it_is_told_to_stop_and_asks_for_a_token_once_there_is_one(home: Home) -> None:
    process = home.start("api", "--port", "0", "--json")
    assert process.stdout is not None
    place = json.loads(await asyncio.to_thread(process.stdout.readline))
    assert place["schema"] == "gristmill.api/1"
    async with httpx.AsyncClient(base_url=place["url"], timeout=30) as client:
        assert (await client.get("api/health")).json() == {"status": "ok"}
        assert (await client.get("api/session")).json()["how"] == "open"
        code, made = await home.json("token", "add", "anna", "--role", "operator")
        assert (code, made["role"]) == (0, "operator")
        assert (await client.get("api/session")).status_code == 401
        headers = {"Authorization": f"Bearer {made['token']}"}
        assert (await client.get("api/session", headers=headers)).json()["name"] == "anna"
        code, listed = await home.json("token")
        assert made["token"] not in json.dumps(listed)
        assert [(one["name"], one["in_force"]) for one in listed["tokens"]] == [("anna", True)]
        code, turned = await home.json("token", "rotate", "anna", "--keep", "0")
        assert (await client.get("api/session", headers=headers)).status_code == 401
        headers = {"Authorization": f"Bearer {turned['token']}"}
        assert (await client.get("api/session", headers=headers)).json()["role"] == "operator"
        code, _, err = await home.call("token", "remove", "nobody")
        assert (code, "U472" in err) == (2, True)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 20) == 0


@pytest.mark.thorough
async def test_it_starts_an_embedded_database_again_that_was_killed(make_home: Callable[..., Home]) -> None:
    home = make_home()
    process = home.start("api", "--port", "0", "--json")
    assert process.stdout is not None
    place = json.loads(await asyncio.to_thread(process.stdout.readline))
    (file,) = home.home.rglob("postmaster.pid")
    async with httpx.AsyncClient(base_url=place["url"], timeout=30) as client:
        assert (await client.get("api/health")).status_code == 200
        os.kill(int(file.read_text().split()[0]), signal.SIGKILL)
        async with asyncio.timeout(60):
            while (await client.get("api/health")).status_code == 200:
                await asyncio.sleep(0.02)
            while (await client.get("api/health")).status_code != 200:
                await asyncio.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 20) == 0


async def test_a_place_that_others_can_reach_or_that_is_taken_is_refused(home: Home) -> None:
    code, _, err = await home.call("api", "--host", "0.0.0.0", "--port", "0")
    assert (code, "error[E141]" in err) == (3, True)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    code, _, err = await home.call("api", "--port", str(server.sockets[0].getsockname()[1]))
    assert (code, "error[E140]" in err) == (3, True)
    server.close()
