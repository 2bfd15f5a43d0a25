"""The embedded server when processes are killed: the postmaster, the keeper, those who start it, and all at once."""

# Files and processes are what these tests look at, and nothing else runs in the loop meanwhile.

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from gristmill.db.embedded import close_server, open_server, stop_server
from tests.db.embedded_programs import (
    User,
    Watched,
    copy_database,
    everything_of,
    keeper_of,
    postmasters_of,
    processes,
    query,
    temporary_folder,
)


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRISTMILL_DATABASE_LINGER", "0.1")


@pytest.fixture
async def new_home() -> AsyncIterator[Path]:
    """A project without a database."""
    project = temporary_folder()
    yield project / ".gristmill"
    await stop_server(project / ".gristmill")
    shutil.rmtree(project)


@pytest.fixture
async def home(new_home: Path) -> Path:
    """A project with a database, which does not run."""
    await copy_database(new_home)
    return new_home


async def test_a_killed_postmaster_is_replaced_its_orphans_end_and_committed_data_is_there(home: Path) -> None:
    server = await open_server(home)
    await query(server.url, "create table kept as select 7 as n")
    busy = await asyncpg.connect(server.url)
    # A backend in the middle of a computation does not notice by itself that its postmaster is gone.
    endless = asyncio.create_task(busy.execute("do $$ begin loop perform 1; end loop; end $$"))
    orphan = Watched(busy.get_server_pid())
    while await query(server.url, "select count(*) from pg_stat_activity where query like 'do %'") != 1:
        await asyncio.sleep(0.01)
    postmaster = Watched(server.pid)
    postmaster.kill()
    assert await postmaster.gone()
    again = await open_server(home)
    assert again.pid != server.pid
    assert await orphan.gone(0)
    assert await query(again.url, "select n from kept") == 7
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await endless
    busy.terminate()
    for user in (server, again):
        await close_server(user)


async def test_data_committed_before_everything_was_killed_at_once_is_there_afterwards(home: Path) -> None:
    user = User(home)
    url = (await user.opened())["url"]
    await query(url, "create table kept (n int)")
    for _ in range(20):
        await query(url, "insert into kept values (7)")
    victims = everything_of(home)
    assert len(victims) > 5
    user.process.kill()
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):
            victim.kill()
    for victim in victims:
        assert await victim.gone()
    user.kill()
    server = await open_server(home)
    assert await query(server.url, "select count(*) from kept") == 20
    await close_server(server)


async def test_processes_that_open_at_once_after_a_crash_get_one_server(home: Path) -> None:
    server = await open_server(home)
    postmaster = Watched(server.pid)
    postmaster.kill()
    users = [User(home) for _ in range(5)]
    answers = [await user.opened() for user in users]
    assert {answer.get("pid") for answer in answers} == {postmasters_of(home)[0].pid}
    assert len(postmasters_of(home)) == 1
    for user in users:
        await user.leave()
    await close_server(server)


async def test_a_pid_file_that_names_an_unrelated_process_does_not_stop_the_start(home: Path) -> None:
    server = await open_server(home)
    victims = everything_of(home)
    pid_file = home / "postgres" / "data" / "postmaster.pid"
    text = pid_file.read_text()
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):
            victim.kill()
    for victim in victims:
        assert await victim.gone()
    await close_server(server)
    owner = pid_file.stat().st_uid
    options = {"user": owner, "extra_groups": []} if os.geteuid() == 0 else {}
    unrelated = subprocess.Popen(["sleep", "600"], **options)  # type: ignore[call-overload]
    pid_file.write_text(text.replace(str(server.pid), str(unrelated.pid), 1))
    socket_lock = home / "postgres" / ".s.PGSQL.5432.lock"
    socket_lock.write_text(socket_lock.read_text().replace(str(server.pid), str(unrelated.pid), 1))
    again = await open_server(home)
    assert await query(again.url, "select 1") == 1
    await stop_server(home)
    assert unrelated.poll() is None
    unrelated.kill()
    unrelated.wait()
    await close_server(again)


async def test_a_server_whose_keeper_was_killed_goes_on_and_gets_a_new_one_from_the_next_user(home: Path) -> None:
    server = await open_server(home)
    keeper = keeper_of(home)
    keeper.kill()
    assert await keeper.gone()
    assert await query(server.url, "select 1") == 1
    again = await open_server(home)
    assert again.pid == server.pid
    assert keeper_of(home).pid != keeper.pid
    postmaster = Watched(server.pid)
    await close_server(server)
    await close_server(again)
    assert await postmaster.gone()


async def test_a_server_whose_keeper_was_killed_stops_all_the_same_when_its_last_user_leaves(home: Path) -> None:
    server = await open_server(home)
    postmaster, keeper = Watched(server.pid), keeper_of(home)
    keeper.kill()
    assert await keeper.gone()
    await close_server(server)
    assert await postmaster.gone()


async def test_killing_keeper_and_postmaster_leaves_no_user_without_a_way_back(home: Path) -> None:
    server = await open_server(home)
    victims = [keeper_of(home), Watched(server.pid)]
    for victim in victims:
        victim.kill()
    for victim in victims:
        assert await victim.gone()
    again = await open_server(home)
    assert await query(again.url, "select 1") == 1
    await close_server(server)
    await close_server(again)


@pytest.mark.parametrize("victim", ["starter", "keeper", "initdb", "all"])
async def test_whoever_is_killed_while_the_database_is_made_no_half_of_it_is_left(new_home: Path, victim: str) -> None:
    root = new_home / "postgres"
    user = User(new_home)
    while not list(root.glob("new-*/base")):
        await asyncio.sleep(0.002)
    assert not (root / "data").exists()
    keeper = keeper_of(new_home)
    if victim in ("initdb", "all"):
        for process in processes("initdb", str(root)) + processes("postgres", str(root), "--boot"):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    if victim in ("keeper", "all"):
        with contextlib.suppress(ProcessLookupError):  # without its initdb it may have ended by itself
            keeper.kill()
    if victim in ("starter", "all"):
        user.kill()
    elif victim == "initdb":
        assert (await user.opened())["code"] == "D109"
        assert not list(root.glob("new-*"))
    else:  # its caller starts another one, which waits for the orphaned initdb
        assert "url" in await user.opened()
    server = await open_server(new_home)
    assert await query(server.url, "select current_database()") == "gristmill"
    assert not list(root.glob("new-*"))
    await close_server(server)
    if victim != "starter":
        user.kill()


async def test_a_start_whose_caller_was_killed_is_finished_and_then_stopped_by_the_keeper(home: Path) -> None:
    user = User(home)
    while not (found := postmasters_of(home)):
        await asyncio.sleep(0.002)
    user.kill()
    assert await found[0].gone()
    server = await open_server(home)
    assert await query(server.url, "select 1") == 1
    await close_server(server)


async def test_a_stopped_postmaster_is_still_the_only_one(home: Path) -> None:
    """A frozen server answers nobody, but it is there, and nothing else may touch its data."""
    server = await open_server(home)
    postmaster = Watched(server.pid)
    postmaster.kill(signal.SIGSTOP)
    user = User(home)
    (found,) = postmasters_of(home)
    assert found.pid == server.pid
    postmaster.kill(signal.SIGCONT)
    assert (await user.opened())["pid"] == server.pid
    await user.leave()
    await close_server(server)


async def test_a_server_whose_folder_was_deleted_stops_with_its_last_user_and_disturbs_no_new_one(home: Path) -> None:
    server = await open_server(home)
    postmaster = Watched(server.pid)
    shutil.rmtree(home)
    again = await open_server(home)
    assert again.pid != server.pid
    assert await query(again.url, "select 1") == 1
    await close_server(server)
    assert await postmaster.gone()
    assert await query(again.url, "select 1") == 1
    await close_server(again)


async def test_a_server_whose_socket_was_deleted_is_started_anew(home: Path) -> None:
    server = await open_server(home)
    await query(server.url, "create table kept as select 7 as n")
    (home / "postgres" / ".s.PGSQL.5432").unlink()
    again = await open_server(home)
    assert again.pid != server.pid
    assert await query(again.url, "select n from kept") == 7
    await close_server(server)
    await close_server(again)


async def test_crashes_leave_no_shared_memory_behind(home: Path) -> None:
    def segments() -> int:
        owner = str((home / "postgres").stat().st_uid)
        lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
        here = str((home / "postgres" / "data").stat().st_ino & 0x7FFFFFFF)
        return sum(1 for line in lines if line.split()[7] == owner and line.split()[0] == here)

    for _ in range(3):
        server = await open_server(home)
        postmaster = Watched(server.pid)
        postmaster.kill()
        assert await postmaster.gone()
        await close_server(server)
    server = await open_server(home)
    assert segments() == 1
    await stop_server(home)
    await close_server(server)
    assert segments() == 0
