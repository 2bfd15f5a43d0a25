-- Runs and their steps.

-- name: find_run
select id, state, epoch from run where project = $1 and key = $2;

-- name: give_up_key
-- Still a run of its own, in lists and by name; the same command finds another one.
update run set key = sha256(key || int8send(id)) where id = $1;

-- name: create_run
-- One that waits for others ($8) has not begun: its epoch is 0.
insert into run (project, name, workflow, key, definition, inputs, priority, after, detail, state, epoch)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, case when $8 = '{}'::bigint[] then 'running' else 'waiting' end,
    case when $8 = '{}'::bigint[] then 1 else 0 end)
on conflict (project, key) where key is not null do nothing
returning id;

-- name: name_run
update run set name = $2 where id = $1;

-- name: unknown_runs
-- Runs to wait for that this project does not have.
select a.id from unnest($2::bigint[]) as a (id)
where not exists (select 1 from run r where r.id = a.id and r.project = $1) order by a.id;

-- name: create_steps
insert into step (run_id, ordinal, name, kind, pool, barrier, per_item, after, upstream, max_attempts, max_crashes, lock, lock_slots)
select $1, s.ordinal, s.name, s.kind, s.pool, s.barrier, s.per_item, s.after::smallint[], s.upstream::smallint[],
    s.max_attempts, s.max_crashes, s.lock, s.lock_slots
from unnest($2::smallint[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::boolean[], $8::text[], $9::text[],
            $10::smallint[], $11::smallint[], $12::text[], $13::int[])
    as s (ordinal, name, kind, pool, barrier, per_item, after, upstream, max_attempts, max_crashes, lock, lock_slots);

-- name: tell
insert into event_inbox (name, run_id, item_id, task_id, worker_id, body) values ($1, $2, $3, $4, $5, $6);

-- name: run_row
select id, project, name, workflow, definition, inputs, priority, state, sealed, epoch, after, detail, held, created_at, started_at, ended_at,
    extract(epoch from coalesce(ended_at, clock_timestamp()) - started_at)::float8 as seconds
from run where id = $1;

-- name: hold_name
select pg_advisory_xact_lock(hashtextextended('run name ' || $1, 0));

-- name: call_run
-- After hold_name, so that two processes that want one name come one after the other. No row: another run has it.
update run set name = $2
where run.id = $1 and not exists (
    select from run other where other.project = run.project and other.name = $2 and other.id <> $1)
returning run.id;

-- name: run_named
select id from run where project = $1 and (name = $2 or id::text = $2) order by id desc limit 1;

-- name: last_run
select id from run where project = $1 and key is not null order by started_at desc, id desc limit 1;

-- name: list_runs
-- $3 only those in this state, $4 only those of this workflow; null: all.
select id, name, workflow, state, epoch, created_at, ended_at from run
where project = $1 and key is not null and ($3::text is null or state = $3) and ($4::text is null or workflow = $4)
order by id desc limit $2;

-- name: steps
select ordinal, name, kind, pool, barrier, per_item, after, upstream, max_attempts, max_crashes, lock, lock_slots
from step where run_id = $1 order by ordinal;

-- name: lock_run
select id, state, sealed, epoch from run where id = $1 for no key update;

-- name: open_run
-- A new epoch, unless the run is still under way in this one and nothing that waits for everything has begun. One that
-- waits for other runs goes on waiting, and one that is paused stays it.
update run set
    epoch = epoch + case when epoch = 0 or (state in ('running', 'paused') and not exists (
        select 1 from step s where s.run_id = run.id and s.barrier and s.opened_epoch = run.epoch)) then 0 else 1 end,
    started_at = case when state in ('waiting', 'running', 'paused') then started_at else clock_timestamp() end,
    state = case when state = 'paused' then 'paused' when epoch = 0 then 'waiting' else 'running' end, sealed = false,
    ended_at = null
where id = $1
returning epoch;

-- name: seal
update run set sealed = true, inputs = $2 where id = $1 returning id;

-- name: pause
with paused as (
    update run set state = 'paused', held = null, held_until = null
    where id = $1 and (state in ('running', 'waiting') or (state = 'paused' and held is not null)) returning id)
insert into event_inbox (name, run_id) select 'run.pause', id from paused returning run_id;

-- name: resume
with resumed as (
    update run set state = case when epoch = 0 then 'waiting' else 'running' end, held = null, held_until = null
    where id = $1 and state = 'paused' returning id)
insert into event_inbox (name, run_id) select 'run.resume', id from resumed returning run_id;

-- name: resume_held
-- Runs that a budget of a day has paused, and whose next day has begun.
with due as materialized (
    select id from run where state = 'paused' and held_until <= clock_timestamp() order by id
    for no key update skip locked),
resumed as (
    update run r set state = 'running', held = null, held_until = null from due where r.id = due.id returning r.id)
insert into event_inbox (name, run_id) select 'run.resume', id from resumed returning run_id;

-- name: start_due_runs
-- Runs that waited for others, all of which have completed.
with due as materialized (
    select r.id from run r
    where r.state = 'waiting' and not exists (
        select 1 from unnest(r.after) as a (id) left join run before on before.id = a.id
        where before.state is distinct from 'completed')
    order by r.id for no key update of r skip locked),
started as (
    update run r set state = 'running', epoch = 1, started_at = clock_timestamp()
    from due where r.id = due.id and r.state = 'waiting'
    returning r.id)
insert into event_inbox (name, run_id) select 'run.start', id from started returning run_id;

-- name: end_run
update run set state = $2, ended_at = clock_timestamp()
where id = $1 and state in ('waiting', 'running', 'paused') returning epoch;

-- name: ready_barrier
-- The next barrier over the whole run that is due: nothing is open before it, and no item still has to say whether a
-- barrier of its own is. Each look for an open task is in the order of one partial index: whatever the planner
-- believes, it reads that index to its first match, and never a million finished tasks in search of an open one.
select s.ordinal, s.kind, s.pool, s.max_attempts, s.max_crashes, s.lock, s.lock_slots from step s
where s.run_id = $1 and s.barrier and not s.per_item and s.opened_epoch < $2
  and coalesce(
        (select true from task t where t.run_id = $1 and t.step = any (s.upstream) and t.state = 'running'
         order by t.step limit 1),
        (select true from task t where t.run_id = $1 and t.step = any (s.upstream) and t.state = 'available'
         order by t.pool, t.locked, t.priority, t.seq limit 1),
        (select true from task t where t.run_id = $1 and t.step = any (s.upstream) and t.state = 'waiting'
         order by t.step limit 1)) is null
  and coalesce(
        (select true from task t where t.run_id = $1 and t.step = s.ordinal and t.state = 'running'
         order by t.step limit 1),
        (select true from task t where t.run_id = $1 and t.step = s.ordinal and t.state = 'available'
         order by t.pool, t.locked, t.priority, t.seq limit 1),
        (select true from task t where t.run_id = $1 and t.step = s.ordinal and t.state = 'waiting'
         order by t.step limit 1)) is null
  and not exists (select 1 from step b where b.run_id = $1 and b.ordinal = any (s.upstream) and b.barrier
                  and not b.per_item and b.opened_epoch < $2)
  and not (exists (select 1 from step b where b.run_id = $1 and b.ordinal = any (s.upstream) and b.per_item)
           and exists (select 1 from item_check c join item i on i.id = c.item_id where i.run_id = $1))
order by s.ordinal limit 1;

-- name: stale
-- What an earlier round of barrier $2 has left: its own tasks, and those that came from what it had made. They belong
-- to no item, and their place begins with the barrier they come from: -1 - ordinal (of older tasks it does not).
-- Whether the barrier is open is asked here once more: what somebody else has just made of it is not left, it is new.
with behind as materialized (
    select d.ordinal, d.barrier from step d join step b on b.run_id = d.run_id join run r on r.id = d.run_id
    where d.run_id = $1 and b.ordinal = $2 and b.opened_epoch < r.epoch and (d.ordinal = $2 or $2 = any (d.upstream)))
select t.id, t.state from task t join behind d on d.ordinal = t.step
where t.run_id = $1 and t.item_id is null
  and (t.state = 'available' or t.state = 'running' or t.state = 'waiting' or t.state in ('failed', 'quarantined'))
  and (d.barrier or coalesce(substring(t.payload from '"place": ?\[(-\d+)') in (
        select (-1 - b.ordinal)::text from behind b where b.barrier), true));

-- name: open_barrier
update step set opened_epoch = $3 where run_id = $1 and ordinal = $2 returning ordinal;

-- name: any_task_open
select coalesce(
    (select true from task t where t.run_id = $1 and t.state = 'running' order by t.step limit 1),
    (select true from task t where t.run_id = $1 and t.state = 'available'
     order by t.pool, t.locked, t.priority, t.seq limit 1),
    (select true from task t where t.run_id = $1 and t.state = 'waiting' order by t.step limit 1), false);

-- name: anything_open
-- A task, or an item that still has to say what it has come to. One statement: what ends a task notes its item in the
-- same commit, and what takes the note makes the task of a barrier in the same commit; two looks could miss both.
select coalesce(
    (select true from task t where t.run_id = $1 and t.state = 'running' order by t.step limit 1),
    (select true from task t where t.run_id = $1 and t.state = 'available'
     order by t.pool, t.locked, t.priority, t.seq limit 1),
    (select true from task t where t.run_id = $1 and t.state = 'waiting' order by t.step limit 1),
    (select true from item_check c join item i on i.id = c.item_id where i.run_id = $1 limit 1), false);

-- name: verdict
-- What a run with nothing open has come to: whether anything failed, and whether one of its last steps for single
-- records or items finished anything (deltas that are not folded yet included).
with last as materialized (
    select s.ordinal from step s
    where s.run_id = $1 and (s.per_item or not s.barrier) and not exists (
        select 1 from step d where d.run_id = $1 and s.ordinal = any (d.upstream) and (d.per_item or not d.barrier)))
select exists (select 1 from task where run_id = $1 and state in ('failed', 'quarantined'))
       or exists (select 1 from item where run_id = $1 and state = 'unreadable') as broken,
    exists (
        select 1 from (select run_id, step, name, n from counter union all
                       select run_id, step, name, n from counter_delta) as moved
        where run_id = $1 and name = 'completed' and (step in (select ordinal from last)
            or (not exists (select 1 from last) and step = (select max(ordinal) from step where run_id = $1)))
        group by step having sum(n) > 0) as fruitful;

-- name: reseal
update run set sealed = true where id = $1;

-- name: sealed_runs
select r.id from run r
where r.state = 'running' and r.sealed and (
    coalesce(
        (select true from task t where t.run_id = r.id and t.state = 'running' order by t.step limit 1),
        (select true from task t where t.run_id = r.id and t.state = 'available'
         order by t.pool, t.locked, t.priority, t.seq limit 1),
        (select true from task t where t.run_id = r.id and t.state = 'waiting' order by t.step limit 1)) is null
    or exists (select 1 from step s where s.run_id = r.id and s.barrier and not s.per_item and s.opened_epoch < r.epoch
        and coalesce(
            (select true from task t where t.run_id = r.id and t.step = any (s.upstream) and t.state = 'running'
             order by t.step limit 1),
            (select true from task t where t.run_id = r.id and t.step = any (s.upstream) and t.state = 'available'
             order by t.pool, t.locked, t.priority, t.seq limit 1),
            (select true from task t where t.run_id = r.id and t.step = any (s.upstream) and t.state = 'waiting'
             order by t.step limit 1)) is null))
limit 100;

-- name: fetched
-- What a run has of these URLs, files inside of fetched archives included; it is not fetched again.
select i.id, i.uri, u.url
from unnest($2::text[]) as u (url)
join item i on i.run_id = $1 and i.state = 'active' and (i.uri = u.url or starts_with(i.uri, u.url || '!/'));

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
left join lateral (select name from item where id = t.item_id offset 0) i on true
left join lateral (select code, error, message, cause from attempt a where a.task_id = t.id
                   order by a.ended_at desc limit 1) a on true
where t.run_id = $1 and t.state in ('failed', 'quarantined')
order by t.step, t.id limit $2;

-- name: gathered
-- What the steps $2 of a run have made of kind $4, from inputs that still count, in the order of the inputs and of
-- their text; $3: of one item only. A record that several inputs or steps share counts once, at the first of them.
select r.id, r.kind, r.hash, r.body
from (select distinct on (rr.record_id) rr.record_id, i.name, rr.place, rr.step
      from run_record rr left join item i on i.id = rr.item_id
      where rr.run_id = $1 and rr.step = any ($2::smallint[]) and ($3::bigint is null or rr.item_id = $3)
        and (rr.item_id = 0 or i.state = 'active')
      order by rr.record_id, i.name, rr.place, rr.step) as member
join record r on r.id = member.record_id
where r.kind = any ($4::text[])
order by member.name, member.place, member.step, r.id;

-- name: kinds_of_records
select id, kind from record where id = any ($1::bigint[]);

-- name: forget_gathered
-- A barrier that ran again replaces what it said before, and what was made from that; $3: of this item only.
with behind as materialized (
    select d.ordinal, d.barrier from step d where d.run_id = $1 and (d.ordinal = $2 or $2 = any (d.upstream)))
delete from run_record rr using behind d
where rr.run_id = $1 and rr.step = d.ordinal and rr.item_id = coalesce($3::bigint, 0)
  and (rr.place[1] in (select -1 - b.ordinal from behind b where b.barrier)
       or ($3::bigint is null and coalesce(rr.place[1], 0) >= 0));

-- name: workers
select id, name, host, pid, state, pools, started_at, lease_until < clock_timestamp() as late, cause
from worker where state in ('alive', 'paused', 'draining') or ended_at > clock_timestamp() - interval '10 minutes'
order by id;
