"""What became of a piece: what its model was asked, how often a quota sent it away, and what two attempts differ in."""

from __future__ import annotations

import json
import uuid
from typing import Any

from gristmill.db.database import transaction
from gristmill.engine import queue
from gristmill.engine.queue import Claimer, Failure, NewTask
from gristmill.llm.entries import Entry, turns
from gristmill.llm.ledger import Ledger
from gristmill.llm.model import Binding, Message, Reply, Request
from tests.api.conftest import Api
from tests.api.finished import finished, worked_off
from tests.engine.conftest import register
from tests.llm.conftest import ScriptedServer, model_server, scripted_server

__all__ = ["model_server", "scripted_server"]

ASKED = Request((Message("system", "Answer."), Message("user", "What grinds?")), parameters={"seed": 7})
BINDING = Binding("openai:m", "openai", "m", "http://127.0.0.1/v1")


async def one_task(api: Api) -> tuple[int, int, Claimer]:
    """A run with one task, and who may claim it."""
    pool = api.app.pool
    claimer = await register(pool)
    run = await pool.fetchval(
        "insert into run (name, workflow, definition) values ('bare-1', 'bare', '{}') returning id"
    )
    await pool.execute("insert into step (run_id, ordinal, name, kind, pool) values ($1, 0, 'ask', 'ask', '*')", run)
    async with transaction(pool) as connection:
        (task,) = await queue.enqueue(connection, [NewTask(run, "ask", max_attempts=3)])
    return run, task, claimer


async def claimed(api: Api, claimer: Claimer) -> Any:
    await api.app.pool.execute("update task set run_at = clock_timestamp() where state = 'available'")
    (task,) = await queue.claim(api.app.pool, claimer, {"*": 1}, ["ask"])
    return task


async def paid(api: Api, run: int, task: int, answer: str, attempt: int = 0) -> str:
    """An answer in the ledger, on behalf of the task."""
    ledger = Ledger(api.app.pool)
    key = uuid.uuid4().bytes * 2
    request = Request(ASKED.messages, attempt=attempt, parameters=ASKED.parameters)
    entry = Entry(key, uuid.uuid4(), ledger.worker, "openai", "m", task, run, prompt="answer")
    await ledger.begin(entry)
    noted = ledger.noting(entry, BINDING, request, turns(request))
    await ledger.journal(noted, Reply(json.dumps({"said": answer}).encode()))
    await ledger.close()
    return key.hex()


async def test_a_piece_tells_what_was_asked_and_what_two_attempts_got_back(api: Api) -> None:
    run, number, claimer = await one_task(api)
    for answer, how in (("the mill", True), ("the wheel", False)):
        task = await claimed(api, claimer)
        key = await paid(api, run, number, answer, attempt=int(not how))
        await queue.fail(api.app.pool, claimer, task, Failure("M204", "UnusableAnswer", f"{answer} is none", retry=how))
    call = await api.json(f"/api/calls/{key}")
    assert [one["parts"][0]["text"] for one in call["request"]["messages"]] == ["Answer.", "What grinds?"]
    assert (call["request"]["parameters"], call["request"]["attempt"]) == ({"seed": 7}, 1)
    assert call["parsed"] == {"said": "the wheel"}
    found = await api.json(f"/api/tasks/{number}/difference?of=1&to=2")
    changed = [line for line in found["diff"].splitlines() if line[0] in "+-"]
    assert not found["same"]
    assert '- "said": "the mill"' in changed
    assert '+ "said": "the wheel"' in changed
    same = await api.json(f"/api/tasks/{number}/difference?of=2&to=2")
    assert (same["same"], same["diff"]) == (True, "")
    missing = await api.get(f"/api/tasks/{number}/difference?of=1&to=9")
    assert (missing.status_code, missing.json()["hint"]) == (404, "attempts: 1, 2")


async def test_a_piece_and_its_worker_s_lane_tell_how_long_a_quota_held_them_up(api: Api) -> None:
    _, number, claimer = await one_task(api)
    pool = api.app.pool
    await pool.execute("update worker set name = 'anvil-1', started_at = started_at - interval '1 minute'")
    for delay, reason in ((60.0, "quota: openai, requests per minute"), (0.0, "its worker was stopped")):
        await queue.release(pool, [(await claimed(api, claimer), delay, reason)])
    story = await api.json(f"/api/tasks/{number}/story")
    assert [(one["n"], one["worker"], one["reason"][:6]) for one in story["waits"]] == [
        (1, "anvil-1", "quota:"), (2, "anvil-1", "its wo"),
    ]  # fmt: skip
    assert story["attempts"] == []
    await pool.execute("update task_wait set since = since - interval '30 s', until = since - interval '10 s'")
    (lane,) = (await api.json("/api/workers/lanes?minutes=10"))["items"]
    assert [one["what"] for one in lane["segments"]] == ["idle", "quota", "idle"]
    await pool.execute("update worker set state = 'dead', ended_at = clock_timestamp() where id = $1", claimer.id)
    await pool.execute(
        "insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome)"
        " select id, 3, gen_random_uuid(), run_id, $1, clock_timestamp(), 'stalled' from task", claimer.id,
    )  # fmt: skip
    (died,) = (await api.json(f"/api/tasks/{number}/story"))["attempts"]
    assert died["handed_on"]
    assert died["beat_at"] is not None


async def test_a_piece_that_was_answered_from_the_ledger_shows_what_was_asked_when_and_who_paid(
    api: Api, model_server: ScriptedServer
) -> None:
    mine = {"provider": "vllm", "model": "mine", "base_url": model_server.base_url}
    (await api.put("/api/models/mine", json=mine)).raise_for_status()
    first = await finished(api, model="mine")
    asked = (await model_server.stats())["requests"]
    paid = await told(api, first.name, "answer")
    assert [len(one["calls"]) for one in paid["attempts"]] == [1]
    assert paid["known"] == []
    (call,) = paid["attempts"][0]["calls"]

    async def known_of(run: str) -> Any:
        story = await told(api, run, "answer")
        assert [one["calls"] for one in story["attempts"]] == [[]] * len(story["attempts"])
        (found,) = story["known"]
        whole = await api.json(f"/api/calls/{found['id']}")
        assert whole["request"]["messages"][-1]["parts"][0]["text"]
        return found

    # The same work again: nothing is done, and the other piece's call is shown.
    again = await finished(api, model="mine", fresh=True)
    found = await known_of(again.name)
    assert (found["id"], found["made_at"]) == (call["id"], call["made_at"])
    assert (found["run_name"], found["run"], found["task"]) == (first.name, first.id, paid["task"]["id"])
    # Other work that asks the same: the answer comes from the ledger.
    made = await api.post(f"/api/runs/{first.name}/again", json={"parameters": {"answer.grounded": False}})
    other = await api.app.find(made.json()["name"])
    await worked_off(api, other)
    assert (await known_of(other.name))["run_name"] == first.name
    assert (await model_server.stats())["requests"] == asked
    # What an operator notes under that name itself is no key.
    for noted in ('{"ledger_keys": 3}', '{"ledger_keys": [null, "topic", 7]}', "[]", '{"ledger_keys": ["00"]}'):
        kept = await api.app.pool.fetch(
            "with old as (select key, notes from work where notes like '%ledger_keys%')"
            " update work set notes = $1 from old where work.key = old.key returning old.key, old.notes", noted,
        )  # fmt: skip
        assert (await told(api, other.name, "answer"))["known"] == []
        await api.app.pool.executemany("update work set notes = $2 where key = $1", [tuple(row) for row in kept])
    # Whose call it was is forgotten; the request is not.
    await api.app.pool.execute("update call set run = null, first_task = null")
    assert (await known_of(other.name))["run_name"] is None


async def told(api: Api, run: str, stage: str) -> dict[str, Any]:
    """The story of the first piece of a stage: of the lowest input, so that it is the same one in every run."""
    rows = (await api.json(f"/api/runs/{run}/tasks?stage={stage}&state=completed"))["items"]
    stories = [await api.json(f"/api/tasks/{row['id']}/story") for row in rows]
    found: dict[str, Any] = min(stories, key=lambda one: one["task"]["inputs"])
    return found
