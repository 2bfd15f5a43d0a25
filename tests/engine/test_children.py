"""Functions in child processes: what goes in and out, how they end, and what must not get out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.engine.child_output import ERRORS_KEPT
from gristmill.engine.child_process import environment
from gristmill.engine.children import ChildCrashed, Children
from gristmill.engine.kin import family
from gristmill.engine.retry import Policy, Rule
from gristmill.engine.targets import target_of
from gristmill.errors import Busy, InputError, TransientError, UsageError
from tests.engine import roughly
from tests.engine.conftest import ROOT
from tests.engine.family import HERE, MIB, POISON, alive, call, children, pids_in, until_true

__all__ = ["children"]

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
