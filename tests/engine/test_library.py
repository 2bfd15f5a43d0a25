"""The bare engine as a library: functions become durable tasks, and bad input is turned away at the door."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.engine import Engine, Limits, TaskContext
from gristmill.errors import InputError, NoResult, UsageError
from tests.engine import library_tasks
from tests.engine.conftest import ROOT, until


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    made = Engine(database_url)
    async with made:
        yield made


@contextlib.asynccontextmanager
async def working(engine: Engine, **pools: int) -> AsyncIterator[Any]:
    async with engine.working(pools or {"*": 4}, poll=0.05, shutdown=5) as worker:
        yield worker


async def test_a_function_is_enqueued_performed_and_its_result_is_kept(engine: Engine) -> None:
    @engine.task("add")
    async def add(one: int, *, other: int = 10) -> dict[str, int]:
        return {"sum": one + other}

    first = await engine.enqueue(add, 1)
    second = await engine.enqueue("add", one=1, other=2)
    with pytest.raises(NoResult, match="has not ended yet") as waiting:
        await first.result()
    assert (waiting.value.code, waiting.value.hint) == ("R104", 'no worker for pool "*"')
    async with working(engine):
        assert await first.result(wait=20) == {"sum": 11}
        assert await engine.result(second.id or 0, wait=20) == {"sum": 3}
    assert await first.why() == "it is completed"


async def test_a_blocking_function_runs_in_a_thread_and_one_with_process_in_a_child(engine: Engine) -> None:
    @engine.task("thread")
    def thread() -> str:
        return threading.current_thread().name

    engine.task("pid", process=True)(library_tasks.pid)
    engine.task("greedy", process=Limits(memory=256 * 2**20), attempts=1, crashes=1)(library_tasks.greedy)
    engine.task("later", process=True)(library_tasks.pid_of_coroutine)
    one, two, three, four = [await engine.enqueue(name) for name in ("thread", "pid", "greedy", "later")]
    async with working(engine):
        assert (await one.result(30)).startswith("operator thread")
        assert await two.result(30) != os.getpid()
        with pytest.raises(NoResult):
            await three.result(60)
        assert (await four.result(30)) == [1, True]


async def test_what_a_function_enqueues_commits_with_its_result_or_not_at_all(
    engine: Engine, pool: asyncpg.Pool[Any]
) -> None:
    done: list[int] = []

    @engine.task("child")
    async def child(number: int) -> int:
        done.append(number)
        return number

    @engine.task("parent", attempts=2, retry={"backoff": 0.01})
    async def parent(ctx: TaskContext) -> str:
        ctx.enqueue(child, number=ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError("after it was asked for")
        return ctx.idempotency_key

    task = await engine.enqueue(parent)
    async with working(engine):
        assert await task.result(20) == f"{engine._standing()}-{task.id}"
        await until(lambda: pool.fetchval("select count(*) = 2 from result"))
    assert done == [2]


async def test_snoozing_charges_nothing_and_comes_back(engine: Engine, pool: asyncpg.Pool[Any]) -> None:
    @engine.task("patient", attempts=1)
    async def patient(context: TaskContext) -> int:
        if context.attempt < 3:
            context.snooze(0.01, "the shop is closed")
        return context.attempt

    task = await engine.enqueue(patient)
    async with working(engine):
        assert await task.result(20) == 3
    assert await pool.fetchval("select failures from task where id = $1", task.id) == 0


async def test_failures_are_told_by_the_result(engine: Engine) -> None:
    @engine.task("never", retry={"ValueError": "fail"})
    async def never() -> None:
        raise ValueError("no such luck")

    @engine.task("wrong")
    async def wrong() -> Any:
        return {"when": datetime.now(UTC)}

    @engine.task("large")
    async def large() -> str:
        return "x" * (2**20 + 1)

    tasks = [await engine.enqueue(each) for each in (never, wrong, large)]
    said = ["ValueError: no such luck", "when is datetime, which JSON does not know", "over the limit of 1024 KiB"]
    async with working(engine):
        for task, words in zip(tasks, said, strict=True):
            with pytest.raises(NoResult, match=words) as failed:
                await task.result(20)
            assert (failed.value.code, failed.value.state) == ("R101", "failed")


async def test_of_two_tasks_of_a_function_with_one_key_one_is_made(engine: Engine) -> None:
    @engine.task("welcome")
    async def welcome(user: int) -> None: ...

    @engine.task("goodbye")
    async def goodbye(user: int) -> None: ...

    first = await engine.enqueue(welcome, user=7, key="user-7")
    again = await engine.enqueue(welcome, user=7, key="user-7")
    other = await engine.enqueue(goodbye, user=7, key="user-7")
    assert first.id == again.id != other.id


async def test_a_task_waits_for_those_it_comes_after(engine: Engine) -> None:
    order: list[str] = []

    @engine.task("note")
    async def note(word: str) -> None:
        order.append(word)

    first = await engine.enqueue(note, word="first", delay=0.2)
    second = await engine.enqueue(note, word="second", after=[first])
    assert await second.why() == f"waits for task {first.id} (available)"
    async with working(engine):
        await second.result(20)
    assert order == ["first", "second"]


async def test_a_cancelled_task_never_runs_and_a_running_one_is_ended(engine: Engine) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    @engine.task("long")
    async def long() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.set()
            raise

    later = await engine.enqueue(long, delay=3600)
    assert await later.cancel()
    assert not await later.cancel()
    with pytest.raises(NoResult) as cancelled:
        await later.result()
    assert cancelled.value.code == "R102"
    running = await engine.enqueue(long)
    async with working(engine):
        await asyncio.wait_for(started.wait(), 20)
        assert await running.cancel()
        await asyncio.wait_for(ended.wait(), 20)


async def test_a_batch_exists_as_a_whole_or_not_at_all(engine: Engine, pool: asyncpg.Pool[Any]) -> None:
    @engine.task("square")
    async def square(number: int) -> int:
        return number * number

    @engine.task("total")
    async def total() -> int:
        return 1

    async def interrupted() -> None:
        async with engine.batch("broken") as broken:
            broken.enqueue(square, 1)
            raise InputError("the source ended in the middle")

    with pytest.raises(InputError):
        await interrupted()
    assert await pool.fetchval("select count(*) from task") == 0
    async with engine.batch("squares") as batch:
        handles = batch.enqueue_many(square, [{"number": n} for n in range(2500)])
        last = await batch.enqueue(total, after=handles[:3])
        assert handles[0].id is None
    assert (await batch.progress()).open == 2501
    async with engine.batch("afterwards", after=[batch]) as following:
        end = following.enqueue(total)
    assert await end.why() == f"waits for run squares-{batch.id}, which is running"
    async with engine.working({"*": 50}, poll=0.05):
        progress = await batch.wait(60)
        assert (progress.state, progress.counts) == ("completed", {"completed": 2501})
        assert await handles[1234].result() == 1234**2
        assert (await following.wait(60)).state == "completed"
    assert await last.result() == 1
    ends = await pool.fetchval(
        "select count(*) from (select name, run_id from event union all select name, run_id from event_inbox) e"
        " where name = 'run.end' and run_id = $1",
        batch.id,
    )
    assert ends == 1


async def test_a_batch_with_failures_is_never_green_and_can_be_tried_again(engine: Engine) -> None:
    broken = True

    @engine.task("flaky", attempts=1)
    async def flaky(number: int) -> int:
        if broken and number == 3:
            raise RuntimeError("three")
        return number

    async with engine.batch("numbers") as batch:
        batch.enqueue_many(flaky, [{"number": n} for n in range(6)])
    async with working(engine):
        assert (await batch.wait(30)).state == "partial"
        broken = False
        assert await batch.retry() == 1
        assert (await batch.wait(30)).state == "completed"
    with pytest.raises(UsageError, match="is closed"):
        batch.enqueue(flaky, 1)


async def test_an_old_name_still_finds_its_function(engine: Engine, database_url: str) -> None:
    before = Engine(database_url)

    @before.task("old_name")
    async def old(word: str) -> None: ...

    async with before:
        task = await before.enqueue(old, word="hello")

    @engine.task("new_name", aliases=("old_name",))
    async def new(word: str, punctuation: str = "!") -> str:
        return word + punctuation

    async with working(engine):
        assert await task_of(engine, task.id).result(20) == "hello!"


def task_of(engine: Engine, number: int | None) -> Any:
    from gristmill.engine import TaskHandle

    return TaskHandle(engine, number)


async def test_stored_arguments_that_fit_no_more_fail_at_once(engine: Engine, database_url: str) -> None:
    before = Engine(database_url)

    @before.task("greet")
    async def greet(word: str) -> None: ...

    async with before:
        task = await before.enqueue(greet, word="hello")

    @engine.task("greet")
    async def changed(name: str) -> None: ...

    async with working(engine):
        with pytest.raises(NoResult, match="do not fit"):
            await engine.result(task.id or 0, wait=20)


Bad = tuple[Callable[[Engine, Any], Any], str, str]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ({"too": "a@b"}, "U520", 'did you mean "to"'),
        ({}, "U520", "missing a required argument: 'to'"),
        ({"to": "a", "dealy": 3}, "U520", 'did you mean "delay"'),
        ({"to": datetime.now(UTC)}, "U521", "to is datetime"),
        ({"to": {"list": [1, {2: 3}]}}, "U521", r"to\.list\[1\] has the key 2"),
        ({"to": b"bytes"}, "U521", "to is bytes"),
        ({"to": math.nan}, "U521", "to is nan"),
        ({"to": "a\x00b"}, "U521", "to contains a NUL"),
        ({"to": "\ud800"}, "U521", "half of a surrogate pair"),
        ({"to": object()}, "U521", "to is object"),
        ({"to": "x" * 300_000}, "U523", "293 KiB of JSON, over the limit of 256 KiB"),
        ({"to": "a", "run_at": datetime(2030, 1, 1)}, "U531", "a datetime with a time zone"),
        ({"to": "a", "run_at": "tomorrow"}, "U531", "a datetime with a time zone"),
        ({"to": "a", "run_at": datetime.now(UTC), "delay": 5}, "U532", "both say when"),
        ({"to": "a", "delay": -1}, "U531", "delay is -1"),
        ({"to": "a", "delay": math.inf}, "U531", "delay is inf"),
        ({"to": "a", "delay": "5"}, "U531", "delay is '5'"),
        ({"to": "a", "timeout": 0}, "U531", "timeout is 0"),
        ({"to": "a", "attempts": 0}, "U531", "attempts is 0"),
        ({"to": "a", "priority": 10**6}, "U531", "priority is 1000000"),
        ({"to": "a", "key": ""}, "U531", "key is ''"),
        ({"to": "a", "key": "a\x00"}, "U531", "key is"),
        ({"to": "a", "lock": "mail"}, "U451", "not the key of a lock"),
        ({"to": "a", "pool": 3}, "U531", "pool is 3"),
        ({"to": "a", "after": 3}, "U531", "after is 3"),
        ({"to": "a", "after": ["x"]}, "U531", "after is"),
        ({"to": "a", "after": [-3]}, "U533", "no task that was enqueued"),
        ({"to": "a", "connection": "postgresql://"}, "U541", "cannot enqueue through a builtins.str"),
    ],
)
async def test_bad_input_is_turned_away_and_nothing_is_stored(
    engine: Engine, pool: asyncpg.Pool[Any], arguments: dict[str, Any], code: str, words: str
) -> None:
    @engine.task("send")
    async def send(to: Any, *, subject: str = "") -> None: ...

    with pytest.raises(UsageError) as refused:
        await engine.enqueue(send, **arguments)
    assert refused.value.code == code, str(refused.value)
    assert re.search(words, f"{refused.value} {refused.value.hint}"), f"{refused.value} {refused.value.hint}"
    assert await pool.fetchval("select count(*) from task") == 0


async def test_nesting_has_a_bound(engine: Engine) -> None:
    @engine.task("send")
    async def send(to: Any) -> None: ...

    deep: Any = 1
    for _ in range(70):
        deep = [deep]
    with pytest.raises(UsageError, match="levels deep") as refused:
        await engine.enqueue(send, deep)
    assert refused.value.code == "U522"


async def test_unknown_and_unfit_functions_are_named(engine: Engine) -> None:
    @engine.task("send")
    async def send(to: str) -> None: ...

    async def stranger() -> None: ...

    with pytest.raises(UsageError) as unknown:
        await engine.enqueue("sned", to="a")
    assert (unknown.value.code, unknown.value.hint) == ("U501", 'did you mean "send"?')
    with pytest.raises(UsageError, match="is no task of this engine"):
        await engine.enqueue(stranger)
    for name, function, options, code in (
        ("a name", stranger, {}, "U510"),
        ("send", stranger, {}, "U511"),
        ("positional", lambda a, /: a, {}, "U512"),
        ("many", lambda *a: a, {}, "U512"),
        ("clash", lambda delay: delay, {}, "U512"),
        ("inside", stranger, {"process": True}, "U513"),
        ("times", stranger, {"retry": {"backoff": -1}}, "U514"),
        ("rules", stranger, {"retry": {"ValueError": "explode"}}, "U514"),
        ("numbers", stranger, {"attempts": 0}, "U531"),
    ):
        with pytest.raises(UsageError) as refused:
            engine.task(name, **options)(function)
        assert refused.value.code == code, name


async def test_a_closed_engine_says_how_to_open_it(database_url: str) -> None:
    closed = Engine(database_url)

    @closed.task("send")
    async def send() -> None: ...

    with pytest.raises(UsageError, match="is not open"):
        await closed.enqueue(send)
    async with closed:
        with pytest.raises(NoResult) as unknown:
            await closed.result(999)
        assert unknown.value.code == "R105"
        with pytest.raises(UsageError, match="open already"):
            await closed.__aenter__()


async def test_why_names_the_first_reason_that_applies(engine: Engine, pool: asyncpg.Pool[Any]) -> None:
    @engine.task("send", pool="mail")
    async def send() -> None: ...

    soon = await engine.enqueue(send, run_at=datetime.now(UTC) + timedelta(hours=1))
    now = await engine.enqueue(send)
    assert (await soon.why()).startswith("scheduled (until ")
    assert await now.why() == 'no worker for pool "mail"'
    await pool.execute("insert into pool (name, paused) values ('mail', true)")
    assert await now.why() == 'pool "mail" is paused'
    await pool.execute("update pool set paused = false")
    await pool.execute("update run set state = 'paused'")
    assert await now.why() == "the run is paused"


async def test_a_worker_program_is_killed_and_its_tasks_are_finished_by_the_next(
    database_url: str, pool: asyncpg.Pool[Any]
) -> None:
    library_tasks.engine.url = database_url
    async with library_tasks.engine as engine:
        tasks = [await engine.enqueue(library_tasks.slow, number=n) for n in range(3)]

        def start() -> subprocess.Popen[bytes]:
            environment = os.environ | {"GRISTMILL_DATABASE_URL": database_url}
            return subprocess.Popen([sys.executable, "-m", "tests.engine.library_tasks"], cwd=ROOT, env=environment)

        first = start()
        try:
            await until(lambda: pool.fetchval("select count(*) > 0 from task where state = 'running'"))
        finally:
            first.kill()
            first.wait()
        second = start()
        try:
            assert [await task.result(60) for task in tasks] == [0, 1, 2]
        finally:
            second.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(second.wait)
        assert code == 0
    library_tasks.engine.url = None


async def test_without_a_url_the_engine_has_a_database_of_its_own(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("GRISTMILL_DATABASE_URL", raising=False)
    engine = Engine(home=tmp_path / "home")

    @engine.task("hello")
    async def hello() -> str:
        return "world"

    async with engine:
        task = await engine.enqueue(hello)
        async with working(engine):
            assert await task.result(30) == "world"


def test_importing_the_engine_imports_nothing_before_it_is_used() -> None:
    code = "import sys, gristmill.engine; print([m for m in ('asyncpg', 'asyncio', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_facade_stays_small() -> None:
    import gristmill.engine as public

    names = [name for name, value in vars(Engine).items() if not name.startswith("_") and callable(value)]
    assert len(names) <= 12, names
    for name in public.__all__:
        assert getattr(public, name) is not None
    with pytest.raises(AttributeError):
        _ = public.nonsense  # type: ignore[attr-defined]
