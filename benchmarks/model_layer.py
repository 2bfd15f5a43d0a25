"""What does our path cost around a model call, and what is paid twice or lost when everything is killed?

    python -m benchmarks.model_layer [--quick] [--write] [--aiohttp PYTHON]

W1: many calls, 200 ms each, 64 at once, against tests/model_server.py in its own process. "aiohttp" (if `--aiohttp`
names a Python that has it) and "pyreqwest" are a bare loop around a client. "asked" is Asker and LedgeredModel in one
process on a durable database: intent and answer journaled, output checked. "run" is the whole of `gristmill run` over
documents with two workers of 32 slots: calls a second are those between the first 10 % and the last 10 % of the calls;
CPU is that of all its processes, start-up included, and of the database. Rounds alternate; ideal is 64 calls in 200 ms.
W2: the same command with its own embedded server, everything killed half-way, and the same command again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections import defaultdict
from dataclasses import dataclass

from benchmarks.documents import ModelServer, command_line, kill_project, make_documents, project_environment
from benchmarks.measure import ROOT, Bench, bench, descendants, line_of, memory_mib, middle, publish, table, until

LATENCY, LANES = 0.2, 64
CALLS_A_FILE = 9  # about: three passages, and an answer to each question


@dataclass(frozen=True)
class Found:
    """`share` is of the ideal; CPU in ms a call, of the clients and of the database; peak RSS in MiB of one process."""

    share: float
    cpu: float
    database: float
    rss: float


async def one_process(made: Bench, role: str, python: str, model: ModelServer, count: int) -> Found | None:
    """One client with all calls; None when what it needs is not installed."""
    async with made.database() as url:
        before = made.server_cpu()
        process = made.processes.start(
            str(ROOT / "benchmarks" / "model_layer_client.py"), role, "--base", model.base_url, "--count", str(count),
            "--lanes", str(LANES), "--url", url, "--spool", str(made.folder / "spool"), python=python,
        )  # fmt: skip
        try:
            seconds, cpu, peak = json.loads(await line_of(process, 300))
        except RuntimeError:
            return None
        database = made.server_cpu() - before
    return Found(count * LATENCY / LANES / seconds, cpu / count * 1e3, database / count * 1e3, peak)


async def whole_run(made: Bench, model: ModelServer, files: int, seed: int) -> Found:
    """`gristmill run` with two workers on the benchmark's server."""
    project = made.folder / f"run-{seed}"
    make_documents(project / "documents", files=files, seed=seed)
    async with made.database() as url:
        start, cpu, database = await model.stats(), children_cpu(), made.server_cpu()
        process = made.processes.start(
            *command_line(project / "documents", "--quiet"), cwd=project,
            env=project_environment(model, GRISTMILL_DATABASE_URL=url),
        )  # fmt: skip
        seen: list[tuple[float, int]] = []
        rss = 0.0
        while process.poll() is None:
            await asyncio.sleep(0.1)
            seen.append((time.perf_counter(), (await model.stats())["served"] - start["served"]))
            if len(seen) % 10 == 0:
                rss = max([rss, *(memory_mib([pid], "Rss") for pid in descendants(process.pid)[1:])])
        if process.returncode:
            raise RuntimeError(f"the run ended with {process.returncode}")
        count, cpu, database = seen[-1][1], children_cpu() - cpu, made.server_cpu() - database
    inner = [(when, number) for when, number in seen if 0.1 * count <= number <= 0.9 * count]
    per_second = (inner[-1][1] - inner[0][1]) / (inner[-1][0] - inner[0][0])
    return Found(per_second * LATENCY / LANES, cpu / count * 1e3, database / count * 1e3, rss)


def children_cpu() -> float:
    """CPU of all child processes that have ended and were waited for, with theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def killed_half_way(made: Bench, model: ModelServer, files: int, seed: int) -> dict[str, float]:
    """W2: calls paid twice, calls in flight at the kill, rows that an undisturbed run has and this one lacks."""
    rows, needed, paid_twice, in_flight, seconds = [], 0, 0, 0, 0.0
    for disturbed in (False, True):
        project = made.folder / f"killed-{seed}-{disturbed}"
        make_documents(project / "documents", files=files, seed=seed)
        await model.control(reset=True)
        await model.control(latency=LATENCY)
        environment = project_environment(model)
        command = command_line(project / "documents", "--json")
        if disturbed:
            process = made.processes.start(*command, cwd=project, env=environment)

            async def half_way(half: float = needed / 2) -> bool:
                return bool((await model.stats())["served"] >= half)

            await until(half_way, 300)
            in_flight = (await model.stats())["active"]
            kill_project(project, process.pid)
            process.wait()
        began = time.perf_counter()
        process = made.processes.start(*command, cwd=project, env=environment)
        report = json.loads(await line_of(process, 300))
        seconds = time.perf_counter() - began
        rows.append(report["rows"])
        stats = await model.stats()
        needed, paid_twice = (stats["served"], 0) if not disturbed else (needed, stats["repeated"])
        kill_project(project, process.pid)
    return {
        "calls": needed, "in flight": in_flight, "paid twice": paid_twice, "beyond": max(0, paid_twice - LANES),
        "rows lost": rows[0] - rows[1], "seconds": seconds,
    }  # fmt: skip


async def measure(rounds: int, count: int, kills: int, aiohttp: str | None) -> str:
    found: dict[str, list[Found]] = defaultdict(list)
    killed: list[dict[str, float]] = []
    files = max(10, count // CALLS_A_FILE)
    clients = [("pyreqwest", sys.executable), ("asked", sys.executable)]
    if aiohttp:
        clients.insert(0, ("aiohttp", aiohttp))
    async with bench() as made, ModelServer.running(latency=LATENCY) as model:
        for number in range(rounds):
            for role, python in clients:
                one = await one_process(made, role, python, model, count)
                if one is not None:
                    found[role].append(one)
            found["run"].append(await whole_run(made, model, files, number))
        for number in range(kills):
            killed.append(await killed_half_way(made, model, files // 2, 100 + number))  # noqa: PERF401
    return f"{_calls_table(found)}\n\n{_kills_table(killed)}"


def _calls_table(found: dict[str, list[Found]]) -> str:
    best = "aiohttp" if "aiohttp" in found else "pyreqwest"
    rows = []
    for role, values in found.items():
        ratios = [one.share / bare.share for one, bare in zip(values, found[best], strict=False)]
        rows.append([
            role, f"{middle(v.share for v in values):.2f}", f"{middle(ratios):.2f}",
            f"{middle(v.cpu for v in values):.2f}", f"{middle(v.database for v in values):.2f}",
            f"{max(v.rss for v in values):.0f}",
        ])  # fmt: skip
    head = ("W1", "of the ideal", f"of bare {best}", "CPU ms a call", "and of the database", "peak RSS, MiB")
    return table(head, rows)


def _kills_table(killed: list[dict[str, float]]) -> str:
    head = ("calls", "in flight", "paid twice", "beyond", "rows lost", "seconds")
    rows = [[f"{one[name]:.0f}" for name in head] for one in killed]
    names = ("W2: calls needed", "in flight just before the kill", "paid twice", "beyond the 64 slots", "rows lost",
             "seconds of the second command")  # fmt: skip
    return table(names, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.model_layer", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="about a minute")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--aiohttp", metavar="PYTHON", help="an interpreter with aiohttp (never the project's)")
    options = parser.parse_args()
    sizes = (1, 500, 1) if options.quick else (3, 2_000, 3)
    text = asyncio.run(measure(*sizes, options.aiohttp))
    print(text)
    if options.write:
        flags = (" --quick" if options.quick else "") + (" --aiohttp PYTHON" if options.aiohttp else "")
        publish("model_layer", text, f"python -m benchmarks.model_layer{flags}")


if __name__ == "__main__":
    main()
