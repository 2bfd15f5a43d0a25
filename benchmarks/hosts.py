"""Three hosts and a database: one is cut off, one slow, one's clock wrong; workers are killed and added, under a quota.

    python -m benchmarks.hosts [--files 300] [--write]

Needs root, `ip` and, for the clock, `faketime`. A host is a network namespace with an address of its own; it reaches
the embedded server and the model only through a relay at its gateway, blobs lie in a folder that all share. Host 1
loses its link for 25 s (the lease is 15 s); what passes to host 2 takes 200 ms longer, in halves; the clock of host 3
is an hour fast. Meanwhile the worker of host 2 is killed and another one started, and a second one is added on host 3.
The model refuses what is over 600 requests in any 60 s.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg

from benchmarks.documents import ModelServer, command_line, make_documents, project_environment
from benchmarks.measure import Bench, bench, descendants, line_of, publish, table, until
from gristmill.db.database import open_pool
from gristmill.llm.quota_limits import set_limit
from gristmill.llm.quota_settings import LimitSettings

QUOTA, DATABASE, MODEL = 600, 5432, 8080
LIMIT = "openai:OPENAI_API_KEY"


@dataclass(frozen=True)
class Host:
    """A network namespace; what passes its gateway is late by `delay` seconds each way."""

    number: int
    delay: float = 0.0
    clock: str = ""

    @property
    def name(self) -> str:
        return f"gristmill-{self.number}"

    @property
    def gateway(self) -> str:
        return f"10.77.{self.number}.1"

    def link(self, state: str) -> None:
        _ip("link", "set", f"gm{self.number}", state)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@asynccontextmanager
async def host(number: int, upstreams: dict[int, str], *, delay: float = 0.0, clock: str = "") -> AsyncIterator[Host]:
    """A host with relays at its gateway: port -> Unix socket, or port of this machine."""
    made, link = Host(number, delay, clock), f"gm{number}"
    _ip("netns", "add", made.name)
    try:
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", made.name)
        _ip("addr", "add", f"{made.gateway}/24", "dev", link)
        made.link("up")
        for told in (("addr", "add", f"10.77.{number}.2/24", "dev", "eth0"), ("link", "set", "eth0", "up"),
                     ("link", "set", "lo", "up")):  # fmt: skip
            _ip("-n", made.name, *told)
        relays = [await relay(made, port, upstream) for port, upstream in upstreams.items()]
        yield made
        for each in relays:
            each.close()
    finally:
        _ip("netns", "del", made.name)


async def relay(made: Host, port: int, upstream: str) -> asyncio.Server:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(65536):
                if made.delay:
                    await asyncio.sleep(made.delay)
                writer.write(block)
                await writer.drain()
        writer.close()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = (
            asyncio.open_unix_connection(upstream) if "/" in upstream
            else asyncio.open_connection("127.0.0.1", int(upstream))
        )  # fmt: skip
        back, onward = await there
        await asyncio.gather(pump(reader, onward), pump(back, writer))

    return await asyncio.start_server(lead, made.gateway, port)


class Fleet:
    """Workers on hosts, on one database and one model."""

    def __init__(self, made: Bench, database: str, model: ModelServer) -> None:
        self.made, self.database, self.model = made, database, model
        self.blobs = made.folder / "blobs"

    def start(self, where: Host) -> subprocess.Popen[str]:
        environment = project_environment(
            self.model, OPENAI_BASE_URL=f"http://{where.gateway}:{MODEL}/v1", GRISTMILL_BLOBS=str(self.blobs),
            GRISTMILL_DATABASE_URL=f"postgresql://gristmill@{where.gateway}:{DATABASE}/{self.database}",
            GRISTMILL_HOME=str(self.made.folder / where.name), FAKETIME_DONT_FAKE_MONOTONIC="1",
        )  # fmt: skip
        clock = ["faketime", "-f", where.clock] if where.clock and shutil.which("faketime") else []
        told = ["netns", "exec", where.name, *clock, sys.executable, "-m", "gristmill", "worker", "--name", where.name]
        with (self.made.folder / f"{where.name}.log").open("a") as log:
            return self.made.processes.start(*told, python="ip", env=environment, log=log)


async def story(made: Bench, model: ModelServer, files: int) -> str:
    parts = urlsplit(made.server.url)
    upstreams = {
        DATABASE: f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432",
        MODEL: str(urlsplit(model.base_url).port),
    }
    documents = made.folder / "documents"
    await asyncio.to_thread(make_documents, documents, files=files, sections=1)
    async with made.database() as url, contextlib.AsyncExitStack() as stack:
        pool = await open_pool(url, size=2)
        await set_limit(pool, LIMIT, LimitSettings(requests_per_minute=QUOTA), by="benchmark")
        hosts = [
            await stack.enter_async_context(host(1, upstreams)),
            await stack.enter_async_context(host(2, upstreams, delay=0.1)),
            await stack.enter_async_context(host(3, upstreams, clock="+1h")),
        ]
        fleet = Fleet(made, urlsplit(url).path.lstrip("/"), model)
        workers = [fleet.start(one) for one in hosts]

        async def there() -> bool:
            return bool(await pool.fetchval("select count(*) = 3 from worker where state = 'alive'"))

        await until(there, 300, 0.1)
        command = made.processes.start(
            *command_line(documents, "--workers", "0", "--json"), cwd=made.folder,
            env=project_environment(model, GRISTMILL_DATABASE_URL=url, GRISTMILL_BLOBS=str(fleet.blobs)),
        )  # fmt: skip
        seconds = await _events(model, hosts, fleet, workers, files)
        document = json.loads(await line_of(command, 900))
        text = await _told(pool, model, document["state"], files, time.monotonic() - seconds)
        await pool.close()
        return text


async def _events(
    model: ModelServer, hosts: list[Host], fleet: Fleet, workers: list[subprocess.Popen[str]], files: int
) -> float:
    """What happens to the hosts while the run goes on; the moment of its first answer."""

    async def answered(share: float) -> None:
        async def enough() -> bool:
            return bool((await model.stats())["answered"] > share * files * 5)

        await until(enough, 900, 0.1)

    await answered(0)
    began = time.monotonic()
    await answered(0.15)
    hosts[0].link("down")
    await asyncio.sleep(25)
    hosts[0].link("up")
    await answered(0.5)
    for pid in descendants(workers[1].pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    await asyncio.sleep(5)
    fleet.start(hosts[1])
    fleet.start(hosts[2])
    return began


async def _told(pool: asyncpg.Pool[asyncpg.Record], model: ModelServer, state: str, files: int, seconds: float) -> str:
    stats = await model.stats()
    doubled = await pool.fetchval(
        "select count(*) from (select from run_record where item_id > 0 group by run_id, step, record_id, item_id"
        " having count(*) > 1) d"
    )
    done = await pool.fetchval(
        "select count(distinct r.item_id) from run_record r join record e on e.id = r.record_id and e.kind = 'example'"
    )
    buried = "select name, cause, count(*) as n from worker where state = 'dead' group by 1, 2 order by 1"
    dead = await pool.fetch(buried)
    row = [
        state, f"{files:,}", str(files - done), str(doubled), f"{stats['answered']:,}", str(stats["repeated"]),
        str(stats["by_status"].get("429", 0)), f"{stats['answered'] / (seconds / 60 * QUOTA):.2f}", f"{seconds:.0f}",
    ]  # fmt: skip
    head = ("state", "files", "lost", "recorded twice", "answers", "paid twice", "answers 429", "of the quota",
            "seconds")  # fmt: skip
    ends = table(("buried worker", "cause", "times"), [[r["name"], r["cause"], str(r["n"])] for r in dead])
    return "\n\n".join([table(head, [row]), ends])


async def measure(files: int) -> str:
    async with bench() as made, ModelServer.running(latency=0.2) as model:
        await model.control(requests_per_minute=QUOTA, window=60.0, latency=0.2)
        return await story(made, model, files)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.hosts", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    options = parser.parse_args()
    if os.geteuid() != 0 or not Path("/proc/self/ns/net").exists():
        parser.error("needs root: it makes network namespaces")
    text = asyncio.run(measure(options.files))
    print(text)
    if options.write:
        publish("hosts", text, f"python -m benchmarks.hosts --files {options.files}")


if __name__ == "__main__":
    main()
