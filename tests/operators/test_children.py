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

from gristmill.engine.worker import ChildCrashed
from gristmill.errors import Busy, InputError, ModelRefused, TransientError
from gristmill.llm.model import Answer, Request
from gristmill.operators import protocol
from gristmill.operators.child import load_operator
from gristmill.operators.children import ERRORS_KEPT, Child, Children
from gristmill.operators.operator import registered
from tests.operators.rough import Flaky, rough

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
     ("_exit", "7", "exit code 7"), ("exit", "", "exit code 70"), ("huge", "", "over 64 MiB")],
)  # fmt: skip
async def test_a_process_that_ends_in_the_middle_is_a_crash_and_never_a_success(
    children: Children, do: str, more: str, words: str
) -> None:
    with pytest.raises(ChildCrashed, match=words):
        await children.run(message(do, more), nobody)
    assert said(await children.run(message("", "alive"), nobody)) == ["alive"]


async def test_the_story_of_a_crash_holds_its_last_words_however_much_was_said_before(children: Children) -> None:
    await children.run(message("chatter", "y" * (ERRORS_KEPT - 5)), nobody)
    with pytest.raises(ChildCrashed, match="about to die"):
        await children.run(message("signal", "6"), nobody)


async def test_a_child_that_writes_much_to_standard_error_does_not_stand_still(children: Children) -> None:
    async with asyncio.timeout(30):
        assert said(await children.run(message("chatter", "z" * 2_000_000), nobody)) == ["z" * 2_000_000]


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


async def test_a_child_that_is_killed_is_not_waited_for_twice() -> None:
    child = Child()
    await child.start()
    await child.kill()
    await child.kill()


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
