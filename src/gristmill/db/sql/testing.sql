-- For the tests of users: what a drain found, a clock that is moved on, and the stories of tasks.

-- name: clock
select clock_timestamp();

-- name: pools_of_open
select distinct pool from task where state in ('waiting', 'available', 'running');

-- name: set_pools
update worker set pools = $2, lease_until = clock_timestamp() + ttl where id = $1;

-- name: holds_any
select exists (select 1 from task where state = 'running' and worker_id = $1);

-- name: bring_forward
-- A test does not wait for a back-off.
update task set run_at = clock_timestamp()
where state = 'available' and failures > 0 and run_at > clock_timestamp() and ($1::bigint is null or run_id = $1)
returning id;

-- name: still_open
select id, run_id, kind, state, payload, run_at > clock_timestamp() as later from task
where state in ('waiting', 'available', 'running') and ($1::bigint is null or run_id = $1) order by id limit 1000;

-- name: ended_since
select t.id, t.kind, t.state, t.payload, a.error, a.message
from task t left join lateral (
    select error, message from attempt a where a.task_id = t.id order by a.ended_at desc, a.attempt desc limit 1) a on true
where t.ended_at >= $2 and ($1::bigint is null or t.run_id = $1) order by t.id;

-- name: of_kinds
select id, state, payload from task where kind = any ($1::text[]) order by id;

-- name: kinds_enqueued
select kind, count(*) as tasks from task group by kind order by 1;

-- name: travel_tasks
update task set run_at = run_at - $1::interval, deadline = deadline - $1::interval, crashed_at = crashed_at - $1::interval
where state in ('waiting', 'available');

-- name: travel_locks
update lock set expires_at = expires_at - $1::interval where expires_at is not null;

-- name: travel_breakers
update breaker set since = since - $1::interval, open_until = open_until - $1::interval;

-- name: travel_schedules
update schedule set next_at = next_at - $1::interval, last_at = last_at - $1::interval;

-- name: endure
-- Killed on purpose, and often: that must not put a task into quarantine.
update task set max_crashes = 10000 where state in ('waiting', 'available', 'running') and max_crashes < 10000;

-- name: no_rest
delete from breaker;

-- name: open_soon
select count(*) from task
where state in ('waiting', 'available', 'running') and run_at < clock_timestamp() + interval '1 minute';

-- name: busy_workers
-- With work, and none of it interrupted $1 times already: so every task comes to its end, however often we hit.
select w.pid from worker w join task t on t.worker_id = w.id and t.state = 'running'
where w.state in ('alive', 'draining') group by w.id, w.pid having max(t.attempt) <= $1;

-- name: worker_is_over
select not exists (select 1 from worker where pid = $1 and state in ('alive', 'paused', 'draining'));

-- name: stories
-- Claims that came to no end are not in the table of attempts: "begun" counts them, too.
select t.id, t.kind, t.state, t.payload, t.attempt as begun,
    coalesce((select array_agg(a.outcome order by a.attempt, a.ended_at) from attempt a where a.task_id = t.id), '{}')
        as outcomes,
    (select message from attempt a where a.task_id = t.id order by a.ended_at desc limit 1) as message
from task t where t.ended_at >= $1 or t.ended_at is null order by t.id;
