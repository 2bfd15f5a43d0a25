"""Webhooks through the whole: real commands and worker processes, a real receiver on the loopback, real kills."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from tests.engine.conftest import until
from tests.scenarios.conftest import Home, descendants
from tests.test_notify import Asked, Receiver, receiver

__all__ = ["receiver"]
SECRET = b"a secret of the mill"


@pytest.fixture
async def home(make_home: Callable[..., Home], database_url: str, receiver: Receiver) -> Home:
    """A project with one short text, and a signed webhook at the end of every run."""
    made = make_home(GRISTMILL_DATABASE_URL=database_url, GRISTMILL_WORKERS="1", HOOK_SECRET=SECRET.decode())
    (made.folder / "gristmill.toml").write_text("backoff = 0.05\nbeat = 0.5\nlease = 3.0\n")
    (made.folder / "mill.md").write_text("A sieve is a part of the mill that holds 5 units of grain.\n")
    add = ("hooks", "add", "done", "--on", "run.end", "--webhook", receiver.url, "--secret", "env:HOOK_SECRET")
    code, _, err = await made.call(*add, "--allow-private")
    assert code == 0, err
    return made


def genuine(asked: Asked) -> bool:
    signed = f"{asked.headers['webhook-id']}.{asked.headers['webhook-timestamp']}.".encode() + asked.body
    digest = base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    return asked.headers["webhook-signature"] == f"v1,{digest}"


def told(receiver: Receiver) -> list[tuple[str, str]]:
    """What the receiver heard: the event, and how the run had ended."""
    assert all(genuine(asked) for asked in receiver.asked)
    bodies = [json.loads(asked.body) for asked in receiver.asked]
    return [(body["type"], body["data"]["event"]["body"]["state"]) for body in bodies]


async def test_the_end_of_a_run_is_told_exactly_once_before_its_command_ends(
    home: Home, receiver: Receiver, pool: asyncpg.Pool[Any]
) -> None:
    code, run = await home.json("run", "mill.md")
    assert (code, run["state"]) == (0, "completed")
    assert told(receiver) == [("run.end", "completed")]
    assert json.loads(receiver.asked[0].body)["data"]["run"]["name"] == run["run"]
    code, again = await home.json("run", "mill.md")
    assert (code, again["nothing_to_do"]) == (0, True)
    assert len(receiver.asked) == 1, "what was not done again is not told again"
    assert await pool.fetchval("select count(*) from task where kind like '%webhook%'") == 1


async def test_a_receiver_that_fails_twice_hears_it_a_third_time_under_the_same_id(
    home: Home, receiver: Receiver, pool: asyncpg.Pool[Any]
) -> None:
    receiver.answer("500 Oops", "not now")
    receiver.answer("500 Oops", "not now")
    code, _ = await home.json("run", "mill.md")
    assert code == 0
    assert told(receiver) == [("run.end", "completed")] * 3
    assert len({asked.headers["webhook-id"] for asked in receiver.asked}) == 1
    rows = await pool.fetch("select outcome, message from attempt a join hook h using (run_id) order by a.ended_at")
    assert [row["outcome"] for row in rows] == ["failed", "failed", "completed"]
    assert "answered 500: not now" in rows[0]["message"]


async def test_a_worker_that_is_killed_while_it_tells_is_followed_by_one_that_tells_it_again(
    home: Home, receiver: Receiver, pool: asyncpg.Pool[Any]
) -> None:
    receiver.silent = True  # it hears everything and says nothing
    command = home.start("run", "mill.md", "--workers", "1")
    await until(lambda: _heard(receiver, 1), 60)
    worker = await pool.fetchval("select pid from worker where state = 'alive'")
    receiver.silent = False
    for pid in descendants(worker):
        os.kill(pid, signal.SIGKILL)
    await until(lambda: _heard(receiver, 2), 60)
    _, err = await asyncio.to_thread(command.communicate, timeout=60)
    assert command.returncode == 0, err
    assert told(receiver) == [("run.end", "completed")] * 2
    assert len({asked.headers["webhook-id"] for asked in receiver.asked}) == 1, "the receiver can tell"
    rows = await pool.fetch("select t.state, t.attempt, t.crashes from task t join hook h using (run_id)")
    assert [tuple(row) for row in rows] == [("completed", 2, 1)], "one task for one event, whatever dies"


def _heard(receiver: Receiver, n: int) -> Awaitable[bool]:
    async def heard() -> bool:
        return len(receiver.asked) >= n

    return heard()
