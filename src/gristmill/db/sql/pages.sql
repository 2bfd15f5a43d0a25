-- Lists for people, a page at a time: what comes after a place, in the order of an index. Nothing here counts tasks.

-- name: projects
-- With how many runs they have; standing runs, which belong to no workflow, left out.
select project as name, count(*) as runs, max(started_at) as last_run from run where key is not null
group by project order by project;

-- name: runs
-- $1 project, $2 before this id (null: from the newest on), $3 rows.
select id, project, name, workflow, state, epoch, held, created_at, started_at, ended_at,
    extract(epoch from coalesce(ended_at, clock_timestamp()) - started_at)::float8 as seconds
from run where project = $1 and key is not null and ($2::bigint is null or id < $2) order by id desc limit $3;

-- name: run
-- $1 project, $2 its number or its name.
select id, project, name, workflow, state, epoch, held, created_at, started_at, ended_at, definition, inputs, after, sealed,
    extract(epoch from coalesce(ended_at, clock_timestamp()) - started_at)::float8 as seconds
from run where project = $1 and (id::text = $2 or name = $2) order by id desc limit 1;

-- name: run_before
-- The run of the same workflow that was made before this one.
select b.id, b.name, b.definition, b.inputs from run r join run b on b.project = r.project and b.workflow = r.workflow
where r.id = $1 and b.id < r.id and b.key is not null order by b.id desc limit 1;

-- name: workflows_used
-- Workflows of the project's runs, with the newest run of each.
select distinct on (workflow) workflow as name, id, name as run, definition, started_at from run
where project = $1 and key is not null order by workflow, id desc;

-- name: items
-- $1 run, $2, $3 after this place and id, $4 rows.
select id, name, uri, state, code, reason, paused, outcome, created_at, ended_at from item
where run_id = $1 and ($2::text is null or (uri, id) > ($2, $3::bigint)) order by uri, id limit $4;

-- name: sources
-- Inputs of all runs of a project, the newest first: $2 before this id, $3 rows.
select i.id, i.run_id, r.name as run, i.name, i.uri, i.state, i.code, i.reason, i.paused, i.outcome, i.created_at, i.ended_at
from item i join run r on r.id = i.run_id
where r.project = $1 and ($2::bigint is null or i.id < $2) order by i.id desc limit $3;

-- name: tasks_running
-- $1 run, $2 step or null, $3, $4 after this step and id, $5 rows.
select t.id, t.step, t.state, t.item_id, t.attempt, t.failures, t.crashes, t.held, t.run_at, t.claimed_at, t.ended_at, t.worker_id
from task t
where t.run_id = $1 and t.state = 'running' and ($2::smallint is null or t.step = $2)
  and ($3::smallint is null or (t.step, t.id) > ($3, $4::bigint)) order by t.step, t.id limit $5;

-- name: tasks_failed
select t.id, t.step, t.state, t.item_id, t.attempt, t.failures, t.crashes, t.held, t.run_at, t.claimed_at, t.ended_at, t.worker_id
from task t
where t.run_id = $1 and t.state in ('failed', 'quarantined') and ($2::smallint is null or t.step = $2)
  and ($3::smallint is null or (t.step, t.id) > ($3, $4::bigint)) order by t.step, t.id limit $5;

-- name: tasks_waiting
select t.id, t.step, t.state, t.item_id, t.attempt, t.failures, t.crashes, t.held, t.run_at, t.claimed_at, t.ended_at, t.worker_id
from task t
where t.run_id = $1 and t.state = 'waiting' and ($2::smallint is null or t.step = $2)
  and ($3::smallint is null or (t.step, t.id) > ($3, $4::bigint)) order by t.step, t.id limit $5;

-- name: tasks_available
-- In the order in which they will be claimed. $1 run, $2 to $5 after this pool, lock, priority and place, $6 rows.
select t.id, t.step, t.state, t.item_id, t.attempt, t.failures, t.crashes, t.held, t.run_at, t.claimed_at, t.ended_at, t.worker_id,
    t.pool, t.locked, t.priority, t.seq
from task t
where t.run_id = $1 and t.state = 'available'
  and ($2::text is null or (t.pool, t.locked, t.priority, t.seq) > ($2, $3::boolean, $4::smallint, $5::bigint))
order by t.pool, t.locked, t.priority, t.seq limit $6;

-- name: tasks_completed
-- By what they have made: the index of records of a run is the only one that knows finished tasks, hot or history. A task
-- that made nothing is not among them. $1 run, $2 step, $3 before this record, $4 rows of records.
select member.record_id, t.*
from (select record_id, task_id from run_record
      where run_id = $1 and step = $2 and ($3::bigint is null or record_id < $3) and task_id is not null
      order by record_id desc limit $4) as member
cross join lateral (
    select id, step, state, item_id, attempt, failures, crashes, held, run_at, claimed_at, ended_at, worker_id
    from task where id = member.task_id
    union all
    select id, step, state, item_id, attempt, failures, crashes, held, run_at, claimed_at, ended_at, worker_id
    from task_history where id = member.task_id limit 1) as t
order by member.record_id desc;

-- name: names_of
-- What tasks are called by: $1 items, $2 workers, $3 tasks of which the last error is wanted.
select 'item' as what, id, name, null as message, null::bytea as cause, null as code from item where id = any ($1::bigint[])
union all
select 'worker', id, name, null, null, null from worker where id = any ($2::bigint[])
union all
select 'error', wanted.id, a.error, a.message, a.cause, a.code from unnest($3::bigint[]) as wanted (id)
cross join lateral (
    select error, message, cause, code from attempt where task_id = wanted.id order by ended_at desc limit 1) as a;

-- name: records
-- $1 run, $2 step, $3 after this record, $4 rows, $5 bytes: a longer body is left out.
select rr.record_id as id, rr.item_id, rr.task_id, r.kind, encode(r.hash, 'hex') as hash, r.made_at,
    case when octet_length(r.body) <= $5 then r.body end as body, i.name as item
from (select record_id, min(item_id) as item_id, min(task_id) as task_id from run_record
      where run_id = $1 and step = $2 and ($3::bigint is null or record_id > $3)
      group by record_id order by record_id limit $4) as rr
cross join lateral (select kind, hash, made_at, body from record where id = rr.record_id offset 0) as r
left join lateral (select name from item where id = rr.item_id offset 0) as i on true
order by rr.record_id;

-- name: members
-- Records that a step has added to a run: $1 run, $2 step, $3 after this record, $4 rows.
select distinct record_id from run_record where run_id = $1 and step = $2 and record_id > $3 order by record_id limit $4;

-- name: first_parents
select record_id, parent_id from lineage where record_id = any ($1::bigint[]) and ordinal = 0;

-- name: uploads_of
-- Which runs of project $1 were started over which uploads.
select name, (regexp_match(inputs, '/uploads/([0-9a-f]{32})"'))[1] as upload, state in ('waiting', 'running', 'paused') as unfinished
from run where project = $1 and inputs like '%/uploads/%' and inputs ~ '/uploads/[0-9a-f]{32}"' order by id;
