-- Hooks: what has to be done when something happens. Their tasks are made where events are numbered (upkeep.sql).

-- name: add_hook
insert into hook (project, name, events, of_run, run_id, kind, pool, options) values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (project, name) do nothing
returning id;

-- name: list_hooks
select id, project, name, events, of_run, run_id, kind, pool, options, created_at from hook where project = $1 order by name;

-- name: remove_hook
delete from hook where project = $1 and name = $2 returning id, run_id;

-- name: attempts
-- What became of a hook's tasks: each with its last attempt, the newest first.
select t.id as task_id, t.state, t.attempt as attempts, t.held, t.payload, a.outcome, a.code, a.message, a.ended_at
from task t left join lateral (
    select outcome, code, message, ended_at from attempt where task_id = t.id order by ended_at desc limit 1) a on true
where t.run_id = $1 order by t.id desc limit $2;

-- name: told_run
-- The run that a notification is about, with counts as of now, deltas that are not summed yet included.
select r.id, r.name, r.workflow, r.project, r.state, r.epoch, r.started_at, r.ended_at,
    extract(epoch from coalesce(r.ended_at, clock_timestamp()) - r.started_at)::float8 as seconds,
    coalesce((
        select json_object_agg(c.name, c.n) from (
            select name, sum(n) as n from (select name, n from counter where run_id = r.id union all
                                           select name, n from counter_delta where run_id = r.id) as moved
            group by name having sum(n) <> 0) as c), '{}')::text as counts,
    (select count(*) from item where run_id = r.id and state = 'unreadable') as unreadable
from run r where r.id = $1;

-- name: end_standing
update run set state = 'cancelled', ended_at = clock_timestamp() where id = $1 and state in ('running', 'paused');

-- name: untold
-- How many tasks of hooks are due within 5 s. One whose receiver is gone for longer is left for the next worker.
select count(*) from hook h join task t on t.run_id = h.run_id
where h.project = $1 and (t.state = 'running' or (t.state = 'available' and t.run_at < clock_timestamp() + interval '5 s'));

-- name: more_events
select count(*) from event where seq > $1 and name = $2 and run_id is not distinct from $3;

-- name: sample
-- What an event for a trial is about: the run that was made last, if there is one.
select (select max(id) from run where project = $1 and key is not null) as run_id, clock_timestamp() as at;
