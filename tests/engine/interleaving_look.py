"""What is looked at when two sessions have met: what must never be, and what their order could change."""

from __future__ import annotations

from gristmill.engine.state import TRANSITIONS

_ALLOWED = sorted({f"{before}>{after}" for _, before, after in TRANSITIONS if before})

# No update may change a task in a way that the table of states does not know.
GUARD = f"""
create function guard() returns trigger language plpgsql as $$ begin
    if not (old.state || '>' || new.state) = any (array{_ALLOWED!r}) then
        raise exception 'a task went from % to %', old.state, new.state;
    end if;
    return new;
end $$;
create trigger guard before update on task for each row when (old.state is distinct from new.state)
    execute function guard();
"""

# What must hold whatever has happened. Each line names what is wrong.
_WRONG = """
select 'a task runs without a holder, or is held and does not run: ' || id from task
where (state = 'running') <> (worker_id is not null and token is not null and fence is not null)
   or (state not in ('running', 'completed') and token is not null)
union all
select 'a task runs on a worker that is over: ' || t.id from task t join worker w on w.id = t.worker_id
where t.state = 'running' and w.state in ('dead', 'stopped')
union all
select 'a token was given twice: ' || token from task where token is not null group by token
having count(distinct worker_id) > 1
union all
select 'a fence was given twice: ' || fence from task where state = 'running' group by fence having count(*) > 1
union all
select 'completed twice, or without an attempt: ' || t.id from task t
where (t.state = 'completed')::int <> (
    select count(*) from attempt a where a.task_id = t.id and a.outcome = 'completed')
union all
select 'its last attempt is not on record: ' || t.id from task t
where t.state in ('completed', 'failed', 'quarantined')
   and not exists (select 1 from attempt a where a.task_id = t.id and a.attempt = t.attempt)
union all
select 'more attempts than claims: ' || t.id from task t
where (select count(*) from attempt a where a.task_id = t.id and a.outcome <> 'failed') > t.attempt
   or exists (select 1 from attempt a where a.task_id = t.id and a.attempt > t.attempt)
union all
select 'charged is not what is on record: ' || t.id from task t where t.failures <> (
    select count(*) from attempt a where a.task_id = t.id and a.outcome = 'failed'
    and a.code <> 'T311' and t.failures > 0)
union all
select 'the counter is wrong: ' || c.run_id || ' ' || c.step || ' ' || c.name || ' ' || c.n from (
    select run_id, step, name, sum(n) as n from (
        select run_id, step, name, n from counter union all select run_id, step, name, n from counter_delta
        union all select run_id, step, state, -1 from task) as every
    where name in ('waiting', 'available', 'running', 'completed', 'failed', 'cancelled', 'quarantined')
    group by 1, 2, 3 having sum(n) <> 0) as c
union all
select 'a slot and no running task: ' || key from lock l where holder_kind = 'task' and not exists (
    select 1 from task t where t.id = l.task_id and t.token = l.token and t.state = 'running' and t.lock_key = l.key)
union all
select 'a running task without its slot: ' || t.id from task t where t.state = 'running' and t.lock_key is not null
   and (select count(*) from lock l where l.key = t.lock_key and l.task_id = t.id and l.token = t.token) <> 1
union all
select 'more run than the pool may: ' || p.name from pool p
where p.slots < (select count(*) from task t where t.pool = p.name and t.state = 'running')
union all
select 'open in a run that has ended: ' || t.id from task t join run r on r.id = t.run_id
where r.state in ('completed', 'partial', 'failed') and t.state = any ($2)
union all
select 'a run ended twice in an epoch: ' || run_id from event_inbox where name = 'run.end'
group by run_id, body::json ->> 'epoch' having count(*) > 1
union all
select 'a barrier has two open tasks: ' || t.run_id
from task t join step s on s.run_id = t.run_id and s.ordinal = t.step
where s.barrier and t.state = any ($2) group by t.run_id, t.step, t.item_id having count(*) > 1
union all
select 'it waits for nothing: ' || t.id from task t where t.state = 'waiting'
   and not exists (select 1 from dependency d where d.task_id = t.id)
   and not exists (select 1 from item i where i.id = t.item_id and i.paused)
union all
select 'one key, two tasks: ' || run_id from task where key is not null group by run_id, key having count(*) > 1
"""

# Everything that two orders could differ in, without what only chance or the clock decides.
_SEEN = """
with named as (
    select t.id, case when t.id <= $1 then t.id::text
        else concat_ws(' ', 'new', t.run_id, t.step, i.name, t.payload) end as ref
    from task t left join item i on i.id = t.item_id)
select 'task', concat_ws(' ', n.ref, t.state, t.worker_id, t.attempt, t.failures, t.crashes, t.priority, t.needed,
    t.ended_at is not null) from task t join named n on n.id = t.id
union all
select 'attempt', concat_ws(' ', n.ref, a.attempt, a.outcome, a.worker_id)
from attempt a join named n on n.id = a.task_id
union all
select 'counter', concat_ws(' ', run_id, step, name, sum(n)) from (
    select * from counter union all select * from counter_delta) as every group by run_id, step, name having sum(n) <> 0
union all
select 'run', concat_ws(' ', id, state, sealed, epoch) from run
union all
select 'barrier', concat_ws(' ', run_id, ordinal, opened_epoch) from step where barrier
union all
select 'item', concat_ws(' ', name, state, outcome, paused) from item
union all
select 'item barrier', concat_ws(' ', i.name, o.ordinal) from item_step o join item i on i.id = o.item_id
union all
select distinct 'note', i.name from item_check c join item i on i.id = c.item_id
union all
select 'lock', concat_ws(' ', l.key, l.slot, l.holder_kind, l.holder, l.task_id, l.expires_at > clock_timestamp())
from lock l
union all
select 'need', concat_ws(' ', n.ref, m.ref, d.lost) from dependency d join named n on n.id = d.task_id
    join named m on m.id = d.needs_id
union all
select 'worker', concat_ws(' ', id, state, lease_until > clock_timestamp()) from worker
union all
select 'event', concat_ws(' ', e.name, e.run_id, i.name, e.worker_id, count(*)) from event_inbox e
    left join item i on i.id = e.item_id group by e.name, e.run_id, i.name, e.worker_id
"""
LOOK = f"""
select json_build_array(
    (select coalesce(json_agg(w.what), '[]') from ({_WRONG}) as w (what)),
    (select json_agg(s.kind || ': ' || s.what order by s.kind collate "C", s.what collate "C")
     from ({_SEEN}) as s (kind, what))
)::text
"""  # noqa: S608
