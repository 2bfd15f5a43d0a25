"""Child processes: what an operator does to its process harms nothing but its own task."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.data.records import body_text
from gristmill.engine.child_output import ERRORS_KEPT
from gristmill.engine.children import OutOfMemory
from gristmill.engine.performer import ChildCrashed
from gristmill.errors import Busy, InputError, ModelRefused, TransientError, UsageError, WorkflowError
from gristmill.llm.model import Answer, Request
from gristmill.operators import protocol
from gristmill.operators.calling import parse_body, run_operator
from gristmill.operators.child import load_operator
from gristmill.operators.children import Children
from gristmill.operators.operator import Context, Operator, operator, registered
from gristmill.testing import MemoryBlobs
from gristmill.workflow import Workflow
from tests.operators.rough import Flaky, Wish, in_a_thread, panic, plain, poison, poison_isolated, poison_thread, rough

SCRIPT = """
from pydantic import BaseModel
from gristmill import operator
import neighbour

class Note(BaseModel):
    text: str

@operator("script_shout", isolate=True)
async def shout(note: Note) -> Note:
    return Note(text=neighbour.loud(note.text))
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def message(do: str, more: str = "", model: str | None = None) -> dict[str, Any]:
    return {
        "operator": "rough", "module": rough.module, "path": rough.path,
        "inputs": [["wish", json.dumps({"do": do, "more": more})]], "ancestors": {}, "options": {},
        "context": {"blobs": "/nowhere", "language": "en", "attempt": 1, "fence": 1, "idempotency_key": "k", "task": 1,
                    "run": 1, "model": model},
    }  # fmt: skip


def said(reply: dict[str, Any]) -> list[str]:
    return [json.loads(body)["text"] for _, body, _ in reply["result"]]


async def nobody(request: Request) -> Answer:
    raise AssertionError("no model was expected")


async def echo(request: Request) -> Answer:
    """The more it is asked the sooner it answers: out of order, if answers could overtake each other."""
    number = request.messages[-1].content.split("echo ")[1].split()[0]
    return Answer(json.dumps({"text": number}), "echo")


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    made = Children()
    yield made
    await made.close()


async def test_a_child_is_used_again_and_a_fresh_one_is_not(children: Children) -> None:
    first, _, _ = said(await children.run(message("look"), nobody))
    again, _, _ = said(await children.run(message("look"), nobody))
    fresh, _, _ = said(await children.run(message("look"), nobody, fresh=True))
    assert first == again != fresh
    assert not alive(int(fresh))


@pytest.mark.parametrize(
    ("do", "more", "words"),
    [("signal", "11", "signal SIGSEGV"), ("signal", "9", "signal SIGKILL"), ("_exit", "0", "exit code 0"),
     ("_exit", "7", "exit code 7"), ("exit", "", "exit code 70")],
)  # fmt: skip
async def test_a_process_that_ends_in_the_middle_is_a_crash_and_never_a_success(
    children: Children, do: str, more: str, words: str
) -> None:
    with pytest.raises(ChildCrashed, match=words):
        await children.run(message(do, more), nobody)
    assert said(await children.run(message("", "alive"), nobody)) == ["alive"]


async def test_a_result_over_the_limit_is_refused_by_the_child_itself(children: Children) -> None:
    await children.run(message("look"), nobody)
    with pytest.raises(InputError, match="over the limit of 67,108,864") as refused:
        await children.run(message("huge"), nobody)
    assert refused.value.code == "T601"
    assert said(await children.run(message("", "still fine"), nobody)) == ["still fine"]


async def test_the_story_of_a_crash_holds_its_last_words_however_much_was_said_before(children: Children) -> None:
    await children.run(message("chatter", "y" * (ERRORS_KEPT - 5)), nobody)
    with pytest.raises(ChildCrashed, match="about to die"):
        await children.run(message("signal", "6"), nobody)


async def test_a_child_that_writes_much_to_standard_error_does_not_stand_still(children: Children) -> None:
    async with asyncio.timeout(30):
        assert said(await children.run(message("chatter", "z" * 2_000_000), nobody)) == ["2000000 said"]


async def test_what_an_operator_prints_is_no_message(children: Children) -> None:
    assert said(await children.run(message("print", "fine"), nobody)) == ["fine"]
    assert said(await children.run(message("", "still fine"), nobody)) == ["still fine"]


async def test_what_an_operator_and_its_programs_read_is_empty(children: Children) -> None:
    async with asyncio.timeout(30):
        assert said(await children.run(message("read"), nobody)) == ["''"]
        assert said(await children.run(message("", "next"), nobody)) == ["next"]


async def test_cancelling_kills_the_child_and_what_it_has_started(children: Children, tmp_path: Path) -> None:
    note = tmp_path / "pids"
    running = asyncio.create_task(children.run(message("sleep", str(note)), nobody))
    async with asyncio.timeout(20):
        while not (note.exists() and len(note.read_text().split()) == 2):
            await asyncio.sleep(0.02)
    pids = [int(word) for word in note.read_text().split()]
    assert all(map(alive, pids))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with asyncio.timeout(5):
        while any(map(alive, pids)):
            await asyncio.sleep(0.02)
    assert said(await children.run(message("", "next"), nobody)) == ["next"]


async def test_what_a_crashed_child_has_started_dies_with_it(children: Children, tmp_path: Path) -> None:
    note = tmp_path / "pids"
    running = asyncio.create_task(children.run(message("sleep", str(note)), nobody))
    async with asyncio.timeout(20):
        while not (note.exists() and len(note.read_text().split()) == 2):
            await asyncio.sleep(0.02)
    child, grandchild = map(int, note.read_text().split())
    os.kill(child, 9)
    with pytest.raises(ChildCrashed, match="SIGKILL"):
        await running
    async with asyncio.timeout(5):
        while alive(grandchild):
            await asyncio.sleep(0.02)


async def test_closing_ends_children_that_are_at_work(tmp_path: Path) -> None:
    children = Children()
    note = tmp_path / "pids"
    running = asyncio.create_task(children.run(message("sleep", str(note)), nobody))
    async with asyncio.timeout(20):
        while not (note.exists() and len(note.read_text().split()) == 2):
            await asyncio.sleep(0.02)
    await children.close()
    with pytest.raises(ChildCrashed):
        await running


async def test_a_child_has_no_socket_of_the_database_and_no_key(
    children: Children, pool: asyncpg.Pool[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "GRISTMILL_DATABASE_URL",
               "DATABASE_URL", "PGPASSWORD")  # fmt: skip
    for name in secrets:
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("HARMLESS", "yes")
    await pool.fetchval("select 1")
    _, names, sockets = said(await children.run(message("look"), nobody))
    assert "HARMLESS" in names.split(",")
    assert not set(secrets) & set(names.split(","))
    ours = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{fd}")
    ]
    shared = set(filter(None, sockets.split(","))) & {link for link in ours if link.startswith("socket:")}
    assert not shared


async def test_answers_of_the_model_belong_to_their_questions(children: Children) -> None:
    reply = await children.run(message("ask", model="echo"), echo)
    assert said(reply) == [str(n) for n in range(8)]


async def test_what_the_model_refuses_comes_to_the_operator_as_it_is(children: Children) -> None:
    async def refuse(request: Request) -> Answer:
        raise ModelRefused("no such model", code="M203", hint="look it up")

    reply = await children.run(message("ask", model="none"), refuse)
    error = protocol.error_from_json(reply["error"])
    assert isinstance(error, ModelRefused)
    assert (error.code, error.hint) == ("M203", "look it up")


@pytest.mark.parametrize(
    ("do", "kind", "code"),
    [
        ("flaky", TransientError, "X1"),
        ("reject", InputError, "X2"),
        ("raise", TransientError, "T300"),
        ("busy", Busy, "T400"),
    ],
)
async def test_errors_keep_what_decides_about_a_retry(
    children: Children, do: str, kind: type[TransientError], code: str
) -> None:
    reply = await children.run(message(do, "words"), nobody)
    error = protocol.error_from_json(reply["error"])
    assert type(error) is kind
    assert error.code == code
    if isinstance(error, Busy):
        assert (error.delay, error.reason) == (3.0, "the queue of the test")


def test_a_subclass_of_an_error_travels_as_the_nearest_known_one() -> None:
    error = protocol.error_from_json(protocol.error_to_json(Flaky("soon", code="X9", hint="wait")))
    assert (type(error), str(error), getattr(error, "code", "")) == (TransientError, "soon", "X9")


async def test_an_operator_of_a_script_runs_in_a_child_too(children: Children, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("def loud(text):\n    return text.upper()\n")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    order = message("") | {
        "operator": "script_shout", "path": str(script), "module": "__main__", "inputs": [["note", '{"text": "hey"}']],
    }  # fmt: skip
    assert said(await children.run(order, nobody)) == ["HEY"]
    made = load_operator(order)  # as a worker loads it
    assert registered()["script_shout"].path == str(script)
    assert said(await children.run(order | {"module": made.module}, nobody)) == ["HEY"]
    load_operator(order)  # a second time is no second operator


def about(made: Operator, do: str, more: str = "") -> dict[str, Any]:
    return message(do, more) | {"operator": made.name, "module": made.module, "path": made.path}


async def test_a_plain_function_runs_in_a_child_with_its_limits(children: Children) -> None:
    limits = plain.limits
    assert (limits.memory, limits.cpu) == (256 * 2**20, 30)
    pid, size = said(await children.run(about(plain, "", "1000"), nobody, limits=limits))[0].split()
    assert (size, int(pid) != os.getpid()) == ("1000", True)
    with pytest.raises(OutOfMemory, match="more than its limit of 256 MiB"):
        await children.run(about(plain, "", str(230 * 2**20)), nobody, limits=limits)
    await children.run(about(plain, "", str(230 * 2**20)), nobody, limits=limits.doubled())


async def test_a_plain_function_runs_in_a_thread_and_the_loop_goes_on() -> None:
    running = asyncio.create_task(run_here(in_a_thread, "sleep", "0.5"))
    beats = 0
    while not running.done():
        beats += 1
        await asyncio.sleep(0.01)
    assert beats > 10
    assert "MainThread" not in str(running.result())


@pytest.mark.parametrize(("made", "do", "words"), [(in_a_thread, "exit", "SystemExit"), (panic, "", "out of bounds")])
async def test_what_asks_for_the_end_of_the_process_is_the_failure_of_its_task(
    made: Operator, do: str, words: str
) -> None:
    with pytest.raises(TransientError, match=words) as failed:
        await run_here(made, do)
    assert failed.value.code == "T320"


async def run_here(made: Operator, do: str, more: str = "") -> Any:
    ctx = Context(blobs=MemoryBlobs())
    (produced,) = await run_operator(made, [Wish(do=do, more=more)], {}, {}, ctx)
    return produced.body


POISON = [("nul", "T602"), ("half", "T602"), ("nan", "T603"), ("infinite", "T603"), ("digits", "T603"),
          ("deep", "T603"), ("large", "T601"), ("object", "T603")]  # fmt: skip


@pytest.mark.parametrize(("name", "code"), POISON)
async def test_poison_fails_its_own_task_wherever_the_operator_runs(children: Children, name: str, code: str) -> None:
    for made in (poison, poison_thread):
        with pytest.raises(InputError) as refused:
            await saved_from_here(made, name)
        assert refused.value.code == code
    with pytest.raises(InputError) as refused:
        await saved_from_child(children, name)
    assert refused.value.code == code
    assert json.loads(await saved_from_child(children, "fine"))["value"] == "fine"


async def saved_from_here(made: Operator, name: str) -> str:
    return body_text(await run_here(made, name))


async def saved_from_child(children: Children, name: str) -> str:
    """As the performer takes it."""
    reply = await children.run(about(poison_isolated, name), nobody)
    if "error" in reply:
        raise protocol.error_from_json(reply["error"])
    ((kind, body, _),) = reply["result"]
    return body_text(parse_body(poison_isolated.output_types, kind, body))


def test_a_step_may_have_limits_of_its_own_and_a_stored_workflow_keeps_them() -> None:
    spec = plain.using(memory=512 * 2**20)
    assert (spec.limits.memory, spec.limits.cpu) == (512 * 2**20, 30)
    flow = Workflow("limits", [spec])
    (stored,) = Workflow.from_definition(json.dumps(flow.definition())).steps
    assert stored.limits == spec.limits
    assert flow.fingerprint() != Workflow("limits", [plain]).fingerprint()
    assert "memory" not in Workflow("limits", [plain]).definition()["steps"][0]


def test_limits_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(UsageError, match="out of range"):
        plain.using(memory=5)
    with pytest.raises(WorkflowError, match="inside of the worker"):
        in_a_thread.using(cpu=5)
    with pytest.raises(UsageError, match="process of its own"):
        operator("rough_refused", memory=2**30)
    with pytest.raises(UsageError, match="async def"):
        operator("rough_refused", model=True)(in_a_thread.function)
