-- Runs, steps and items.

-- name: find_run
select id, state, epoch from run where project = $1 and key = $2;

-- name: give_up_key
-- Still a run of its own, in lists and by name; the same command finds another one.
update run set key = sha256(key || int8send(id)) where id = $1;

-- name: create_run
insert into run (project, name, workflow, key, definition, inputs, priority)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (project, key) where key is not null do nothing
returning id;

-- name: name_run
update run set name = $2 where id = $1;

-- name: create_steps
insert into step (run_id, ordinal, name, kind, pool, barrier, upstream, max_attempts, max_crashes)
select $1, s.ordinal, s.name, s.kind, s.pool, s.barrier,
    (select coalesce(array_agg(u::smallint), '{}') from generate_series(0, s.ordinal - 1) as u), s.max_attempts, s.max_crashes
from unnest($2::smallint[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::smallint[], $8::smallint[])
    as s (ordinal, name, kind, pool, barrier, max_attempts, max_crashes);

-- name: tell
insert into event_inbox (name, run_id, item_id, task_id, worker_id, body) values ($1, $2, $3, $4, $5, $6);

-- name: run_row
select id, project, name, workflow, definition, inputs, priority, state, sealed, epoch, created_at, started_at, ended_at,
    extract(epoch from coalesce(ended_at, clock_timestamp()) - started_at)::float8 as seconds
from run where id = $1;

-- name: run_named
select id from run where project = $1 and (name = $2 or id::text = $2) order by id desc limit 1;

-- name: last_run
select id from run where project = $1 and key is not null order by started_at desc, id desc limit 1;

-- name: list_runs
select id, name, workflow, state, epoch, created_at, ended_at from run
where project = $1 and key is not null order by id desc limit $2;

-- name: steps
select ordinal, name, kind, pool, barrier, upstream, max_attempts, max_crashes from step where run_id = $1 order by ordinal;

-- name: lock_run
select id, state, sealed, epoch from run where id = $1 for no key update;

-- name: add_items
-- "fresh" are new inputs, and those that count again after they had been taken out.
with before as materialized (select key, state from item where run_id = $1 and key = any ($2::bytea[])),
added as (
    insert into item (run_id, key, name, uri, state, code, reason)
    select $1, g.key, g.name, g.uri, g.state, g.code, g.reason
    from unnest($2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
        as g (key, name, uri, state, code, reason)
    on conflict (run_id, key) do update set state = excluded.state, code = excluded.code, reason = excluded.reason,
        name = excluded.name
    returning id, key, state)
select added.id, added.key, added.state, before.state is distinct from added.state as fresh
from added left join before on before.key = added.key;

-- name: supersede_items
-- Same place, other content: what was made from the old content stays, and is no longer part of the run's result.
with changed as (
    select i.id, case when exists (select 1 from unnest($2::text[]) as u where u = i.uri) then 'superseded' else 'removed' end as becomes
    from item i
    where i.run_id = $1 and i.state in ('active', 'unreadable')
      and not exists (select 1 from unnest($3::bigint[]) as kept where kept = i.id))
update item set state = changed.becomes from changed where item.id = changed.id returning item.id, item.state, item.uri;

-- name: open_run
-- A new epoch, unless the run is still under way in this one and nothing that waits for everything has begun.
update run set
    epoch = epoch + case when state in ('running', 'paused') and not exists (
        select 1 from step s where s.run_id = run.id and s.opened_epoch = run.epoch) then 0 else 1 end,
    started_at = case when state in ('running', 'paused') then started_at else clock_timestamp() end,
    state = 'running', sealed = false, ended_at = null
where id = $1
returning epoch;

-- name: seal
update run set sealed = true, inputs = $2 where id = $1 returning id;

-- name: pause
update run set state = 'paused' where id = $1 and state = 'running' returning id;

-- name: resume
update run set state = 'running' where id = $1 and state = 'paused' returning id;

-- name: end_run
update run set state = $2, ended_at = clock_timestamp() where id = $1 and state in ('running', 'paused') returning epoch;

-- name: ready_barrier
select s.ordinal, s.kind, s.pool, s.max_attempts, s.max_crashes from step s
where s.run_id = $1 and s.barrier and s.opened_epoch < $2
  and not exists (select 1 from task t where t.run_id = $1 and t.step = any (s.upstream)
                  and (t.state = 'available' or t.state = 'running' or t.state = 'waiting'))
  and not exists (select 1 from task t where t.run_id = $1 and t.step = s.ordinal
                  and (t.state = 'available' or t.state = 'running' or t.state = 'waiting'))
  and not exists (select 1 from step b where b.run_id = $1 and b.ordinal = any (s.upstream) and b.barrier
                  and b.opened_epoch < $2)
order by s.ordinal limit 1;

-- name: open_barrier
update step set opened_epoch = $3 where run_id = $1 and ordinal = $2 returning ordinal;

-- name: anything_open
select exists (select 1 from task where run_id = $1 and (state = 'available' or state = 'running' or state = 'waiting'));

-- name: verdict
-- What a run with nothing open has come to: whether anything failed, and whether its last step for single records
-- finished anything (deltas that are not folded yet included).
select exists (select 1 from task where run_id = $1 and state in ('failed', 'quarantined'))
       or exists (select 1 from item where run_id = $1 and state = 'unreadable') as broken,
    exists (
        select 1 from (select run_id, step, name, n from counter union all
                       select run_id, step, name, n from counter_delta) as moved
        where run_id = $1 and name = 'completed'
          and step = (select coalesce(max(ordinal) filter (where not barrier), max(ordinal)) from step where run_id = $1)
        group by step having sum(n) > 0) as fruitful;

-- name: reseal
update run set sealed = true where id = $1;

-- name: sealed_runs
select r.id from run r
where r.state = 'running' and r.sealed and (
    exists (select 1 from step s where s.run_id = r.id and s.barrier and s.opened_epoch < r.epoch
            and not exists (select 1 from task t where t.run_id = r.id and t.step = any (s.upstream)
                            and (t.state = 'available' or t.state = 'running' or t.state = 'waiting')))
    or not exists (select 1 from task t where t.run_id = r.id and (t.state = 'available' or t.state = 'running' or t.state = 'waiting')))
limit 100;

-- name: progress
select s.ordinal, s.name, s.kind, s.barrier, coalesce(c.counts, '{}') as counts
from step s left join lateral (
    select json_object_agg(c.name, c.n)::text as counts from counter c
    where c.run_id = s.run_id and c.step = s.ordinal and c.n <> 0) c on true
where s.run_id = $1 order by s.ordinal;

-- name: count_unreadable
select count(*) from item where run_id = $1 and state = 'unreadable';

-- name: unreadable
select id, name, uri, code, reason from item where run_id = $1 and state = 'unreadable' order by name limit $2;

-- name: failures
-- The last attempt of every broken task of the run, with the input it belongs to.
select t.id as task_id, t.step, s.name as step_name, t.state, t.attempt, i.name as item, a.code, a.error, a.message, a.cause
from task t join step s on s.run_id = t.run_id and s.ordinal = t.step
left join item i on i.id = t.item_id
left join lateral (select code, error, message, cause from attempt a where a.task_id = t.id
                   order by a.ended_at desc limit 1) a on true
where t.run_id = $1 and t.state in ('failed', 'quarantined')
order by t.step, t.id limit $2;

-- name: held_by
-- Exactly one reason for every waiting task of a run, as groups: the first that applies, in the claim's own order.
with run_state as (select state from run where id = $1),
slots as (
    select p.key as pool, sum(p.value::int) as slots from worker w, json_each_text(w.pools::json) p
    where w.state = 'alive' and w.lease_until > clock_timestamp() group by p.key),
waits as (
    select t.step, t.pool, t.run_at, t.held, t.state from task t
    where t.run_id = $1 and t.state in ('waiting', 'available') limit 10000)
select s.name as step, case
        when (select state from run_state) = 'paused' then 'the run is paused'
        when waits.state = 'waiting' then 'upstream'
        when waits.run_at > clock_timestamp() then coalesce(waits.held, 'scheduled') || ' (until ' ||
            to_char(waits.run_at at time zone 'UTC', 'HH24:MI:SS') || ' UTC)'
        when slots.slots is null then 'no worker for pool "' || waits.pool || '"'
        else 'no free slot in pool "' || waits.pool || '"' end as reason,
    count(*) as tasks
from waits join step s on s.run_id = $1 and s.ordinal = waits.step
left join slots on slots.pool = waits.pool or (slots.pool = '*' and waits.pool = '*')
group by 1, 2 order by 3 desc limit 20;

-- name: workers
select id, name, host, pid, state, pools, started_at, lease_until < clock_timestamp() as late, cause
from worker where state in ('alive', 'draining') or ended_at > clock_timestamp() - interval '10 minutes'
order by id;
