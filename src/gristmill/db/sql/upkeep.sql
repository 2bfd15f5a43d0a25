-- What keeps the house: summing counters and numbering events. One process at a time holds the folder's lock; when it
-- dies or hangs, its transaction ends and the next one goes on.

-- name: try_fold
select pg_try_advisory_xact_lock($1, 1);

-- name: fold_counters
with taken as (delete from counter_delta where ctid = any (array(select ctid from counter_delta limit 20000))
               returning run_id, step, name, n),
summed as (select run_id, step, name, sum(n)::bigint as n from taken group by run_id, step, name)
insert into counter as c (run_id, step, name, n) select run_id, step, name, n from summed order by 1, 2, 3
on conflict (run_id, step, name) do update set n = c.n + excluded.n;

-- name: number_events
with taken as materialized (
    delete from event_inbox where id = any (array(select id from event_inbox order by id limit 5000))
    returning id, name, run_id, item_id, task_id, worker_id, body, at)
insert into event (seq, name, run_id, item_id, task_id, worker_id, body, at)
select (select coalesce(max(seq), 0) from event) + row_number() over (order by id),
    name, run_id, item_id, task_id, worker_id, body, at
from taken
returning seq;

-- name: events_after
select seq, name, run_id, item_id, task_id, worker_id, body, at from event
where seq > $1 and ($2::bigint is null or run_id = $2 or run_id is null) order by seq limit $3;
