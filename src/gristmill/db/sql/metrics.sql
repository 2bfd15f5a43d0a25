-- Counters and histograms of the fleet, and what is read from the tables when somebody looks.

-- name: flush
-- A batch of one process, once: a smaller or equal number was taken before. Losing the last half second to a crash of the
-- server is better than waiting for its disk.
with fresh as (
    insert into metric_source as s (source, batch)
    select $1::uuid, $2::bigint where (select set_config('synchronous_commit', 'off', true)) is not null
    on conflict (source) do update set batch = excluded.batch, at = clock_timestamp() where s.batch < excluded.batch
    returning source)
insert into metric_delta (name, labels, value)
select g.name, g.labels, g.value::float8[] from unnest($3::text[], $4::text[], $5::text[]) as g (name, labels, value)
where exists (select from fresh);

-- name: fold
-- Only when something is older than $2 seconds: the totals are written a few times a minute, however large the fleet is.
with due as materialized (
    select 1 from metric_delta where at < clock_timestamp() - make_interval(secs => $2) limit 1),
mine as materialized (select 1 from due where pg_try_advisory_xact_lock($1, 2)),
taken as (
    delete from metric_delta
    where ctid = any (array(select d.ctid from mine cross join metric_delta d limit 20000))
    returning name, labels, value),
summed as (
    select name, labels, array_agg(n order by place) as value
    from (select t.name, t.labels, v.place, sum(v.n) as n
          from taken t cross join lateral unnest(t.value) with ordinality as v (n, place)
          group by t.name, t.labels, v.place) as places
    group by name, labels),
added as (
    insert into metric as m (name, labels, value) select name, labels, value from summed order by name, labels
    on conflict (name, labels) do update set value = (
        select array_agg(coalesce(a, 0) + coalesce(b, 0) order by place)
        from unnest(m.value, excluded.value) with ordinality as v (a, b, place))),
gone as (
    delete from metric_source using mine where at < clock_timestamp() - interval '1 day')
select count(*) from taken;

-- name: totals
-- One snapshot: what is being folded at this moment is counted once.
select name, labels, value from metric union all select name, labels, value from metric_delta;

-- name: tasks
-- From the folded counters, never from the tasks themselves. "pool" is that of the step.
select 'tasks' as name, array[coalesce(s.pool, '*'), c.name] as labels, sum(c.n)::float8 as value
from run r join counter c on c.run_id = r.id left join step s on s.run_id = c.run_id and s.ordinal = c.step
where r.state in ('waiting', 'running', 'paused')
  and c.name in ('waiting', 'available', 'running', 'completed', 'failed', 'cancelled', 'quarantined')
group by 2;

-- name: oldest
-- A walk over the index of available tasks: the first hundred of every (run, pool, lock, priority), and no more.
select 'oldest_task_seconds' as name, array[f.pool] as labels,
    coalesce(max(extract(epoch from clock_timestamp() - f.run_at)), 0)::float8 as value
from (select r.id from run r where r.state = 'running' order by r.priority, r.id limit 1000) as active
cross join lateral (
    with recursive head as (
        (select t.pool, t.locked, t.priority, 1 as place from task t
         where t.run_id = active.id and t.state = 'available'
         order by t.pool, t.locked, t.priority, t.seq limit 1)
        union all
        select n.pool, n.locked, n.priority, head.place + 1 from head cross join lateral (
            select t.pool, t.locked, t.priority from task t
            where t.run_id = active.id and t.state = 'available'
              and (t.pool, t.locked, t.priority) > (head.pool, head.locked, head.priority)
            order by t.pool, t.locked, t.priority, t.seq limit 1) as n
        where head.place < 100)
    select head.pool, due.run_at from head cross join lateral (
        select min(t.run_at) as run_at from (
            select t.run_at from task t
            where t.run_id = active.id and t.state = 'available' and t.pool = head.pool and t.locked = head.locked
              and t.priority = head.priority
            order by t.seq limit 100) as t
        where t.run_at <= clock_timestamp()) as due) as f
group by f.pool;

-- name: workers
select 'workers' as name, array[s.state] as labels, count(w.id)::float8 as value
from (values ('alive'), ('paused'), ('draining'), ('late')) as s (state)
left join worker w on w.state in ('alive', 'paused', 'draining')
    and s.state = case when w.lease_until < clock_timestamp() then 'late' else w.state end
group by s.state;

-- name: slots
select 'worker_slots' as name, array[p.key] as labels, sum(p.value::int)::float8 as value
from worker w cross join lateral json_each_text(w.pools::json) as p
where w.state = 'alive' and w.lease_until > clock_timestamp() group by p.key
union all
select 'pool_slots', array[name], slots from pool where slots is not null
union all
select 'pool_paused', array[name], paused::int from pool;

-- name: locks
select 'locks' as name, array[k.kind] as labels, count(l.key)::float8 as value
from (values ('task'), ('worker'), ('cli'), ('api'), ('hook')) as k (kind)
left join lock l on l.holder_kind = k.kind and (l.expires_at is null or l.expires_at > clock_timestamp())
group by k.kind;

-- name: runs
select 'runs' as name, array[s.state] as labels, count(r.id)::float8 as value
from (values ('waiting'), ('running'), ('paused'), ('completed'), ('partial'), ('failed'), ('cancelled')) as s (state)
left join run r on r.state = s.state
group by s.state;

-- name: reviews
select 'review_backlog' as name, '{}'::text[] as labels,
    (select count(*) from (select from review_piece where open limit 100000) as first)::float8 as value;

-- name: backlog
-- What waits for the folder; counts stop at a hundred thousand.
select 'event_lag_seconds' as name, '{}'::text[] as labels, coalesce((
    select greatest(extract(epoch from clock_timestamp() - at), 0) from event_inbox order by id limit 1), 0)::float8 as value
union all
select 'events_unnumbered', '{}', (select count(*) from (select from event_inbox limit 100000) as first)
union all
select 'deltas_unfolded', '{}', (select count(*) from (select from counter_delta limit 100000) as first);

-- name: server
-- A snapshot that stays open keeps dead rows alive everywhere. A vacuum's own snapshot does not count.
select 'oldest_snapshot_seconds' as name, '{}'::text[] as labels, coalesce(greatest(
    (select max(extract(epoch from clock_timestamp() - xact_start)) from pg_stat_activity
     where backend_xmin is not null and datname = current_database() and pid <> pg_backend_pid()
       and backend_type <> 'autovacuum worker'),
    (select max(extract(epoch from clock_timestamp() - prepared)) from pg_prepared_xacts
     where database = current_database()), 0), 0)::float8 as value
union all
select 'notify_queue_used_ratio', '{}', pg_notification_queue_usage();
