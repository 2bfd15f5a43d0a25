"""The next release comes to a fleet during a run: half the workers old, half new, on the schema of either."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest

from gristmill.db import embedded
from gristmill.db.migrate import newest, schema_version
from gristmill.db.roles import grants
from gristmill.version import __version__
from tests.engine.conftest import until
from tests.llm.conftest import ScriptedServer
from tests.own_postgres import OwnPostgres, own_postgres
from tests.scenarios.conftest import Home, descendants
from tests.scenarios.whole_fleet import WholeFleet

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]
NEXT = "9.0.0"
WORKED = """
select array_agg(distinct w.version order by w.version) from attempt a join worker w on w.id = a.worker_id
where a.outcome = 'completed' and a.ended_at > $1"""


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """A folder with the package as the next release has it: a version, and a migration more, which only adds."""
    package = tmp_path / "next" / "gristmill"
    source = Path(embedded.__file__).parents[1]
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__", "static"))
    (package / "version.py").write_text(f'__version__ = "{NEXT}"\n')
    (package / "db" / "migrations" / f"{newest() + 1:04}_next.sql").write_text(
        "-- expand early\nalter table task add column of_the_next_release text not null default 'x';\n"
        "create table of_the_next_release (id bigint primary key);\n"
    )
    return package.parent


@pytest.fixture
async def server() -> AsyncIterator[OwnPostgres]:
    async with own_postgres(embedded.psql_path().parent) as made:
        yield made


async def test_half_the_fleet_is_upgraded_during_a_run_and_nothing_is_lost_or_doubled(
    make_home: Callable[..., Home], documents: Path, model_server: ScriptedServer, server: OwnPostgres,
    next_release: Path,
) -> None:  # fmt: skip
    owner = make_home("owner", GRISTMILL_DATABASE_URL=server.url)
    assert (await owner.call("db", "migrate"))[0] == 0
    look = await asyncpg.connect(server.url, server_settings={"search_path": "gristmill"})
    await look.execute(grants())
    await look.execute("create role w1 login in role gristmill_worker")  # may not change the schema
    home = make_home("fleet", GRISTMILL_DATABASE_URL=server.url.replace("gristmill@", "w1@"))
    fleet = WholeFleet(home, documents, model_server)
    new = {"PYTHONPATH": str(next_release)}

    async def both_worked(since: object) -> None:
        async def found() -> bool:
            return bool(await look.fetchval(WORKED, since) == [__version__, NEXT])

        await until(found, 200)
        assert fleet.command.poll() is None, fleet.command.communicate()

    await fleet.begin(make_home("undisturbed"), {"old-1": {}, "old-2": {}, "new-1": new})
    old = fleet.workers[:2]
    began = await look.fetchval("select clock_timestamp()")
    await both_worked(began)  # new code on the old schema
    assert await schema_version(look) == newest()

    code, out, err = await owner.call("db", "migrate", **new)
    assert (code, out.strip()) == (0, f"schema version {newest() + 1}"), err
    await look.execute(grants())
    migrated = await look.fetchval("select clock_timestamp()")
    for pid in descendants(old[0].pid):
        os.kill(pid, signal.SIGKILL)
    old[1].send_signal(signal.SIGTERM)
    fleet.worker("old-3")  # also after a restart
    fleet.worker("new-2", **new)
    assert await asyncio.to_thread(old[1].wait, 200) == 0
    await both_worked(migrated)  # old code on the new schema
    await fleet.ends_whole(server.url, paid_twice=32)  # those of the killed worker
    await look.close()
