"""What all benchmarks measure with: CPU and memory of process trees, a server of their own, tables in RESULTS.md.

CPU is read from /proc/<pid>/stat, in ticks of 10 ms; a process that has ended counts through the parent that waited for
it. The cores are shared with other work, so CPU time per piece and ratios inside one interleaved run are the results;
wall times are context.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import asyncpg

from gristmill.db import embedded
from gristmill.db.database import connect
from gristmill.db.migrate import migrate

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "RESULTS.md"
TICK = os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """The process and everything below it, parents first."""
    found = [pid]
    for parent in found:
        for thread in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(word) for word in thread.read_text().split()]
    return found


def cpu_seconds(pids: Iterable[int], *, ended_children: bool = False) -> float:
    """User and system time of these processes so far."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11 : 15 if ended_children else 13]))
    return ticks / TICK


def memory_mib(pids: Iterable[int], field: str = "Pss") -> float:
    """Memory of these processes: `Pss` counts shared pages by share, `Rss` in full."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(f"{field}:"):
                    total += int(line.split()[1])
    return total / 1024


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie; the nearest one, no interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def middle(values: Iterable[float]) -> float:
    return statistics.median(list(values))


class Processes:
    """Child processes that end with the benchmark, whatever happens."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self, *arguments: str, python: str = sys.executable, log: IO[str] | int | None = None, **more: Any
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [python, *arguments], cwd=more.pop("cwd", ROOT), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if log is None else log, text=True, start_new_session=True, **more,
        )  # fmt: skip
        self.started.append(process)
        return process

    def end(self, *processes: subprocess.Popen[str]) -> None:
        for process in processes or tuple(self.started):
            for pid in descendants(process.pid) if process.poll() is None else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            if process in self.started:
                self.started.remove(process)


async def until(condition: Callable[[], Awaitable[Any]], limit: float = 60.0, every: float = 0.05) -> Any:
    """Waits for a condition and returns its value. Raises `TimeoutError`."""
    async with asyncio.timeout(limit):
        while not (value := await condition()):  # noqa: ASYNC110 (it happens in another process)
            await asyncio.sleep(every)
        return value


async def line_of(process: subprocess.Popen[str], limit: float = 60.0) -> str:
    """The next line of its standard output. Raises `RuntimeError` when it ends instead."""
    assert process.stdout is not None
    async with asyncio.timeout(limit):
        line = await asyncio.to_thread(process.stdout.readline)
    if not line:
        raise RuntimeError(f"process {process.pid} ended with {process.poll()}")
    return line.strip()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


class Bench:
    """One embedded server with its normal, durable settings, and a fresh database for every measurement."""

    def __init__(self, server: embedded.Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.processes = Processes()
        self.numbers = itertools.count(1)

    async def prepare(self) -> None:
        self.control = await asyncpg.connect(self.server.url)
        await self.control.execute("create database template_gristmill")
        connection = await connect(self.url("template_gristmill"))
        await migrate(connection)
        await connection.close()

    def url(self, database: str) -> str:
        return self.server.url.replace("/gristmill?", f"/{database}?")

    @asynccontextmanager
    async def database(self, template: str = "template_gristmill") -> AsyncIterator[str]:
        """The URL of a new database; the server has written down everything older before it is handed out."""
        name = f"bench_{next(self.numbers)}"
        await self.control.execute(f"create database {name} template {template}")
        await self.control.execute("checkpoint")
        try:
            yield self.url(name)
        finally:
            self.processes.end()
            await self.control.execute(f"drop database {name} with (force)")

    def server_cpu(self, *, without: asyncpg.Connection[Any] | None = None) -> float:
        """CPU of the whole server so far, but for the connections of the benchmark itself."""
        own = {self.control.get_server_pid(), without.get_server_pid() if without else 0}
        first, *others = descendants(self.server.pid)
        return cpu_seconds([first], ended_children=True) + cpu_seconds(pid for pid in others if pid not in own)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """A server in a temporary folder, which is gone afterwards together with all processes."""
    folder = Path(tempfile.mkdtemp(prefix="gristmill-bench-"))
    server = await embedded.open_server(folder / "home")
    made = Bench(server, folder)
    try:
        await made.prepare()
        yield made
        await made.control.close()
    finally:
        made.processes.end()
        await embedded.close_server(server)
        await embedded.stop_server(folder / "home")
        shutil.rmtree(folder, ignore_errors=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def publish(section: str, text: str, command: str) -> None:
    """Puts a section into RESULTS.md, in place of what that section said before."""
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    body = f"{begin}\nMade by `{command}`.\n\n{text.strip()}\n{end}"
    old = RESULTS.read_text() if RESULTS.exists() else "# Results\n"
    if begin in old:
        before, _, rest = old.partition(begin)
        RESULTS.write_text(before + body + rest.partition(end)[2])
    else:
        RESULTS.write_text(f"{old.rstrip()}\n\n{body}\n")
