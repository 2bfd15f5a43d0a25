"""Functions in child processes and threads: what they do harms nothing but their own task, and is told exactly."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.engine.child_limits import Limits
from gristmill.engine.child_output import ERRORS_KEPT
from gristmill.engine.child_process import environment
from gristmill.engine.children import ChildCrashed, Children, OutOfMemory, OutOfTime, TookTooLongToStart
from gristmill.engine.kin import family
from gristmill.engine.retry import Policy, Rule
from gristmill.engine.targets import target_of
from gristmill.engine.threads import in_thread, lost_threads
from gristmill.errors import Busy, InputError, TransientError, UsageError
from tests.engine import roughly
from tests.engine.conftest import ROOT, Enqueue, Processes, until

HERE = "tests.engine.roughly"
MIB = 2**20


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    made = Children()
    yield made
    await made.close()
    assert family(made.mark) == []


async def call(children: Children, name: str, argument: Any = None, **more: Any) -> Any:
    return json.loads(await children.call(f"{HERE}:{name}", json.dumps(argument), **more))


async def pids_in(note: Path, count: int) -> list[int]:
    async def written() -> list[int] | None:
        words = note.read_text().split() if note.exists() else []
        return [int(word) for word in words] if len(words) == count else None

    pids: list[int] = await until(written)
    return pids


async def says(note: Path, text: str) -> None:
    async def said() -> bool:
        return note.exists() and note.read_text() == text

    await until(said)


# What goes in and comes out


@pytest.mark.parametrize("name", ["echo", "echo_later"])
async def test_a_function_gets_its_payload_and_returns_its_result(children: Children, name: str) -> None:
    value = {"text": "grün \U0001f33e", "numbers": [1, 2.5, None, True], "nested": {"a": []}}
    assert await call(children, name, value) == value


async def test_a_function_of_a_script_is_found_by_its_path(children: Children, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("def loud(text):\n    return text.upper()\n")
    script = tmp_path / "script.py"
    script.write_text("import neighbour\n\ndef shout(text):\n    return neighbour.loud(text)\n")
    assert json.loads(await children.call(f"{script}:shout", '"hey"')) == "HEY"
    assert json.loads(await children.call("neighbour:loud", '"hey"', path=[str(tmp_path)])) == "HEY"


def test_only_a_function_at_the_top_of_a_module_has_a_name_for_other_processes() -> None:
    def inner() -> None: ...

    assert target_of(roughly.echo) == f"{HERE}:echo"
    for function in (inner, lambda: None):
        with pytest.raises(UsageError, match="no name there"):
            target_of(function)


@pytest.mark.parametrize("target", [f"{HERE}:nothing", "no_such_module:run", "nonsense"])
async def test_a_function_that_does_not_exist_is_an_error_and_no_crash(children: Children, target: str) -> None:
    with pytest.raises((UsageError, TransientError)) as raised:
        await children.call(target, "null")
    assert not isinstance(raised.value, ChildCrashed)
    assert await call(children, "echo", 1) == 1


@pytest.mark.parametrize(
    ("how", "kind", "words", "origin"),
    [("foreign", TransientError, "Flaky: the socket", "ConnectionError"), ("busy", Busy, "full", "Busy"),
     ("input", InputError, "never", "InputError"), ("words", TransientError, "a name like", "ValueError"),
     ("large", TransientError, "ValueError: xxx", "ValueError"), ("strange", TransientError, "Strange", "Strange")],
)  # fmt: skip
async def test_an_error_comes_back_with_what_decides_about_a_retry(
    children: Children, how: str, kind: type[Exception], words: str, origin: str
) -> None:
    with pytest.raises(kind, match=words) as raised:
        await call(children, "fail", {"how": how})
    assert type(raised.value) is kind
    assert origin in raised.value.origins  # type: ignore[attr-defined]
    snooze = Policy(rules={origin: Rule("snooze", 7.0)}).judge(raised.value)
    assert isinstance(snooze, Busy)
    assert how == "busy" or snooze.delay == 7.0
    assert len(str(raised.value)) < 5000
    if isinstance(raised.value, Busy):
        assert (raised.value.delay, raised.value.reason, raised.value.code) == (3.0, "the queue of the test", "X3")
    if isinstance(raised.value, InputError):
        assert (raised.value.code, raised.value.hint, raised.value.safe) == ("X2", "do not ask", "all of it")


POISON = [("nan", "T603"), ("infinite", "T603"), ("digits", "T603"), ("deep", "T603"), ("large", "T601"),
          ("object", "T603"), ("set", "T603"), ("bytes", "T603")]  # fmt: skip


@pytest.mark.parametrize(("name", "code"), POISON)
async def test_a_poisonous_result_fails_its_task_and_the_child_goes_on(
    children: Children, name: str, code: str
) -> None:
    if name != "large":
        pid = (await call(children, "look"))["pid"]
    with pytest.raises(InputError) as refused:
        await call(children, "poison", name)
    assert refused.value.code == code
    if name != "large":  # which has made the child grow, so that it is replaced
        assert (await call(children, "look"))["pid"] == pid


@pytest.mark.parametrize("name", ["nul", "half"])
async def test_text_that_json_can_say_comes_back_as_it_is(children: Children, name: str) -> None:
    assert await call(children, "poison", name) == roughly.poison(name)


@pytest.mark.parametrize("payload", ["{", "1" * 5000, "[" * 30_000 + "]" * 30_000, "", "\ud800"])
async def test_a_payload_that_cannot_be_read_fails_its_task_and_the_child_goes_on(
    children: Children, payload: str
) -> None:
    pid = (await call(children, "look"))["pid"]
    with pytest.raises(InputError, match="payload cannot be read") as refused:
        await children.call(f"{HERE}:echo", payload)
    assert refused.value.code == "T605"
    assert (await call(children, "look"))["pid"] == pid


async def test_questions_are_answered_together_and_each_gets_its_own_answer(children: Children) -> None:
    async def answer(question: str) -> str:
        await asyncio.sleep(0.2 / (1 + int(question)))  # the later the sooner
        return json.dumps(int(question) * 10)

    assert await call(children, "questions", list(range(20)), answer=answer) == [n * 10 for n in range(20)]


async def test_a_late_answer_is_no_answer_to_the_next_question(children: Children) -> None:
    async def answer(question: str) -> str:
        await asyncio.sleep(0.2 if "slow" in question else 0.4)
        return question

    assert await call(children, "impatient", answer=answer) == "quick"
    assert await call(children, "echo", "next") == "next"


async def test_what_the_answerer_raises_is_raised_by_the_question(children: Children) -> None:
    async def answer(question: str) -> str:
        raise InputError("no such thing", code="X9")

    with pytest.raises(InputError, match="no such thing"):
        await call(children, "questions", [1], answer=answer)
    with pytest.raises(TransientError, match="nobody answers"):
        await call(children, "questions", [1])


# How a child ends


@pytest.mark.parametrize(
    ("how", "number", "words", "exit_code", "name"),
    [("signal", 11, "signal SIGSEGV", None, "SIGSEGV"), ("signal", 9, "signal SIGKILL", None, "SIGKILL"),
     ("signal", 40, "signal 40", None, "40"), ("_exit", 0, "exit code 0", 0, ""), ("_exit", 7, "exit code 7", 7, ""),
     ("exit", 0, "exit code 70", 70, ""), ("panic", 0, "index out of bounds", 70, ""),
     ("interrupt", 0, "KeyboardInterrupt", 70, ""), ("segfault", 0, "signal SIGSEGV", None, "SIGSEGV")],
)  # fmt: skip
async def test_the_end_of_a_process_is_a_crash_with_its_story_and_never_a_success(
    children: Children, how: str, number: int, words: str, exit_code: int | None, name: str
) -> None:
    with pytest.raises(ChildCrashed, match=words) as crashed:
        await call(children, "end", {"how": how, "number": number})
    story = crashed.value.story  # type: ignore[attr-defined]
    assert (story.exit_code, story.signal) == (exit_code, name)
    assert "about to end" in story.output
    assert "peak memory" in str(crashed.value)
    assert 10 * MIB < story.peak < 2**40
    assert await call(children, "echo", "next") == "next"


@pytest.mark.parametrize(("how", "words"), [("close", "closed its connection"), ("garbage", "no message")])
async def test_a_child_that_spoils_its_connection_is_ended(children: Children, how: str, words: str) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(ChildCrashed, match=words):
            await call(children, "end", {"how": how})
    assert await call(children, "echo", "next") == "next"


async def test_a_forked_copy_that_comes_back_from_the_task_says_nothing(children: Children) -> None:
    pid = await call(children, "end", {"how": "fork"})
    assert await call(children, "echo", [pid]) == [pid]


async def test_the_peak_of_memory_is_told(children: Children) -> None:
    code = "import asyncio, json\nfrom gristmill.engine.children import *\n" + (
        "async def main():\n"
        "    children = Children()\n"
        "    try:\n"
        "        await children.call('tests.engine.roughly:take', json.dumps({'how': 'slowly', 'bytes': 300 * 2**20}),"
        " limits=Limits(memory=280 * 2**20))\n"
        "    except ChildCrashed as crash:\n"
        "        print(crash.story.peak // 2**20, crash, sep='|')\n"
        "    await children.close()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stdout=subprocess.PIPE)
    said, _ = await process.communicate()  # a process of its own: the peak of a large one hides that of its children
    peak, _, words = said.decode().partition("|")
    assert 150 < int(peak) < 280
    assert f"peak memory {peak} MiB" in words


async def test_the_story_keeps_64_kib_of_the_last_words_and_marks_what_is_missing(children: Children) -> None:
    with pytest.raises(ChildCrashed) as crashed:
        await call(children, "flood", {"times": 3000, "length": 99, "die": True})
    output = crashed.value.story.output  # type: ignore[attr-defined]
    assert output.startswith("[truncated: ")
    assert ERRORS_KEPT <= len(output) < ERRORS_KEPT + 100
    assert output.endswith("y" * 99 + "\n")


async def test_a_flood_is_cut_at_64_kib_a_line_and_1_mib_a_task(
    children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="gristmill.child")
    assert await call(children, "flood", {"times": 1, "length": 300_000}) == "said"
    assert await call(children, "flood", {"times": 300, "length": 100_000, "end": "\n"}) == "said"
    lines = [record.getMessage() for record in caplog.records]
    assert all(len(line) < 66_000 for line in lines)
    assert sum(line.endswith("y [truncated]") for line in lines) >= 10
    assert sum(map(len, lines)) < 1_500_000
    assert [line for line in lines if "it prints too much" in line]
    caplog.clear()
    await call(children, "flood", {"times": 1, "length": 5})
    await until_true(lambda: any("yyyyy" in record.getMessage() for record in caplog.records))


async def until_true(condition: Callable[[], Any]) -> None:
    async def asked() -> Any:
        return condition()

    await until(asked)


# What a child has started


async def test_what_a_child_has_started_ends_with_it_even_outside_of_its_group(
    children: Children, tmp_path: Path
) -> None:
    note = tmp_path / "pids"
    running = asyncio.create_task(call(children, "family", str(note)))
    pids = await pids_in(note, 4)
    assert all(map(alive, pids))
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(ChildCrashed, match="SIGKILL"):
        await running
    assert not any(map(alive, pids))


async def test_what_a_task_leaves_behind_ends_with_its_child_and_nobody_meets_it(
    children: Children, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    pid = await call(children, "leave_behind", str(note))
    (left,) = await pids_in(note, 1)
    await until_true(lambda: not alive(left) and not alive(pid))
    assert (await call(children, "look"))["pid"] != pid


async def test_children_and_what_they_have_started_end_with_a_killed_worker(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    code = f"""
import asyncio, json
from gristmill.engine.children import Children
async def main():
    children = Children()
    await asyncio.gather(children.call("{HERE}:family", json.dumps({str(note)!r})),
                         children.call("{HERE}:catastrophe", "40"))
asyncio.run(main())
"""
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, start_new_session=True)
    pids = await pids_in(note, 4)
    mark = next(line for line in Path(f"/proc/{pids[0]}/environ").read_text().split("\0") if "GRISTMILL_KIN" in line)
    mark = mark.partition("=")[2].partition("/")[0]
    assert len(family(mark)) >= 4
    os.kill(worker.pid, signal.SIGKILL)
    async with asyncio.timeout(5):
        while any(map(alive, pids)) or family(mark):
            await asyncio.sleep(0.02)
    await worker.wait()


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


# What a child must not have


async def test_a_child_has_no_address_no_key_and_no_socket_of_the_database(
    children: Children, pool: asyncpg.Pool[Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = ("GRISTMILL_DATABASE_URL", "GRISTMILL_HANDED_ON", "DATABASE_URL", "PGHOST", "PGUSER", "PGPASSWORD",
              "PGSERVICEFILE", "PGPASSFILE", "OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY",
              "SENTRY_DSN")  # fmt: skip
    for name in hidden:
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("WHATEVER", database_url)
    monkeypatch.setenv("HARMLESS", "yes")
    await asyncio.gather(*(pool.fetchval("select pg_sleep(0.05)") for _ in range(4)))
    seen = await call(children, "look")
    assert seen["environment"]["HARMLESS"] == "yes"
    assert not {*hidden, "WHATEVER"} & set(seen["environment"])
    assert "canary" not in str(seen["environment"])
    ours = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{fd}")}  # fmt: skip
    # Its one socket is an end of a pair whose other end is ours, and its output goes through a pipe that we read.
    assert sorted(link.partition(":")[0] for link in seen["files"] if ":" in link) == ["pipe", "pipe", "socket"]
    assert not {link for link in seen["files"] if not link.startswith(("/proc", "/dev/null", "pipe:"))} & ours


def test_the_environment_of_a_child_holds_what_a_program_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG", "kept")
    kept = environment()
    assert {"PATH", "PG"} <= set(kept)


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


# Threads


async def test_a_blocking_function_runs_in_a_thread_and_the_loop_goes_on() -> None:
    running = asyncio.create_task(in_thread(roughly.sleep, 0.5))
    beats = 0
    while not running.done():
        beats += 1
        await asyncio.sleep(0.01)
    assert beats > 10


async def test_as_many_threads_run_as_are_asked_for() -> None:
    async with asyncio.timeout(5):  # the loop's own pool has six on two cores
        await asyncio.gather(*(in_thread(roughly.sleep, 0.5) for _ in range(60)))


async def test_a_thread_that_nobody_waits_for_is_counted_until_it_returns() -> None:
    before = lost_threads()
    running = asyncio.create_task(in_thread(roughly.sleep, 1.0))
    await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert lost_threads() == before + 1
    await until_true(lambda: lost_threads() == before)


async def test_the_end_of_the_process_is_not_asked_for_by_a_thread() -> None:
    for how, words in (("exit", "SystemExit"), ("panic", "Panic"), ("interrupt", "KeyboardInterrupt")):
        with pytest.raises(TransientError, match=words):
            await in_thread(roughly.end, {"how": how, "number": 0})
    with pytest.raises(TransientError, match="StopIteration"):
        await in_thread(next, iter(()))


# With a worker


@pytest.fixture
def worker(processes: Processes) -> Callable[..., subprocess.Popen[bytes]]:
    def start(**settings: Any) -> subprocess.Popen[bytes]:
        settings = {"pools": {"*": 6}, "poll": 0.1, "lease": 4.0, "beat": 0.5} | settings
        with processes.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.engine.roughly_worker", processes.url, json.dumps(settings)],
                cwd=ROOT, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        processes.started.append(process)
        return process

    return start


async def test_blocking_code_that_outlasts_the_lease_disturbs_nobody(
    worker: Any, enqueue: Enqueue, watching: Any, pool: asyncpg.Pool[Any]
) -> None:
    process = worker(stall_after=3.0)
    slow = await enqueue(
        {"where": "thread", "call": "sleep", "with": 9},
        {"where": "child", "call": "catastrophe", "with": 29},  # 9 s or more of one regular expression
        {"where": "child", "call": "sleep", "with": 9},
    )
    await watching("select count(*) = 3 from task where state = 'running'")
    quick = await enqueue(*({"where": "loop", "call": "echo"} for _ in range(40)))
    await watching("select count(*) = 40 from done where task_id = any($1)", quick, limit=8)
    assert await pool.fetchval("select count(*) from done where task_id = any($1)", slow) == 0
    await watching("select count(*) >= 2 from done where task_id = any($1)", slow, limit=40)
    row = await pool.fetchrow("select max(attempt), sum(crashes), sum(failures) from task")
    assert tuple(row) == (1, 0, 0)
    assert await pool.fetchval("select count(*) from worker") == 1
    assert process.poll() is None


async def test_poison_fails_its_own_task_only(
    worker: Any, enqueue: Enqueue, watching: Any, pool: asyncpg.Pool[Any]
) -> None:
    process = worker()
    bad = [name for name, _ in POISON]
    await enqueue(
        *({"where": where, "call": "poison", "with": name} for name in bad if name != "large"
          for where in ("child", "thread")),
        {"where": "child", "call": "poison", "with": "large"}, max_attempts=2,
    )  # fmt: skip
    good = await enqueue(*({"where": where, "call": "echo"} for _ in range(10) for where in ("child", "thread")))
    await watching("select count(*) = 20 from done where task_id = any($1)", good)
    await watching("select count(*) = 15 from task where state = 'failed'")
    assert await pool.fetchval("select sum(crashes) from task") == 0
    assert process.poll() is None


async def test_a_task_that_kills_its_child_is_quarantined_with_its_story_and_its_neighbours_are_not(
    worker: Any, enqueue: Enqueue, watching: Any, pool: asyncpg.Pool[Any]
) -> None:
    process = worker()
    (bad,) = await enqueue({"where": "child", "call": "end", "with": {"how": "signal", "number": 11}})
    good = await enqueue(*({"where": "child", "call": "echo"} for _ in range(20)))
    await watching("select count(*) = 20 from done where task_id = any($1)", good)
    await watching("select state = 'quarantined' from task where id = $1", bad)
    assert await pool.fetchval("select sum(crashes) from task where id <> $1", bad) == 0
    story = await pool.fetchval("select message from attempt where task_id = $1 order by attempt desc limit 1", bad)
    assert "signal SIGSEGV" in story
    assert "about to end" in story
    assert process.poll() is None


async def test_a_task_over_its_memory_limit_has_twice_as_much_once_and_alone(
    worker: Any, enqueue: Enqueue, watching: Any, pool: asyncpg.Pool[Any]
) -> None:
    worker()
    wish = {"where": "child", "call": "take", "memory": 256 * MIB}
    (fits, too_large) = await enqueue(
        wish | {"with": {"how": "bytes", "bytes": 300 * MIB}}, wish | {"with": {"how": "bytes", "bytes": 900 * MIB}}
    )
    await watching("select state = 'completed' from task where id = $1", fits)
    await watching("select state = 'quarantined' from task where id = $1", too_large)
    said = [row["message"] for row in
            await pool.fetch("select message from attempt where task_id = $1 order by attempt", too_large)]  # fmt: skip
    assert "limit of 256 MiB" in said[0]
    assert "limit of 512 MiB" in said[-1]
