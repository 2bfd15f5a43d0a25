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
summed as materialized (select run_id, step, name, sum(n)::bigint as n from taken group by run_id, step, name),
kept as (
    insert into counter as c (run_id, step, name, n) select run_id, step, name, n from summed order by 1, 2, 3
    on conflict (run_id, step, name) do update set n = c.n + excluded.n)
select run_id, step, greatest(0, coalesce(sum(n) filter (where name = 'completed'), 0))::bigint as completed,
    greatest(0, coalesce(sum(n) filter (where name in ('failed', 'quarantined')), 0))::bigint as failed
from summed group by run_id, step;

-- name: note_flow
-- Where the steps $2 of the runs $1, which have just moved, stand now; and what they finished ($3, $4) in this minute.
-- A span is named by its end, so that a longer one never begins before a shorter one that came before it.
with clock as materialized (select clock_timestamp() as t),
moved as materialized (
    select * from unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[]) as m (run_id, step, completed, failed)),
paced as (
    insert into pace as p (minute, run_id, step, completed, failed)
    select date_trunc('minute', t), run_id, step, completed, failed from moved cross join clock
    where completed > 0 or failed > 0 order by run_id, step
    on conflict (minute, run_id, step) do update
    set completed = p.completed + excluded.completed, failed = p.failed + excluded.failed)
insert into flow (run_id, step, at, waiting, running, completed, failed)
select m.run_id, m.step, to_timestamp(ceil(extract(epoch from t) / span.seconds) * span.seconds),
    now.waiting, now.running, now.completed, now.failed
from moved m cross join clock join run r on r.id = m.run_id
cross join lateral (
    select power(2, greatest(0, ceil(log(2, greatest(1, extract(epoch from t - r.created_at) / 400))))) as seconds) as span
cross join lateral (
    select coalesce(sum(n) filter (where name in ('waiting', 'available')), 0) as waiting,
        coalesce(sum(n) filter (where name = 'running'), 0) as running,
        coalesce(sum(n) filter (where name = 'completed'), 0) as completed,
        coalesce(sum(n) filter (where name in ('failed', 'quarantined')), 0) as failed
    from counter c where c.run_id = m.run_id and c.step = m.step) as now
order by m.run_id, m.step
on conflict (run_id, step, at) do update set waiting = excluded.waiting, running = excluded.running,
    completed = excluded.completed, failed = excluded.failed;

-- name: forget_flow
-- Minutes and waits of more than three days ago; and of runs that ended $1 seconds ago (0: never) all that was noted.
with gone as (delete from pace where minute < clock_timestamp() - interval '3 days'),
waits as (delete from task_wait where since < clock_timestamp() - interval '3 days')
delete from flow where $1 > 0 and run_id in (
    select id from run where ended_at < clock_timestamp() - make_interval(secs => $1));

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
