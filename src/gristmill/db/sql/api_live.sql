-- What live views read: totals from the folded counters, never from the tasks themselves.

-- name: runs_in
-- Runs of a project in some states, without the standing ones that schedules and hooks own.
select id, name, state from run where project = $1 and state = any ($2::text[]) and workflow not in ('standing', '(hooks)') order by id;

-- name: pulse
-- Asked many times a second while somebody listens: is there anything to number or to sum, and what was numbered last.
select exists (select from event_inbox) or exists (select from counter_delta) as waiting,
    (select coalesce(max(seq), 0) from event) as head;

-- name: roll_ups
-- $1: runs that are wanted in any case; besides them those that have not ended and those that ended within $2 seconds, the
-- newest $3 of them.
with chosen as materialized (
    (select id from run where state in ('waiting', 'running', 'paused')
     and workflow not in ('standing', '(hooks)') order by id desc limit $3)
    union (select id from run where ended_at > clock_timestamp() - make_interval(secs => $2) and workflow not in ('standing', '(hooks)')
           order by id desc limit $3)
    union select unnest($1::bigint[]))
select r.id, r.name, r.state, r.epoch, coalesce((
        select json_agg(json_build_array(s.ordinal, s.name, (
            select json_object_agg(c.name, c.n) from counter c where c.run_id = r.id and c.step = s.ordinal))
            order by s.ordinal)
        from step s where s.run_id = r.id), '[]')::text as stages
from chosen join run r using (id) order by r.id;

-- name: limit_resets
-- When the day of each limit begins anew; $1 one name, or null: all.
select q.name, to_timestamp(t + quota_next_day(q, t) - t) as resets_at
from quota q cross join (select extract(epoch from clock_timestamp())::float8 as t) as clock
where q.requests_per_day is not null and ($1::text is null or q.name = $1);

-- name: lane_workers
-- Workers that lived after $1; "seen_at" is their latest beat.
select id, name, cause, started_at, ended_at, lease_until - ttl as seen_at,
    case when state in ('alive', 'paused', 'draining') and lease_until < clock_timestamp() then 'late' else state end as state
from worker where ended_at is null and state in ('alive', 'paused', 'draining') or ended_at > $1 order by id limit 1000;

-- name: lane_spans
-- What ended after $1, in spans of $2 seconds, and what is under way: few rows however many attempts there were.
select worker_id as worker, min(greatest(started_at, $1)) as began, max(ended_at) as ended, count(*) as tasks,
    count(*) filter (where outcome <> 'completed') as failed
from attempt where ended_at > $1 and worker_id is not null and started_at is not null
group by worker_id, floor(extract(epoch from ended_at - $1) / $2::float8)
union all
select worker_id, min(greatest(claimed_at, $1)), clock_timestamp(), 0, 0 from task
where state = 'running' and worker_id is not null and claimed_at is not null group by worker_id
order by worker, began;

-- name: lane_waits
-- When workers sent tasks away because of a quota after $1, and until when; one row for each span of $2 seconds.
select worker_id as worker, min(greatest(since, $1)) as began, max(until) as ended
from task_wait where since > $1 and worker_id is not null and reason like 'quota: %'
group by worker_id, floor(extract(epoch from since - $1) / $2::float8)
order by worker, began;

-- name: overview
-- From the folded counters of runs that have not ended, and of those that ended with failures within a day.
select coalesce(sum(n) filter (where c.name in ('waiting', 'available')), 0)::bigint as waiting,
    coalesce(sum(n) filter (where c.name = 'running'), 0)::bigint as running,
    coalesce(sum(n) filter (where c.name = 'completed'), 0)::bigint as done,
    coalesce(sum(n) filter (where c.name in ('failed', 'quarantined')), 0)::bigint as failed,
    coalesce((select greatest(0, extract(epoch from clock_timestamp() - at)) from event_inbox order by id limit 1), 0)::float8
        as lag
from run r join counter c on c.run_id = r.id
where r.project = $1 and r.state in ('waiting', 'running', 'paused') and r.workflow not in ('standing', '(hooks)');

-- name: run_states
select state, count(*) as n from run where project = $1 and workflow not in ('standing', '(hooks)') group by state;

-- name: fleet_health
select id, name, host, pid, cause, lease_until - ttl as last_update,
    greatest(0, extract(epoch from clock_timestamp() - (lease_until - ttl)))::float8 as stale,
    case when state = 'dead' then 'crashed' when lease_until < clock_timestamp() then 'stuck' else 'healthy' end as health
from worker
where state in ('alive', 'paused', 'draining') or state = 'dead' and ended_at > clock_timestamp() - interval '10 minutes'
order by id;
