"""The embedded server in ordinary life: first start, sharing, stopping, accounts, sockets."""

# Files and processes are what these tests look at, and nothing else runs in the loop meanwhile.

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import resource
import shutil
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from gristmill.db.embedded import close_server, open_server, psql_path, server_status, stop_server
from tests.db.embedded_programs import (
    User,
    Watched,
    copy_database,
    keeper_of,
    postmasters_of,
    python_for_everybody,
    query,
    temporary_folder,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
needs_games = pytest.mark.skipif(
    os.geteuid() != 0 or python_for_everybody() is None, reason="needs root, and a Python that others may run"
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


@pytest.fixture
def games_home() -> Iterator[Path]:
    """A project of the ordinary user `games`."""
    project = temporary_folder()
    shutil.chown(project, "games")
    yield project / ".gristmill"
    shutil.rmtree(project)


async def test_the_first_opening_makes_a_private_durable_unicode_database(new_home: Path) -> None:
    server = await open_server(new_home)
    expected = {
        "listen_addresses": "",
        "unix_socket_directories": str(new_home / "postgres"),
        "fsync": "on",
        "synchronous_commit": "on",
        "server_encoding": "UTF8",
        "shared_buffers": "128MB",
        "dynamic_shared_memory_type": "sysv",
        "client_connection_check_interval": "500ms",
        "idle_in_transaction_session_timeout": "10s",
        "data_checksums": "on",
        "TimeZone": "UTC",
    }
    for name, value in expected.items():
        assert await query(server.url, f"select current_setting('{name}')") == value
    assert await query(server.url, "select current_user || '@' || current_database()") == "gristmill@gristmill"
    assert await query(server.url, "select lower('ÄΩ') || (select datlocale from pg_database limit 1)") == "äωC.UTF-8"
    await query(server.url, "create extension vector")
    assert await query(server.url, "select '[1,2]'::vector <-> '[1,3]'::vector") == 1
    assert await query(server.url, "select count(*) from pg_hba_file_rules where auth_method <> 'peer'") == 0
    await close_server(server)


async def test_a_second_process_attaches_to_the_running_server(home: Path) -> None:
    server = await open_server(home)
    other = User(home)
    assert await other.opened() == {"url": server.url, "pid": server.pid}
    await other.leave()
    await close_server(server)


async def test_attaching_starts_no_process(home: Path) -> None:
    def started() -> tuple[list[str], int]:
        living = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
        return sorted(filter(None, living)), resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt  # of the ended

    server = await open_server(home)
    before = started()
    again = await open_server(home)
    assert started() == before
    await close_server(again)
    await close_server(server)


async def test_processes_that_open_at_once_for_the_first_time_make_one_server(new_home: Path) -> None:
    users = [User(new_home) for _ in range(5)]
    answers = [await user.opened() for user in users]
    assert len({answer["pid"] for answer in answers}) == 1
    assert len(postmasters_of(new_home)) == 1
    assert not list((new_home / "postgres").glob("new-*"))
    for user in users:
        await user.leave()


async def test_the_server_stops_when_its_last_user_has_left_and_keeps_the_data(home: Path) -> None:
    first, second = await open_server(home), await open_server(home)
    await query(first.url, "create table kept as select 7 as n")
    postmaster, keeper = Watched(first.pid), keeper_of(home)
    await close_server(first)
    assert not await postmaster.gone(0.6)
    await close_server(second)
    await close_server(second)
    assert await postmaster.gone()
    assert await keeper.gone()
    server = await open_server(home)
    assert await query(server.url, "select n from kept") == 7
    await close_server(server)


async def test_the_server_stops_after_its_only_user_was_killed(home: Path) -> None:
    user = User(home)
    postmaster = Watched((await user.opened())["pid"])
    user.kill()
    assert await postmaster.gone()


async def test_the_server_outlives_the_killed_process_that_started_it_while_another_uses_it(home: Path) -> None:
    starter = User(home)
    answer = await starter.opened()
    server = await open_server(home)
    starter.kill()
    assert not await Watched(answer["pid"]).gone(0.6)
    assert await query(server.url, "select 1") == 1
    await close_server(server)


async def test_a_newcomer_is_served_whatever_the_moment_in_which_the_server_stops(home: Path) -> None:
    pids = set()
    for step in range(12):
        server = await open_server(home)
        assert await query(server.url, "select 1") == 1
        pids.add(server.pid)
        await close_server(server)
        await asyncio.sleep(step * 0.012)  # around the linger of 0.1 s, and the few milliseconds of the stop
    assert len(pids) > 1


async def test_neither_the_server_nor_its_keeper_holds_the_files_of_the_process_that_started_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRISTMILL_DATABASE_LINGER", "60")
    reading, writing = os.pipe()
    user = User(home, pass_fds=(writing,))
    os.close(writing)
    answer = await user.opened()
    user.kill()
    with os.fdopen(reading, "rb") as pipe:
        assert await asyncio.wait_for(asyncio.to_thread(pipe.read), 10) == b""
    assert await query(answer["url"], "select 1") == 1
    assert not await keeper_of(home).gone(0)


async def test_no_secret_of_the_caller_reaches_the_server_or_its_keeper(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret-value")
    monkeypatch.setenv("PGDATA", "/nowhere")
    server = await open_server(home)
    for pid in (server.pid, keeper_of(home).pid):
        assert b"secret-value" not in Path(f"/proc/{pid}/environ").read_bytes()
    await close_server(server)


async def test_parent_folders_keep_owner_and_mode_and_no_account_is_made(tmp_path: Path) -> None:
    accounts = Path("/etc/passwd").read_bytes()
    with contextlib.ExitStack() as stack:
        base = Path(
            stack.enter_context(tempfile.TemporaryDirectory(dir=Path.home() if os.geteuid() == 0 else tmp_path))
        )
        home = base / "private" / ".gristmill"
        home.mkdir(parents=True)
        home.parent.chmod(0o700)
        before = {path: (path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in home.parents}
        before[home] = (home.stat().st_mode, home.stat().st_uid, home.stat().st_gid)
        server = await open_server(home)
        assert await query(server.url, "select 1") == 1
        after = {path: (path.stat().st_mode, path.stat().st_uid, path.stat().st_gid) for path in before}
        assert after == before
        assert stat.S_IMODE((home / "postgres").stat().st_mode) == 0o700
        await stop_server(home)
        await close_server(server)
    assert Path("/etc/passwd").read_bytes() == accounts


async def test_stop_now_ends_the_server_while_it_is_used_and_opening_starts_it_again(new_home: Path) -> None:
    assert await stop_server(new_home) is False
    server = await open_server(new_home)
    connection = await asyncpg.connect(server.url)
    postmaster = Watched(server.pid)
    assert await stop_server(new_home) is True
    assert await postmaster.gone(0)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("select 1")
    again = await open_server(new_home)
    assert await query(again.url, "select 1") == 1
    await close_server(again)
    await close_server(server)


async def test_the_status_tells_what_runs_and_psql_can_use_the_url(new_home: Path) -> None:
    status = await server_status(new_home)
    assert (status.running, status.pid, status.size) == (False, None, 0)
    server = await open_server(new_home)
    status = await server_status(new_home)
    assert (status.running, status.pid, status.socket) == (True, server.pid, new_home / "postgres")
    assert status.version.split(".")[0] == "18"
    assert status.size > 30_000_000
    done = subprocess.run(
        [psql_path(), server.url, "-Atc", "select 6 * 7"], capture_output=True, text=True, check=False
    )
    assert done.stdout == "42\n", done.stderr
    await close_server(server)


@pytest.mark.parametrize("name", ["a b", "per%20cent&x=1", "quote'\"", "comma,colon:at@", "ümläut", "deep/" * 40])
async def test_any_path_can_be_a_project(home: Path, name: str) -> None:
    moved = home.parent / name / ".gristmill"
    moved.parent.mkdir(parents=True)
    home = home.rename(moved)
    server = await open_server(home)
    socket = (await server_status(home)).socket
    assert socket is not None
    try:
        assert await query(server.url, "select current_setting('data_directory')") == str(home / "postgres" / "data")
        done = subprocess.run(
            [psql_path(), server.url, "-Atc", "select 1"], capture_output=True, text=True, check=False
        )
        assert done.stdout == "1\n", done.stderr
        assert len(os.fsencode(socket / ".s.PGSQL.5432")) <= 107
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    finally:
        await stop_server(home)
        await close_server(server)
        if socket != home / "postgres":
            shutil.rmtree(socket)


@needs_root
async def test_a_socket_folder_that_somebody_else_has_planted_is_not_used(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30) / ".gristmill"
    name = "gristmill-" + hashlib.sha256(os.fsencode(home / "postgres")).hexdigest()[:16]
    home.parent.mkdir()
    await copy_database(home)
    planted = Path("/run") / name
    planted.mkdir(mode=0o700)
    shutil.chown(planted, "games")
    server = await open_server(home)
    socket = (await server_status(home)).socket
    await stop_server(home)
    await close_server(server)
    planted.rmdir()
    assert socket is not None
    assert (socket.name, socket == planted) == (name, False)
    shutil.rmtree(socket)


@needs_root
async def test_processes_of_the_unprivileged_account_that_runs_roots_server_may_not_connect() -> None:
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        await copy_database(Path(base) / ".gristmill")
        server = await open_server(Path(base) / ".gristmill")
        command = [str(psql_path()), server.url, "-c", "select 1"]
        done = subprocess.run(
            command, user="nobody", extra_groups=[], capture_output=True, text=True, cwd="/", check=False
        )
        await stop_server(Path(base) / ".gristmill")
        await close_server(server)
    assert "Peer authentication failed" in done.stderr


@needs_games
async def test_an_ordinary_user_has_a_server_of_his_own_which_root_may_use(games_home: Path) -> None:
    user = User(games_home, user="games")
    answer = await user.opened()
    assert Path(f"/proc/{answer['pid']}").owner() == "games"
    assert "CapEff:\t0000000000000000" in Path(f"/proc/{answer['pid']}/status").read_text()
    server = await open_server(games_home)
    assert server.pid == answer["pid"]
    assert await query(server.url, "select 1") == 1
    postmaster = Watched(server.pid)
    await close_server(server)
    await user.leave()
    assert await postmaster.gone()


@needs_games
async def test_what_root_has_started_in_a_users_project_the_user_can_go_on_with(games_home: Path) -> None:
    games_home.mkdir()
    shutil.chown(games_home, "games")
    server = await open_server(games_home)
    assert (games_home / "postgres").owner() == "games"
    user = User(games_home, user="games")
    assert (await user.opened())["pid"] == server.pid
    await close_server(server)
    await stop_server(games_home)
    await user.leave()
    again = User(games_home, user="games")
    assert "url" in await again.opened()
    await again.leave()
    await stop_server(games_home)


@needs_root
async def test_the_capabilities_of_a_default_container_are_enough(new_home: Path) -> None:
    docker = "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,mknod"
    bounding = "-all," + ",".join(f"+{name}" for name in docker.split(","))
    user = User(new_home, prefix=("setpriv", f"--bounding-set={bounding}", "--no-new-privs"))
    answer = await user.opened()
    assert "url" in answer, answer
    assert (new_home / "postgres").owner() == "nobody"
    status = Path(f"/proc/{answer['pid']}/status").read_text()
    assert "CapEff:\t0000000000000002" in status  # CAP_DAC_OVERRIDE, as CAP_DAC_READ_SEARCH is not there
    await user.leave()
