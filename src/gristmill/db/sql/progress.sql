-- How runs stand, from what was folded: counters, flow and pace. No task is counted here.

-- name: counts
-- Counters of runs by step, of several runs at once; what is not folded yet included: a run that has ended shows its end.
select c.run_id, c.step, s.name as stage, s.barrier, json_object_agg(c.name, c.n)::text as counts
from (select run_id, step, name, sum(n)::bigint as n from (
          select run_id, step, name, n from counter where run_id = any ($1::bigint[])
          union all
          select run_id, step, name, n from counter_delta where run_id = any ($1::bigint[])) as moved
      group by run_id, step, name having sum(n) <> 0) as c
join step s on s.run_id = c.run_id and s.ordinal = c.step
group by c.run_id, c.step, s.name, s.barrier order by c.run_id, c.step;

-- name: money
-- What runs have spent, in each currency, and what they may spend. $1 numbers of the runs as text.
select w.name, coalesce(s.currency, b.currency) as currency, s.spent, b.cap, b.currency as cap_currency
from unnest($1::text[]) as w (name)
left join spending s on s.scope = 'run' and s.name = w.name
left join budget b on b.scope = 'run' and b.name = w.name
order by w.name, s.currency;

-- name: pace_of
-- What each step has finished in a second of the last $2 minutes that it was at work in, of several runs.
select p.run_id, p.step, sum(p.completed + p.failed)::float8
    / greatest(5, extract(epoch from clock_timestamp() - greatest(min(p.minute), min(r.started_at))))::float8 as rate
from pace p join run r on r.id = p.run_id
where p.minute >= date_trunc('minute', clock_timestamp()) - make_interval(mins => $2) and p.run_id = any ($1::bigint[])
group by p.run_id, p.step;

-- name: steps
select ordinal as step, name as stage, kind as operator, pool, barrier, per_item, after, upstream from step
where run_id = $1 order by ordinal;

-- name: flow
-- Everything that was noted of a run; a few thousand rows for one that took a month.
select step, least(at, clock_timestamp()) as at, waiting, running, completed, failed from flow
where run_id = $1 order by at, step;

-- name: times
-- How long attempts of each step took: of the latest $2 that made something.
select s.ordinal as step, count(t.seconds) as attempts,
    percentile_cont(0.5) within group (order by t.seconds) as median,
    percentile_cont(0.95) within group (order by t.seconds) as p95
from step s
cross join lateral (
    select distinct task_id from (
        select task_id from run_record where run_id = $1 and step = s.ordinal order by record_id desc limit $2) as newest
    where task_id is not null) as made
cross join lateral (
    select extract(epoch from ended_at - started_at)::float8 as seconds from attempt
    where task_id = made.task_id and run_id = $1 and outcome = 'completed'
    union all
    select extract(epoch from ended_at - started_at)::float8 from attempt_history
    where task_id = made.task_id and run_id = $1 and outcome = 'completed') as t
where s.run_id = $1 group by s.ordinal;

-- name: causes
-- What has failed of a run, by cause and step: of the first $2 that the index of broken tasks gives.
with broken as materialized (
    select id, step, state from task where run_id = $1 and state in ('failed', 'quarantined')
    order by step, id limit $2),
told as (
    select b.id, b.step, b.state, a.code, a.error, a.message, a.cause from broken b
    left join lateral (
        select code, error, message, cause from attempt where task_id = b.id order by ended_at desc limit 1) as a on true)
select encode(t.cause, 'hex') as cause, s.name as stage, (array_agg(t.code order by t.id))[1] as code,
    (array_agg(t.error order by t.id))[1] as error, (array_agg(t.message order by t.id))[1] as message,
    min(t.state) as state, count(*) as count, min(t.id) as sample_task
from told t join step s on s.run_id = $1 and s.ordinal = t.step
group by t.cause, s.ordinal, s.name order by count(*) desc, s.ordinal, t.cause limit 200;

-- name: unreadable
-- Inputs that could not be read, by reason.
select code, min(reason) as message, count(*) as count, (array_agg(name order by name))[1] as sample from item
where run_id = $1 and state = 'unreadable' group by code order by count(*) desc limit 50;

-- name: throughput
-- Pieces of each minute of the last $2: of one run, or of all of a project's ($3).
select p.minute, s.name as stage, sum(p.completed)::bigint as completed, sum(p.failed)::bigint as failed
from pace p join step s on s.run_id = p.run_id and s.ordinal = p.step join run r on r.id = p.run_id
where p.minute > date_trunc('minute', clock_timestamp()) - make_interval(mins => $2)
  and ($1::bigint is null or p.run_id = $1) and r.project = $3
group by p.minute, s.name order by p.minute, s.name;

-- name: minutes
select date_trunc('minute', clock_timestamp()) as now;

-- name: marks
-- What happened meanwhile, among the latest 20,000 events.
select e.seq, e.name, e.at, e.run_id, r.name as run, e.worker_id, w.name as worker, e.body
from (select * from event order by seq desc limit 20000) as e
left join run r on r.id = e.run_id left join worker w on w.id = e.worker_id
where e.at > clock_timestamp() - make_interval(mins => $2) and e.name = any ($4::text[])
  and ($1::bigint is null or e.run_id = $1 or e.run_id is null) and (r.project is null or r.project = $3)
order by e.seq desc limit 200;
