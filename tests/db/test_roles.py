"""A worker with its own role does all its work, and nobody's role lets him do more than he needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from gristmill.db.migrate import migrate
from gristmill.db.roles import PRIVATE, grants
from tests.scenarios.conftest import Home, make_home, model_server, scripted_server

__all__ = ["make_home", "model_server", "scripted_server"]
USERS = {"w1": "gristmill_worker", "a1": "gristmill_api", "r1": "gristmill_reader"}


@pytest.fixture
async def as_user(database_url: str) -> AsyncIterator[Callable[[str], str]]:
    """The URL of the database for a user of that role."""
    owner = await asyncpg.connect(database_url)
    await migrate(owner)
    for _ in range(2):  # it may be applied again
        await owner.execute(grants())
    for user, role in USERS.items():
        await owner.execute(f"create role {user} login in role {role}")
    yield lambda user: database_url.replace("gristmill@", f"{user}@")
    for user in (*USERS, *USERS.values()):
        await owner.execute(f"drop owned by {user}; drop role {user}")
    await owner.close()


@pytest.fixture
async def trusting(server_url: str) -> AsyncIterator[None]:
    """The embedded server lets its own user in under any name, as a server does that asks for passwords."""
    connection = await asyncpg.connect(server_url)
    files = await connection.fetchrow("select current_setting('hba_file') as hba")
    assert files is not None
    before = open(files["hba"]).read()  # noqa: SIM115
    open(files["hba"], "w").write("local all all trust\n")  # noqa: SIM115
    await connection.execute("select pg_reload_conf()")
    yield
    open(files["hba"], "w").write(before)  # noqa: SIM115
    await connection.execute("select pg_reload_conf()")
    await connection.close()


async def test_a_run_is_started_worked_and_read_by_three_roles(
    make_home: Callable[..., Home], trusting: None, as_user: Callable[[str], str]
) -> None:
    home = make_home(GRISTMILL_DATABASE_URL=as_user("w1"))
    (home.folder / "sieve.md").write_text("A fine sieve is a part of the mill that holds 5 units of grain.\n")
    code, done = await home.json("run", "sieve.md", "--model", "extractive", "--workers", "1")
    assert (code, done["state"]) == (0, "completed"), home.logs()
    connection = await asyncpg.connect(as_user("w1"), server_settings={"search_path": "gristmill"})
    assert await connection.fetchval("select make_history_week('2030-01-07')") == 3
    for forbidden in (
        "drop table run",
        "create table mine ()",
        "delete from schema_migration",
        "delete from pack",  # who may write there may run programs on workers
        "select * from api_token",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(forbidden)
    await connection.close()


async def test_a_reader_reads_and_does_nothing_else(trusting: None, as_user: Callable[[str], str]) -> None:
    connection = await asyncpg.connect(as_user("r1"), server_settings={"search_path": "gristmill"})
    for view in ("wanted_workers", "every_task", "every_event", "run", "record"):
        await connection.fetch(f"select * from {view}")  # noqa: S608
    forbidden = [f"select * from {table}" for table in (*PRIVATE, "call")]  # noqa: S608
    acts = ("delete from run", "select make_history_week('2030-01-07')", "select drop_history_week('2030-01-07')")
    for statement in (*forbidden, *acts, "insert into event_inbox (name) values ('x')"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_the_api_s_role_may_change_data_and_no_table(trusting: None, as_user: Callable[[str], str]) -> None:
    connection = await asyncpg.connect(as_user("a1"), server_settings={"search_path": "gristmill"})
    await connection.fetch("select * from api_token")
    await connection.execute("insert into run (project, name, workflow, definition) values ('p', 'r', 'w', '{}')")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("alter table run add column mine text")
    await connection.close()
