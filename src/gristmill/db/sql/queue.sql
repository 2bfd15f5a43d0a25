-- The only statements that write task state. Rules: reliability 3.2.1. Lock order everywhere: worker row, task rows by
-- id, run row. clock_timestamp() and never now(): a statement may have waited for a lock.

-- name: hint
-- "" tells of new work, "cancel" of claims that were taken away.
select pg_notify('gristmill_wake', $1);

-- name: register_worker
with me as (
    insert into worker (nonce, name, host, boot_id, pid, pid_started, pools, version, ttl, lease_until, kinds, isolates,
        state)
    values ($1, $2, $3, $4, $5, $6, $7, $8, make_interval(secs => $9), clock_timestamp() + make_interval(secs => $9),
        $10, $11, case when exists (select from crew_place where nonce = $1 and paused) then 'paused' else 'alive' end)
    returning id),
told as (insert into event_inbox (name, worker_id, body)
         select 'worker.started', id, json_build_object('name', $2::text, 'host', $3::text, 'pid', $5::int)::text from me)
select id from me;

-- name: announce_lock
update worker set postmaster_started = case when $3 then pg_postmaster_start_time() end, suspect_at = null
where id = $1 and nonce = $2 and state in ('alive', 'paused', 'draining')
returning id;

-- name: beat
update worker set lease_until = clock_timestamp() + ttl, suspect_at = null
where id = $1 and nonce = $2 and state in ('alive', 'paused', 'draining')
returning state, clock_timestamp() as now;

-- name: clock_set_back
-- By $1 seconds. What was due before is due now, instead of in $1 seconds; so is what was put back for at most 300 s, the
-- longest back-off. What is to begin later keeps its time. A task that somebody holds is being looked at anyway.
update task set run_at = clock_timestamp()
where id = any (array(
    select id from task
    where state = 'available' and run_at > clock_timestamp()
      and run_at <= clock_timestamp() + make_interval(secs => $1::float8 + case when held is null then 0 else 300 end)
    order by id for update skip locked))
returning id;

-- name: drain_worker
update worker set state = 'draining' where id = $1 and nonce = $2 and state in ('alive', 'paused') returning id;

-- name: leave
with w as (
    update worker set state = 'stopped', ended_at = clock_timestamp(), cause = $3
    where id = $1 and nonce = $2 and state in ('alive', 'paused', 'draining')
    returning id)
insert into event_inbox (name, worker_id, body) select 'worker.stopped', id, json_build_object('cause', $3::text)::text from w
returning worker_id;

-- name: order_worker
-- What a person ($5) wants of a worker: $2 is 'paused', 'alive' (go on) or 'draining' (finish what is under way and end).
with w as (
    update worker set state = $2 where id = $1 and state = any ($3::text[])
    returning id),
told as (insert into event_inbox (name, worker_id, body)
         select 'worker.' || $4, id, json_build_object('by', $5::text)::text from w)
select id from w;

-- It changes when a standby is promoted or a backup restored: commits that we know of may be gone there.
-- name: timeline
select case when not pg_is_in_recovery() then left(pg_walfile_name(pg_current_wal_lsn()), 8) end;

-- name: change_pools
update worker set pools = $3 where id = $1 and nonce = $2 and state in ('alive', 'paused', 'draining') returning id;

-- name: change_kinds
update worker set kinds = $3 where id = $1 and nonce = $2 and state in ('alive', 'paused', 'draining') returning id;

-- name: lock_worker
select id from worker where id = $1 for no key update;

-- name: still_held
-- Which of these claims still exist. What is missing was cancelled, taken back or given to somebody else.
select g.id from unnest($1::bigint[], $2::uuid[]) as g (id, token) cross join lateral (
    select 1 from task t where t.id = g.id and t.token = g.token and t.state = 'running' offset 0) as l;

-- name: give_back
-- What a worker holds and will not finish: everything when it leaves ($2 null), or the claims whose reply was lost.
-- After lock_worker, in a second statement: only a new snapshot sees a claim that was still on its way.
with held as materialized (
    select id, token from task
    where worker_id = $1 and state = 'running' and ($2::uuid[] is null or token = any ($2)) order by id for update),
put_back as (
    update task t set state = 'available', worker_id = null, token = null, seq = nextval('task_seq'),
        run_at = clock_timestamp(), held = $3
    from held where t.id = held.id
    returning t.id, t.run_id, t.step, t.lock_key, held.token),
freed as (
    delete from lock l using put_back p where p.lock_key is not null and l.key = p.lock_key and l.task_id = p.id
        and l.token = p.token),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from put_back cross join (values ('running', -1), ('available', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign)
select id from put_back;

-- name: pools
-- Which pools have a limit over the whole fleet: a claim there has to lock their rows first.
select name from pool where slots is not null order by name;

-- name: lock_pools
select name from pool where name = any ($1::text[]) order by name for no key update;

-- name: claim
-- $1, $2 the worker; $3, $4, $5 its pools, how many of each, and the watermark of each; $6 the kinds it knows; $7 the
-- token; $8 whether lock_pools came before this in the transaction: only then is the count of what runs in a limited pool
-- true until the commit; $9 how many in all. Suspects and tasks with locks have a statement of their own: planning theirs
-- costs more than all the rest of a claim (docs/decisions/0008-engine-speed.md).
with me as materialized (
    select id from worker
    where id = $1 and nonce = $2 and state = 'alive' and lease_until > clock_timestamp()
    for no key update),
known as materialized (
    select array(select k.kind from unnest($6::text[]) as k (kind)
                 where not exists (select 1 from breaker b where b.kind = k.kind and b.open_until > clock_timestamp()))
        as kinds),
lane as materialized (
    select l.pool, l.low, case when p.slots is null then l.want else least(l.want, greatest(0, p.slots - (
        select count(*) from task t where t.state = 'running' and t.pool = l.pool))) end as want
    from unnest($3::text[], $4::int[], $5::bigint[]) as l (pool, want, low) left join pool p on p.name = l.pool
    where p.name is null or (not p.paused and (p.slots is null or $8))),
plain as materialized (
    select pick.id, pick.detail, nextval('fence_seq') as fence
    from me cross join lane cross join lateral (
        select t.id, active.detail
        from (select r.id, r.detail from run r where r.state = 'running' order by r.priority, random()) as active
        cross join lateral (
            select t.id from task t
            where t.run_id = active.id and t.pool = lane.pool and t.state = 'available' and not t.locked
              and t.seq > lane.low and t.run_at <= clock_timestamp() and t.kind = any ((select kinds from known)::text[])
              and (t.deadline is null or t.deadline > clock_timestamp())
              and t.crashes < 2
            order by t.priority, t.seq
            limit lane.want for update skip locked) as t
        limit lane.want) as pick
    limit $9),
claimed as (
    update task t set state = 'running', attempt = t.attempt + 1, worker_id = $1, token = $7, fence = plain.fence,
        claimed_at = clock_timestamp(), held = null
    from plain
    where t.id = plain.id
    returning t.id, t.run_id, t.item_id, t.step, t.kind, t.pool, t.seq, t.payload, t.attempt, t.failures, t.crashes,
        t.token, t.fence, t.timeout, extract(epoch from t.deadline - clock_timestamp())::float8 as remaining, t.lock_key,
        t.trace, plain.detail),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from claimed cross join (values ('available', -1), ('running', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign),
told as (
    insert into event_inbox (name, run_id, item_id, task_id, worker_id, body)
    select 'item.start', run_id, item_id, id, $1, '{}' from claimed
    where detail >= 1 and step = 0 and attempt = 1 and item_id is not null
    union all
    select 'step.start', run_id, item_id, id, $1, json_build_object('step', step, 'attempt', attempt)::text from claimed
    where detail >= 2)
select * from claimed order by seq;

-- name: claim_apart
-- As claim, for suspects ($10; with and without locks), for one certain task ($11, see ageing.sql) or for tasks with
-- locks. These get the lowest slot that looks free; the insert into lock is the arbiter, not that look, and the fence is
-- drawn after it: a number from before could be lower than that of a holder who came and went meanwhile. Nothing here is
-- above a watermark: $5 is not looked at.
with recursive me as materialized (
    select id from worker
    where id = $1 and nonce = $2 and state = 'alive' and lease_until > clock_timestamp()
    for no key update),
known as materialized (
    select array(select k.kind from unnest($6::text[]) as k (kind)
                 where not exists (select 1 from breaker b where b.kind = k.kind and b.open_until > clock_timestamp()))
        as kinds),
lane as materialized (
    select l.pool, l.low, case when p.slots is null then l.want else least(l.want, greatest(0, p.slots - (
        select count(*) from task t where t.state = 'running' and t.pool = l.pool))) end as want
    from unnest($3::text[], $4::int[], $5::bigint[]) as l (pool, want, low) left join pool p on p.name = l.pool
    where p.name is null or (not p.paused and (p.slots is null or $8))),
suspect as materialized (
    select pick.id, pick.detail, pick.lock_key, pick.slot
    from me cross join lane cross join lateral (
        select t.id, r.detail, t.lock_key, s.slot
        from task t join run r on r.id = t.run_id left join lateral (
            select s.slot from generate_series(1, t.lock_slots) as s (slot)
            where t.lock_key is not null and not exists (
                select 1 from lock l where l.key = t.lock_key and l.slot = s.slot
                and (l.expires_at is null or l.expires_at > clock_timestamp()))
            order by s.slot limit 1) as s on true
        where t.pool = lane.pool and t.state = 'available' and t.crashes >= 2 and r.state = 'running'
          and t.run_at <= clock_timestamp() and t.kind = any ((select kinds from known)::text[])
          and (t.deadline is null or t.deadline > clock_timestamp())
          and (t.lock_key is null or s.slot is not null)
        order by t.seq limit lane.want for update of t skip locked) as pick
    where $10 limit $9),
turn as materialized (
    select t.id, r.detail, t.lock_key, s.slot
    from me cross join lane join task t on t.pool = lane.pool join run r on r.id = t.run_id left join lateral (
        select s.slot from generate_series(1, t.lock_slots) as s (slot)
        where t.lock_key is not null and not exists (
            select 1 from lock l where l.key = t.lock_key and l.slot = s.slot
            and (l.expires_at is null or l.expires_at > clock_timestamp()))
        order by s.slot limit 1) as s on true
    where t.id = $11 and t.state = 'available' and t.crashes < 2 and r.state = 'running' and lane.want > 0
      and t.run_at <= clock_timestamp() and t.kind = any ((select kinds from known)::text[])
      and (t.deadline is null or t.deadline > clock_timestamp())
      and (t.lock_key is null or s.slot is not null)
    for update of t skip locked),
keys (run_id, detail, priority, pool, want, lock_key) as (
    select r.id, r.detail, r.priority, lane.pool, lane.want, (
        select t.lock_key from task t where t.run_id = r.id and t.pool = lane.pool and t.state = 'available' and t.locked
        order by t.lock_key limit 1)
    from me cross join lane cross join run r where not $10 and $11::bigint is null and r.state = 'running'
    union all
    select k.run_id, k.detail, k.priority, k.pool, k.want, (
        select t.lock_key from task t where t.run_id = k.run_id and t.pool = k.pool and t.state = 'available' and t.locked
          and t.lock_key > k.lock_key
        order by t.lock_key limit 1)
    from keys k where k.lock_key is not null),
free as materialized (
    select pick.id, pick.detail, pick.lock_key, pick.slot
    from lane cross join lateral (
        select t.id, k.detail, k.lock_key, s.slot
        from (select * from keys where keys.lock_key is not null and keys.pool = lane.pool order by keys.priority, random()) as k
        cross join lateral (
            select row_number() over (order by t.priority, t.seq) as place, t.id, t.lock_slots from (
                select t.id, t.priority, t.seq, t.lock_slots from task t
                where t.run_id = k.run_id and t.pool = k.pool and t.lock_key = k.lock_key and t.state = 'available'
                  and t.locked and t.run_at <= clock_timestamp() and t.kind = any ((select kinds from known)::text[])
                  and (t.deadline is null or t.deadline > clock_timestamp())
                  and t.crashes < 2
                  and (select count(*) from lock l where l.key = k.lock_key
                       and (l.expires_at is null or l.expires_at > clock_timestamp())) < t.lock_slots
                order by t.priority, t.seq
                limit k.want for update skip locked) as t) as t
        cross join lateral (
            select count(*) as live from lock l
            where l.key = k.lock_key and (l.expires_at is null or l.expires_at > clock_timestamp())) as taken_slots
        cross join lateral (
            select s.slot from generate_series(1, t.lock_slots) as s (slot)
            where not exists (select 1 from lock l where l.key = k.lock_key and l.slot = s.slot
                              and (l.expires_at is null or l.expires_at > clock_timestamp()))
            order by s.slot offset t.place - 1 limit 1) as s
        where taken_slots.live + t.place <= t.lock_slots
        limit lane.want) as pick
    where not $10 limit $9),
numbered as materialized (
    select id, detail, null::text as lock_key, null::int as slot, nextval('fence_seq') as fence
    from (select * from suspect union all select * from turn) as bare where lock_key is null
    union all
    select id, detail, lock_key, slot, null
    from (select distinct on (lock_key collate "C", slot) *
          from (select * from free union all select * from suspect where lock_key is not null
                union all select * from turn where lock_key is not null) as either
          order by lock_key collate "C", slot, id) as f),
taken as (
    insert into lock as l (key, slot, holder_kind, holder, task_id, worker_id, token, fence)
    select lock_key, slot, 'task', 'task ' || id, id, $1, $7, 0 from numbered where lock_key is not null
    order by lock_key collate "C", slot
    on conflict (key, slot) do update set holder_kind = excluded.holder_kind, holder = excluded.holder,
        task_id = excluded.task_id, worker_id = excluded.worker_id, token = excluded.token, fence = excluded.fence,
        since = clock_timestamp(), expires_at = null
    where l.expires_at <= clock_timestamp()
    returning task_id, nextval('fence_seq') as fence),
raced as (
    insert into metric_delta (name, labels, value)
    select 'claim_lost_race', '{}', array[count(*)::float8] from numbered
    where lock_key is not null and id not in (select task_id from taken) having count(*) > 0),
claimed as (
    update task t set state = 'running', attempt = t.attempt + 1, worker_id = $1, token = $7,
        fence = coalesce(numbered.fence, taken.fence), claimed_at = clock_timestamp(), held = null
    from numbered left join taken on taken.task_id = numbered.id
    where t.id = numbered.id and (numbered.lock_key is null or taken.task_id is not null)
    returning t.id, t.run_id, t.item_id, t.step, t.kind, t.pool, t.seq, t.payload, t.attempt, t.failures, t.crashes,
        t.token, t.fence, t.timeout, extract(epoch from t.deadline - clock_timestamp())::float8 as remaining, t.lock_key,
        t.trace, numbered.detail),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from claimed cross join (values ('available', -1), ('running', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign),
told as (
    insert into event_inbox (name, run_id, item_id, task_id, worker_id, body)
    select 'item.start', run_id, item_id, id, $1, '{}' from claimed
    where detail >= 1 and step = 0 and attempt = 1 and item_id is not null
    union all
    select 'step.start', run_id, item_id, id, $1, json_build_object('step', step, 'attempt', attempt)::text from claimed
    where detail >= 2)
select * from claimed order by seq;

-- name: settle
-- Ids come sorted, so locks are taken in their order. Each task is looked up by its key, and its
-- state outside of that look-up: otherwise the planner joins over the index of running tasks and reads every dead
-- entry in it (benchmarks/engine.py). $5: ids of tasks whose end is told as an event.
with given as materialized (select * from unnest($1::bigint[], $2::uuid[], $3::text[]) as g (id, token, outcome)),
held as materialized (
    select g.id, g.outcome from given g cross join lateral (
        select t.state from task t where t.id = g.id and t.token = g.token for update offset 0) as l
    where l.state = 'running'),
done as (
    update task t set state = 'completed', worker_id = null, ended_at = clock_timestamp()
    from held where t.id = held.id
    returning t.id, t.run_id, t.item_id, t.step, t.attempt, t.token, t.claimed_at, t.lock_key, t.needed, held.outcome),
kept as (
    insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome)
    select id, attempt, token, run_id, $4, claimed_at, 'completed' from done),
freed as (
    delete from lock l using done d where d.lock_key is not null and l.key = d.lock_key and l.task_id = d.id
        and l.token = d.token),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from done cross join (values ('running', -1), ('completed', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign
    union all
    select run_id, step, outcome, count(*) from done where outcome <> 'ok' group by run_id, step, outcome),
told as (
    insert into event_inbox (name, run_id, item_id, task_id, worker_id, body)
    select 'step.end', run_id, item_id, id, $4,
        json_build_object('step', step, 'attempt', attempt, 'outcome', outcome)::text
    from done where id = any ($5::bigint[]))
select id, needed from done;

-- name: settled_by
select task_id from attempt
where (task_id, token) in (select * from unnest($1::bigint[], $2::uuid[])) and outcome = 'completed';

-- name: fail
with held as materialized (
    select id from task where id = $1 and token = $2 and state = 'running' for update),
failed as (
    update task t set
        state = case when $4 and t.failures + 1 < t.max_attempts then 'available' else 'failed' end,
        failures = t.failures + 1, worker_id = null, token = null, seq = nextval('task_seq'),
        run_at = clock_timestamp() + make_interval(secs =>
            least($6::float8, $5::float8 * power(2, t.failures)) * (0.5 + random() / 2)),
        ended_at = case when $4 and t.failures + 1 < t.max_attempts then null else clock_timestamp() end,
        held = case when $4 and t.failures + 1 < t.max_attempts then 'back-off: ' || left($9, 200) end
    from held where t.id = held.id
    returning t.id, t.run_id, t.item_id, t.step, t.attempt, t.claimed_at, t.state, t.lock_key, t.needed),
kept as (
    insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome, code, error, message, cause)
    select id, attempt, $2, run_id, $3, claimed_at, 'failed', $7, $8, $9, $10 from failed),
freed as (
    delete from lock l using failed f where f.lock_key is not null and l.key = f.lock_key and l.task_id = f.id
        and l.token = $2),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, change.sign
    from failed cross join lateral (values ('running', -1), (state, 1), ('errors', 1)) as change (name, sign)),
told as (
    insert into event_inbox (name, run_id, item_id, task_id, worker_id, body)
    select 'step.failed', run_id, item_id, id, $3,
        json_build_object('step', step, 'code', $7::text, 'message', left($9::text, 2000))::text
    from failed where state = 'failed'),
looked as (insert into item_check select item_id from failed where state = 'failed' and item_id is not null)
select id, state, needed from failed;

-- name: release
with given as materialized (
    select * from unnest($1::bigint[], $2::uuid[], $3::float8[], $4::text[]) as g (id, token, delay, held)),
held as materialized (
    select g.*, l.worker_id from given g cross join lateral (
        select t.state, t.worker_id from task t where t.id = g.id and t.token = g.token for update offset 0) as l
    where l.state = 'running'),
put_back as (
    update task t set state = 'available', worker_id = null, token = null, seq = nextval('task_seq'),
        run_at = clock_timestamp() + make_interval(secs => held.delay), held = left(held.held, 200)
    from held where t.id = held.id
    returning t.id, t.run_id, t.step, t.lock_key, held.token, held.worker_id, t.attempt, t.claimed_at, t.run_at, t.held),
noted as (
    insert into task_wait (task_id, run_id, attempt, worker_id, began_at, until, reason)
    select id, run_id, attempt, worker_id, claimed_at, run_at, coalesce(held, '') from put_back),
freed as (
    delete from lock l using put_back p where p.lock_key is not null and l.key = p.lock_key and l.task_id = p.id
        and l.token = p.token),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from put_back cross join (values ('running', -1), ('available', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign)
select id from put_back;

-- name: crash
-- One that was out of memory (T501) is a suspect at once: alone, it gets twice as much.
-- Crashes that are more than 72 hours apart are not held against a task together. More than five of one kind within a
-- minute open the breaker of that kind; these deaths are certain to be its own, those of whole workers are not.
with held as materialized (
    select id, greatest(case when crashed_at < clock_timestamp() - interval '72 hours' then 1 else crashes + 1 end,
        case when $5 = 'T501' then 2 end) as crashes
    from task where id = $1 and token = $2 and state = 'running' for update),
crashed as (
    update task t set
        state = case when held.crashes >= t.max_crashes then 'quarantined' else 'available' end,
        crashes = held.crashes, crashed_at = clock_timestamp(),
        worker_id = null, token = null, seq = nextval('task_seq'),
        run_at = clock_timestamp(), held = 'crash: ' || left($4, 200),
        ended_at = case when held.crashes >= t.max_crashes then clock_timestamp() end
    from held where t.id = held.id
    returning t.id, t.run_id, t.item_id, t.step, t.kind, t.attempt, t.claimed_at, t.state, t.lock_key, t.needed),
kept as (
    insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome, code, error, message, cause)
    select id, attempt, $2, run_id, $3, claimed_at, 'crashed', $5, $6, $4, sha256(convert_to($6, 'UTF8')) from crashed),
freed as (
    delete from lock l using crashed c where c.lock_key is not null and l.key = c.lock_key and l.task_id = c.id
        and l.token = $2),
counted as (
    insert into breaker as b (kind, crashes, since) select kind, 1, clock_timestamp() from crashed
    on conflict (kind) do update set
        crashes = case when b.since < clock_timestamp() - interval '1 minute' then 1 else b.crashes + 1 end,
        since = case when b.since < clock_timestamp() - interval '1 minute' then clock_timestamp() else b.since end,
        strikes = case when b.since >= clock_timestamp() - interval '1 minute' and b.crashes = 5 then
            case when b.open_until > clock_timestamp() - interval '10 minutes' then b.strikes + 1 else 1 end
            else b.strikes end,
        open_until = case when b.since >= clock_timestamp() - interval '1 minute' and b.crashes = 5 then
            clock_timestamp() + least(60, power(2, case when b.open_until > clock_timestamp() - interval '10 minutes'
                then b.strikes else 0 end)) * interval '1 minute'
            else b.open_until end),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, change.sign
    from crashed cross join lateral (values ('running', -1), (state, 1), ('crashes', 1)) as change (name, sign)),
told as (
    insert into event_inbox (name, run_id, item_id, task_id, worker_id, body)
    select 'step.quarantined', run_id, item_id, id, $3, json_build_object('step', step, 'message', $4::text)::text
    from crashed where state = 'quarantined'),
looked as (insert into item_check select item_id from crashed where state = 'quarantined' and item_id is not null)
select id, state, needed from crashed;

-- name: suspects
-- Workers to bury: the lease is over (or absurdly far away: the clock was set back), or the liveness lock has been
-- gone for two sightings. Also those whose process the caller can look at himself ("near"). $1 the class of the locks,
-- $2 the caller, who never buries himself, $3 seconds between the sightings, $4 the caller's machine.
with live as materialized (
    select id, lease_until, ttl, postmaster_started, suspect_at, pid, pid_started, boot_id = $4 as near from worker
    where state in ('alive', 'paused', 'draining') and id <> $2),
held as materialized (
    select l.objid::bigint as id from pg_locks l
    where l.locktype = 'advisory' and l.classid = $1::bigint::oid and l.granted and l.mode = 'ExclusiveLock'
      and l.database = (select oid from pg_database where datname = current_database())),
judged as (
    select live.id, live.suspect_at, live.near, live.pid, live.pid_started, held.id is not null as locked,
        live.lease_until < clock_timestamp() or live.lease_until > clock_timestamp() + 2 * live.ttl as expired,
        coalesce(live.postmaster_started = pg_postmaster_start_time() and held.id is null, false) as vanished
    from live left join held on held.id = live.id),
sighted as (
    update worker w set suspect_at = case when j.vanished then clock_timestamp() end
    from judged j where w.id = j.id and j.vanished <> (w.suspect_at is not null)
      and w.state in ('alive', 'paused', 'draining'))
select id, expired, locked, near, pid, pid_started,
    coalesce(vanished and suspect_at < clock_timestamp() - make_interval(secs => $3), false) as gone
from judged
where expired or near or (vanished and suspect_at < clock_timestamp() - make_interval(secs => $3))
order by id;

-- name: orphaned
-- Who holds tasks and will never end them: no such worker is there, or it has left. No statement of ours leaves such a task
-- behind; a row that was deleted by hand does, or half a backup.
select holding.worker_id
from (select distinct worker_id from task where state = 'running' and worker_id is not null) as holding
where not exists (
    select 1 from worker w where w.id = holding.worker_id and w.state in ('alive', 'paused', 'draining'));

-- name: mark_dead
update worker set state = 'dead', ended_at = clock_timestamp(), cause = $2
where id = $1 and state in ('alive', 'paused', 'draining')
  and ($4 or lease_until < clock_timestamp() or lease_until > clock_timestamp() + 2 * ttl
       or (suspect_at is not null and pg_try_advisory_xact_lock_shared($3, id::int)))
returning id;

-- name: rescue
-- A second statement on purpose: only a new snapshot sees what the dead worker claimed before it was marked.
-- A suspect that ran alone in a child process did not kill the worker above it, so it is not charged for that.
with held as materialized (
    select id, token, $2 and not (crashes >= 2 and (select isolates from worker where id = $1)) as charged,
        case when crashed_at < clock_timestamp() - interval '72 hours' then 0 else crashes end as crashes
    from task where state = 'running' and worker_id = $1 order by id for update),
rescued as (
    update task t set
        state = case when held.charged and held.crashes + 1 >= t.max_crashes then 'quarantined' else 'available' end,
        crashes = held.crashes + held.charged::int,
        crashed_at = case when held.charged then clock_timestamp() else t.crashed_at end,
        priority = -32768, seq = nextval('task_seq'), run_at = clock_timestamp(),
        worker_id = null, token = null, held = 'its worker died: ' || $3,
        ended_at = case when held.charged and held.crashes + 1 >= t.max_crashes then clock_timestamp() end
    from held where t.id = held.id
    returning t.id, t.run_id, t.item_id, t.step, t.attempt, t.claimed_at, t.state, t.lock_key, t.needed, held.token,
        held.charged),
kept as (
    insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome, code, error, message, cause)
    select id, attempt, token, run_id, $1, claimed_at, case when charged then 'crashed' else 'stalled' end,
        'T500', 'WorkerDied', 'its worker died: ' || $3, sha256('worker died') from rescued),
freed as (
    delete from lock l using rescued r where r.lock_key is not null and l.key = r.lock_key and l.task_id = r.id
        and l.token = r.token),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from rescued cross join lateral (values ('running', -1), (state, 1), ('crashes', charged::int)) as change (name, sign)
    where change.sign <> 0
    group by run_id, step, change.name, change.sign),
told as (
    insert into event_inbox (name, run_id, item_id, task_id, worker_id, body)
    select 'step.quarantined', run_id, item_id, id, $1,
        json_build_object('step', step, 'message', 'died with its worker: ' || $3)::text
    from rescued where state = 'quarantined'
    union all
    select 'worker.died', null, null, null, $1,
        json_build_object('cause', $3::text, 'tasks', (select count(*) from rescued))::text),
looked as (insert into item_check select item_id from rescued where state = 'quarantined' and item_id is not null)
select id, state, needed from rescued;

-- name: enqueue
-- Tasks that differ in payload, item, lock and trace only. The schema is named, because this is also sent inside of
-- transactions of other people's sessions. $14: they wait for others.
with made as (
    insert into gristmill.task (run_id, step, kind, pool, priority, max_attempts, max_crashes, timeout, lock_slots,
        run_at, deadline, state, held, payload, item_id, lock_key, trace)
    select $5, $6, $7, $8, $9, $10, $11, $12, $13,
        coalesce($15::timestamptz, clock_timestamp() + make_interval(secs => $16)),
        clock_timestamp() + make_interval(secs => $17),
        case when $14 then 'waiting' else 'available' end, case when $14 then 'upstream' end,
        g.payload, g.item_id, g.lock_key, g.trace
    from unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) as g (payload, item_id, lock_key, trace)
    returning id, state),
moved as (
    insert into gristmill.counter_delta (run_id, step, name, n)
    select $5, $6, state, count(*) from made group by state)
select id from made;

-- name: enqueue_keyed
-- The same with keys ($18), of which a run has each once.
with given as (
    select * from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $18::bytea[]) with ordinality
        as g (payload, item_id, lock_key, trace, key, place)),
made as (
    insert into gristmill.task (run_id, step, kind, pool, priority, max_attempts, max_crashes, timeout, lock_slots,
        run_at, deadline, state, held, payload, item_id, lock_key, trace, key)
    select $5, $6, $7, $8, $9, $10, $11, $12, $13,
        coalesce($15::timestamptz, clock_timestamp() + make_interval(secs => $16)),
        clock_timestamp() + make_interval(secs => $17),
        case when $14 then 'waiting' else 'available' end, case when $14 then 'upstream' end,
        g.payload, g.item_id, g.lock_key, g.trace, g.key
    from given g order by g.place
    on conflict (run_id, key) where key is not null do nothing
    returning id, key, state),
moved as (
    insert into gristmill.counter_delta (run_id, step, name, n)
    select $5, $6, state, count(*) from made group by state)
select id, key from made;

-- name: with_keys
select id, key from gristmill.task where run_id = $1 and key = any ($2::bytea[]);

-- name: need
-- Marks tasks as needed by others, in the order of their ids: whoever ends one of them from here on sees the mark, and
-- what it says of their state is true until our commit.
with n as materialized (
    select id from gristmill.task where id = any ($1::bigint[]) order by id for update),
marked as (
    update gristmill.task t set needed = true from n where t.id = n.id returning t.id, t.state)
select id, state from marked;

-- name: depend
insert into gristmill.dependency (task_id, needs_id, lost)
select * from unnest($1::bigint[], $2::bigint[], $3::smallint[]) on conflict do nothing;

-- name: meet
-- Tasks have completed: whoever waited for them is locked here, and looked at in a second statement (unblock), because
-- only a new snapshot sees what another one that was needed too has deleted meanwhile.
with met as (delete from dependency where needs_id = any ($1::bigint[]) returning task_id)
select id from task where id in (select task_id from met) order by id for update;

-- name: unblock
with free as materialized (
    select t.id from task t
    where t.id = any ($1::bigint[]) and t.state = 'waiting'
      and not exists (select 1 from dependency d where d.task_id = t.id)
      and not exists (select 1 from item i where i.id = t.item_id and i.paused)
    order by t.id for update),
freed as (
    update task t set state = 'available', held = null, seq = nextval('task_seq') from free where t.id = free.id
    returning t.id, t.run_id, t.step),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from freed cross join (values ('waiting', -1), ('available', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign)
select id from freed;

-- name: lose
-- Tasks have ended, and not well: whoever waits for them will be told.
update dependency set lost = 1 where needs_id = any ($1::bigint[]) and lost = 0;

-- name: abandoned
update dependency set lost = 2
where ctid = any (array(select ctid from dependency where lost = 1 limit 1000 for update skip locked))
returning task_id;

-- name: find_again
-- What is needed begins anew, so those who were told that it never will hear the contrary.
update dependency set lost = 0 where needs_id = any ($1::bigint[]) and lost > 0 returning task_id;

-- name: revive
with gone as materialized (
    select t.id from task t
    where t.id = any ($1::bigint[]) and t.state = 'cancelled' and t.held = $2
      and not exists (select 1 from dependency d where d.task_id = t.id and d.lost > 0)
    order by t.id for update),
revived as (
    update task t set state = 'waiting', held = 'upstream', ended_at = null from gone where t.id = gone.id
    returning t.id, t.run_id, t.step),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from revived cross join (values ('cancelled', -1), ('waiting', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign)
select id from revived;

-- name: park
-- What could be claimed of paused items waits.
with paused as materialized (
    select t.id from task t join item i on i.id = t.item_id
    where i.paused and ($1::bigint[] is null or i.id = any ($1)) and t.state = 'available'
    order by t.id for update of t),
parked as (
    update task t set state = 'waiting', held = 'the item is paused' from paused where t.id = paused.id
    returning t.id, t.run_id, t.step),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from parked cross join (values ('available', -1), ('waiting', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign)
select id from parked;

-- name: parked
select t.id from task t where t.item_id = any ($1::bigint[]) and t.state = 'waiting' order by t.id for update;

-- name: expire
-- What has not ended by its deadline fails. Running attempts are ended by their workers, which know how much is left.
with late as materialized (
    select id, state from task
    where deadline < clock_timestamp() and deadline is not null and state in ('waiting', 'available')
    order by deadline limit 1000 for update skip locked),
expired as (
    update task t set state = 'failed', ended_at = clock_timestamp(), held = null from late where t.id = late.id
    returning t.id, t.run_id, t.item_id, t.step, t.attempt, t.needed, late.state as was),
kept as (
    insert into attempt (task_id, attempt, token, run_id, outcome, code, error, message, cause)
    select id, attempt, gen_random_uuid(), run_id, 'failed', 'T311', 'DeadlinePassed', 'its deadline passed before it could run',
        sha256('deadline') from expired),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from expired cross join lateral (values (was, -1), ('failed', 1), ('errors', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign),
told as (
    insert into event_inbox (name, run_id, item_id, task_id, body)
    select 'step.failed', run_id, item_id, id,
        json_build_object('step', step, 'code', 'T311', 'message', 'its deadline passed before it could run')::text
    from expired),
looked as (insert into item_check select item_id from expired where item_id is not null)
select id, needed from expired;

-- name: reopen
-- Failed and quarantined tasks of a run begin anew, with all their attempts; $2 limits it to one cause, $3 to these. Those of a
-- barrier are only counted: the new epoch makes another one, after everything that it waits for.
with broken as materialized (
    select t.id, exists (select 1 from step s where s.run_id = $1 and s.ordinal = t.step and s.barrier) as barrier
    from task t
    where t.run_id = $1 and t.state in ('failed', 'quarantined')
      and ($2::bytea is null or exists (
        select 1 from attempt a where a.task_id = t.id and a.attempt = t.attempt and a.cause = $2))
      and ($3::bigint[] is null or t.id = any ($3))
    order by t.id for update),
before as materialized (
    select t.id, t.state from task t join broken b on b.id = t.id where not b.barrier),
again as (
    update task t set state = 'available', failures = 0, crashes = 0, seq = nextval('task_seq'), priority = -t.step,
        run_at = clock_timestamp(), ended_at = null, held = null, deadline = null
    from before where t.id = before.id
    returning t.id, t.run_id, t.step, before.state as was),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from again cross join lateral (values (was, -1), ('available', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign)
select id from broken;

-- name: open_of_run
select id from task where run_id = $1 and (state = 'available' or state = 'running' or state = 'waiting') limit 10000;

-- name: of_items
-- What is open of these items ($2: and what has failed of them).
select id from task where item_id = any ($1::bigint[]) and item_id is not null and state in ('waiting', 'available', 'running')
union all
select t.id from item i join task t on t.run_id = i.run_id and t.item_id = i.id
where $2 and i.id = any ($1::bigint[]) and t.state in ('failed', 'quarantined')
limit 10000;

-- name: of_tasks
select id from task
where id = any ($1::bigint[]) and (state in ('waiting', 'available', 'running') or ($2 and state in ('failed', 'quarantined')))
limit 10000;

-- name: broken_of_step
select id from task where run_id = $1 and step = $2 and state in ('failed', 'quarantined');

-- name: lock_tasks
-- Before cancel: a claim that is just committing is waited for here, and only the next statement's snapshot sees its slot.
select id from task where id = any ($1::bigint[]) order by id for update;

-- name: cancel
-- Running ones too: their token is taken away, so whatever their worker still brings is refused.
with open as materialized (
    select id, state, token, worker_id, claimed_at, attempt from task
    where id = any ($1::bigint[]) and state = any ($2::text[])
    order by id for update),
stopped as (
    update task t set state = 'cancelled', worker_id = null, token = null, ended_at = clock_timestamp(), held = $3
    from open where t.id = open.id
    returning t.id, t.run_id, t.item_id, t.step, t.lock_key, t.needed, open.state as was, open.token as old_token,
        open.worker_id as by, t.claimed_at, t.attempt),
kept as (
    insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome)
    select id, attempt, old_token, run_id, by, claimed_at, 'cancelled' from stopped where old_token is not null
    on conflict do nothing),
freed as (
    delete from lock l using stopped s where s.lock_key is not null and l.key = s.lock_key and l.task_id = s.id
        and l.token = s.old_token),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from stopped cross join lateral (values (was, -1), ('cancelled', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign),
looked as (insert into item_check select item_id from stopped where item_id is not null)
select id, needed, was from stopped;
