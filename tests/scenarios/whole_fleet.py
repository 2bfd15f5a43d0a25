"""A run that several workers share on one database, and what must be true of it whatever happened meanwhile."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import asyncpg

from tests.llm.conftest import ScriptedServer
from tests.scenarios.conftest import Home, essence

RUN = ("--model", "openai:scripted", "--set", "split.size=600")
DOUBLED = """
select count(*) from (select from run_record where item_id > 0 group by run_id, step, record_id, item_id
having count(*) > 1) d"""


class WholeFleet:
    """`await fleet.begin(...)`, then things happen, then `await fleet.ends_whole()`."""

    def __init__(self, home: Home, documents: Path, server: ScriptedServer) -> None:
        self.home, self.documents, self.server = home, documents, server
        for file in sorted(documents.iterdir())[16:]:
            file.unlink()
        self.undisturbed: list[Any] = []
        self.calls = 0

    async def begin(self, undisturbed: Home, workers: dict[str, dict[str, str]], latency: float = 1.5) -> None:
        """Another project does the same without a disturbance; then the run begins, with these workers."""
        code, first = await undisturbed.json("run", str(self.documents), *RUN)
        assert code == 0
        self.undisturbed = essence(Path(first["dataset"]))
        self.calls = (await self.server.stats())["served"]
        await self.server.control(reset=True)
        await self.server.control(latency=latency)
        self.workers = [self.worker(name, **environment) for name, environment in workers.items()]
        while "alive" not in (await self.home.call("workers"))[1]:
            assert all(worker.poll() is None for worker in self.workers)
        self.command = self.home.start("run", str(self.documents), *RUN, "--workers", "0", "--json")

    def worker(self, name: str, **environment: str) -> subprocess.Popen[str]:
        """Four calls at once, so that a run takes a while."""
        few = {"GRISTMILL_POOLS": '{parse = 1, model = 4, "*" = 2}'}
        return self.home.start("worker", "--name", name, **few, **environment)

    async def answered(self, share: float) -> None:
        """Until so much of the run's calls has been answered."""
        async with asyncio.timeout(300):
            while (await self.server.stats())["served"] < share * self.calls:
                assert self.command.poll() is None, self.command.communicate()
                await asyncio.sleep(0.05)

    async def ends_whole(self, url: str, paid_twice: int) -> None:
        """The run completes with the rows of the undisturbed one, none twice; so many calls at most were paid twice."""
        out, err = await asyncio.to_thread(self.command.communicate, timeout=300)
        assert self.command.returncode == 0, err
        done = json.loads(out)
        assert done["state"] == "completed"
        assert essence(Path(done["dataset"])) == self.undisturbed
        stats = await self.server.stats()
        print(f"{stats['served']} answers, {stats['repeated']} paid twice")
        assert stats["unique"] == self.calls
        assert stats["repeated"] <= paid_twice
        connection = await asyncpg.connect(url, server_settings={"search_path": "gristmill"})
        assert await connection.fetchval(DOUBLED) == 0
        await connection.close()
