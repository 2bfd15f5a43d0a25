"""Every pair of acts that change state, interleaved: the first stops after each statement, the second comes in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.conftest import at, own
from tests.engine.interleaved_acts import ACTS, NEITHER, TIDYING
from tests.engine.interleaving import Act, Sight, Stage, Stepped
from tests.engine.mutants import Mutant, sown


@pytest.fixture(scope="module")
async def stage(server_url: str, template_database: str) -> AsyncIterator[Stage]:
    """One database for all meetings of this file."""
    name = own("meetings")
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"create database {name} template {template_database}")
    built = await Stage.build(at(server_url, name))
    yield built
    built.close()
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


async def in_turn(stage: Stage, *acts: tuple[Act, int], later: tuple[Act, ...] = ()) -> Sight:
    """What comes of these acts, each with its side, one after the other."""
    await stage.put_back()
    for act, side in acts:
        await stage.play(act, Stepped(stage.first), side)
    return await stage.tidied(later)


async def each_after(stage: Stage, one: Act) -> tuple[list[Sight], int]:
    """What comes of every act after `one`, and how many statements `one` has. Nothing of it is committed."""
    sights = []
    stepped = Stepped(stage.first)
    await stage.put_back()
    whole = stage.first.transaction()
    await whole.start()
    await stage.play(one, stepped, 0)
    for other in ACTS:
        part = stage.first.transaction()
        await part.start()
        await stage.play(other, stage.first, 1)
        sights.append(await stage.look(stage.first))
        await part.rollback()
    await whole.rollback()
    return sights, len(stepped.statements)


async def meeting(stage: Stage, one: Act, other: Act, one_first: Sight, statements: int) -> list[str]:
    """`other` comes in after each statement of `one`; returns what was not as it should be.

    Before the last one that is only tried where something could come of it: when somebody had to wait, or when it
    matters who was first.
    """
    found = []
    for after in range(statements, 0, -1):
        await stage.put_back()
        waited, sight = await stage.meet(one, other, after)
        what = f"{one.name} / {other.name} after {after} of {statements}{' (waits)' if waited else ''}"
        found += [f"{what}: {wrong}" for wrong in sight.wrong]
        if sight != one_first:
            found += [f"{what}: {difference}" for difference in await differs(stage, one, other, sight)]
        if waited:
            found += await dying(stage, one, other, after, statements)
        elif after == statements > 1 and one_first == await in_turn(stage, (other, 1), (one, 0)):
            break
    return found


async def differs(stage: Stage, one: Act, other: Act, sight: Sight) -> list[str]:
    """What is neither as if `one` had been first nor as if `other` had: at once, or after the next round of duties.

    Who looks again and again anyhow passes by what somebody else has locked, and finds it the next time.
    """
    later = (*(act for act in (one, other) if act.polls), *TIDYING, *TIDYING)
    tidied = await stage.tidied(later)
    if (one.name, other.name) in NEITHER or sight == await in_turn(stage, (other, 1), (one, 0)):
        return []
    either = [
        await in_turn(stage, *order, later=later) for order in (((one, 0), (other, 1)), ((other, 1), (one, 0)))
    ]  # fmt: skip
    return [] if tidied in either else [" OR ".join(tidied.beside(expected) for expected in either)]


async def dying(stage: Stage, one: Act, other: Act, after: int, statements: int) -> list[str]:
    """As if `one` had never been there."""
    await stage.put_back()
    _, sight = await stage.meet(one, other, after, dies=True)
    what = f"{one.name} dies / {other.name} after {after} of {statements}"
    found = [f"{what}: {wrong}" for wrong in sight.wrong]
    if not one.alone and sight != (expected := await in_turn(stage, (other, 1))):
        found.append(f"{what}: {sight.beside(expected)}")
    return found


# Who comes first in every run of the tests; the others only in `make thorough`. Everybody comes second.
OFTEN = ("claim", "settle_the_last_with_a_follower")


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(
            act, id=act.name, marks=() if act.name in OFTEN else (pytest.mark.thorough, pytest.mark.timeout(900))
        )
        for act in ACTS
    ],
)
async def test_two_sessions_come_to_what_one_after_the_other_would(stage: Stage, one: Act) -> None:
    sights, statements = await each_after(stage, one)
    found = []
    for other, one_first in zip(ACTS, sights, strict=True):
        found += await meeting(stage, one, other, one_first, statements)
    assert found == []
    assert stage.deadlocks == set(), "one order of locks everywhere"


# Faults that only two sessions at once can show, and the meeting that does.
FAULTS = (
    (Mutant("claim does not lock its worker", "queue.claim", "    for no key update),\nknown", "    ),\nknown"),
     "claim", "rescue"),
    (Mutant("cancel does not wait for a claim", "queue.lock_tasks", " for update", ""),
     "claim_with_locks", "cancel_the_run"),
    (Mutant("a cancel does not look again", "workflow.any_task_open", "select coalesce(",
            "select $1::bigint is null and coalesce("),
     "retry_the_run", "cancel_the_run"),
    (Mutant("two add inputs at once", "items.adding", "pg_advisory_xact_lock(hashtextextended('inputs', $1))",
            "$1::bigint"),
     "add_inputs", "add_inputs"),
    (Mutant("an item ends before its barrier", "items.end_items", "i.state <> 'active' or r.state", "true or r.state"),
     "finish_items", "settle"),
    (Mutant("a run does not wait for items", "workflow.anything_open", "where i.run_id = $1 limit 1",
            "where false limit 1"),
     "finish_items", "advance"),
)  # fmt: skip


@pytest.mark.parametrize(("fault", "one", "other"), FAULTS, ids=[fault.title for fault, _, _ in FAULTS])
async def test_a_meeting_shows(stage: Stage, fault: Mutant, one: str, other: str) -> None:
    by_name = {act.name: act for act in ACTS}
    sights, statements = await each_after(stage, by_name[one])
    one_first = sights[list(by_name).index(other)]
    assert await meeting(stage, by_name[one], by_name[other], one_first, statements) == []
    with sown(fault):
        assert await meeting(stage, by_name[one], by_name[other], one_first, statements) != []
