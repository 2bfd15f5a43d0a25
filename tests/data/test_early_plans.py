"""A run may end before its tables are analyzed for the first time: what reads its records must not need statistics."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from gristmill.data import records
from gristmill.data.annotations import ANNOTATIONS
from gristmill.db.statements import statements
from gristmill.review.pieces import REVIEWABLE
from tests.engine.plans import Watched, watched

# :n documents: each has 5 chunks with an annotation and 4 examples, every example a score, every fourth is marked.
FILL = """
create function made(what text, n bigint) returns bigint immutable language sql return
    n + 1000000 * array_position(array['document', 'chunk', 'example', 'evaluation', 'duplicate', 'entities'], what);
insert into run (name, workflow, definition) overriding system value values ('r', 'w', '{}');
insert into item (run_id, key, name, uri) select 1, int8send(n), 'd' || n, 'd' || n from generate_series(1, :n) n;
create table wanted as
select what, made(what, n) as id, made(above, (n - 1) / fan + 1) as parent, step, (n - 1) / each + 1 as item, n
from (values ('document', null, 1, 1, 0), ('chunk', 'document', 5, 5, 1), ('example', 'chunk', 4, 20, 2),
             ('evaluation', 'example', 1, 20, 3), ('entities', 'chunk', 1, 5, 5)) as k (what, above, fan, each, step)
cross join lateral generate_series(1, :n * each) as n
union all select 'duplicate', made('duplicate', n), made('example', 4 * n), 4, (4 * n - 1) / 20 + 1, n
from generate_series(1, 5 * :n) as n
"""

EMPTY = """
drop function if exists made;
truncate run, item, record, lineage, run_record, work, review, review_piece restart identity cascade
"""


async def fill(connection: asyncpg.Connection[Any], documents: int) -> None:
    """Records of a run over so many documents, in tables that nobody analyzes."""
    for table in ("record", "lineage", "run_record", "work", "item", "review", "review_piece"):
        await connection.execute(f"alter table {table} set (autovacuum_enabled = off)")
    await connection.execute(FILL.replace(":n", str(documents)))
    await connection.execute("""
        insert into work (key, kind, outcome) select sha256(int8send(id)), what, 'ok' from wanted order by id;
        insert into record (id, kind, hash, work_key, ordinal, body) overriding system value
        select id, what, sha256(int8send(id)), sha256(int8send(id)), 0, case what
            when 'evaluation' then '{"overall": 3, "judge": "rules"}' when 'duplicate' then '{"similarity": 1}'
            when 'entities' then format('{"subject": "%s", "score": 1, "outcome": "ok"}',
                                        encode(sha256(int8send(parent)), 'hex'))
            else '{"title": "t"}' end
        from wanted order by id;
        insert into lineage select id, parent, 0 from wanted where parent is not null order by id;
        insert into run_record (run_id, step, record_id, item_id, place)
        select 1, step, id, item, array[n] from wanted order by id;
        drop table wanted;
    """)


STATEMENTS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "records.dataset": ("dataset", (1, [2], [4], [3], False)),
    "records.of_run": ("of_run", (1, 2)),
    "coverage.below": ("below", (1, [1, 2, 3, 4], list(range(1_000_001, 1_000_021)), 10_000)),
    "review.look": ("look", (1, [2, 5], list(REVIEWABLE), list(ANNOTATIONS), [4], [3], "seed")),
    "label_studio.annotations_of_run": ("annotations_of_run", (1, [5], "entities", None)),
}


async def visited(url: str, name: str) -> tuple[int, int]:
    """Rows that the busiest node of a statement has visited, and pages that it looked at."""
    file, _, what = name.partition(".")
    async with watched(url) as watch:
        await watch.connection.fetch(statements(file)[what], *STATEMENTS[name][1])
        (seen,) = [one for one in await watch.take() if one.name == name]
        return seen.visited, seen.pages


@pytest.mark.parametrize("name", STATEMENTS)
async def test_what_reads_a_run_takes_four_times_as_much_for_four_times_the_records(
    database_url: str, pool: asyncpg.Pool[Any], name: str
) -> None:
    found = []
    for documents in (20, 80):
        async with pool.acquire() as connection:
            await connection.execute(EMPTY)
            await fill(connection, documents)
        found.append(await visited(database_url, name))
    (rows, pages), (more_rows, more_pages) = found
    assert rows > 100
    assert more_rows < 6 * rows, found
    assert more_pages < 6 * pages, found


async def test_looking_up_by_key_with_a_plan_of_empty_tables_reads_what_was_asked_for(
    database_url: str, pool: asyncpg.Pool[Any]
) -> None:
    async def look_up(watch: Watched, first: int) -> dict[str, int]:
        connection = watch.connection
        ids = list(range(first, first + 20))
        keys = await connection.fetchval("select array_agg(sha256(int8send(n))) from unnest($1::bigint[]) n", ids)
        await records.load(connection, ids)
        await records.load_family(connection, ids)
        await records.outputs_of(connection, keys)
        await connection.fetch(statements("review")["scores_of"], ids)
        await connection.fetch(records.SQL["marks_of"], 1, [4], ids)
        return {one.name: one.visited for one in await watch.take()}

    async with watched(database_url, "force_generic_plan") as watch:
        await look_up(watch, 3_000_001)
        async with pool.acquire() as connection:
            await fill(connection, 100)
        seen = await look_up(watch, 3_000_001)
    assert {
        "records.load",
        "records.known_work",
        "records.records_of_work",
        "review.scores_of",
        "records.marks_of",
    } <= set(seen)
    assert max(seen.values()) <= 100, seen
