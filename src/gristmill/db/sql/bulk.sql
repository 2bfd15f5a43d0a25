-- Bulk actions, exports and exchanges that were asked for: runs of their own, of "(bulk)", "(exports)", "(label-studio)".

-- name: runs
-- $1 project, $2 workflow, $3 before this id, $4 rows, $5 this one alone.
select id, name, state, definition, created_at, ended_at from run
where project = $1 and workflow = $2 and ($3::bigint is null or id < $3) and ($5::bigint is null or id = $5)
order by id desc limit $4;

-- name: single
-- The one task of such a run with what it returned, or why it failed. $1 project, $2 the run, $3 workflow.
select r.id, r.name, r.state as run_state, r.definition, r.created_at, r.ended_at, t.id as task_id, t.state, x.value,
    a.code, a.message
from run r
left join lateral (
    select id, state from task where run_id = r.id and key is not null limit 1) as t on true
left join result x on x.task_id = t.id
left join lateral (
    select code, message from attempt where task_id = t.id and message is not null order by ended_at desc limit 1) as a on true
where r.project = $1 and r.id = $2 and r.workflow = $3;

-- name: sample
-- What tasks of a step have taken: of the latest $3 that made something, with the calls that were paid for them.
with made as materialized (
    select distinct task_id from (
        select task_id from run_record where run_id = $1 and step = $2 order by record_id desc limit $3) as newest
    where task_id is not null)
select (select count(*) from made) as tasks, count(*) as calls, coalesce(sum(c.tokens_in), 0) as tokens_in,
    coalesce(sum(c.tokens_out), 0) as tokens_out, sum(c.cost) as cost, max(c.currency) as currency
from made cross join lateral (
    select tokens_in, tokens_out, cost, currency from call
    where run = $1 and first_task = made.task_id and state <> 'intent') as c;
