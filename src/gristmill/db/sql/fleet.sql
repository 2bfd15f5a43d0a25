-- The fleet as people see and steer it: pools and workers. Orders to workers are `order_worker` in queue.sql.

-- name: pools
-- Every pool that has workers, tasks, a limit or a pause. "waiting" are tasks that could be claimed now or later, counted
-- through the index up to $1 of each pool; those that wait for other tasks are not among them.
with recursive active as materialized (select id from run where state in ('waiting', 'running', 'paused')),
lane as materialized (
    select p.key as pool, p.value::int as slots, w.state
    from worker w cross join lateral json_each_text(w.pools::json) as p
    where w.state in ('alive', 'paused') and w.lease_until > clock_timestamp()),
running as materialized (select pool, count(*) as n from task where state = 'running' group by pool),
asked (run_id, pool) as (
    select a.id, (select t.pool from task t where t.run_id = a.id and t.state = 'available' order by t.pool limit 1)
    from active a
    union all
    select a.run_id, (select t.pool from task t where t.run_id = a.run_id and t.state = 'available' and t.pool > a.pool
                      order by t.pool limit 1)
    from asked a where a.pool is not null),
known as (
    select pool from lane union select pool from running union select pool from asked where pool is not null
    union select name from pool where slots is not null or paused)
select k.pool as name, p.slots as "limit", coalesce(p.paused, false) as paused, p.changed_at,
    (select count(*) from lane l where l.pool = k.pool) as workers,
    (select coalesce(sum(l.slots), 0)::int from lane l where l.pool = k.pool and l.state = 'alive') as slots,
    coalesce(r.n, 0) as running,
    (select count(*) from (
        select from asked a cross join lateral (
            select from task t where t.run_id = a.run_id and t.pool = k.pool and t.state = 'available' limit $1) as t
        where a.pool = k.pool limit $1) as first) as waiting
from known k left join pool p on p.name = k.pool left join running r on r.pool = k.pool
order by k.pool;

-- name: known_pools
-- Names that somebody has used: workers that run or ran, steps of runs, limits.
select name from pool union select pool from step where pool <> '*'
union select p.key from worker w cross join lateral json_each_text(w.pools::json) as p;

-- name: limit_pool
-- $2 tasks at once over all workers; null: as many as the workers have slots. Nothing comes back when it was so already.
with made as (
    insert into pool as p (name, slots) select $1, $2::int
    where $2::int is not null or exists (select 1 from pool where name = $1)
    on conflict (name) do update set slots = excluded.slots, changed_at = clock_timestamp()
    where p.slots is distinct from excluded.slots
    returning name, slots),
told as (
    insert into event_inbox (name, body)
    select 'pool.changed', json_build_object('pool', name, 'what', 'limit', 'slots', slots, 'by', $3::text)::text from made)
select name from made;

-- name: pause_pool
-- $2: pause it, or let it go on.
with made as (
    insert into pool as p (name, paused) select $1, $2
    where $2 or exists (select 1 from pool where name = $1)
    on conflict (name) do update set paused = excluded.paused, changed_at = clock_timestamp()
    where p.paused <> excluded.paused
    returning name, slots, paused),
told as (
    insert into event_inbox (name, body)
    select 'pool.changed', json_build_object('pool', name, 'what', case when paused then 'pause' else 'resume' end,
        'slots', slots, 'by', $3::text)::text from made)
select name from made;

-- name: workers
-- Those that live, and those that ended within ten minutes. One whose lease is over is "late": nobody knows about it.
select w.id, w.name, w.host, w.pid, w.pools, w.version, w.started_at, w.ended_at, w.cause,
    case when w.state in ('alive', 'paused', 'draining') and w.lease_until < clock_timestamp() then 'late' else w.state end
        as state,
    greatest(0, extract(epoch from clock_timestamp() - (w.lease_until - w.ttl)))::float8 as beat_age,
    coalesce(t.n, 0) as tasks
from worker w
left join (select worker_id, count(*) as n from task where state = 'running' group by worker_id) as t on t.worker_id = w.id
where w.state in ('alive', 'paused', 'draining') or w.ended_at > clock_timestamp() - interval '10 minutes'
order by w.id;
