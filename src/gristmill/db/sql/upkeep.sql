-- What keeps the house: summing counters and numbering events. One process at a time holds the folder's lock; when it
-- dies or hangs, its transaction ends and the next one goes on.

-- name: try_fold
select pg_try_advisory_xact_lock($1, 1);

-- name: hold_fold
-- Nobody folds until this transaction ends, and whoever is at it has finished.
select pg_advisory_xact_lock($1, 1);

-- name: fold_counters
with taken as (delete from counter_delta where ctid = any (array(select ctid from counter_delta limit 20000))
               returning run_id, step, name, n),
summed as (select run_id, step, name, sum(n)::bigint as n from taken group by run_id, step, name)
insert into counter as c (run_id, step, name, n) select run_id, step, name, n from summed order by 1, 2, 3
on conflict (run_id, step, name) do update set n = c.n + excluded.n;

-- name: number_events
-- Returns the events that hooks asked for, once for each hook: who numbers them has to make the hooks' tasks in the same
-- transaction. Patterns are compared with the few names and not with every event; without hooks an empty table is read.
-- What happens in the runs that hooks' own tasks belong to is told to no hook: it would go on for ever.
with taken as materialized (
    delete from event_inbox where id = any (array(select id from event_inbox order by id limit 5000))
    returning id, name, run_id, item_id, task_id, worker_id, body, at),
numbered as (
    insert into event (seq, name, run_id, item_id, task_id, worker_id, body, at)
    select (select coalesce(max(seq), 0) from event) + row_number() over (order by id),
        name, run_id, item_id, task_id, worker_id, body, at
    from taken
    returning seq, name, run_id, item_id, task_id, worker_id, body, at),
names as materialized (select distinct name from taken),
wanted as materialized (
    select h.id, h.name as hook, h.project, h.of_run, h.run_id as own, h.kind, h.pool, h.options, n.name
    from hook h join names n on exists (
        select 1 from unnest(h.events) as pattern
        where n.name = pattern or (pattern like '%*' and starts_with(n.name, left(pattern, -1)))))
select w.id as hook_id, w.hook, w.own, w.kind, w.pool, w.options,
    n.seq, n.name, n.run_id, n.item_id, n.task_id, n.worker_id, n.body, n.at, clock_timestamp() as numbered_at
from wanted w join numbered n on n.name = w.name left join run r on r.id = n.run_id
where (w.of_run is null or w.of_run = n.run_id) and (n.run_id is null or (r.project = w.project and r.workflow <> '(hooks)'))
order by n.seq, w.id;

-- name: last_event
select coalesce(max(seq), 0) from event;

-- name: unnumbered
select exists (select 1 from event_inbox);

-- name: events_after
-- Everything in the history comes before everything that is not; who is past it does not look there.
select * from (
    (select seq, name, run_id, item_id, task_id, worker_id, body, at from event_history
     where $1 < (select event_seq from history_walk)
       and seq > $1 and ($2::bigint is null or run_id = $2 or run_id is null)
       and exists (select 1 from unnest($4::text[]) as pattern
                   where name = pattern or (pattern like '%*' and starts_with(name, left(pattern, -1))))
     order by seq limit $3)
    union all
    (select seq, name, run_id, item_id, task_id, worker_id, body, at from event
     where seq > $1 and ($2::bigint is null or run_id = $2 or run_id is null)
       and exists (select 1 from unnest($4::text[]) as pattern
                   where name = pattern or (pattern like '%*' and starts_with(name, left(pattern, -1))))
     order by seq limit $3)) as told
order by seq limit $3;

-- name: count_workers
select greatest(1, count(*)) from worker where state in ('alive', 'paused', 'draining');

-- name: forget_workers
-- Rows of workers that ended long ago ($1 seconds; 0 keeps them).
delete from worker where $1 > 0 and state in ('stopped', 'dead') and ended_at < clock_timestamp() - make_interval(secs => $1);
