"""What a supervisor does when processes end, hang or refuse to end, and when there are two of it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.crew import orders, supervisor, verdict
from gristmill.crew.places import TRANSITIONS, Supervised, take_crew
from gristmill.crew.process import adopt, spawn
from gristmill.crew.supervisor import Fenced, Supervisor
from gristmill.engine import processes, queue
from gristmill.errors import UsageError
from tests.crew.conftest import DIE, SLEEP, STUBBORN, Mill, until


def gone(pid: int) -> bool:
    return processes.started(pid) == 0


async def test_who_dies_again_and_again_is_blacklisted_while_the_others_work_on(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "DELAYS", (0.0, 0.1, 0.2))
    mill.program["broken"] = DIE
    await mill.begin("broken-1", "sound-1")
    sound = await mill.stands("sound-1", "starting")
    broken = await mill.stands("broken-1", "blacklisted")
    assert broken.cause == "exit code 7: the mill is broken (after 3 restarts in a row)"
    assert (broken.deaths, len(mill.begun("broken-1"))) == (4, 4)
    assert [line for line in mill.told if "broken-1" in line][-1].endswith("gristmill worker reset broken-1")
    bodies = await mill.pool.fetch("select name from event_inbox where name in ('crew.restart', 'crew.blacklisted')")
    assert [row["name"] for row in bodies] == ["crew.restart"] * 3 + ["crew.blacklisted"]
    assert (await mill.place("sound-1")).pid == sound.pid
    (refused,) = await orders.order(mill.pool, "mill", "start", ["broken-1"], by="me")
    assert "blacklisted" in refused.refused

    del mill.program["broken"]
    await orders.order(mill.pool, "mill", "reset", ["broken-1"], by="me")
    well = await mill.stands("broken-1", "starting")
    assert (well.restarts, well.deaths) == (0, 0)


async def test_the_restarts_in_a_row_are_forgotten_after_a_time_of_good_running(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "GOOD", 0.3)
    await mill.begin("parse-1")
    await until(lambda: mill.begun("parse-1"))
    os.kill(mill.begun("parse-1")[0], signal.SIGKILL)
    await until(lambda: mill.begun("parse-1")[1:])
    await until(lambda: _restarts(mill, 0))
    assert mill.told[-1].startswith("parse-1 died (signal 9)")


async def _restarts(mill: Mill, wanted: int) -> bool:
    place = await mill.place("parse-1")
    return place.state == "running" and place.restarts == wanted


async def test_one_more_than_the_limit_is_refused_with_the_reason(mill: Mill) -> None:
    names = [f"parse-{number}" for number in range(1, 12)]
    await mill.begin(*names)  # at most ten, if nobody says otherwise
    refused = await mill.stands("parse-11", "stopped")
    reason = "refused: the crew has its 10 workers (setting most_workers)"
    await until(lambda: _cause(mill, "parse-11", reason))
    assert await orders.order(mill.pool, "mill", "start", [refused.name], by="me") == [
        orders.Told("parse-11", False, reason)
    ]  # fmt: skip
    for name in names[:10]:
        await mill.stands(name, "starting")
    assert not mill.begun("parse-11")
    assert "parse-11 is not started: the crew is full" in mill.told
    await mill.plan(*names, most=11)
    await mill.stands("parse-11", "starting")


async def _cause(mill: Mill, name: str, cause: str) -> bool:
    return (await mill.place(name)).cause == cause


async def test_what_is_disabled_or_not_ready_is_not_started(mill: Mill) -> None:
    mill.reason["parse-2"] = "refused: OPENAI_API_KEY is not set"
    await mill.begin("parse-1", "parse-2")
    await mill.stands("parse-1", "starting")
    await until(lambda: _cause(mill, "parse-2", mill.reason["parse-2"]))
    await mill.plan("parse-1", "parse-2", enabled=False)
    await mill.stands("parse-1", "disabled")
    (told,) = await orders.order(mill.pool, "mill", "start", ["parse-1"], by="me")
    assert "enabled = true" in told.refused
    mill.reason.clear()
    await mill.plan("parse-1", "parse-2")
    await mill.stands("parse-1", "starting")
    await mill.stands("parse-2", "starting")
    await mill.plan("parse-2")
    await until(lambda: _count(mill, 1))


async def _count(mill: Mill, wanted: int) -> bool:
    return await mill.pool.fetchval("select count(*) from crew_place") == wanted


async def test_two_supervisors_at_once_start_each_place_once(mill: Mill) -> None:
    """Neither knows of the other, and both have the same right: what no lease can exclude for an instant."""
    mill.hold = await take_crew(mill.pool, "mill", mill.folder)
    names = [f"parse-{number}" for number in range(1, 7)]
    await mill.plan(*names)
    mill.supervise()
    other = asyncio.create_task(Supervisor(mill.pool, mill.hold, mill.orders()).run())
    for name in names:
        await mill.stands(name, "starting")
        await until(lambda name=name: mill.begun(name))
    assert [len(mill.begun(name)) for name in names] == [1] * 6
    other.cancel()
    await asyncio.wait([other])


async def test_a_second_supervisor_is_refused_and_an_older_one_is_fenced(mill: Mill) -> None:
    await mill.begin("parse-1")
    place = await mill.stands("parse-1", "starting")
    with pytest.raises(Supervised) as refused:
        await take_crew(mill.pool, "mill", mill.folder)
    assert (refused.value.code, refused.value.near) == ("U340", True)
    # It was frozen, and its lease is over: another one takes the crew.
    await mill.pool.execute("update crew set lease_until = clock_timestamp() - interval '1 s', state = 'up'")
    later = await take_crew(mill.pool, "mill", mill.folder)
    assert (later.fence, later.fresh) == (mill.hold.fence + 1, False)
    with pytest.raises(Fenced):
        await asyncio.wait_for(asyncio.shield(mill.running), 10)
    assert not gone(place.pid or 0)
    newer = asyncio.create_task(Supervisor(mill.pool, later, mill.orders(), mill.told.append).run())
    await until(lambda: f"parse-1 goes on as process {place.pid}" in mill.told)
    assert len(mill.begun("parse-1")) == 1
    newer.cancel()
    await asyncio.wait([newer])


async def test_a_clock_that_was_set_back_delays_nothing(mill: Mill) -> None:
    mill.hold = await take_crew(mill.pool, "mill", mill.folder)
    await mill.plan("parse-1")
    sql = "update crew_place set state = 'due', due_at = clock_timestamp() + interval '1 hour'"
    await mill.pool.execute(sql)
    await mill.pool.execute("update crew set lease_until = clock_timestamp() + interval '1 hour'")
    mill.hold = await take_crew(mill.pool, "mill", mill.folder)  # a lease so far away is no lease
    mill.supervise()
    await mill.stands("parse-1", "starting")


async def test_a_process_that_ignores_sigterm_is_killed_with_its_group(mill: Mill) -> None:
    mill.program["stubborn"], mill.grace = STUBBORN, 0.5
    await mill.begin("stubborn-1", "parse-1")
    place = await mill.stands("stubborn-1", "starting")
    file = mill.folder / "stubborn-1.child"
    await until(file.exists)
    child = int(await until(file.read_text))
    await orders.order(mill.pool, "mill", "stop", ["stubborn-1"], by="me")
    stopped = await mill.stands("stubborn-1", "stopped")
    assert stopped.cause == "stopped: did not end within 0 s"
    await until(lambda: gone(child) and gone(place.pid or 0))
    mill.supervisor.stop()
    await asyncio.wait_for(mill.running, 10)
    assert (await mill.crew()).state == "down"


async def test_a_pid_that_is_in_use_again_fools_nobody(mill: Mill) -> None:
    innocent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    mill.hold = await take_crew(mill.pool, "mill", mill.folder)
    await mill.plan("parse-1")
    started = processes.started(innocent.pid)
    assert adopt(innocent.pid, started - 1, lambda: None) is None
    await mill.pool.execute(
        "update crew_place set state = 'running', nonce = $1, machine = $2, pid = $3, pid_started = $4",
        uuid.uuid4(), processes.machine(), innocent.pid, started - 1,
    )  # fmt: skip
    mill.supervise()
    await until(lambda: mill.begun("parse-1"))
    assert any("ended while nobody watched" in line for line in mill.told)
    mill.supervisor.stop(at_once=True)
    await asyncio.wait_for(mill.running, 10)
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()


async def test_a_process_of_a_boot_before_is_started_anew_and_nobody_is_charged(mill: Mill) -> None:
    mill.hold = await take_crew(mill.pool, "mill", mill.folder)
    await mill.plan("parse-1")
    await mill.pool.execute(
        "update crew_place set state = 'running', nonce = $1, machine = 'another boot', pid = 1, pid_started = 1",
        uuid.uuid4(),
    )
    mill.supervise()
    await until(lambda: mill.begun("parse-1"))
    place = await mill.stands("parse-1", "starting")
    assert (place.restarts, place.deaths, place.machine) == (0, 0, processes.machine())


async def test_a_start_whose_supervisor_died_before_it_was_recorded_begins_nothing(tmp_path: Path) -> None:
    script = (
        "import os, sys, asyncio\nfrom pathlib import Path\nfrom gristmill.crew.process import spawn\n"
        "async def main():\n"
        "    work = [sys.executable, '-c', \"import sys; open(sys.argv[1], 'w').write('begun')\", sys.argv[1]]\n"
        "    process = spawn(work, Path(sys.argv[2]), dict(os.environ), lambda: None)\n"
        "    print(process.pid, flush=True)\n    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, str(tmp_path / "begun"), str(tmp_path / "log")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    await until(lambda: gone(int(done.stdout)))
    assert not (tmp_path / "begun").exists()


async def test_a_start_that_was_left_behind_is_begun_again(mill: Mill) -> None:
    mill.hold = await take_crew(mill.pool, "mill", mill.folder)
    await mill.plan("parse-1")
    await mill.pool.execute("update crew_place set state = 'starting', nonce = $1", uuid.uuid4())
    mill.supervise()
    await mill.stands("parse-1", "starting")
    assert len(await until(lambda: mill.begun("parse-1"))) == 1


async def test_a_worker_whose_beat_is_missing_is_killed_and_replaced(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LATE", 0.5)
    await mill.begin("parse-1")
    first = await mill.stands("parse-1", "starting")
    await mill.pool.execute(
        queue.SQL["register_worker"], first.nonce, "parse-1", "here", processes.machine(), first.pid,
        first.pid_started, "{}", "0", 0.01, [], True,
    )  # fmt: skip
    await until(lambda: len(mill.begun("parse-1")) == 2)
    assert gone(first.pid or 0)
    assert "parse-1 is killed: stuck: its beat is missing" in mill.told


async def test_the_supervisor_goes_on_when_the_database_comes_back(mill: Mill) -> None:
    await mill.begin("parse-1")
    (first,) = await until(lambda: mill.begun("parse-1"))
    async with mill.pool.acquire() as connection:
        others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
        for _ in range(5):
            await connection.fetch(others + " and pid <> pg_backend_pid()")
            await asyncio.sleep(0)
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(mill.begun("parse-1")) == 2)
    assert not mill.running.done()


async def test_orders_are_kept_and_done(mill: Mill) -> None:
    await mill.begin("parse-1", "parse-2")
    first = await mill.stands("parse-1", "starting")
    assert [place.name for place in await orders.chosen(mill.pool, "mill", ["parse"])] == ["parse-1", "parse-2"]
    assert [one.changed for one in await orders.order(mill.pool, "mill", "restart", ["parse-1"], by="me")] == [True]
    await until(lambda: len(mill.begun("parse-1")) == 2)
    again = await mill.stands("parse-1", "starting")
    assert (again.restarts, again.pid != first.pid) == (0, True)
    await orders.order(mill.pool, "mill", "stop", ["parse-1"], by="me")
    await mill.stands("parse-1", "stopped")
    told = await orders.order(mill.pool, "mill", "stop", ["parse-1"], by="me")
    assert [(one.changed, one.refused) for one in told] == [(False, "")]
    await orders.order(mill.pool, "mill", "blacklist", ["parse-2"], by="me")
    await mill.stands("parse-2", "blacklisted")
    bodies = await mill.pool.fetch("select body from event_inbox where name = 'crew.order' order by id")
    assert ['"by" : "me"' in row["body"] for row in bodies] == [True] * 3
    for names, code in ((["prase"], "U342"), (["parse-9"], "U342")):
        with pytest.raises(UsageError) as caught:
            await orders.chosen(mill.pool, "mill", names)
        assert (caught.value.code, "did you mean" in caught.value.hint) == (code, True)
    with pytest.raises(UsageError) as caught:
        await orders.chosen(mill.pool, "mil", ["parse"])
    assert (caught.value.code, caught.value.hint) == ("U341", 'did you mean "mill"?')


async def test_a_crew_that_was_asked_to_end_does_so_in_order(mill: Mill) -> None:
    await mill.begin("parse-1", "parse-2")
    pids = [(await mill.stands(name, "starting")).pid or 0 for name in ("parse-1", "parse-2")]
    assert await orders.ask_to_stop(mill.pool, "mill")
    await asyncio.wait_for(mill.running, 10)
    assert all(gone(pid) for pid in pids)
    crew = await mill.crew()
    assert (crew.state, crew.held, crew.workers) == ("down", False, 0)
    assert not await orders.ask_to_stop(mill.pool, "mill")
    names = [row["name"] for row in await mill.pool.fetch("select name from event_inbox order by id")]
    assert names == ["crew.up", "crew.down"]


async def test_every_step_of_a_place_is_one_that_the_table_allows(pool: asyncpg.Pool[Any]) -> None:
    states = await pool.fetchval(
        "select pg_get_constraintdef(oid) from pg_constraint where conname = 'crew_place_state_check'"
    )
    assert {word for word in TRANSITIONS if f"'{word}'" in states} == set(TRANSITIONS)
    assert {then for follow in TRANSITIONS.values() for then in follow} <= set(TRANSITIONS)


async def test_the_end_of_a_process_is_noticed_without_looking(tmp_path: Path) -> None:
    ended = asyncio.Event()
    process = spawn(
        [sys.executable, "-S", "-c", "import sys; sys.exit(3)"], tmp_path / "log", dict(os.environ), ended.set
    )
    process.open_gate()
    await asyncio.wait_for(ended.wait(), 10)
    assert (process.ended, process.code) == (True, 3)
    process.kill()  # nobody there any more: nothing happens


async def test_who_drains_gets_all_the_time_it_needs(mill: Mill) -> None:
    end = "import signal, sys, time\ndef end(*_):\n    time.sleep(1.5)\n    sys.exit(0)\n"
    mill.program["slow"] = f"{end}signal.signal(signal.SIGUSR1, end)\n{SLEEP}"
    mill.grace = 0.3
    await mill.begin("slow-1", "slow-2")
    await until(lambda: mill.begun("slow-1") and mill.begun("slow-2"))
    await orders.order(mill.pool, "mill", "drain", ["slow-1"], by="me")
    assert (await mill.stands("slow-1", "stopped")).cause == "stopped"
    # A stop does not wait so long, also when it comes after a drain.
    await orders.order(mill.pool, "mill", "drain", ["slow-2"], by="me")
    await mill.stands("slow-2", "stopping")
    await orders.order(mill.pool, "mill", "now", ["slow-2"], by="me")
    await mill.stands("slow-2", "stopped")
