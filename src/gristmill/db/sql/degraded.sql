-- Pieces that came to something that stands in for an answer, asked again: made anew, with all that was made from them.

-- name: degraded
-- What is degraded in a run, one row for each task and record (null: it made none): whose item still counts, and about
-- which nobody has decided. Steps that have finished nothing degraded, now or before, are not looked through.
with touched as materialized (
    select step from (select step, name, n from counter where run_id = $1 union all
                      select step, name, n from counter_delta where run_id = $1) as moved
    where name in ('degraded', 'reused') group by step having sum(n) > 0),
made as materialized (
    select rr.task_id, r.id as record_id, r.work_key as key
    from run_record rr join record r on r.id = rr.record_id join work w on w.key = r.work_key
    where rr.run_id = $1 and rr.step = any (array(select step from touched)) and w.outcome = 'degraded'
      and not exists (select 1 from review v where v.record_id = r.id and v.decision_id is not null)
    union all
    select w.task_id, null, w.key from work w
    where w.outcome = 'degraded' and not exists (select 1 from record r where r.work_key = w.key))
select t.id, t.step, t.item_id, t.kind, t.pool, t.payload, t.trace, t.history, s.barrier, s.max_attempts, s.max_crashes,
    s.lock, s.lock_slots, made.record_id, made.key
from made join every_task t on t.id = made.task_id and t.run_id = $1 and t.state = 'completed'
    join step s on s.run_id = t.run_id and s.ordinal = t.step
    left join item i on i.id = t.item_id
where t.item_id is null or (i.state = 'active' and i.outcome is distinct from 'cancelled')
order by t.id, made.record_id;

-- name: give_up
-- The work stays, under a key that nobody asks for: the next one that needs it does it anew.
with given as materialized (
    select key, sha256(key || uuid_send(gen_random_uuid())) as becomes from work where key = any ($1::bytea[])
    order by key for update),
works as (update work w set key = given.becomes from given where w.key = given.key)
update record r set work_key = given.becomes from given where r.work_key = given.key;

-- name: followers
-- What has not ended of these items ($1), and works on one of these records ($2), or has failed at it.
select t.id from task t
where t.item_id = any ($1::bigint[]) and t.item_id is not null
  and t.state in ('waiting', 'available', 'running', 'failed', 'quarantined')
  and exists (select 1 from json_array_elements_text(t.payload::json -> 'inputs') as input (id)
              where input.id::bigint = any ($2::bigint[]));

-- name: below
-- These records ($2) and all that a run has made from them; $3: its steps.
with recursive below as (
    select unnest($2::bigint[]) as id
    union
    select l.record_id from below b cross join lateral (
        select record_id from lineage where parent_id = b.id offset 0) as l
    where exists (select 1 from run_record rr
                  where rr.run_id = $1 and rr.step = any ($3::smallint[]) and rr.record_id = l.record_id offset 0))
select id from below;

-- name: leave
-- Records that are no longer part of a run's result, and the tasks that brought them.
with gone as (
    delete from run_record where run_id = $1 and step = any ($3::smallint[]) and record_id = any ($2::bigint[])
    returning record_id, task_id)
select distinct gone.task_id, case when w.task_id = gone.task_id then w.outcome else 'reused' end as outcome
from gone join record r on r.id = gone.record_id join work w on w.key = r.work_key
where gone.task_id is not null;

-- name: retire
-- Their tasks count as cancelled, wherever they are; what they had come to counts no more.
with given as materialized (select * from unnest($1::bigint[], $2::text[]) as g (id, outcome)),
hot as (
    update task t set state = 'cancelled', held = $3 from given g where t.id = g.id and t.state = 'completed'
    returning t.run_id, t.step, g.outcome),
old as (
    update task_history t set state = 'cancelled', held = $3 from given g where t.id = g.id and t.state = 'completed'
    returning t.run_id, t.step, g.outcome),
retired as (select * from hot union all select * from old)
insert into counter_delta (run_id, step, name, n)
select run_id, step, change.name, sum(change.n)
from retired cross join lateral (
    values ('completed', -1), ('cancelled', 1), (nullif(outcome, 'ok'), -1)) as change (name, n)
where change.name is not null
group by run_id, step, change.name;
