-- Why tasks wait. Exactly one reason for each: the first that applies, in the order in which a claim would meet them.

-- name: held_by
-- $1 the run, $2 one task of it, or null: all, in groups. The newest look costs the same however many wait: at most
-- 5,000 that could be claimed and 5,000 that could not are looked at. Those that are alike have the same reason, so it is
-- found once for all of them. A barrier that has no task yet counts none.
with own as materialized (select id, state, after, held from run where id = $1),
waits as materialized (
    (select id, step, pool, kind, item_id, run_at, held, state, lock_key, lock_slots, crashes from task
     where $2::bigint is null and run_id = $1 and state = 'available'
     order by pool, locked, priority, seq limit 5000)  -- in the order of the index: else it may read all that has ended
    union all
    (select id, step, pool, kind, item_id, run_at, held, state, lock_key, lock_slots, crashes from task
     where $2::bigint is null and run_id = $1 and state = 'waiting' order by step, id limit 5000)
    union all
    (select id, step, pool, kind, item_id, run_at, held, state, lock_key, lock_slots, crashes from task
     where id = $2 and run_id = $1 and state in ('available', 'waiting'))),
alike as materialized (
    select w.step, w.pool, w.kind, w.state, w.held, w.lock_key, w.lock_slots, w.crashes >= 2 as suspect,
        w.run_at > clock_timestamp() as later, coalesce(i.paused, false) as paused, w.needing, count(*) as n,
        min(w.run_at) as run_at, max(w.run_at) as last_at, min(w.id) as id, max(w.id) as last_id
    from (select *, state = 'waiting' and exists (select from dependency d where d.task_id = waits.id) as needing
          from waits) as w left join item i on i.id = w.item_id
    group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11),
before as materialized (
    select case when b.id is null then 'run ' || a.id || ', which is no more: gristmill stop --cancel ' || $1
                when b.state in ('partial', 'failed') then
                    'run ' || b.name || ', which ended ' || b.state || ': gristmill retry ' || b.name
                when b.state = 'cancelled' then
                    'run ' || b.name || ', which was cancelled: gristmill stop --cancel ' || $1
                else 'run ' || b.name || ', which is ' || b.state end as name
    from own cross join lateral unnest(own.after) as a (id) left join run b on b.id = a.id
    where b.state is distinct from 'completed'
    order by b.ended_at is null, a.id limit 1),
running as materialized (
    select worker_id, pool, count(*) as n from task where state = 'running' group by worker_id, pool),
lane as materialized (
    select p.key as pool, p.value::int as slots, w.kinds, w.state, coalesce(r.n, 0) as busy
    from worker w cross join lateral json_each_text(w.pools::json) as p
    left join running r on r.worker_id = w.id and r.pool = p.key
    where w.state in ('alive', 'paused') and w.lease_until > clock_timestamp()),
sort as materialized (
    select w.pool, w.kind, coalesce(p.paused, false) as paused, p.slots,
        (select coalesce(sum(n), 0) from running r where r.pool = w.pool) as busy, b.open_until, b.crashes,
        exists (select 1 from lane l where l.pool = w.pool) as has_worker,
        exists (select 1 from lane l where l.pool = w.pool and (l.kinds = '{}' or w.kind = any (l.kinds))) as known,
        exists (select 1 from lane l where l.pool = w.pool and (l.kinds = '{}' or w.kind = any (l.kinds))
                and l.state = 'alive') as alive,
        exists (select 1 from lane l where l.pool = w.pool and (l.kinds = '{}' or w.kind = any (l.kinds))
                and l.state = 'alive' and l.busy < l.slots) as free
    from (select distinct pool, kind from alike) as w left join pool p on p.name = w.pool
    left join breaker b on b.kind = w.kind and b.open_until > clock_timestamp()),
taken as materialized (
    select k.lock_key, count(*) as n, (array_agg(l.holder order by l.since))[1] as holder, min(l.since) as since
    from (select distinct lock_key from alike where lock_key is not null) as k join lock l on l.key = k.lock_key
    where l.expires_at is null or l.expires_at > clock_timestamp()
    group by k.lock_key),
-- What a quota holds up: the newest that were sent away stand for those behind them that were not even claimed.
quotas as materialized (
    select step, min(held) as held, to_char(min(run_at) at time zone 'UTC', case
        when min(run_at) > clock_timestamp() + interval '20 hours' then 'YYYY-MM-DD ' else '' end || 'HH24:MI:SS') as until
    from (select * from waits union all
          (select id, step, pool, kind, item_id, run_at, held, state, lock_key, lock_slots, crashes from task
           where run_id = $1 and state = 'available' order by pool desc, locked desc, priority desc, seq desc limit 2000)) as t
    where state = 'available' and held like 'quota: %' and run_at > clock_timestamp() group by step),
reasons as (
    select alike.n, alike.step, why.what, why.detail, why.last, why.more
    from alike join sort on sort.pool = alike.pool and sort.kind = alike.kind
    cross join own
    left join quotas on quotas.step = alike.step
    left join taken on taken.lock_key = alike.lock_key and taken.n >= alike.lock_slots
    left join lateral (
        select min(needs) filter (where of = 1) as needs, min(needs) filter (where of = 2) as last
        from (values (1, alike.id), (2, alike.last_id)) as ends (of, task) cross join lateral (
            select 'task ' || d.needs_id || coalesce(' (' || needed.state || ')', '') as needs
            from dependency d left join task needed on needed.id = d.needs_id
            where d.task_id = ends.task order by d.needs_id limit 1) as d
        where alike.needing) as upstream on true
    cross join lateral (
        select min(text) filter (where of = 1) as until, min(text) filter (where of = 2) as last
        from (values (1, alike.run_at), (2, alike.last_at)) as ends (of, at) cross join lateral (
            select '(until ' || to_char(at at time zone 'UTC', case when at > clock_timestamp() + interval '20 hours'
                then 'YYYY-MM-DD ' else '' end || 'HH24:MI:SS') || ' UTC)' as text) as t
        where alike.later) as later
    cross join lateral (
        select * from (values
            (1, own.state = 'paused', coalesce(own.held, 'the run is paused'), null, null, null),
            (2, own.state = 'waiting', 'waits for', coalesce((select name from before), 'the next look at the runs'), null, ''),
            (3, own.state <> 'running', 'the run is ' || own.state, null, null, null),
            (4, alike.paused, 'the item is paused', null, null, null),
            (5, upstream.needs is not null, 'waits for', upstream.needs, upstream.last, ' and others'),
            (6, alike.state = 'waiting', 'about to be let go', null, null, null),
            (7, sort.paused, 'pool "' || alike.pool || '" is paused', null, null, null),
            (8, alike.later, coalesce(alike.held, 'scheduled'), later.until, later.last, ' and later'),
            (9, taken.n is not null, 'lock "' || alike.lock_key || '" held by ' || taken.holder || ' since ' ||
                to_char(taken.since at time zone 'UTC', 'HH24:MI:SS') || ' UTC', null, null, null),
            (10, sort.open_until is not null, 'operator "' || alike.kind || '" rests until ' || to_char(
                sort.open_until at time zone 'UTC', 'HH24:MI:SS') || ' UTC after ' || sort.crashes || ' crashes', null, null, null),
            (11, sort.busy >= sort.slots, 'the limit of pool "' || alike.pool || '" over all workers (' || sort.busy ||
                ' of ' || sort.slots || ' run)', null, null, null),
            (12, not sort.has_worker, 'no worker for pool "' || alike.pool || '"', null, null, null),
            (13, not sort.known, 'no worker knows operator "' || alike.kind || '"', null, null, null),
            (14, not sort.alive, 'all workers of pool "' || alike.pool || '" are paused', null, null, null),
            (15, alike.suspect, 'it has died with its process twice and runs alone: about to be claimed', null, null, null),
            (15.5, quotas.held is not null, quotas.held, '(until ' || quotas.until || ' UTC)', null, ' and later'),
            (16, not sort.free, 'no free slot in pool "' || alike.pool || '"', null, null, null),
            (17, true, 'about to be claimed', null, null, null)) as rule (place, holds, what, detail, last, more)
        where rule.holds order by rule.place limit 1) as why),
barriers as (
    select s.name as step, 'waits for ' || open.n || case open.n when 1 then ' open task' else ' open tasks' end ||
        ' of step "' || open.name || '"' as reason, 0::bigint as tasks
    from step s join run on run.id = s.run_id and run.state = 'running' cross join lateral (
        select u.name, sum(c.n) as n
        from step u join (select run_id, step, name, n from counter where run_id = $1 union all
                          select run_id, step, name, n from counter_delta where run_id = $1) as c on c.step = u.ordinal
        where u.run_id = $1 and u.ordinal = any (s.upstream) and c.name in ('available', 'running', 'waiting')
        group by u.ordinal, u.name having sum(c.n) > 0 order by u.ordinal limit 1) as open
    where $2::bigint is null and s.run_id = $1 and s.barrier and not s.per_item and s.opened_epoch < run.epoch)
select step, reason, tasks from (
    select s.name as step, r.what || coalesce(' ' || min(r.detail) || case when min(r.detail) <> max(coalesce(r.last, r.detail))
        then min(r.more) else '' end, '') as reason, sum(r.n)::bigint as tasks
    from reasons r join step s on s.run_id = $1 and s.ordinal = r.step group by s.name, r.what
    union all select step, reason, tasks from barriers) as groups
order by tasks desc, step, reason limit 50;

-- name: task_story
-- Also one that is history already: a task is here or there.
select t.id, t.run_id, t.state, t.attempt, t.failures, t.max_attempts, t.crashes, t.claimed_at, t.ended_at, t.kind,
    coalesce(s.name, t.step::text) as step, r.name as run, i.name as item, w.name as worker, w.pid,
    a.code, a.message, t.history
from (select id, run_id, item_id, step, kind, state, attempt, failures, max_attempts, crashes, worker_id, claimed_at,
          ended_at, false as history
      from task where id = $1
      union all
      select id, run_id, item_id, step, kind, state, attempt, failures, max_attempts, crashes, worker_id, claimed_at,
          ended_at, true
      from task_history where id = $1) as t
left join step s on s.run_id = t.run_id and s.ordinal = t.step
left join run r on r.id = t.run_id left join item i on i.id = t.item_id left join worker w on w.id = t.worker_id
left join lateral (
    select code, message from (
        select code, message, ended_at from attempt where task_id = t.id and message is not null
        union all
        select code, message, ended_at from attempt_history where task_id = t.id and message is not null) as every
    order by ended_at desc limit 1) a on true;

-- name: waits_for
-- Runs that have to be completed before this one begins, and have not yet.
select a.id, b.name, b.state from run r cross join lateral unnest(r.after) as a (id) left join run b on b.id = a.id
where r.id = $1 and r.state = 'waiting' and b.state is distinct from 'completed' order by a.id;
