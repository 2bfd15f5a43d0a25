-- What became of one task, and where one record came from. Everything here is looked up by key.

-- name: task
-- Also one that is history.
select t.id, t.run_id, t.item_id, t.step, t.kind, t.pool, t.priority, t.state, t.payload, t.attempt, t.failures, t.crashes,
    t.max_attempts, t.max_crashes, t.worker_id, t.claimed_at, t.ended_at, t.held, t.run_at, t.history,
    coalesce(s.name, t.step::text) as stage, r.name as run_name, r.project, r.definition, r.state as run_state, i.name as item
from (select id, run_id, item_id, step, kind, pool, priority, state, payload, attempt, failures, crashes, max_attempts,
          max_crashes, worker_id, claimed_at, ended_at, held, run_at, false as history
      from task where id = $1
      union all
      select id, run_id, item_id, step, kind, pool, priority, state, payload, attempt, failures, crashes, max_attempts,
          max_crashes, worker_id, claimed_at, ended_at, held, run_at, true
      from task_history where id = $1) as t
left join run r on r.id = t.run_id left join step s on s.run_id = t.run_id and s.ordinal = t.step
left join item i on i.id = t.item_id;

-- name: attempts
-- The latest $2 of a task, in their order, wherever they are by now.
select * from (
    select a.attempt, a.worker_id, w.name as worker, w.host, w.pid, w.state as worker_state, w.cause as worker_cause,
        case when w.state = 'dead' then w.lease_until - w.ttl end as beat_at,
        a.started_at, a.ended_at, a.outcome, a.code, a.error, a.message, encode(a.cause, 'hex') as cause
    from (select attempt, worker_id, started_at, ended_at, outcome, code, error, message, cause from attempt where task_id = $1
          union all
          select attempt, worker_id, started_at, ended_at, outcome, code, error, message, cause from attempt_history
          where task_id = $1) as a
    left join worker w on w.id = a.worker_id
    order by a.ended_at desc, a.attempt desc limit $2) as latest
order by ended_at, attempt;

-- name: waits
-- The latest $2 times that a task was given back uncharged, in their order; they are kept for three days.
select * from (
    select t.attempt as n, t.worker_id, w.name as worker, t.began_at, t.since, t.until, t.reason
    from task_wait t left join worker w on w.id = t.worker_id
    where t.task_id = $1 order by t.since desc limit $2) as latest
order by since;

-- name: worker
select id, name, host, pid, state, cause, lease_until, lease_until - ttl as beat_at, extract(epoch from ttl)::float8 as ttl
from worker where id = $1;

-- name: calls
-- What was paid on behalf of a task.
select encode(key, 'hex') as id, state, provider || ':' || model as model, prompt, status, finish_reason, tokens_in,
    tokens_out, tokens_cached, latency_ms, cost, currency, tries, note, made_at
from call where run = $1 and first_task = $2 and state <> 'intent' order by made_at limit $3;

-- name: works_of
-- Who did the work behind these records ($1), and what was noted of it.
select distinct w.key, nullif(w.task_id, 0) as task_id, w.notes
from unnest($1::bigint[]) as made (id)
cross join lateral (select work_key from record where record.id = made.id offset 0) as r join work w on w.key = r.work_key;

-- name: known
-- Calls that other tasks ($1) have paid, and those with these keys ($2), at most $3: when, and by which task and run of
-- project $4.
with paid as (
    select c.key from (select id, run_id from task where id = any ($1::bigint[])
                       union all select id, run_id from task_history where id = any ($1::bigint[])) as t
    cross join lateral (select key from call where run = t.run_id and first_task = t.id and state <> 'intent' limit $3) as c
    union select unnest($2::bytea[]))
select encode(c.key, 'hex') as id, c.state, c.provider || ':' || c.model as model, c.prompt, c.status, c.finish_reason,
    c.tokens_in, c.tokens_out, c.tokens_cached, c.latency_ms, c.cost, c.currency, c.tries, c.note, c.made_at,
    case when r.id is not null then c.first_task end as task, r.id as run, r.name as run_name
from paid join call c on c.key = paid.key and c.state <> 'intent' left join run r on r.id = c.run and r.project = $4
order by c.made_at, c.key limit $3;

-- name: made_by
-- Records that a task added to its run: children of its inputs ($3), or of what it gathered, at its step.
select r.id, r.kind from (
    select distinct l.record_id as id from unnest($3::bigint[]) as own (id)
    cross join lateral (select record_id from lineage where parent_id = own.id offset 0) as l limit 5000) as child
cross join lateral (
    select 1 from run_record rr where rr.run_id = $1 and rr.step = $2 and rr.record_id = child.id and rr.task_id = $4
    limit 1) as member
cross join lateral (select id, kind from record where record.id = child.id offset 0) as r
order by r.id limit 200;

-- name: gathered_by
select r.id, r.kind from (select record_id from run_record where run_id = $1 and step = $2 order by record_id limit 200) as rr
join record r on r.id = rr.record_id order by r.id;

-- name: record
select r.id, r.kind, encode(r.hash, 'hex') as hash, encode(r.work_key, 'hex') as work, r.ordinal, r.body, r.made_at,
    w.kind as operator, w.outcome, w.notes, nullif(w.task_id, 0) as task_id,
    array(select parent_id from lineage where record_id = r.id order by ordinal limit 1000) as parents,
    array(select record_id from lineage where parent_id = r.id order by record_id limit 200) as children
from record r left join work w on w.key = r.work_key where r.id = $1;

-- name: ancestors
-- The record and all that it came from, nearest first, with the work that made each; at most $2 of them.
with recursive family as (
    select $1::bigint as id, 0 as distance
    union
    select l.parent_id, f.distance + 1
    from family f cross join lateral (
        select parent_id from lineage where record_id = f.id order by ordinal limit 50) as l
    where f.distance < 16),
nearest as (select id, min(distance) as distance from family group by id order by 2, 1 limit $2)
select r.id, r.kind, r.body, r.made_at, n.distance, w.kind as operator, nullif(w.task_id, 0) as task_id,
    array(select parent_id from lineage where record_id = r.id order by ordinal limit 50) as parents
from nearest n cross join lateral (select * from record where record.id = n.id offset 0) as r
left join work w on w.key = r.work_key order by n.distance, r.id;

-- name: descendants
-- What was made of a record, nearest first, at most $2.
with recursive family as (
    select $1::bigint as id, 0 as distance
    union
    select l.record_id, f.distance + 1
    from family f cross join lateral (
        select record_id from lineage where parent_id = f.id order by record_id limit 100) as l
    where f.distance < 8),
nearest as (select id, min(distance) as distance from family where distance > 0 group by id order by 2, 1 limit $2)
select r.id, r.kind, r.body, r.made_at, n.distance, w.kind as operator, nullif(w.task_id, 0) as task_id,
    array(select parent_id from lineage where record_id = r.id order by ordinal limit 50) as parents
from nearest n cross join lateral (select * from record where record.id = n.id offset 0) as r
left join work w on w.key = r.work_key order by n.distance, r.id;

-- name: tasks_named
-- Run, step and input of tasks, wherever they are.
select t.id, t.run_id, r.name as run_name, s.name as stage, i.name as item
from (select id, run_id, step, item_id from task where id = any ($1::bigint[])
      union all select id, run_id, step, item_id from task_history where id = any ($1::bigint[])) as t
left join run r on r.id = t.run_id left join step s on s.run_id = t.run_id and s.ordinal = t.step
left join item i on i.id = t.item_id;
