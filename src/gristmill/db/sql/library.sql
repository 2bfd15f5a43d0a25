-- The bare engine as a library: results of functions, and how batches stand.

-- name: save_results
-- No "on conflict": a second result of one task must fail, whatever else went wrong.
insert into result (task_id, token, value)
select * from unnest($1::bigint[], $2::uuid[], $3::text[]);

-- name: outcome
-- A task, its result if there is one, and its latest attempt.
select t.id, t.run_id, t.kind, t.state, t.attempt, t.failures, t.crashes, r.value, a.code, a.error, a.message,
    w.name as worker
from task t
left join worker w on w.id = t.worker_id
left join result r on r.task_id = t.id
left join lateral (select code, error, message from attempt a where a.task_id = t.id
                   order by a.ended_at desc, a.attempt desc limit 1) a on true
where t.id = $1;

-- name: outcome_of_history
select t.id, t.run_id, t.kind, t.state, t.attempt, t.failures, t.crashes, r.value, a.code, a.error, a.message
from task_history t
left join result r on r.task_id = t.id
left join lateral (select code, error, message from attempt_history a where a.task_id = t.id
                   order by a.ended_at desc, a.attempt desc limit 1) a on true
where t.id = $1;

-- name: counts
-- How many tasks of a run are in each state (folded or not yet), and how it stands.
select r.state, r.sealed, r.name, coalesce((
    select json_object_agg(c.name, c.n)::text from (
        select name, sum(n)::bigint as n from (
            select name, n from counter where run_id = $1 union all
            select name, n from counter_delta where run_id = $1) as every
        group by name having sum(n) <> 0) as c), '{}') as counts
from run r where r.id = $1;
