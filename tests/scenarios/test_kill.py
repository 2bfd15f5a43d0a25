"""Guarantees under SIGKILL: nothing is lost, nothing is recorded twice, nothing is paid twice but calls in flight."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.llm.conftest import ScriptedServer
from tests.scenarios.conftest import Home, essence

RUN = ("--model", "openai:scripted", "--set", "split.size=600")


async def served(server: ScriptedServer, at_least: int) -> None:
    async with asyncio.timeout(90):
        while (await server.stats())["served"] < at_least:
            await asyncio.sleep(0.05)


async def test_after_a_kill_of_everything_the_same_command_goes_on_and_loses_and_repeats_nothing(
    make_home: Callable[..., Home], documents: Path, model_server: ScriptedServer, database_url: str
) -> None:
    undisturbed = make_home("undisturbed", GRISTMILL_DATABASE_URL=database_url)
    code, first = await undisturbed.json("run", str(documents), *RUN)
    assert code == 0
    ideal = (await model_server.stats())["served"]
    assert ideal > 300

    await model_server.control(reset=True)
    await model_server.control(latency=0.2)
    disturbed = make_home("disturbed")
    in_flight = 0
    for part in (0.25, 0.5, 0.75):
        process = disturbed.start("run", str(documents), *RUN)
        await served(model_server, int(ideal * part))
        in_flight += (await model_server.stats())["active"]
        victims = disturbed.kill_everything(process)
        assert len(victims) >= 5  # the command, two workers, and their beat processes
    code, last = await disturbed.json("run", str(documents), *RUN)
    assert code == 0, disturbed.logs()
    assert essence(Path(last["dataset"])) == essence(Path(first["dataset"]))
    stats = await model_server.stats()
    assert stats["unique"] == ideal
    assert stats["repeated"] <= 3 * 64
    print(f"{stats['repeated']} calls paid twice, about {in_flight} were in flight at three kills")


async def test_the_second_run_of_the_same_command_has_nothing_to_do_and_pays_nothing(
    make_home: Callable[..., Home], few_documents: Path, model_server: ScriptedServer, database_url: str
) -> None:
    home = make_home(GRISTMILL_DATABASE_URL=database_url)
    code, first = await home.json("run", str(few_documents), *RUN)
    assert (code, first["nothing_to_do"]) == (0, False)
    paid = (await model_server.stats())["requests"]
    code, second = await home.json("run", str(few_documents), *RUN)
    assert (code, second["nothing_to_do"], second["rows"]) == (0, True, first["rows"])
    assert (await model_server.stats())["requests"] == paid


async def test_only_what_is_new_or_changed_is_asked_again(
    make_home: Callable[..., Home], few_documents: Path, model_server: ScriptedServer, database_url: str
) -> None:
    home = make_home(GRISTMILL_DATABASE_URL=database_url)
    _, first = await home.json("run", str(few_documents), *RUN)
    paid = (await model_server.stats())["requests"]
    (few_documents / "new.md").write_text("# New\n\n" + "The new part is a wheel that turns 7 times. " * 3)
    (few_documents / "chapter-00.md").write_text("# Changed\n\n" + "The changed part is a stone of 12 units. " * 3)
    code, second = await home.json("run", str(few_documents), *RUN)
    assert code == 0
    assert (await model_server.stats())["requests"] - paid < 20
    rows = [row[3] for row in essence(Path(second["dataset"]))]
    before = [row[3] for row in essence(Path(first["dataset"]))]
    assert '"new.md"' in rows
    assert rows.count('"chapter-01.md"') == before.count('"chapter-01.md"')
    assert not any("component numbered 0-" in str(row) for row in essence(Path(second["dataset"])))


@pytest.mark.thorough
async def test_another_option_of_a_late_step_redoes_only_what_depends_on_it(
    make_home: Callable[..., Home], documents: Path, model_server: ScriptedServer
) -> None:
    home = make_home()
    await home.json("run", str(documents), *RUN)
    code, second = await home.json("run", str(documents), *RUN, "--set", "ask.count=1")
    assert code == 0
    steps = {step["name"]: step for step in second["steps"]}
    assert steps["parse"]["reused"] == steps["split"]["reused"] == 40
    assert steps["ask"]["reused"] == 0


async def test_the_tasks_of_a_killed_worker_are_handed_on_and_it_is_started_again(
    make_home: Callable[..., Home], few_documents: Path, model_server: ScriptedServer, database_url: str,
    pool: asyncpg.Pool[Any],
) -> None:  # fmt: skip
    await model_server.control(latency=1.0)
    home = make_home(GRISTMILL_DATABASE_URL=database_url)
    process = home.start("run", str(few_documents), *RUN, "--json")
    await served(model_server, 50)
    alive = await pool.fetch("select pid from worker where state = 'alive'")
    os.kill(alive[0]["pid"], signal.SIGKILL)
    _, err = await asyncio.to_thread(process.communicate, timeout=100)
    assert process.returncode == 0, err
    stats = await model_server.stats()
    assert stats["repeated"] <= 32
    _, after = await home.json("watch")
    assert sorted(worker["state"] for worker in after["workers"]).count("dead") == 1
    assert any(worker["cause"] == "its process ended" for worker in after["workers"])


async def test_an_interrupt_drains_and_the_next_run_goes_on(
    make_home: Callable[..., Home], few_documents: Path, model_server: ScriptedServer, database_url: str
) -> None:
    await model_server.control(latency=0.2)
    home = make_home(GRISTMILL_DATABASE_URL=database_url)
    process = home.start("run", str(few_documents), *RUN)
    await served(model_server, 60)
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.to_thread(process.communicate, timeout=100)
    assert process.returncode == 130
    assert "nothing lost" in err
    code, _ = await home.json("run", str(few_documents), *RUN)
    assert code == 0
    assert (await model_server.stats())["repeated"] == 0


async def test_a_second_interrupt_stops_at_once_and_loses_nothing(
    make_home: Callable[..., Home], few_documents: Path, model_server: ScriptedServer, database_url: str
) -> None:
    await model_server.control(latency=5.0)
    home = make_home(GRISTMILL_DATABASE_URL=database_url)
    process = home.start("run", str(few_documents), *RUN)
    async with asyncio.timeout(60):
        while not (await model_server.stats())["active"]:
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(_wait_for_line, process, "Ctrl-C again")
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(process.communicate, timeout=10)
    assert process.returncode == 130
    await model_server.control(latency=0.0)
    code, _ = await home.json("run", str(few_documents), *RUN)
    assert code == 0


def _wait_for_line(process: Any, text: str) -> None:
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"{text!r} was never said")


async def test_a_run_goes_on_when_the_database_server_is_killed_under_it(
    make_home: Callable[..., Home], documents: Path, model_server: ScriptedServer
) -> None:
    await model_server.control(latency=0.2)
    home = make_home()
    process = home.start("run", str(documents), *RUN, "--json")
    for part in (60, 150):
        await served(model_server, part)
        postmaster = int((home.home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGKILL)
    out, err = await asyncio.to_thread(process.communicate, timeout=110)
    assert process.returncode == 0, err + home.logs()
    assert json.loads(out)["state"] == "completed"
    stats = await model_server.stats()
    print(f"{stats['repeated']} calls paid twice")
    assert stats["repeated"] == 0  # the answers waited on disk while the database was away
