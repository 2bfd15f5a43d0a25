"""Everything at once over real connections: records come in, people claim, decide and take back, others look."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import Any

import pytest

from gristmill.db.database import open_pool
from gristmill.errors import UsageError
from gristmill.review.decisions import decide, history, states, undo
from gristmill.review.queues import Review
from tests.review.conftest import STEPS, Made, Runs

PEOPLE = ("ann", "bob", "cem", "dan")
EXPECTED = ("V110", "V130", "V140")  # what people may run into


async def person(pool: Any, run_id: int, name: str, dice: random.Random, done: asyncio.Event) -> None:
    """Claims, decides, takes back, leaves; until there is nothing left and nothing more will come."""
    review = Review(pool, run_id, STEPS)
    while True:
        over = done.is_set()
        pieces = await review.claim(name, dice.randint(1, 4), by=dice.choice(("score", "random", "disagreement")))
        if not pieces and over:
            return
        for piece in pieces:
            word = dice.choice(("accept", "accept", "reject", "skip", "edit"))
            changes = {"answer": f"{name} {dice.random()}"} if word == "edit" else None
            try:
                await decide(pool, piece.record_id, word, name, changes=changes, token=piece.token)
                if dice.random() < 0.15:
                    await undo(pool, name)
            except UsageError as error:
                if error.code not in EXPECTED:
                    raise
        if dice.random() < 0.1:
            await review.release(name)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(2, 12))])
async def test_whatever_happens_at_once_every_record_ends_as_its_last_decision_says(
    runs: Runs, database_url: str, seed: int
) -> None:
    dice = random.Random(seed)
    first, second = await runs.make(), await runs.make()
    pools = [await open_pool(database_url, size=3) for _ in range(2)]
    done = asyncio.Event()
    numbers: list[int] = []

    async def produce() -> None:
        for _ in range(4):
            made = await first.examples(4)
            numbers.extend(made)
            for number in made[:2]:
                await second.join(number, 3)
            await first.review.look(force=True)
            await second.review.look(force=True)
        await first.review.assign([], overlap=0.2)
        done.set()

    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(produce())
            for at, name in enumerate(PEOPLE):
                run = (first, second)[at % 2]
                group.create_task(person(pools[at % 2], run.run_id, name, random.Random(dice.random()), done))
    finally:
        for pool in pools:
            pool.terminate()
    await _agree(first, numbers)


async def _agree(made: Made, numbers: list[int]) -> None:
    found = await states(made.pool, numbers)
    for number in numbers:
        standing = [line for line in await history(made.pool, number) if line.undone_at is None]
        expected = standing[-1].after_state if standing else "proposed"
        assert found[number].state == expected
        for before, after in pairwise(standing):
            assert after.before_state == before.after_state
    await made.review.look(force=True)
    wrong = await made.pool.fetch(
        "select 1 from review_piece p join review v using (record_id)"
        " where p.run_id = $1 and p.wants = 1 and p.open <> (v.state = 'proposed')", made.run_id,
    )  # fmt: skip
    assert not wrong
    assert await made.pool.fetchval("select count(*) from review_piece where run_id = $1", made.run_id) == len(numbers)
