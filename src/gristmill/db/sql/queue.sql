-- The only statements that write task state. Rules: reliability 3.2.1. Lock order everywhere: worker row, task rows by
-- id, run row. clock_timestamp() and never now(): a statement may have waited for a lock.

-- name: hint
select pg_notify('gristmill_wake', '');

-- name: register_worker
insert into worker (nonce, name, host, boot_id, pid, pid_started, pools, version, ttl, lease_until)
values ($1, $2, $3, $4, $5, $6, $7, $8, make_interval(secs => $9), clock_timestamp() + make_interval(secs => $9))
returning id;

-- name: isolates
update worker set isolates = true where id = $1;

-- name: announce_lock
update worker set postmaster_started = case when $3 then pg_postmaster_start_time() end, suspect_at = null
where id = $1 and nonce = $2 and state in ('alive', 'draining')
returning id;

-- name: beat
update worker set lease_until = clock_timestamp() + ttl, suspect_at = null
where id = $1 and nonce = $2 and state in ('alive', 'draining')
returning state;

-- name: drain_worker
update worker set state = 'draining' where id = $1 and nonce = $2 and state = 'alive' returning id;

-- name: leave
with w as (
    update worker set state = 'stopped', ended_at = clock_timestamp(), cause = $3
    where id = $1 and nonce = $2 and state in ('alive', 'draining')
    returning id)
insert into event_inbox (name, worker_id, body) select 'worker.stopped', id, json_build_object('cause', $3::text)::text from w
returning worker_id;

-- name: lock_worker
select id from worker where id = $1 for no key update;

-- name: give_back
-- What a worker holds and will not finish: everything when it leaves ($2 null), or the claims whose reply was lost.
-- After lock_worker, in a second statement: only a new snapshot sees a claim that was still on its way.
with held as materialized (
    select id from task
    where worker_id = $1 and state = 'running' and ($2::uuid[] is null or token = any ($2)) order by id for update),
put_back as (
    update task t set state = 'available', worker_id = null, token = null, seq = nextval('task_seq'),
        run_at = clock_timestamp(), held = $3
    from held where t.id = held.id
    returning t.id, t.run_id, t.step),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from put_back cross join (values ('running', -1), ('available', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign)
select id from put_back;

-- name: claim
with me as materialized (
    select id from worker
    where id = $1 and nonce = $2 and state = 'alive' and lease_until > clock_timestamp()
    for no key update),
lane as (select * from unnest($3::text[], $4::int[], $5::bigint[]) with ordinality as l (pool, want, low, place)),
chosen as materialized (
    select pick.id, nextval('fence_seq') as fence
    from me cross join lane cross join lateral (
        select t.id
        from (select r.id, r.priority from run r where r.state = 'running'
              order by r.priority, random()) as active
        cross join lateral (
            select t.id, t.priority from task t
            where t.run_id = active.id and t.pool = lane.pool and t.state = 'available' and t.seq > lane.low
              and t.run_at <= clock_timestamp() and t.kind = any ($6::text[])
              and (case when $8 then t.crashes >= 2 else t.crashes < 2 end)
            order by t.priority, t.seq
            limit lane.want for update skip locked) as t
        limit lane.want) as pick),
claimed as (
    update task t set state = 'running', attempt = t.attempt + 1, worker_id = $1, token = $7, fence = chosen.fence,
        claimed_at = clock_timestamp(), held = null
    from chosen where t.id = chosen.id
    returning t.id, t.run_id, t.item_id, t.step, t.kind, t.pool, t.seq, t.payload, t.attempt, t.failures, t.crashes,
        t.token, t.fence),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from claimed cross join (values ('available', -1), ('running', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign)
select * from claimed order by seq;

-- name: settle
-- Ids come sorted, so locks are taken in their order. Each task is looked up by its key, and its
-- state outside of that look-up: otherwise the planner joins over the index of running tasks and reads every dead
-- entry in it (benchmarks/engine.py).
with given as materialized (select * from unnest($1::bigint[], $2::uuid[], $3::text[]) as g (id, token, outcome)),
held as materialized (
    select g.id, g.outcome from given g cross join lateral (
        select t.state from task t where t.id = g.id and t.token = g.token for update offset 0) as l
    where l.state = 'running'),
done as (
    update task t set state = 'completed', worker_id = null, ended_at = clock_timestamp()
    from held where t.id = held.id
    returning t.id, t.run_id, t.step, t.attempt, t.token, t.claimed_at, t.fence, held.outcome),
kept as (
    insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome)
    select id, attempt, token, run_id, $4, claimed_at, 'completed' from done),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from done cross join (values ('running', -1), ('completed', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign
    union all
    select run_id, step, outcome, count(*) from done where outcome <> 'ok' group by run_id, step, outcome)
select id from done;

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
    returning t.id, t.run_id, t.item_id, t.step, t.attempt, t.claimed_at, t.state),
kept as (
    insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome, code, error, message, cause)
    select id, attempt, $2, run_id, $3, claimed_at, 'failed', $7, $8, $9, $10 from failed),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, change.sign
    from failed cross join lateral (values ('running', -1), (state, 1), ('errors', 1)) as change (name, sign)),
told as (
    insert into event_inbox (name, run_id, item_id, task_id, worker_id, body)
    select 'step.failed', run_id, item_id, id, $3,
        json_build_object('step', step, 'code', $7::text, 'message', left($9::text, 2000))::text
    from failed where state = 'failed')
select state from failed;

-- name: release
with given as materialized (
    select * from unnest($1::bigint[], $2::uuid[], $3::float8[], $4::text[]) as g (id, token, delay, held)),
held as materialized (
    select g.* from given g cross join lateral (
        select t.state from task t where t.id = g.id and t.token = g.token for update offset 0) as l
    where l.state = 'running'),
put_back as (
    update task t set state = 'available', worker_id = null, token = null, seq = nextval('task_seq'),
        run_at = clock_timestamp() + make_interval(secs => held.delay), held = left(held.held, 200)
    from held where t.id = held.id
    returning t.id, t.run_id, t.step),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from put_back cross join (values ('running', -1), ('available', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign)
select id from put_back;

-- name: crash
with held as materialized (
    select id from task where id = $1 and token = $2 and state = 'running' for update),
crashed as (
    update task t set
        state = case when t.crashes + 1 >= t.max_crashes then 'quarantined' else 'available' end,
        crashes = t.crashes + 1, worker_id = null, token = null, seq = nextval('task_seq'),
        run_at = clock_timestamp(), held = 'crash: ' || left($4, 200),
        ended_at = case when t.crashes + 1 >= t.max_crashes then clock_timestamp() end
    from held where t.id = held.id
    returning t.id, t.run_id, t.item_id, t.step, t.attempt, t.claimed_at, t.state),
kept as (
    insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome, code, error, message, cause)
    select id, attempt, $2, run_id, $3, claimed_at, 'crashed', 'T500', 'Crash', $4, sha256('crash') from crashed),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, change.sign
    from crashed cross join lateral (values ('running', -1), (state, 1), ('crashes', 1)) as change (name, sign)),
told as (
    insert into event_inbox (name, run_id, item_id, task_id, worker_id, body)
    select 'step.quarantined', run_id, item_id, id, $3, json_build_object('step', step, 'message', $4::text)::text
    from crashed where state = 'quarantined')
select state from crashed;

-- name: suspects
-- Workers to bury: the lease is over (or absurdly far away: the clock was set back), or the liveness lock has been
-- gone for two sightings. Also those whose process the caller can look at himself ("near"). $1 the class of the locks,
-- $2 the caller, who never buries himself, $3 seconds between the sightings, $4 the caller's machine.
with live as materialized (
    select id, lease_until, ttl, postmaster_started, suspect_at, pid, pid_started, boot_id = $4 as near from worker
    where state in ('alive', 'draining') and id <> $2),
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
      and w.state in ('alive', 'draining'))
select id, expired, locked, near, pid, pid_started,
    coalesce(vanished and suspect_at < clock_timestamp() - make_interval(secs => $3), false) as gone
from judged
where expired or near or (vanished and suspect_at < clock_timestamp() - make_interval(secs => $3))
order by id;

-- name: mark_dead
update worker set state = 'dead', ended_at = clock_timestamp(), cause = $2
where id = $1 and state in ('alive', 'draining')
  and ($4 or lease_until < clock_timestamp() or lease_until > clock_timestamp() + 2 * ttl
       or (suspect_at is not null and pg_try_advisory_xact_lock_shared($3, id::int)))
returning id;

-- name: rescue
-- A second statement on purpose: only a new snapshot sees what the dead worker claimed before it was marked.
-- A suspect that ran alone in a child process did not kill the worker above it, so it is not charged for that.
with held as materialized (
    select id, token, $2 and not (crashes >= 2 and (select isolates from worker where id = $1)) as charged
    from task where state = 'running' and worker_id = $1 order by id for update),
rescued as (
    update task t set
        state = case when held.charged and t.crashes + 1 >= t.max_crashes then 'quarantined' else 'available' end,
        crashes = t.crashes + held.charged::int, priority = -32768, seq = nextval('task_seq'), run_at = clock_timestamp(),
        worker_id = null, token = null, held = 'its worker died: ' || $3,
        ended_at = case when held.charged and t.crashes + 1 >= t.max_crashes then clock_timestamp() end
    from held where t.id = held.id
    returning t.id, t.run_id, t.item_id, t.step, t.attempt, t.claimed_at, t.state, held.token,
        held.charged),
kept as (
    insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome, code, error, message, cause)
    select id, attempt, token, run_id, $1, claimed_at, case when charged then 'crashed' else 'stalled' end,
        'T500', 'WorkerDied', 'its worker died: ' || $3, sha256('worker died') from rescued),
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
        json_build_object('cause', $3::text, 'tasks', (select count(*) from rescued))::text)
select id, state from rescued;

-- name: enqueue
with made as (
    insert into task (run_id, item_id, step, kind, pool, payload, run_at, max_attempts, max_crashes, priority)
    select g.run_id, g.item_id, g.step, g.kind, g.pool, g.payload,
        clock_timestamp() + make_interval(secs => g.delay), g.max_attempts, g.max_crashes, g.priority
    from unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::float8[],
        $8::smallint[], $9::smallint[], $10::smallint[])
        as g (run_id, item_id, step, kind, pool, payload, delay, max_attempts, max_crashes, priority)
    returning id, run_id, step),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, 'available', count(*) from made group by run_id, step)
select id from made;

-- name: reopen
-- Failed and quarantined tasks of a run begin anew, with all their attempts; $2 limits it to one cause. Those of a
-- barrier are only counted: the new epoch makes another one, after everything that it waits for.
with broken as materialized (
    select t.id, exists (select 1 from step s where s.run_id = $1 and s.ordinal = t.step and s.barrier) as barrier
    from task t
    where t.run_id = $1 and t.state in ('failed', 'quarantined')
      and ($2::bytea is null or exists (
        select 1 from attempt a where a.task_id = t.id and a.attempt = t.attempt and a.cause = $2))
    order by t.id for update),
before as materialized (
    select t.id, t.state from task t join broken b on b.id = t.id where not b.barrier),
again as (
    update task t set state = 'available', failures = 0, crashes = 0, seq = nextval('task_seq'), priority = -t.step,
        run_at = clock_timestamp(), ended_at = null, held = null
    from before where t.id = before.id
    returning t.id, t.run_id, t.step, before.state as was),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from again cross join lateral (values (was, -1), ('available', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign)
select id from broken;

-- name: replace
-- A barrier begins anew: what it failed at in earlier epochs is no failure any more.
with broken as materialized (
    select id, state from task where run_id = $1 and step = $2 and state in ('failed', 'quarantined')
    order by id for update),
replaced as (
    update task t set state = 'cancelled', held = null from broken where t.id = broken.id
    returning t.id, t.run_id, t.step, broken.state as was),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from replaced cross join lateral (values (was, -1), ('cancelled', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign)
select id from replaced;

-- name: cancel_tasks
-- Running ones too: their token is taken away, so whatever their worker still brings is refused.
with open as materialized (
    select id, state, token, worker_id, claimed_at, attempt from task
    where run_id = $1 and (state = 'available' or state = 'running' or state = 'waiting')
    order by id for update),
stopped as (
    update task t set state = 'cancelled', worker_id = null, token = null, ended_at = clock_timestamp(), held = null
    from open where t.id = open.id
    returning t.id, t.run_id, t.step, open.state as was, open.token as old_token, open.worker_id as by, t.claimed_at,
        t.attempt),
kept as (
    insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome)
    select id, attempt, old_token, run_id, by, claimed_at, 'cancelled' from stopped where old_token is not null
    on conflict do nothing),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from stopped cross join lateral (values (was, -1), ('cancelled', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign)
select id from stopped;

-- name: left_to_cancel
select exists (select 1 from task where run_id = $1 and (state = 'available' or state = 'running' or state = 'waiting'));

-- name: left_to_withdraw
select exists (
    select 1 from task
    where item_id = any ($1::bigint[]) and state in ('waiting', 'available', 'running', 'failed', 'quarantined'));

-- name: withdraw
-- Inputs that no longer count: nothing of them is open, and what failed of them is no failure any more.
with open as materialized (
    select id, state, token, worker_id, claimed_at, attempt from task
    where item_id = any ($1::bigint[]) and state in ('waiting', 'available', 'running', 'failed', 'quarantined')
    order by id for update),
stopped as (
    update task t set state = 'cancelled', worker_id = null, token = null, ended_at = clock_timestamp(), held = null
    from open where t.id = open.id
    returning t.id, t.run_id, t.step, open.state as was, open.token as old_token, open.worker_id as by, t.claimed_at,
        t.attempt),
kept as (
    insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome)
    select id, attempt, old_token, run_id, by, claimed_at, 'cancelled' from stopped where old_token is not null
    on conflict do nothing),
moved as (
    insert into counter_delta (run_id, step, name, n)
    select run_id, step, change.name, count(*) * change.sign
    from stopped cross join lateral (values (was, -1), ('cancelled', 1)) as change (name, sign)
    group by run_id, step, change.name, change.sign)
select id from stopped;
