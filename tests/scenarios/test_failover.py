"""The server dies during a run and its standby takes over: one URL names both, and nothing else has to be done."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gristmill.db import embedded
from tests.llm.conftest import ScriptedServer
from tests.own_postgres import OwnPostgres, own_folder
from tests.scenarios.conftest import Home, descendants
from tests.scenarios.whole_fleet import WholeFleet

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Pair:
    """A primary and its standby, which has all that was ever committed when it is `synchronous`."""

    def __init__(self, folder: Path) -> None:
        binaries = embedded.psql_path().parent
        self.ports = free_port(), free_port()
        self.primary, self.standby = (
            OwnPostgres(binaries, folder / name, listen_addresses="127.0.0.1", port=str(port))
            for name, port in zip(("one", "two"), self.ports, strict=True)
        )

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"postgresql://gristmill@{hosts}/gristmill?target_session_attrs=read-write"

    async def start(self, *, synchronous: bool) -> None:
        self.primary.make()
        await self.primary.start()
        await self.primary.ask("create database gristmill")
        self.primary.run(
            "pg_basebackup", "-d", self.primary.url, "-D", str(self.standby.folder / "data"), "-R", "-c", "fast"
        )
        await self.standby.start()
        if synchronous:
            await self.primary.ask("alter system set synchronous_standby_names = '*'")
            await self.primary.ask("select pg_reload_conf()")

    async def fail(self, behind: float) -> None:
        """The primary is killed; what it committed in the last `behind` seconds has not reached the standby."""
        assert self.primary.process is not None
        if behind:
            os.kill(int(str(await self.primary.ask("select pid from pg_stat_replication"))), signal.SIGSTOP)
            await asyncio.sleep(behind)
        for pid in descendants(self.primary.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.primary.process.wait()
        await asyncio.sleep(2)
        await self.standby.ask("select pg_promote()")


@asynccontextmanager
async def pair(*, synchronous: bool) -> AsyncIterator[Pair]:
    with own_folder() as folder:
        made = Pair(folder)
        await made.start(synchronous=synchronous)
        try:
            yield made
        finally:
            made.primary.end()
            made.standby.end()


@pytest.mark.parametrize("behind", [0.0, 2.0], ids=["synchronous", "two seconds behind"])
async def test_a_run_goes_on_at_the_standby_when_the_server_dies(
    behind: float, make_home: Callable[..., Home], documents: Path, model_server: ScriptedServer
) -> None:
    async with pair(synchronous=not behind) as servers:
        fleet = WholeFleet(make_home("fleet", GRISTMILL_DATABASE_URL=servers.url), documents, model_server)
        await fleet.begin(make_home("undisturbed"), {"one": {}, "two": {}})
        await fleet.answered(0.4)
        await servers.fail(behind)
        for worker in list(fleet.workers):  # they finish what is under way, and want a successor
            assert await asyncio.to_thread(worker.wait, 200) == 1
            fleet.workers.append(fleet.worker("again"))
        # Every answer was on record before anything followed from it; what the standby lacks is asked for again.
        await fleet.ends_whole(servers.standby.url, paid_twice=40 if behind else 0)
