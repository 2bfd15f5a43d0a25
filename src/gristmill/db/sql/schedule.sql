-- Schedules. A row is changed under its own lock only; it is taken before the rows of tasks and runs that a tick makes.

-- name: clock
select clock_timestamp();

-- name: find
select id, project, name, cron, every, timezone, catch_up, run_id, task, paused, next_at, last_at, clock_timestamp() as now
from schedule where project = $1 and name = $2;

-- name: lock_named
select id, cron, every, timezone, catch_up, task, next_at from schedule where project = $1 and name = $2 for update;

-- name: create
insert into schedule (project, name, cron, every, timezone, catch_up, run_id, task, next_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (project, name) do nothing
returning id;

-- name: change
update schedule set cron = $2, every = $3, timezone = $4, catch_up = $5, task = $6, next_at = $7 where id = $1;

-- name: set_paused
update schedule set paused = $3 where project = $1 and name = $2 and paused <> $3 returning run_id;

-- name: remove
delete from schedule where project = $1 and name = $2 returning run_id;

-- name: names
select name from schedule where project = $1 order by name;

-- name: listed
select id, project, name, cron, every, timezone, catch_up, run_id, task, paused, next_at, last_at, clock_timestamp() as now
from schedule where project = $1 order by name;

-- name: outcomes
-- What became of the tasks with these keys: their state, and the message of the latest attempt that did not succeed.
select t.key, t.state,
    (select a.message from attempt a where a.task_id = t.id and a.outcome <> 'completed' order by a.ended_at desc limit 1)
        as message
from unnest($1::bigint[], $2::bytea[]) as g (run_id, key) join task t on t.run_id = g.run_id and t.key = g.key;

-- name: due
-- Those whose tick has come. Also those whose next tick is twice as far away as it can be: the clock was set back since.
-- A look without a lock; each is looked at again under its lock.
select id from schedule
where not paused and (next_at <= clock_timestamp()
    or next_at - clock_timestamp() > 2 * (next_at - coalesce(last_at, created_at)))
order by next_at limit 100;

-- name: lock_due
select id, project, name, cron, every, timezone, catch_up, run_id, task, next_at, clock_timestamp() as now
from schedule
where id = $1 and not paused and (next_at <= clock_timestamp()
    or next_at - clock_timestamp() > 2 * (next_at - coalesce(last_at, created_at)))
for update skip locked;

-- name: known_keys
select key from task where run_id = $1 and key = any ($2::bytea[]);

-- name: advance
update schedule set next_at = $2, last_at = $3, run_id = coalesce($4, run_id) where id = $1;

-- name: break
update schedule set paused = true where id = $1 and not paused returning name, run_id;

-- name: who_performs
select id from worker where state in ('alive', 'paused') and lease_until > clock_timestamp() and $1::text = any (kinds);
