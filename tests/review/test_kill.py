"""A person's process dies: what he had before him goes to the next one, and half a decision is none."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gristmill.review.decisions import decide, history, states
from tests.engine.conftest import until
from tests.review.conftest import Made

Person = subprocess.Popen[str]


@pytest.fixture
async def people() -> AsyncIterator[list[Person]]:
    started: list[Person] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


async def start(people: list[Person], url: str, made: Made, name: str, lease: float) -> tuple[Person, list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.review.reviewing_process", url, str(made.run_id), name, str(lease)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    people.append(process)
    assert process.stdout is not None
    line = await asyncio.to_thread(process.stdout.readline)
    return process, [int(number) for number in line.split()]


def tell(process: Person, number: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{number}\n")
    process.stdin.flush()


async def test_what_a_killed_person_had_goes_to_the_next_and_his_half_decision_is_none(
    made: Made, database_url: str, people: list[Person]
) -> None:
    numbers = await made.examples(8)
    await made.review.look()
    (ann, anns), (bob, bobs) = await asyncio.gather(
        start(people, database_url, made, "ann", 2.0), start(people, database_url, made, "bob", 600.0)
    )
    assert len({*anns, *bobs}) == 6  # both at once, and never the same
    others = [piece.record_id for piece in await made.review.claim("cem", 9)]
    assert sorted([*anns, *bobs, *others]) == numbers

    async with made.pool.acquire() as connection, connection.transaction():
        await connection.execute("select 1 from review where record_id = $1 for update", bobs[0])
        tell(bob, bobs[0])

        async def blocked() -> bool:
            asked = (
                "select exists (select 1 from pg_stat_activity"
                " where wait_event_type = 'Lock' and datname = current_database())"
            )
            return bool(await made.pool.fetchval(asked))

        await until(blocked)  # in the middle of its decision
        bob.kill()
        await asyncio.to_thread(bob.wait)
    ann.kill()
    await asyncio.to_thread(ann.wait)

    async def quiet() -> bool:
        asked = (
            "select count(*) from pg_stat_activity where application_name = 'gristmill' and state <> 'idle'"
            " and pid <> pg_backend_pid() and datname = current_database()"
        )
        return bool(await made.pool.fetchval(asked) == 0)

    await until(quiet)
    assert await history(made.pool, bobs[0]) == []
    await made.pool.execute("update review set lease_until = clock_timestamp() where holder = 'bob'")

    async def everything() -> bool:
        return len(await made.review.claim("cem", 9)) == 8

    await until(everything)  # ann's time of two seconds passes by the database's clock
    for piece in await made.review.claim("cem", 9):
        await decide(made.pool, piece.record_id, "accept", "cem", token=piece.token)
    found: Any = await states(made.pool, numbers)
    assert {(one.state, one.reviewer) for one in found.values()} == {("accepted", "cem")}
