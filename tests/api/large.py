"""A run with as many tasks and records as one likes, made by SQL in seconds, beside another one of the same size."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from gristmill.db.database import LONG, SESSION
from gristmill.run import Run
from tests.api.conftest import Api
from tests.api.finished import write_places

DOCUMENTS, CHUNKS = 200, 20  # chunks of a document
FIRST = {"document": 10_000_000, "chunk": 20_000_000, "example": 30_000_000}

# {n} tasks in all; {run} is ours, {other} was there before. Statements end with ";".
FILL = """
insert into item (run_id, key, name, uri, outcome)
select {run}, int8send(d), 'file-' || d || '.md', '/docs/' || d, 'completed' from generate_series(1, 2000) d;
insert into task (run_id, step, kind, pool, state, attempt, claimed_at, ended_at)
select {other}, 2, 'ask', 'model', 'completed', 1, clock_timestamp(), clock_timestamp()
from generate_series(1, {n} / 2);
insert into record (id, kind, hash, work_key, ordinal, body) overriding system value
select 10000000 + d, 'document', sha256(('d' || d)::bytea), sha256(('dw' || d)::bytea), 0,
    '{{"text_blob":"' || repeat('0', 64) || '","characters":9000,"media_type":"text/markdown","title":"T' || d || '"}}'
from generate_series(1, 200) d;
insert into record (id, kind, hash, work_key, ordinal, body) overriding system value
select 20000000 + c, 'chunk', sha256(('c' || c)::bytea), sha256(('cw' || c)::bytea), 0,
    '{{"text":"chunk ' || c || '","ordinal":' || c % 20 || ',"start":0,"end":10}}'
from generate_series(1, 4000) c;
insert into record (id, kind, hash, work_key, ordinal, body) overriding system value
select 30000000 + e, 'example', sha256(('e' || e)::bytea), sha256(('ew' || e)::bytea), 0,
    '{{"question":"what of ' || e || '?","answer":"' || repeat('x', 20 + e % 80) || '","model":"m"}}'
from generate_series(1, {n} / 2) e;
insert into lineage select 20000000 + c, 10000000 + 1 + c % 200, 0 from generate_series(1, 4000) c;
insert into lineage select 30000000 + e, 20000000 + 1 + e % 4000, 0 from generate_series(1, {n} / 2) e;
with made as (
    insert into task (run_id, item_id, step, kind, pool, state, attempt, token, claimed_at, ended_at)
    select {run}, 1 + e % 2000, 3, 'answer', 'model', 'completed', 1, gen_random_uuid(), clock_timestamp(),
        clock_timestamp() from generate_series(1, {n} / 2) e returning id, item_id),
numbered as (select id, item_id, row_number() over (order by id) as e from made),
tried as (
    insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome)
    select id, 1, gen_random_uuid(), {run}, 1, clock_timestamp() - interval '2 seconds', 'completed' from made)
insert into run_record (run_id, step, record_id, item_id, task_id, place)
select {run}, 3, 30000000 + e, item_id, id, '{{0}}' from numbered;
insert into run_record (run_id, step, record_id, item_id, place)
select {run}, 0, 10000000 + d, 1 + d, '{{0}}' from generate_series(1, 200) d;
insert into run_record (run_id, step, record_id, item_id, place)
select {run}, 1, 20000000 + c, 1 + c % 200, '{{0}}' from generate_series(1, 4000) c;
insert into task (run_id, item_id, step, kind, pool, priority)
select {run}, 1 + a % 2000, 3, 'answer', 'model', -(a % 2) from generate_series(1, {n} / 5) a;
insert into task (run_id, step, kind, pool, state, held)
select {run}, 2, 'ask', 'model', 'waiting', 'upstream' from generate_series(1, 1000);
with made as (
    insert into task (run_id, item_id, step, kind, pool, state, attempt, failures, ended_at)
    select {run}, 1 + f % 2000, 2, 'ask', 'model', 'failed', 1, 1, clock_timestamp() from generate_series(1, {n} / 20) f
    returning id)
insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome, code, error, message, cause)
select id, 1, gen_random_uuid(), {run}, 1, clock_timestamp(), 'failed', 'M202', 'InvalidOutput', 'no JSON in ' || id,
    sha256(('cause' || id % 7)::bytea) from made;
insert into worker (nonce, name, host, boot_id, pid, pid_started, pools, version, ttl, lease_until)
select gen_random_uuid(), 'w', 'h', 'b', 1, 1, '{{"*": 100}}', 't', '1 hour', clock_timestamp() + interval '1 hour'
from generate_series(1, 10);
update task set state = 'running', attempt = 1, token = gen_random_uuid(), claimed_at = clock_timestamp(), worker_id = 1
where id in (select id from task where run_id = {run} and state = 'available' limit 100);
delete from counter where run_id = {run};
delete from counter_delta;
insert into counter values ({run}, 0, 'completed', 200), ({run}, 1, 'completed', 4000), ({run}, 2, 'waiting', 1000),
    ({run}, 2, 'failed', {n} / 20), ({run}, 3, 'completed', {n} / 2), ({run}, 3, 'available', {n} / 5 - 100),
    ({run}, 3, 'running', 100);
insert into flow select {run}, s, clock_timestamp() - make_interval(secs => 2000 - p), 10, 3, p * 10, 0
from generate_series(1, 2000) p, generate_series(0, 3) s;
insert into pace select date_trunc('minute', clock_timestamp()) - make_interval(mins => m), {run}, s, 500, 1
from generate_series(0, 59) m, generate_series(0, 3) s;
update run set created_at = clock_timestamp() - interval '2000 seconds' where id = {run};
insert into event select 1000 + e, 'item.end', {run}, 1 + e % 2000, null, null, '{{}}', clock_timestamp()
from generate_series(1, {n} / 10) e;
insert into call (key, state, owner, deadline, provider, model, tokens_in, tokens_out, response, made_at, first_task,
    run)
select sha256(('k' || t.id)::bytea), 'ok', gen_random_uuid(), clock_timestamp(), 'openai', 'm', 100, 20, 'x',
    clock_timestamp(), t.id, {run} from (
    select id from task where run_id = {run} and state = 'completed' limit {n} / 10) t;
"""


async def large_run(api: Api, url: str, tasks: int) -> Run:
    """A run of the workflow qa with about that many tasks, half of them done, some failed; statistics are fresh."""
    folder: Path = write_places(api.app.settings.home.parent / "docs")
    other = await api.app.start("qa", [folder], model="extractive")
    run = await api.app.start("qa", [folder], model="extractive", fresh=True)
    connection = await asyncpg.connect(url, server_settings={"search_path": SESSION["search_path"]})
    indexes = await connection.fetch(
        "select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as made from pg_index"
        " where indrelid = 'task'::regclass and not indisprimary and not indisunique"
    )
    fill = FILL.format(n=tasks, run=run.id, other=other.id)
    for statement in (*(f"drop index {row['name']}" for row in indexes), fill, *(row["made"] for row in indexes)):
        await connection.execute(statement, timeout=LONG)
    await connection.execute("analyze", timeout=LONG)
    await connection.close()
    return run


def looks(run: Run, task: int) -> list[str]:
    """Everything that the page asks about a run."""
    record = FIRST["example"] + 7
    return [
        "/api/runs", f"/api/runs/{run.id}", f"/api/runs/{run.name}/stages", f"/api/runs/{run.id}/flow",
        f"/api/runs/{run.id}/throughput", "/api/throughput?minutes=60", f"/api/runs/{run.id}/failures",
        f"/api/runs/{run.id}/held_by", f"/api/runs/{run.id}/difference", f"/api/runs/{run.id}/items",
        f"/api/runs/{run.id}/items?filter=name=%27file-77.md%27", "/api/sources", f"/api/runs/{run.id}/tasks",
        *(f"/api/runs/{run.id}/tasks?state={s}" for s in ("running", "failed", "available", "waiting", "completed")),
        f"/api/runs/{run.id}/tasks?state=completed&stage=answer&limit=200",
        f"/api/runs/{run.id}/tasks?state=failed&filter=message%20like%20%27nothing%27",
        f"/api/tasks/{task}", f"/api/tasks/{task}/story", f"/api/records?run={run.id}",
        f"/api/records?run={run.id}&kind=example&limit=200", f"/api/rows?run={run.id}&limit=200",
        f"/api/rows?run={run.id}&filter=question%20like%20%27%25of%207%25%27&limit=50",
        f"/api/records/{record}", f"/api/records/{record}/lineage", f"/api/records/coverage?run={run.id}",
        f"/api/records/histogram?run={run.id}&field=length", f"/api/records/histogram?run={run.id}&field=label",
        "/api/projects", "/api/workflows", "/api/exports", "/api/actions",
    ]  # fmt: skip
