"""The model layer next to a bare client and a plain SDK script: speed, kills, a shared quota, faults, memory.

    python -m benchmarks.models [--quick] [--write] [--aiohttp PYTHON] [--only W1,W2,W3,W4,plan]

W1: many calls, 200 ms each, 64 at once, against tests/model_server.py in its own process. "aiohttp" (with a Python
that has it), "openai" (a script on the SDK) and "pyreqwest" are bare loops. "asked" is Asker and LedgeredModel in one
process on a durable database. "run" is the whole of `gristmill run` with two workers of 32 slots: calls a second are
those between the first and the last 10 % of the calls; CPU is that of all its processes, start-up included.
W2: the same command with its own embedded server, everything killed three times in a row, and then left alone.
W3: benchmarks/models_quota.py, in the same run. W4: 10 % of the calls answer 500 and 5 % are cut, the first time they
come; rows are compared with those of an undisturbed run. plan: `gristmill run --plan` over few and over many files.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import models_quota
from benchmarks.documents import ModelServer, command_line, kill_project, make_documents, project_environment
from benchmarks.measure import ROOT, Bench, bench, descendants, line_of, memory_mib, middle, publish, table, until

LATENCY, LANES = 0.2, 64
CALLS_A_FILE = 9  # about: three passages, and an answer to each question
FAULTS = [
    {"kind": "error", "status": 500, "fraction": 0.1, "once": True}, {"kind": "cut", "fraction": 0.05, "once": True},
]  # fmt: skip


@dataclass(frozen=True)
class Found:
    """`share` is of the ideal; CPU in ms a call, of the clients and of the database; peak RSS in MiB of one process."""

    share: float
    cpu: float
    database: float
    rss: float
    lost: int = 0


async def one_process(made: Bench, role: str, python: str, model: ModelServer, count: int) -> Found:
    """One client with all calls."""
    async with made.database() as url:
        before = made.server_cpu()
        process = made.processes.start(
            str(ROOT / "benchmarks" / "models_clients.py"), role, "--base", model.base_url, "--count", str(count),
            "--lanes", str(LANES), "--url", url, "--spool", str(made.folder / "spool"), python=python,
        )  # fmt: skip
        seconds, cpu, peak, lost = json.loads(await line_of(process, 300))
        database = made.server_cpu() - before
    return Found(count * LATENCY / LANES / seconds, cpu / count * 1e3, database / count * 1e3, peak, lost)


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


async def speed(made: Bench, model: ModelServer, rounds: int, count: int, aiohttp: str | None) -> str:
    """W1. The clients take turns."""
    found: dict[str, list[Found]] = defaultdict(list)
    clients = [("openai", sys.executable), ("pyreqwest", sys.executable), ("asked", sys.executable)]
    if aiohttp:
        clients.insert(0, ("aiohttp", aiohttp))
    for number in range(rounds):
        for role, python in clients:
            found[role].append(await one_process(made, role, python, model, count))
        found["run"].append(await whole_run(made, model, max(10, count // CALLS_A_FILE), number))
    best = "aiohttp" if aiohttp else "pyreqwest"
    rows = []
    for role, values in found.items():
        ratios = [one.share / bare.share for one, bare in zip(values, found[best], strict=True)]
        rows.append([
            role, f"{middle(v.share for v in values):.2f}", f"{middle(ratios):.2f}",
            f"{middle(v.cpu for v in values):.2f}", f"{middle(v.database for v in values):.2f}",
            f"{max(v.rss for v in values):.0f}",
        ])  # fmt: skip
    head = ("W1", "of the ideal", f"of bare {best}", "CPU ms a call", "and of the database", "peak RSS, MiB")
    return table(head, rows)


@dataclass(frozen=True)
class Ended:
    """A run that has ended: its rows without their numbers, what the model was asked, and how it went on."""

    rows: frozenset[str]
    stats: Mapping[str, int]
    in_flight: tuple[int, ...] = ()
    first_calls: tuple[float, ...] = ()


async def project_run(
    made: Bench, model: ModelServer, name: str, files: int, *, kill_at: tuple[float, ...] = (), faulty: bool = False
) -> Ended:
    """`gristmill run` with a server of its own, killed with everything at so many calls, each time begun anew."""
    project = made.folder / name
    make_documents(project / "documents", files=files, seed=7)
    await model.control(reset=True)
    await model.control(latency=LATENCY, faults=FAULTS if faulty else [])
    environment = project_environment(model, GRISTMILL_BACKOFF="0.2")
    command = command_line(project / "documents", "--json")
    in_flight, first_calls = [], []
    for target in (*kill_at, None):
        before, began = (await model.stats())["requests"], time.perf_counter()
        process = made.processes.start(*command, cwd=project, env=environment)
        if target is None:
            break

        async def so_far(target: float = target) -> bool:
            return bool((await model.stats())["served"] >= target)

        await until(so_far, 300)
        in_flight.append((await model.stats())["active"])
        kill_project(project, process.pid)
        process.wait()

    async def goes_on() -> bool:
        return bool((await model.stats())["requests"] > before)

    await until(goes_on, 300)
    first_calls.append(time.perf_counter() - began)
    json.loads(await line_of(process, 600))
    process.wait()
    file = project / "rows.jsonl"
    told = ("-m", "gristmill", "export", "--to", str(file), "--map", "question=question,answer=answer", "--no-lineage")
    export = made.processes.start(*told, cwd=project, env=environment)
    if await asyncio.to_thread(export.wait):
        raise RuntimeError(f"the export ended with {export.returncode}")
    rows = frozenset(file.read_text().splitlines())
    stats = await model.stats()
    kill_project(project, process.pid)
    return Ended(rows, stats, tuple(in_flight), tuple(first_calls))


async def killed(made: Bench, model: ModelServer, files: int) -> tuple[str, Ended]:
    """W2; and the undisturbed run."""
    calm = await project_run(made, model, "calm", files)
    needed = calm.stats["served"]
    hit = await project_run(made, model, "killed", files, kill_at=(needed * 0.25, needed * 0.5, needed * 0.75))
    twice = hit.stats["repeated"]
    head = ("W2: calls needed", "in flight before each kill", "paid twice", "beyond 64 for each kill", "rows", "lost",
            "s from the command to its first call")  # fmt: skip
    row = [
        str(needed), ", ".join(map(str, hit.in_flight)), str(twice), str(max(0, twice - LANES * 3)),
        str(len(calm.rows)),
        str(len(calm.rows - hit.rows)), ", ".join(f"{one:.1f}" for one in hit.first_calls),
    ]  # fmt: skip
    return table(head, [row]), calm


async def faulty(made: Bench, model: ModelServer, files: int, count: int, calm: Ended, aiohttp: str | None) -> str:
    """W4: whole runs, and the bare clients."""
    hit = await project_run(made, model, "faulty", files, faulty=True)
    asked = hit.stats["requests"] / calm.stats["requests"]
    rows = [["run", str(len(calm.rows - hit.rows)), str(len(hit.rows - calm.rows)), f"{asked:.2f}"]]
    for role, python in [("openai", sys.executable)] + ([("aiohttp", aiohttp)] if aiohttp else []):
        await model.control(reset=True)
        await model.control(latency=LATENCY, faults=FAULTS)
        one = await one_process(made, role, python, model, count)
        stats = await model.stats()
        kept = stats["faults"].get("cut", 0)  # a cut answer looks like any other: they ask for words
        rows.append([role, str(one.lost), str(kept), f"{stats['requests'] / count:.2f}"])
    await model.control(reset=True)
    await model.control(latency=LATENCY)
    return table(("W4", "lost", "cut or wrong, and kept", "calls an item"), rows)


async def planned(made: Bench, model: ModelServer, many: int) -> str:
    """Peak RSS of `--plan` over few and many files. The many are links, or they would fill the disk."""
    rows = []
    for count in (1_000, many):
        folder = made.folder / f"plan-{count}"
        await asyncio.to_thread(_links, folder, count)
        async with made.database() as url:
            environment = project_environment(model, GRISTMILL_DATABASE_URL=url)
            began = time.perf_counter()
            process = made.processes.start(*command_line(folder, "--plan"), cwd=made.folder, env=environment)
            _, status, used = await asyncio.to_thread(os.wait4, process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise RuntimeError(f"the plan ended with {process.returncode}")
        rows.append([f"{count:,}", f"{used.ru_maxrss / 1024:.0f}", f"{time.perf_counter() - began:.0f}"])
    return table(("files of a dry run", "peak RSS, MiB", "seconds"), rows)


def _links(folder: Path, count: int) -> None:
    make_documents(folder / "originals", files=100)
    originals = sorted((folder / "originals").iterdir())
    for number in range(count - len(originals)):
        if number % 1000 == 0:
            part = folder / f"part-{number // 1000:04}"
            part.mkdir()
        os.link(originals[number % len(originals)], part / f"{number:07}.md")


async def measure(options: argparse.Namespace) -> str:
    quick, wanted = options.quick, set(options.only.split(","))
    rounds, count, many = (1, 500, 20_000) if quick else (3, 2_000, 1_000_000)
    quota, window, seconds = (120, 12.0, 15.0) if quick else (600, 60.0, 70.0)
    files = max(10, count // CALLS_A_FILE // 2)
    parts = []
    async with bench() as made, ModelServer.running(latency=LATENCY) as model:
        if "W1" in wanted:
            parts.append(await speed(made, model, rounds, count, options.aiohttp))
        if wanted & {"W2", "W4"}:
            text, calm = await killed(made, model, files)
            parts.append(text)
        if "W3" in wanted:
            rows = [await models_quota.share(made, model, number, quota, window, seconds) for number in (1, 2, 8)]
            head = ("W3: processes", "share of the quota", "answers 429", "sent away, per answer", "permits too late")
            parts.append(table(head, rows))
        if "W4" in wanted:
            parts.append(await faulty(made, model, files, count, calm, options.aiohttp))
        if "plan" in wanted:
            parts.append(await planned(made, model, many))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.models", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few minutes")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--aiohttp", metavar="PYTHON", help="an interpreter with aiohttp (never the project's)")
    parser.add_argument("--only", default="W1,W2,W3,W4,plan", help="parts, with commas; W4 needs W2")
    options = parser.parse_args()
    text = asyncio.run(measure(options))
    print(text)
    if options.write:
        flags = (" --quick" if options.quick else "") + (" --aiohttp PYTHON" if options.aiohttp else "")
        publish("models", text, f"python -m benchmarks.models{flags}")


if __name__ == "__main__":
    main()
