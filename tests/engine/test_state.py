"""The table of transitions is the law: the SQL changes states exactly as it says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gristmill.engine import queue, state
from gristmill.engine.queue import Claimer, Failure
from tests.engine.conftest import Enqueue

VERBS = sorted({verb for verb, _, _ in state.TRANSITIONS})


async def test_the_database_accepts_exactly_the_states_of_the_table(pool: Any, enqueue: Enqueue) -> None:
    definition = await pool.fetchval(
        "select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'task'::regclass and contype = 'c'"
    )
    assert set(state.STATES) == {word for word in definition.split("'") if word.isalpha() and word.islower()}


@pytest.mark.parametrize("before", state.STATES)
async def test_every_statement_makes_only_the_changes_of_the_table(
    pool: Any, claimer: Claimer, enqueue: Enqueue, bare_run: int, before: str
) -> None:
    """Puts a task into each state, sends every statement at it, and looks at what became of it."""
    failure = Failure("T300", "E", "m", retry=True)
    item_id = await pool.fetchval(
        "insert into item (run_id, key, name, uri) values ($1, 'k', 'n', 'u') returning id", bare_run
    )
    (task_id,) = await enqueue({}, item_id=item_id)
    for verb in VERBS:
        if verb == "enqueue":
            continue
        await pool.execute("update worker set state = 'alive', lease_until = clock_timestamp() + interval '30 s'")
        await pool.execute("update item set paused = false")
        await pool.execute(
            "update task set state = 'available', run_at = clock_timestamp(), crashes = 0, priority = 0,"
            " deadline = null"
        )
        (task,) = await queue.claim(pool, claimer, {"*": 1}, ["bare"])
        await pool.execute(
            "update task set state = $1, worker_id = case when $1 = 'running' then worker_id end,"
            " token = case when $1 = 'running' then token end", before,
        )  # fmt: skip
        async with pool.acquire() as connection:
            match verb:
                case "claim":
                    await queue.claim(connection, claimer, {"*": 1}, ["bare"])
                case "settle":
                    await queue.settle(connection, claimer, [(task, "ok")])
                case "fail":
                    await queue.fail(connection, claimer, task, failure)
                case "release":
                    await queue.release(connection, [(task, 0.0, "")])
                case "crash":
                    await queue.crash(connection, claimer, task, "")
                case "rescue":
                    await pool.execute("update worker set lease_until = clock_timestamp() - interval '1 s'")
                    await queue.rescue(connection, 0)
                case "reopen":
                    await queue.reopen(connection, bare_run)
                case "give_back":
                    await queue.give_back(connection, claimer, "")
                case "cancel":
                    await queue.cancel(connection, item_ids=[item_id], broken=True)
                case "park":
                    await pool.execute("update item set paused = true")
                    await queue.park(connection)
                case "unblock":
                    await queue.unpark(connection, [item_id])
                case "expire":
                    await pool.execute("update task set deadline = clock_timestamp() - interval '1 s'")
                    await queue.expire(connection)
                case "revive":
                    await pool.execute("update task set held = $1", queue.LOST)
                    await connection.fetch(queue.SQL["revive"], [task_id], queue.LOST)
                case _:
                    pytest.fail(f"the statement {verb} is not tried here")
        after = await pool.fetchval("select state from task where id = $1", task_id)
        if after != before:
            assert (verb, before, after) in state.TRANSITIONS
        else:
            assert not any(known == verb and start == before for known, start, _ in state.TRANSITIONS), verb
        await pool.execute("delete from attempt")


def test_what_is_over_can_only_begin_again() -> None:
    assert not any(state.allowed(state.COMPLETED, after) for after in state.STATES)
    assert [after for after in state.STATES if state.allowed(state.CANCELLED, after)] == [state.WAITING]


def test_the_diagram_shows_the_same_changes() -> None:
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs/concepts/tasks.md").read_text()
    drawn = set()
    for line in text.splitlines():
        if "-->" in line and ":" in line:
            change, verbs = line.split(":", 1)
            before, after = (part.strip().replace("[*]", "") for part in change.split("-->"))
            if after:
                drawn |= {(verb.strip(), before, after) for verb in verbs.split(",")}
    assert drawn == set(state.TRANSITIONS), json.dumps(sorted(drawn ^ set(state.TRANSITIONS)))
