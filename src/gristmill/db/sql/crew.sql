-- Crews of supervised processes. Every statement of a supervisor names the crew ($1) and its fence ($2), and holds the
-- crew's row while it writes: one that was replaced changes nothing any more. Lock order: crew, then places by name.

-- name: enter_crew
insert into crew (name) values ($1) on conflict do nothing;

-- name: lock_crew
-- Before everything that counts workers: the next statement's snapshot sees what others have committed meanwhile.
select *, coalesce(lease_until between clock_timestamp() and clock_timestamp() + 2 * ttl, false) as held,
    greatest(0, extract(epoch from lease_until - clock_timestamp()))::float8 as left
from crew where name = $1 for update;

-- name: take_crew
with c as (
    update crew set fence = fence + 1, state = 'up', host = $2, machine = $3, pid = $4, pid_started = $5, version = $6,
        logs = $7, ttl = make_interval(secs => $8), lease_until = clock_timestamp() + make_interval(secs => $8),
        asked = null, problem = null, started_at = clock_timestamp(), ended_at = null, cause = null
    where name = $1
    returning fence, name, host, pid),
told as (insert into event_inbox (name, body)
         select 'crew.up', json_build_object('crew', name, 'host', host, 'pid', pid)::text from c)
select fence from c;

-- name: renew_crew
update crew set lease_until = clock_timestamp() + ttl where name = $1 and fence = $2 and state <> 'down'
returning asked, state, scale;

-- name: look_at_crew
select asked, state, scale from crew where name = $1 and fence = $2 and state <> 'down';

-- name: stopping_crew
update crew set state = 'stopping' where name = $1 and fence = $2;

-- name: leave_crew
with c as (
    update crew set state = 'down', asked = null, ended_at = clock_timestamp(), cause = $3, lease_until = null
    where name = $1 and fence = $2 and state <> 'down'
    returning name, pid)
insert into event_inbox (name, body)
select 'crew.down', json_build_object('crew', name, 'pid', pid, 'cause', $3::text)::text from c
returning id;

-- name: tell_problem
update crew set problem = $3 where name = $1 and fence = $2 and problem is distinct from $3;

-- name: set_most
-- Those who were refused because the crew was full may ask again.
with c as (update crew set most = $3 where name = $1 and fence = $2 and most <> $3 returning name)
update crew_place p set wanted = true from c
where p.crew = c.name and not p.wanted and p.state = 'idle' and p.cause like 'refused: the crew has%';

-- name: ask_crew
update crew set asked = $2 where name = $1 and state <> 'down' and asked is distinct from $2 returning name;

-- name: scale_crew
with c as (
    update crew set scale = case when $3::int is null then (scale::jsonb - $2::text)::text
                                 else jsonb_set(scale::jsonb, array[$2::text], to_jsonb($3::int))::text end
    where name = $1
    returning name),
told as (insert into event_inbox (name, body)
         select 'crew.order', json_build_object('crew', name, 'place', $2::text, 'order', 'scale', 'by', $4::text,
             'count', $3::int)::text from c)
select name from c;

-- name: crews
select c.*, coalesce(c.lease_until between clock_timestamp() and clock_timestamp() + 2 * c.ttl, false) as held,
    (select count(*) from crew_place p where p.crew = c.name and p.kind = 'worker'
     and p.state in ('running', 'stopping')) as workers
from crew c order by c.name;

-- name: places
-- Of one crew, or of all ($1 null), each with the worker that its process has become.
select p.*, cardinality(p.died_at) as deaths,
    -- one minute is more than any delay: the clock was set back
    case when p.due_at > clock_timestamp() and p.due_at < clock_timestamp() + interval '1 minute'
         then extract(epoch from p.due_at - clock_timestamp()) else 0 end::float8 as due_in,
    w.id as worker_id, w.state as worker_state,
    coalesce(w.lease_until not between clock_timestamp() and clock_timestamp() + 2 * w.ttl, false) as late,
    greatest(0, extract(epoch from clock_timestamp() - (w.lease_until - w.ttl)))::float8 as beat_age,
    coalesce(t.n, 0) as tasks
from crew_place p left join worker w on w.nonce = p.nonce
left join lateral (select count(*) as n from task t where t.worker_id = w.id and t.state = 'running') as t on true
where $1::text is null or p.crew = $1
order by p.crew, p.spec, p.number;

-- name: put_place
-- What the settings say of a place. A person's word stays, except where `fresh` ($9): the crew begins anew.
insert into crew_place as p (crew, name, kind, spec, number, settings, enabled)
select c.name, $3, $4, $5, $6, $7, $8 from crew c where c.name = $1 and c.fence = $2
on conflict (crew, name) do update set kind = excluded.kind, spec = excluded.spec, number = excluded.number,
    settings = excluded.settings, enabled = excluded.enabled, dropped = false,
    wanted = p.wanted or $9 or p.dropped or (excluded.enabled and not p.enabled), changed_at = clock_timestamp()
where (p.kind, p.spec, p.number, p.settings, p.enabled, p.dropped)
    is distinct from (excluded.kind, excluded.spec, excluded.number, excluded.settings, excluded.enabled, false)
    or ($9 and not p.wanted);

-- name: drop_places
-- Those that the settings name no more: ended first, then forgotten.
update crew_place p set dropped = true, wanted = false, again = false, changed_at = clock_timestamp()
from crew c
where c.name = $1 and c.fence = $2 and p.crew = c.name and p.name <> all ($3::text[]) and not p.dropped;

-- name: forget_place
delete from crew_place p using crew c
where c.name = $1 and c.fence = $2 and p.crew = c.name and p.name = $3 and p.dropped and p.state = 'idle';

-- name: call_up
-- After lock_crew. Nothing comes back when the crew is full.
update crew_place p set state = 'due', due_at = clock_timestamp(), cause = null, ending = null, wanted = true,
    changed_at = clock_timestamp()
from crew c
where c.name = $1 and p.crew = $1 and p.name = $2 and p.state = 'idle' and p.enabled and not p.blacklisted
  and (p.kind <> 'worker' or c.most > (
      select count(*) from crew_place o where o.crew = $1 and o.kind = 'worker' and o.state <> 'idle'))
returning p.name;

-- name: refuse
-- $5: the state that it was seen in; meanwhile somebody else may have started it.
with c as materialized (select name from crew where name = $1 and fence = $2 for share),
refused as (
    update crew_place p set wanted = false, state = 'idle', due_at = null, nonce = null, pid = null, cause = $4,
        changed_at = clock_timestamp()
    from c where p.crew = c.name and p.name = $3 and p.state = $5
    returning p.crew, p.name)
insert into event_inbox (name, body)
select 'crew.refused', json_build_object('crew', crew, 'place', name, 'reason', $4::text)::text from refused
returning id;

-- name: call_off
update crew_place p set state = 'idle', due_at = null, nonce = null, changed_at = clock_timestamp()
from crew c
where c.name = $1 and c.fence = $2 and p.crew = $1 and p.name = $3 and p.state in ('due', 'starting') and p.pid is null;

-- name: begin_start
-- $4 the nonce of the new process. Of two supervisors one gets the place.
with c as materialized (select name from crew where name = $1 and fence = $2 for share)
update crew_place p set state = 'starting', nonce = $4, pid = null, pid_started = null, machine = null,
    started_at = clock_timestamp(), due_at = null, changed_at = clock_timestamp()
from c where p.crew = c.name and p.name = $3 and p.state = 'due' and p.enabled and p.wanted and not p.blacklisted
returning p.name;

-- name: record_start
-- The process exists and waits for this: without it, it ends before it has begun anything.
with c as materialized (select name from crew where name = $1 and fence = $2 for share)
update crew_place p set state = 'running', machine = $5, pid = $6, pid_started = $7, changed_at = clock_timestamp()
from c where p.crew = c.name and p.name = $3 and p.nonce = $4 and p.state = 'starting'
returning p.name;

-- name: start_again
-- A start that came to nothing: its supervisor died, or was replaced, before the process could begin.
with c as materialized (select name, started_at from crew where name = $1 and fence = $2 for share)
update crew_place p set state = 'due', nonce = null, due_at = clock_timestamp(), changed_at = clock_timestamp()
from c where p.crew = c.name and p.name = $3 and p.nonce = $4 and p.state = 'starting' and p.pid is null
  and (p.started_at is null or p.started_at < c.started_at
       or p.started_at not between clock_timestamp() - interval '30 s' and clock_timestamp())
returning p.name;

-- name: good_running
with c as materialized (select name from crew where name = $1 and fence = $2 for share)
update crew_place p set restarts = 0, changed_at = clock_timestamp()
from c where p.crew = c.name and p.name = $3 and p.nonce = $4 and p.state = 'running' and p.restarts > 0
returning p.name;

-- name: begin_stop
with c as materialized (select name from crew where name = $1 and fence = $2 for share)
update crew_place p set state = 'stopping', ending = coalesce(p.ending, 'stop'), changed_at = clock_timestamp()
from c where p.crew = c.name and p.name = $3 and p.nonce = $4 and p.state = 'running'
returning p.ending;

-- name: record_end
-- $5 'idle' or 'due', in $6 seconds; $7 restarts in a row; $8 the cause; $9 a death, which counts; $10 too many of them;
-- $11 whether it is still wanted.
with c as materialized (select name from crew where name = $1 and fence = $2 for share),
ended as (
    update crew_place p set state = $5, due_at = case when $5 = 'due' then clock_timestamp() + make_interval(secs => $6) end,
        restarts = $7, cause = $8, blacklisted = p.blacklisted or $10, wanted = p.wanted and $11,
        died_at = case when $9 then array(select d from unnest(p.died_at) as d (d)
            where d > clock_timestamp() - interval '1 hour') || clock_timestamp() else p.died_at end,
        nonce = null, pid = null, pid_started = null, machine = null, again = false, ending = null,
        changed_at = clock_timestamp()
    from c where p.crew = c.name and p.name = $3 and p.nonce = $4 and p.state in ('starting', 'running', 'stopping')
    returning p.crew, p.name, p.state),
told as (
    insert into event_inbox (name, body)
    select case when $10 then 'crew.blacklisted' else 'crew.restart' end,
        json_build_object('crew', crew, 'place', name, 'cause', $8::text, 'restarts', $7::int, 'delay', $6::float8)::text
    from ended where $9 and ($10 or state = 'due'))
select name from ended;

-- name: recent_deaths
select count(*) from crew_place p cross join unnest(p.died_at) as d (at)
where p.crew = $1 and p.name = $2 and d.at > clock_timestamp() - interval '1 hour';

-- name: lock_place
select *, cardinality(died_at) as deaths from crew_place where crew = $1 and name = $2 for update;

-- name: change_place
-- What a person wants; $3 JSON of the columns that change.
with changed as (
    update crew_place p set
        wanted = coalesce(($3::jsonb ->> 'wanted')::boolean, wanted),
        blacklisted = coalesce(($3::jsonb ->> 'blacklisted')::boolean, blacklisted),
        paused = coalesce(($3::jsonb ->> 'paused')::boolean, paused),
        again = coalesce(($3::jsonb ->> 'again')::boolean, again),
        ending = coalesce($3::jsonb ->> 'ending', ending),
        restarts = coalesce(($3::jsonb ->> 'restarts')::int, restarts),
        died_at = case when ($3::jsonb ->> 'restarts')::int = 0 then '{}' else died_at end,
        cause = case when $3::jsonb ? 'cause' then $3::jsonb ->> 'cause' else cause end,
        changed_at = clock_timestamp()
    where p.crew = $1 and p.name = $2
    returning p.crew, p.name),
told as (
    insert into event_inbox (name, body)
    select 'crew.order', json_build_object('crew', crew, 'place', name, 'order', $4::text, 'by', $5::text)::text from changed)
select name from changed;

-- name: own_place
-- What a worker looks up about itself, by its nonce.
select settings, paused from crew_place where nonce = $1;

-- name: worker_of
select id from worker where nonce = $1 and state in ('alive', 'paused', 'draining');
