"""What a claim reads does not grow with the queue, nor with what was decided before it."""

from __future__ import annotations

from typing import Any

from gristmill.review.queues import Review
from tests.engine.plans import watched
from tests.review.conftest import STEPS, Made

FILL = """
insert into record (kind, hash, work_key, ordinal, body)
select 'example', sha256(int8send(n)), int8send(n), 0, '{"question": "q", "answer": "a"}'
from generate_series(1, 30000) n;
insert into review (record_id, state)
select id, case when id % 10 = 0 then 'proposed' else 'accepted' end from record;
insert into review_piece (run_id, record_id, kind, step, score, disagreement, lot, since, open)
select $RUN, record_id, 'example', 3, record_id % 50, record_id % 7, (record_id % 1000) / 1000.0,
    case when record_id % 100 = 0 then 1 end, state = 'proposed' from review;
insert into review_queue (run_id, seen) values ($RUN, 'x');
"""


async def test_a_claim_reads_a_few_rows_of_a_large_queue(made: Made, database_url: str) -> None:
    for statement in FILL.replace("$RUN", str(made.run_id)).split(";\n"):
        if statement.strip():
            await made.pool.execute(statement)
    await made.pool.execute("analyze")
    await made.pool.execute("update review_queue set look_after = clock_timestamp() + interval '1 hour'")
    async with watched(database_url) as seen:
        pool: Any = _One(seen.connection)
        review = Review(pool, made.run_id, STEPS)
        for by in ("score", "disagreement", "random", "changed"):
            assert len(await review.claim("ann", 6, by=by)) == 6
            read = [one for one in await seen.take() if one.name.startswith("review.")]
            assert {f"review.choose_by_{by}", "review.hold"} <= {one.name for one in read}
            for one in read:
                assert one.visited <= 60, str(one)
            await review.release("ann")


class _One:
    """A pool of one connection, which is watched."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.fetch, self.fetchrow, self.fetchval = connection.fetch, connection.fetchrow, connection.fetchval
        self.execute = connection.execute

    def acquire(self) -> _One:
        return self

    async def __aenter__(self) -> Any:
        return self.connection

    async def __aexit__(self, *problem: object) -> None: ...
