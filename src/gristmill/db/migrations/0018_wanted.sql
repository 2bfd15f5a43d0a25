-- How many slots a pool can use, for whoever starts workers (KEDA, a script): docs/guides/kubernetes.md.

create view wanted_workers as
with step_now as (
    select s.run_id, s.ordinal, s.pool, (r.definition::jsonb #>> array['steps', s.ordinal::text, 'model']) as model
    from run r join step s on s.run_id = r.id where r.state = 'running'
), backlog as (
    -- At most 10,000 for each run and pool: more changes nothing, and the index is not read to its end.
    select p.pool, coalesce(sum(ready.n), 0)::bigint as ready, coalesce(sum(running.n), 0)::bigint as running
    from (select distinct run_id, pool from step_now) p
    cross join lateral (select count(*) as n from (
        select from task t where t.run_id = p.run_id and t.pool = p.pool and t.state = 'available'
            and t.run_at <= clock_timestamp() + interval '30 seconds' limit 10000) as few) as ready
    cross join lateral (select count(*) as n from (
        select from task t where t.run_id = p.run_id and t.pool = p.pool and t.state = 'running' limit 10000) as few)
        as running
    group by p.pool
), asked as (
    -- Which quotas the calls of a pool count under: those of the binding, or of the provider that the model names.
    select distinct s.pool, q.name
    from step_now s
    left join model_binding b on b.name = s.model
    join quota q on q.name = b.settings ->> 'limit'
        or split_part(q.name, ':', 1) = coalesce(b.settings ->> 'provider', split_part(s.model, ':', 1))
    where s.model is not null and coalesce(q.requests_per_minute, q.learned_requests) is not null
), latency as (
    select c.provider, avg(c.latency_ms) / 1000.0 as seconds
    from (select distinct split_part(name, ':', 1) as provider from asked) p
    cross join lateral (select provider, latency_ms from call
        where run in (select run_id from step_now) and provider = p.provider and state <> 'intent'
            and latency_ms is not null limit 1000) c
    group by c.provider
), allowed as (
    -- Little's law: so many calls are under way when a quota is just filled.
    select a.pool, greatest(1, ceil(sum(coalesce(q.requests_per_minute, q.learned_requests) / 60
        * quota_pace(q, extract(epoch from clock_timestamp())::float8) * coalesce(l.seconds, 3)))) as slots,
        string_agg(q.name, ', ' order by q.name) as names
    from asked a join quota q on q.name = a.name
    left join latency l on l.provider = split_part(q.name, ':', 1)
    group by a.pool
)
select b.pool, b.ready, b.running, a.slots::bigint as allowed, p.slots::bigint as fleet_limit,
    case when p.paused then 0 else least(b.ready + b.running, a.slots, p.slots)::bigint end as wanted,
    case when p.paused then 'the pool is paused'
        when p.slots is not null and p.slots <= least(b.ready + b.running, a.slots) then 'the limit of the pool'
        when a.slots < b.ready + b.running then 'quota: ' || a.names
        else 'the work there is' end as bound_by
from backlog b left join allowed a on a.pool = b.pool left join pool p on p.name = b.pool;
comment on view wanted_workers is
    'version 1: slots that a pool can use now = min(backlog, allowed rate x mean latency, its limit); columns are only ever added';

-- Weeks of the history are made and dropped by workers that own nothing: docs/guides/your-own-postgresql.md, roles.
alter function make_history_week(date) security definer;
alter function drop_history_week(timestamptz) security definer;
revoke execute on function make_history_week(date), drop_history_week(timestamptz) from public;
