"""Limits of child processes, when they are replaced, and how they are cancelled."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gristmill.engine.child_limits import Limits
from gristmill.engine.children import ChildCrashed, Children, OutOfMemory, OutOfTime, TookTooLongToStart
from gristmill.engine.kin import family
from gristmill.errors import UsageError
from tests.engine.conftest import ROOT
from tests.engine.family import HERE, MIB, call, children, says, until_true

__all__ = ["children"]

# Limits


async def test_limits_are_what_the_kernel_says_before_a_task_starts(children: Children) -> None:
    limits = Limits(memory=512 * MIB, cpu=50, files=200)
    memory, cpu, files, core = (await call(children, "look", limits=limits))["limits"]
    assert (memory, files, core) == (512 * MIB, 200, 0)
    assert 50 <= cpu <= 53
    again = await call(children, "look", limits=limits)
    assert again["limits"][1] >= cpu
    assert (await call(children, "look"))["limits"][:2] == [-1, -1]


@pytest.mark.parametrize(
    "more", [{"memory": 1000}, {"memory": "512M"}, {"cpu": 0}, {"cpu": float("nan")}, {"files": 2}, {"result": 0}]
)
def test_a_limit_that_makes_no_sense_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="out of range"):
        Limits(**more)


@pytest.mark.parametrize("how", ["bytes", "slowly", "wrapped", "native"])
async def test_a_child_over_its_memory_limit_is_told_so_and_the_next_one_works(children: Children, how: str) -> None:
    limits = Limits(memory=256 * MIB)
    with pytest.raises(OutOfMemory, match="it needed more than its limit of 256 MiB of memory") as over:
        await call(children, "take", {"how": how, "bytes": 400 * MIB}, limits=limits)
    assert over.value.code == "T501"
    assert await call(children, "echo", 1, limits=limits) == 1
    assert await call(children, "take", {"how": how, "bytes": 400 * MIB}, limits=limits.doubled().doubled())


async def test_a_child_over_its_cpu_limit_is_told_so_and_each_task_has_its_own(children: Children) -> None:
    limits = Limits(cpu=1)
    pids = set()
    for _ in range(3):
        assert await call(children, "burn", 0.6, limits=limits) == "burnt"
        pids.add((await call(children, "look", limits=limits))["pid"])
    assert len(pids) == 1
    with pytest.raises(OutOfTime, match="it used more than its limit of 1 s of CPU time") as over:
        await call(children, "burn", 10, limits=limits)
    assert over.value.code == "T502"
    assert over.value.story.signal == "SIGXCPU"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("program", "what"), [("import time; time.sleep(600)", "import"), ("", "boot")])
async def test_a_child_that_does_not_start_is_killed_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, what: str
) -> None:
    if what == "boot":
        (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(600)")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    else:
        (tmp_path / "sleepy.py").write_text(program)
    children = Children(boot_limit=2.0)
    try:
        async with asyncio.timeout(15):
            with pytest.raises(TookTooLongToStart, match="after 2 s"):
                await children.call("sleepy:run", "null", path=[str(tmp_path)])
    finally:
        await children.close()
    assert family(children.mark) == []


async def test_a_machine_that_starts_no_process_is_no_fault_of_the_task(tmp_path: Path) -> None:
    code = f"""
import asyncio, os, resource
from gristmill.engine.children import Children
from gristmill.errors import Busy
async def main():
    children = Children()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for warm in (False, True):
        if warm:
            await children.call("{HERE}:echo", "1")
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1, most))
        try:
            await children.call("{HERE}:echo", "1", fresh=True)
        except Busy as busy:
            print(busy.code, busy)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(await children.call("{HERE}:echo", "2"))
    await children.close()
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert said.decode().splitlines() == [
        *["T420 the machine starts no child process: Too many open files"] * 2, "2"
    ]  # fmt: skip


async def test_a_child_that_has_grown_is_replaced(children: Children) -> None:
    pids = [await call(children, "leak", 20) for _ in range(8)]
    assert 2 <= len(set(pids)) <= 6


async def test_a_child_is_replaced_after_its_tasks_are_done(
    children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.engine.children.TASKS_PER_CHILD", 3)
    pids = [(await call(children, "look"))["pid"] for _ in range(7)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


# Cancelling


@pytest.mark.parametrize("name", ["tidy", "tidy_blocking"])
async def test_a_cancelled_function_can_clean_up(children: Children, tmp_path: Path, name: str) -> None:
    note = tmp_path / "note"
    running = asyncio.create_task(call(children, name, str(note)))
    await says(note, "started")
    running.cancel()
    async with asyncio.timeout(4):
        with pytest.raises(asyncio.CancelledError):
            await running
    assert note.read_text() == "cleaned"


@pytest.mark.parametrize("name", ["stubborn", "catastrophe"])
async def test_a_function_that_will_not_stop_gives_its_slot_back_within_12_s(
    children: Children, tmp_path: Path, name: str
) -> None:
    note = tmp_path / "note"
    argument = str(note) if name == "stubborn" else 40
    running = asyncio.create_task(call(children, name, argument))
    if name == "stubborn":
        await says(note, "started")
    else:
        await until_true(lambda: family(children.mark))
        await asyncio.sleep(1)
    running.cancel()
    async with asyncio.timeout(12):
        with pytest.raises(asyncio.CancelledError):
            await running
    await until_true(lambda: not family(children.mark))


async def test_a_second_cancel_does_not_leave_the_child_alive(children: Children, tmp_path: Path) -> None:
    note = tmp_path / "note"
    children.grace = 0.5
    running = asyncio.create_task(call(children, "stubborn", str(note)))
    await says(note, "started")
    running.cancel()
    await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until_true(lambda: not family(children.mark))


async def test_closing_ends_children_that_are_at_work(tmp_path: Path) -> None:
    children = Children()
    note = tmp_path / "note"
    running = asyncio.create_task(call(children, "stubborn", str(note)))
    await says(note, "started")
    await children.close()
    with pytest.raises(ChildCrashed):
        await running
    assert family(children.mark) == []
