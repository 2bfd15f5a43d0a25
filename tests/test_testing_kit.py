"""The testing kit for users: drain, travel, asserts, and a plugin that hurts workers while their functions run."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gristmill.engine import Engine, TaskContext
from gristmill.errors import UsageError
from gristmill.testing import DrainFailed, Faults, HostileWorkers, assert_enqueued, drain, refute_enqueued, travel


@pytest.fixture
def engine(gristmill_engine: Engine) -> Engine:
    return gristmill_engine


async def test_drain_performs_what_is_there_and_what_follows(engine: Engine) -> None:
    seen: list[int] = []

    @engine.task("count", pool="numbers")
    async def count(number: int, ctx: TaskContext) -> int:
        seen.append(number)
        if number:
            ctx.enqueue(count, number=number - 1, pool=f"pool-{number}")
        return number

    async with engine:
        task = await engine.enqueue(count, 5)
        async with engine.batch("more") as batch:
            batch.enqueue(count, 0)
        drained = await drain(engine)
        assert seen[-1] == 0
        assert len(drained.completed) == 7
        assert await task.result() == 5
        assert (await batch.progress()).state == "completed"
        assert (await drain(engine)).completed == ()


async def test_drain_tries_again_without_waiting_and_says_what_failed(engine: Engine) -> None:
    tries: list[int] = []

    @engine.task("flaky", attempts=3, retry={"backoff": 60})
    async def flaky(ctx: TaskContext) -> None:
        tries.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ConnectionError("not yet")

    @engine.task("hopeless", retry={"ValueError": "fail"})
    async def hopeless(to: str) -> None:
        raise ValueError("no such address")

    async with engine:
        await engine.enqueue(flaky)
        await drain(engine)
        assert tries == [1, 2, 3]
        task = await engine.enqueue(hopeless, to="a@b")
        with pytest.raises(DrainFailed, match=r'hopeless \{"to":"a@b"\} failed: ValueError: no such address') as failed:
            await drain(engine)
        assert list(failed.value.drained.failed or {}) == [task.id]


async def test_drain_says_why_something_still_waits(engine: Engine) -> None:
    @engine.task("send")
    async def send() -> None: ...

    @engine.task("elsewhere", here=False)
    async def elsewhere() -> None: ...

    async with engine:
        await engine.enqueue(elsewhere)
        with pytest.raises(DrainFailed, match='no worker knows operator "elsewhere"'):
            await drain(engine)
        drained = await drain(engine, check=False)
        assert len(drained.waiting or {}) == 1


async def test_travel_makes_due_what_was_scheduled(engine: Engine) -> None:
    @engine.task("remind")
    async def remind() -> str:
        return "now"

    async with engine:
        task = await engine.enqueue(remind, delay=7200)
        drained = await drain(engine)
        assert (drained.completed, drained.later) == ((), (task.id,))
        await travel(engine, hours=1)
        assert (await drain(engine)).later == (task.id,)
        await travel(engine, hours=1)
        assert (await drain(engine)).completed == (task.id,)
        with pytest.raises(UsageError, match="forward only"):
            await travel(engine, hours=-1)


async def test_travel_lets_a_deadline_pass(engine: Engine) -> None:
    @engine.task("offer")
    async def offer() -> None: ...

    async with engine:
        task = await engine.enqueue(offer, delay=1800, expires=3600)
        await travel(engine, hours=2)
        with pytest.raises(DrainFailed):
            await drain(engine)
        assert await task.why() in ("it is failed", "it is cancelled")


async def test_asserts_show_what_came_nearest(engine: Engine) -> None:
    @engine.task("send")
    async def send(to: str, *, subject: str = "", tags: list[str] | None = None) -> None: ...

    @engine.task("other")
    async def other() -> None: ...

    async with engine:
        with pytest.raises(AssertionError, match="no tasks at all"):
            await assert_enqueued(engine, send, to="a@b")
        await engine.enqueue(other)
        with pytest.raises(AssertionError, match=r"there are: other \(1\)"):
            await assert_enqueued(engine, send, to="a@b")
        await engine.enqueue(send, to="a@c", subject="hello", tags=["x"])
        await engine.enqueue(send, to="a@d")
        with pytest.raises(AssertionError) as near:
            await assert_enqueued(engine, send, to="a@b", subject="hello")
        lines = str(near.value).splitlines()
        assert lines[0] == "no task send(to='a@b', subject='hello') was enqueued; the nearest of 2:"
        assert lines[1].endswith("(available): to='a@c' instead of 'a@b'")
        assert lines[2].endswith("to='a@d' instead of 'a@b'; subject was not given")
        assert len(await assert_enqueued(engine, send)) == 2
        await assert_enqueued(engine, "send", to="a@c", tags=("x",))
        await refute_enqueued(engine, send, to="a@b")
        with pytest.raises(AssertionError, match=r"is send\(to='a@c'"):
            await refute_enqueued(engine, send, subject="hello")


async def test_an_app_is_drained_in_process(gristmill_database: str, tmp_path: Path) -> None:
    from gristmill import App, Workflow
    from gristmill.operators import parse, split

    (tmp_path / "text.md").write_text("# Leases\n\nA lease is the right to finish a task.\n")
    async with App(home=tmp_path / "home", workers=0) as app:
        run = await app.start(Workflow("short", [parse, split]), [tmp_path / "text.md"])
        drained = await drain(app, run)
        assert len(drained.completed) == 2
        assert (await run.progress()).state == "completed"


LETTERS = """
import asyncio, os
from pathlib import Path
from gristmill.engine import Engine, TaskContext

engine = Engine()
SENT = Path(os.environ["LETTERS"])

@engine.task("careless")
async def careless(to: str) -> str:
    with SENT.open("a") as file:
        file.write(to + "\\n")
    await asyncio.sleep(0.05)
    return to

@engine.task("careful")
async def careful(to: str, ctx: TaskContext) -> str:
    try:
        (SENT.parent / ctx.idempotency_key).touch(exist_ok=False)
    except FileExistsError:
        return to
    with SENT.open("a") as file:
        file.write(to + "\\n")
    return to

@engine.task("broken", retry={"ValueError": "fail"})
async def broken() -> None:
    raise ValueError("a bug of its own")
"""
TESTS = """
import os
from pathlib import Path
import pytest
from gristmill.testing import Faults, assert_enqueued
import letters

async def attack(hostile_workers, function, faults, count=12):
    async with letters.engine as engine:
        await engine.enqueue_many(function, [{"to": f"{number}@b"} for number in range(count)])
        report = await hostile_workers.run("letters:engine", faults)
    assert len(report.tasks) == count
    assert all(task.state == "completed" and task.begun >= 1 for task in report.tasks)
    sent = Path(os.environ["LETTERS"]).read_text().splitlines()
    assert len(set(sent)) == count
    return report, sent

async def test_careless(hostile_workers):
    report, sent = await attack(hostile_workers, letters.careless, Faults(kill_after=0.4))
    report.assert_once(sent)

async def test_careful(hostile_workers):
    report, sent = await attack(hostile_workers, letters.careful, Faults(kill_after=0.4))
    assert report.killed and report.repeated
    report.assert_once(sent)

async def test_stopped_and_starved(hostile_workers):
    faults = Faults(kill_after=0, kill_every=1.0, stop_every=0.2, starve=0.3, starve_for=3.0)
    report, sent = await attack(hostile_workers, letters.careless, faults, count=14)
    assert report.stopped and report.killed

async def test_unhurt(hostile_workers):
    await attack(hostile_workers, letters.careful, Faults(kill_after=0))

async def test_broken(hostile_workers):
    async with letters.engine as engine:
        await engine.enqueue(letters.broken)
        await hostile_workers.run("letters:engine")
"""


SHOUTING = """
from pydantic import BaseModel
from gristmill import Chunk, operator

class Shout(BaseModel):
    text: str

@operator("shout-of-the-test")
async def shout(chunk: Chunk) -> list[Shout]:
    return [Shout(text=chunk.text.upper())]
"""


@pytest.mark.thorough
async def test_operators_of_an_app_are_hurt_too(
    hostile_workers: HostileWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gristmill import App, Workflow
    from gristmill.operators import parse, split

    (tmp_path / "shouting.py").write_text(SHOUTING)
    monkeypatch.syspath_prepend(tmp_path)
    import shouting  # type: ignore[import-not-found]

    files = [tmp_path / f"{number}.md" for number in range(6)]
    for file in files:
        file.write_text(f"# {file.stem}\n\nA lease is the right to finish a task.\n")
    async with App(home=tmp_path / "home", workers=0) as app:
        run = await app.start(Workflow("loud", [parse, split, shouting.shout]), files)
        report = await hostile_workers.run("shouting", Faults(kill_after=0.3), home=tmp_path / "home")
        await drain(app, run)
        assert (await run.progress()).state == "completed"
        assert report.killed
        assert len(report.tasks) == 18


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "passes", "words"),
    [
        ("careless", False, r"AssertionError: \d+ effects happened more than once:\n.* happened 2 times"),
        ("careful", True, ""),
        ("stopped_and_starved", True, ""),
        ("unhurt", False, "no worker was hurt"),
        ("broken", False, "ValueError|a bug of its own"),
    ],
)
async def test_the_plugin_tells_careless_functions_from_careful_ones(
    tmp_path: Path, name: str, passes: bool, words: str, server_url: str
) -> None:
    (tmp_path / "letters.py").write_text(LETTERS)
    (tmp_path / "test_letters.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    environment = os.environ | {"LETTERS": str(tmp_path / "sent.txt"), "GRISTMILL_TEST_SERVER": server_url}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_letters.py::test_{name}"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip

    done = await asyncio.to_thread(run)
    text = done.stdout + done.stderr
    assert (done.returncode == 0) == passes, text
    assert re.search(words, text.replace("\nE  ", "\n"), re.DOTALL), text


def test_the_plugin_costs_nothing_where_it_is_not_used() -> None:
    code = (
        "import sys, gristmill.testing.plugin;"
        "print([m for m in ('asyncpg', 'pydantic', 'gristmill.engine.library') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_of_the_kit_exists() -> None:
    import gristmill.testing as kit

    found: dict[str, Any] = {name: getattr(kit, name) for name in kit.__all__}
    assert all(found.values())
    with pytest.raises(AttributeError):
        _ = kit.nonsense  # type: ignore[attr-defined]
