"""Runs whose records people review, filled in by hand: records, lineage and membership as a workflow leaves them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gristmill.app import App
from gristmill.data import records
from gristmill.data.kinds import Chunk, Evaluation, Example, Question, Rejection, Score, Source
from gristmill.data.records import Membership, NewRecord, Work
from gristmill.db.database import transaction
from gristmill.review.queues import Review

STEPS = ([Source], [Chunk], [Question], [Example], [Evaluation], [Rejection])
_numbers = itertools.count(1)


class Made:
    """A run with records in it, and its review."""

    def __init__(self, pool: Any, run_id: int, outputs: Sequence[Sequence[type[BaseModel]]]) -> None:
        self.pool = pool
        self.run_id = run_id
        self.outputs = outputs
        self.review = Review(pool, run_id, outputs)

    async def add(
        self, body: BaseModel, parents: Sequence[int] = (), *, kind: str = "by hand", key: bytes | None = None
    ) -> int:
        """Saves a record as part of the run, and says so in its counters."""
        step = next(at for at, types in enumerate(self.outputs) if type(body) in types)
        work = Work(key or b"work %d" % next(_numbers), kind, "ok", 0, (NewRecord(body, tuple(parents)),))
        async with transaction(self.pool) as connection:
            (number,) = (await records.save(connection, [work]))[work.key]
            await records.join_run(connection, [Membership(self.run_id, step, number, 0, 1, (number,))])
            await connection.execute("insert into counter_delta values ($1, $2, 'completed', 1)", self.run_id, step)
        return number

    async def join(self, number: int, step: int) -> None:
        """A record of another run, used again."""
        async with transaction(self.pool) as connection:
            await records.join_run(connection, [Membership(self.run_id, step, number, 0, 1, (number,))])
            await connection.execute("insert into counter_delta values ($1, $2, 'completed', 1)", self.run_id, step)

    async def examples(self, count: int, scores: Sequence[float] = (), text: str = "") -> list[int]:
        """Questions about one passage, each with an answer (`text`); `scores` for the first of them."""
        chunk = await self.add(Chunk(text="Water boils at 100 degrees. Ice melts at 0.", start=10, end=53))
        made = []
        for at in range(count):
            question = await self.add(Question(text=f"Question {at}?"), [chunk])
            body = Example(
                question=f"Question {at}?", answer=text or f"Answer {at}.", evidence_start=10, evidence_end=15
            )
            made.append(await self.add(body, [question]))
            if at < len(scores):
                await self.score(made[-1], scores[at])
        return made

    async def score(self, number: int, value: float, judge: str = "m") -> int:
        scores = (Score(name="clarity", value=value, comment="so"),)
        return await self.add(Evaluation(rubric="r", scores=scores, overall=value, judge=judge), [number])


class Runs:
    """Makes runs."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    async def make(self, outputs: Sequence[Sequence[type[BaseModel]]] = STEPS) -> Made:
        name = f"run-{next(_numbers)}"
        run_id = await self.pool.fetchval(
            "insert into run (name, workflow, definition, sealed) values ($1, 'w', '{}', true) returning id", name
        )
        return Made(self.pool, run_id, outputs)


@pytest.fixture
def runs(pool: Any) -> Runs:
    return Runs(pool)


@pytest.fixture
async def made(runs: Runs) -> Made:
    return await runs.make()


@pytest.fixture
async def app(database_url: str, tmp_path: Path) -> AsyncIterator[App]:
    async with App(database_url, home=tmp_path / "home", workers=0) as opened:
        yield opened
