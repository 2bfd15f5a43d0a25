"""A database moves to another server and back: everything arrives, whatever is killed, and the old copy says so."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.api.problems import answer
from gristmill.app import App
from gristmill.db.database import connect
from gristmill.db.migrate import migrate
from gristmill.db.moving import Moved, move, moved_away, stay
from gristmill.errors import DatabaseProblem
from tests.conftest import at, own
from tests.engine.conftest import Enqueue, Processes, bare_run, enqueue, processes, until, watching
from tests.scenarios.conftest import Home, descendants, make_home, model_server, scripted_server

__all__ = ["bare_run", "enqueue", "make_home", "model_server", "processes", "scripted_server", "watching"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def elsewhere(server_url: str) -> AsyncIterator[str]:
    """An empty database, as a server of one's own has it."""
    connection = await asyncpg.connect(server_url)
    name = own("elsewhere")
    await connection.execute(f"create database {name}")
    yield at(server_url, name)
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


async def filled(url: str, rows: int = 3_000) -> dict[str, int]:
    """Rows of many kinds, with bytes, arrays, times, nulls and a week of history; returns what each table has."""
    connection = await connect(url)
    await connection.execute("""
        insert into run (project, name, workflow, definition) values ('default', 'r', 'w', '{"a": "\u00fc"}')""")
    await connection.execute(
        """insert into record (kind, hash, work_key, ordinal, body)
        select 'chunk', sha256(n::text::bytea), sha256(n::text::bytea), n, repeat('words \u4e2d ', 20) || n
        from generate_series(1, $1) n""", rows)  # fmt: skip
    await connection.execute("""
        insert into run_record (run_id, step, record_id, place) select 1, 0, id, array[1, id::int] from record""")
    await connection.execute("select make_history_week('2026-11-16')")
    await connection.execute("""
        insert into event_history (seq, at, name, body)
        select n, '2026-11-17', 'e', '{}' from generate_series(1, 50) n""")
    await connection.execute(
        "insert into counter_delta (run_id, step, name, n) select 1, 0, 'completed', 1 from generate_series(1, 20)"
    )
    found = await counted(connection)
    await connection.close()
    return found


async def counted(connection: asyncpg.Connection[Any]) -> dict[str, int]:
    names = ("run", "record", "run_record", "event_history", "counter_delta")
    return {
        name: await connection.fetchval(f"select count(*) from {name}")  # noqa: S608
        for name in names
    }


async def test_what_the_target_does_not_take_is_said_as_it_said_it(database_url: str, elsewhere: str) -> None:
    await filled(database_url, 10)
    connection = await connect(elsewhere)
    await migrate(connection)
    await connection.execute("alter table record add check (id < 5)")
    await connection.close()
    with pytest.raises(asyncpg.CheckViolationError):
        await move(database_url, elsewhere)


async def test_everything_arrives_and_the_old_database_says_where_it_is(database_url: str, elsewhere: str) -> None:
    before = await filled(database_url)
    long_open = await connect(database_url)  # an API that was left running, or a program of one's own
    told: list[Moved] = []
    await move(database_url, elsewhere, chunk=700, told=told.append)
    assert {one.table: one.copied for one in told if one.table in before} == before
    assert not [one for one in told if one.left]
    arrived = await connect(elsewhere)
    assert await counted(arrived) == before
    new = await arrived.fetchval(
        "insert into record (kind, hash, work_key, ordinal, body) values ('chunk', '', '', 0, '') returning id"
    )
    assert new == before["record"] + 1
    await arrived.close()
    with pytest.raises(DatabaseProblem, match="has moved to") as old:
        async with App(database_url, workers=0):
            pass
    assert old.value.code == "D135"
    with pytest.raises(asyncpg.PostgresError) as late:
        await long_open.execute("insert into api_token (name, hash, role) values ('late', '', 'admin')")
    refused = moved_away(late.value)
    assert refused is not None
    assert (refused.code, refused.message[:27]) == ("D135", "this database has moved to ")
    assert json.loads(bytes(answer(late.value).body))["code"] == "D135"  # of the API
    assert await long_open.fetchval("select count(*) from run") == 1
    assert await stay(database_url)
    await long_open.execute("update run set name = 'written'")
    await long_open.close()
    async with App(elsewhere, workers=0) as app:
        assert await app.pool.fetchval("select count(*) from run") == 1


async def test_it_comes_back_with_what_was_added_meanwhile(database_url: str, elsewhere: str) -> None:
    await filled(database_url, 500)
    long_open = await connect(database_url)
    await move(database_url, elsewhere)
    other = await connect(elsewhere)
    await other.execute("update record set body = 'changed' where id = 7; delete from record where id = 8")
    await move(elsewhere, database_url)
    with pytest.raises(asyncpg.PostgresError, match="this database has moved to"):
        await other.execute("delete from record")
    await other.close()
    await long_open.execute("update run set name = 'written'")
    await long_open.close()
    here = await connect(database_url)
    assert await here.fetchval("select body from record where id = 7") == "changed"
    assert await here.fetchval("select count(*) from record") == 499
    await here.close()
    async with App(database_url, workers=0):
        pass


async def test_a_move_that_was_killed_goes_on_and_copies_only_what_is_missing(
    database_url: str, elsewhere: str
) -> None:
    before = await filled(database_url, 30_000)
    mover = "import asyncio, sys; from gristmill.db.moving import move; asyncio.run(move(*sys.argv[1:], chunk=500))"
    process = subprocess.Popen([sys.executable, "-c", mover, database_url, elsewhere], cwd=ROOT)
    watching = await asyncpg.connect(elsewhere)
    async with asyncio.timeout(60):
        while not await watching.fetchval("select to_regclass('gristmill.record') is not null"):
            await asyncio.sleep(0.01)
        while await watching.fetchval("select count(*) from gristmill.record") < 2_000:
            await asyncio.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    arrived = await watching.fetchval("select count(*) from gristmill.record")
    assert 2_000 <= arrived < 30_000
    with pytest.raises(DatabaseProblem, match="was broken off") as half:
        async with App(elsewhere, workers=0):
            pass
    assert half.value.code == "D136"
    async with App(database_url, workers=0):  # until the move is over the data is here
        pass
    done = {one.table: one for one in await move(database_url, elsewhere)}
    assert (done["record"].rows, done["record"].copied) == (30_000, 30_000 - arrived)
    assert await counted(await connect(elsewhere)) == before
    await watching.close()


async def test_a_copy_that_differs_is_made_again(database_url: str, elsewhere: str) -> None:
    await filled(database_url, 100)
    connection = await connect(database_url)
    await move(database_url, elsewhere)
    target = await connect(elsewhere)
    await target.execute("update move set ended_at = null")  # as if it had been broken off at the very end
    for url, code in ((database_url, "D135"), (elsewhere, "D136")):  # then nobody may use either
        with pytest.raises(DatabaseProblem) as closed:
            async with App(url, workers=0):
                pass
        assert closed.value.code == code
    await move(database_url, elsewhere)
    assert await stay(database_url)
    await target.execute("update move set ended_at = null")
    await connection.execute("update record set body = 'newer' where id = 3")
    done = {one.table: one for one in await move(database_url, elsewhere)}
    assert (done["record"].copied, done["step"].copied) == (100, 0)
    assert await target.fetchval("select body from record where id = 3") == "newer"
    await connection.close()
    await target.close()


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        ("insert into worker (nonce, name, host, boot_id, pid, pid_started, pools, isolates, version, ttl, "
         "lease_until) values (gen_random_uuid(), 'busy', 'here', 'b', 1, 1, '{}', false, '1', '15 s', "
         "clock_timestamp() + '1 h')",
         "D131"),
        ("", "D132"),
    ],
)  # fmt: skip
async def test_nothing_moves_from_under_a_worker_or_over_somebody_s_data(
    prepare: str, code: str, database_url: str, elsewhere: str
) -> None:
    await filled(database_url, 10)
    target = await connect(elsewhere)
    await migrate(target)
    if prepare:
        source = await connect(database_url)
        await source.execute(prepare)
        await source.close()
    else:
        await target.execute("set search_path = gristmill")
        await target.execute("insert into run (project, name, workflow, definition) values ('p', 'mine', 'w', '{}')")
    with pytest.raises(DatabaseProblem) as refused:
        await move(database_url, elsewhere)
    assert refused.value.code == code
    assert refused.value.safe == "nothing was changed"
    async with App(database_url, workers=0):
        pass
    await target.close()


@pytest.mark.thorough
async def test_a_worker_that_slept_through_a_move_ends_and_writes_nothing_into_the_old_copy(
    database_url: str, elsewhere: str, enqueue: Enqueue, processes: Processes, tmp_path: Path,
    watching: Callable[..., Awaitable[Any]],
) -> None:  # fmt: skip
    target = await connect(elsewhere)
    await migrate(target)
    await target.execute("create table done (task_id bigint primary key, fence bigint, worker integer)")
    (task,) = await enqueue({"do": "sleep", "seconds": 0.5})
    sleeper = processes.start(lease=3.0)
    await watching("select state = 'running' from task where id = $1", task)
    tree = descendants(sleeper.pid)
    for pid in tree:
        os.kill(pid, signal.SIGSTOP)
    await watching("select lease_until < clock_timestamp() from worker")
    await move(database_url, elsewhere)
    for pid in tree:
        os.kill(pid, signal.SIGCONT)

    async def ended() -> bool:
        return sleeper.poll() is not None

    await until(ended)
    assert "this database has moved to" in processes.text()
    assert await watching("select state = 'running' from task where id = $1", task)
    assert await watching("select not exists (select from done)")
    there = Processes(elsewhere, tmp_path / "there.log")
    there.start(lease=3.0)

    async def done() -> bool:
        return bool(await target.fetchval("select state = 'completed' and attempt = 2 from task where id = $1", task))

    await until(done, 60)
    there.end()
    await target.close()


async def test_a_database_is_not_moved_to_itself(database_url: str) -> None:
    with pytest.raises(DatabaseProblem, match="same database"):
        await move(database_url, database_url)


async def test_a_project_moves_to_a_server_and_back_by_two_commands(
    make_home: Callable[..., Home], elsewhere: str
) -> None:
    home = make_home()
    (home.folder / "sieve.md").write_text("A fine sieve is a part of the mill that holds 5 units of grain.\n")
    code, first = await home.json("run", "sieve.md", "--model", "extractive", "--workers", "1")
    assert (code, first["state"]) == (0, "completed")
    code, moved = await home.json("db", "move", "--to", elsewhere)
    assert (code, moved["rows"]["run"]) == (0, 1), moved
    code, _, err = await home.call("watch", "--list")
    assert (code, "D135" in err) == (3, True), err
    code, again = await home.json("run", "sieve.md", "--model", "extractive", GRISTMILL_DATABASE_URL=elsewhere)
    assert (code, again["run"]) == (0, first["run"])
    code, back = await home.json("db", "move", "--from", elsewhere)
    assert (code, back["rows"]["run"]) == (0, 1), back
    code, again = await home.json("run", "sieve.md", "--model", "extractive")
    assert (code, again["run"]) == (0, first["run"])
