"""`gristmill up` and its orders as people type them: real supervisors, real workers, real kills."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.crew import log_files
from gristmill.engine import processes
from tests.crew.conftest import until
from tests.scenarios.conftest import Home, make_home, model_server, scripted_server

__all__ = ["make_home", "model_server", "scripted_server"]
SETTINGS = """
beat = 0.5
lease = 4
shutdown = 2
crew_name = "mill"
[workers.parse]
count = 2
pools = {parse = 1, "*" = 2}
[workers.model]
pools = {model = 8}
annotator = "miller"
domain = "grain"
"""


@pytest.fixture
def home(make_home: Callable[..., Home], database_url: str) -> Home:
    made = make_home(GRISTMILL_DATABASE_URL=database_url)
    (made.folder / "gristmill.toml").write_text(SETTINGS)
    (made.folder / "mill.md").write_text("A sieve is a part of the mill that holds 5 units of grain.\n")
    return made


async def listed(pool: asyncpg.Pool[Any]) -> dict[str, Any]:
    """Name of a place -> pid of its process that is a worker with a beat."""
    rows = await pool.fetch(
        "select p.name, p.pid, w.state, w.id from crew_place p join worker w on w.nonce = p.nonce"
        " where p.state = 'running' and w.postmaster_started is not null and w.state in ('alive', 'paused')"
    )
    return {row["name"]: row for row in rows}


async def all_work(pool: asyncpg.Pool[Any], wanted: int = 3) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        found = await listed(pool)
        return found if len(found) == wanted else None

    found = await until(look, 60)
    assert isinstance(found, dict)
    return found


def gone(row: Any) -> bool:
    return processes.started(row["pid"]) == 0


async def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = await asyncio.to_thread(process.communicate, timeout=60)
    return process.returncode, err


async def test_a_crew_works_is_steered_and_ends_in_order(home: Home, pool: asyncpg.Pool[Any]) -> None:
    crew = home.start("up", "--no-api")
    before = await all_work(pool)
    assert sorted(before) == ["model-1", "parse-1", "parse-2"]

    code, document = await home.json("worker", "list")
    (row,) = document["crews"]
    assert (code, row["name"], row["held"], row["pid"], row["workers"], row["most"]) == (
        0,
        "mill",
        True,
        crew.pid,
        3,
        10,
    )
    model = next(worker for worker in document["workers"] if worker["name"] == "model-1")
    assert (model["standing"], model["settings"]["annotator"], model["tasks"]) == ("running", "miller", 0)
    assert 0 <= model["beat_age"] < 4

    refused = home.start("up", "--no-api")
    code, err = await ended(refused)
    assert (code, "U340" in err, str(crew.pid) in err) == (2, True, True), err

    # A killed worker is replaced; a paused one stays paused, even when its process is another one.
    assert (await home.json("worker", "pause", "model"))[1]["workers"] == [
        {"place": "model-1", "changed": True, "refused": ""}
    ]
    await until(lambda: _state(pool, "model-1", "paused"))
    os.kill(before["model-1"]["pid"], signal.SIGKILL)
    await until(lambda: _replaced(pool, "model-1", before["model-1"]["id"]))
    assert (await listed(pool))["model-1"]["state"] == "paused"
    assert (await home.json("worker", "resume", "model-1"))[1]["workers"][0]["changed"]
    await until(lambda: _state(pool, "model-1", "alive"))

    # The crew does the work of a run that brings no workers of its own; new slots reach workers that run.
    (home.folder / "gristmill.toml").write_text(SETTINGS.replace("model = 8", "model = 9"))
    await until(lambda: _pools(pool, "model-1", 9))
    assert (await listed(pool))["parse-1"]["id"] == before["parse-1"]["id"]

    code, _, err = await home.call("run", "mill.md", "--workers", "0", "--quiet")
    assert (code, "1 rows" in err) == (0, True), err
    owners = await pool.fetch("select distinct worker_id from attempt")
    assert {row["worker_id"] for row in owners} <= {row["id"] for row in (await listed(pool)).values()}

    (home.folder / "gristmill.toml").write_text(SETTINGS.replace("lease = 4", "lease = 4000"))
    await until(lambda: pool.fetchval("select problem from crew where problem like '%lease = 4000%gristmill.toml:3%'"))
    (home.folder / "gristmill.toml").write_text(SETTINGS)
    await until(lambda: pool.fetchval("select problem is null from crew"))

    code, _, err = await home.call("down")
    assert (code, "crew mill is down" in err) == (0, True), err
    code, err = await ended(crew)
    assert code == 0, err
    assert not await listed(pool)
    states = await pool.fetch("select state from worker order by id")
    assert sorted(row["state"] for row in states) == ["dead", "stopped", "stopped", "stopped"]
    lines = [log_files.parsed(line) for line in home.logs().splitlines() if line]
    assert all("timestamp" in line for line in lines), home.logs()
    assert not [line for line in lines if line["level"] in ("error", "critical")]
    mine = [line for line in lines if line.get("annotator") == "miller"]
    assert {(line["domain"], line["worker"]) for line in mine} == {("grain", "model-1")}


async def _state(pool: asyncpg.Pool[Any], name: str, state: str) -> bool:
    found = await listed(pool)
    return name in found and found[name]["state"] == state


async def _replaced(pool: asyncpg.Pool[Any], name: str, former: int) -> bool:
    found = await listed(pool)
    return name in found and found[name]["id"] != former


async def _pools(pool: asyncpg.Pool[Any], name: str, slots: int) -> bool:
    text = await pool.fetchval(
        "select w.pools from worker w join crew_place p on p.nonce = w.nonce where p.name = $1", name
    )
    return text is not None and json.loads(text).get("model") == slots


@pytest.mark.thorough
async def test_workers_outlive_their_supervisor_and_the_next_one_adopts_them(
    home: Home, pool: asyncpg.Pool[Any]
) -> None:
    (home.folder / "gristmill.toml").write_text(f"{SETTINGS.partition('[')[0]}[workers.parse]\ncount = 2\n")
    code, document = await home.json("up", "--detach", "--no-api")
    assert code == 0
    before = await all_work(pool, 2)
    os.kill(document["pid"], signal.SIGKILL)
    await until(lambda: processes.started(document["pid"]) == 0)
    # One worker dies while nobody supervises: the next supervisor buries it and starts another one.
    os.kill(before["parse-2"]["pid"], signal.SIGKILL)

    code, later = await home.json("up", "--detach", "--no-api")
    assert code == 0
    await until(lambda: _replaced(pool, "parse-2", before["parse-2"]["id"]))
    now = await all_work(pool, 2)
    assert now["parse-1"]["id"] == before["parse-1"]["id"]

    # Both at once: the supervisor and everything that it started.
    for pid in (later["pid"], *(row["pid"] for row in now.values())):
        os.kill(pid, signal.SIGKILL)
    await until(lambda: all(gone(row) for row in now.values()))
    code, last = await home.json("up", "--detach", "--no-api")
    assert code == 0
    newest = await all_work(pool, 2)
    assert not {row["id"] for row in now.values()} & {row["id"] for row in newest.values()}

    # No supervisor: whoever says down ends the workers himself.
    os.kill(last["pid"], signal.SIGKILL)
    code, document = await home.json("down", "--now")
    assert (code, document["state"], sorted(document["stopped"])) == (0, "down", ["parse-1", "parse-2"])
    assert all(gone(row) for row in newest.values())


async def test_the_last_lines_of_a_worker_are_shown_and_its_end_is_explained(
    home: Home, pool: asyncpg.Pool[Any]
) -> None:
    (home.folder / "broken.py").write_text("raise RuntimeError('the stone is cracked')\n")
    (home.folder / "gristmill.toml").write_text('crew_name = "mill"\nworkers = 1\n')
    crew = home.start("up", "--no-api", "--load", "broken.py")
    await until(lambda: pool.fetchval("select true from crew_place where restarts > 0"), 60)
    code, out, _ = await home.call("worker", "logs", "worker-1", "-n", "5")
    assert (code, "the stone is cracked" in out) == (0, True)
    code, document = await home.json("worker", "list")
    assert "the stone is cracked" in document["workers"][0]["cause"], document
    crew.send_signal(signal.SIGTERM)
    assert (await ended(crew))[0] == 0
    assert await pool.fetchval("select state from crew") == "down"


async def test_the_unit_for_systemd_starts_what_was_asked_for(home: Home) -> None:
    code, out, _ = await home.call("up", "--systemd", "--no-api")
    assert code == 0
    lines = dict(line.split("=", 1) for line in out.splitlines() if "=" in line and not line.startswith("#"))
    assert lines["ExecStart"].endswith(f"-m gristmill up --home {home.home} --no-api")
    assert (lines["WorkingDirectory"], lines["KillMode"], lines["TimeoutStopSec"]) == (
        str(home.folder),
        "process",
        "17",
    )
    assert Path(lines["ExecStart"].split()[0]).exists()
    if tool := shutil.which("systemd-analyze"):
        (home.folder / "gristmill.service").write_text(out)
        verify = [tool, "verify", home.folder / "gristmill.service"]
        told = await asyncio.to_thread(subprocess.run, verify, capture_output=True, text=True, check=False)
        assert (told.returncode, "gristmill" in told.stderr) == (0, False), told.stderr


async def test_a_service_says_when_it_is_ready_and_why_its_api_is_not_served_to_everybody(
    home: Home, pool: asyncpg.Pool[Any]
) -> None:
    (home.folder / "gristmill.toml").write_text('workers = 0\napi_host = "0.0.0.0"\napi_port = 0\n')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(home.folder / "notify"))
        systemd.settimeout(60)
        crew = home.start("up", NOTIFY_SOCKET=str(home.folder / "notify"))
        assert await asyncio.to_thread(systemd.recv, 100) == b"READY=1"
        cause = await until(lambda: pool.fetchval("select cause from crew_place where name = 'api'"), 60)
        assert "0.0.0.0 can be reached from elsewhere, and there is no token yet" in cause
        assert cause.endswith("then: gristmill worker start api")
        crew.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(systemd.recv, 100) == b"STOPPING=1"
    assert (await ended(crew))[0] == 0
    # With a token from the settings it needs no hand.
    crew = home.start("up", GRISTMILL_API_TOKEN="env:MILL_TOKEN", MILL_TOKEN="a" * 40)
    await until(lambda: pool.fetchval("select state = 'running' from crew_place where name = 'api'"), 60)
    assert await pool.fetchval("select role from api_token where name = 'api_token'") == "admin"
    crew.send_signal(signal.SIGTERM)
    assert (await ended(crew))[0] == 0
