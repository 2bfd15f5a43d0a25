-- Quotas. The function quota_take (migration 0007) holds the arithmetic; everything that it decides is decided under the
-- lock of the quota's row, on the database's clock.

-- name: take
-- One block: everything that waits in this process for this quota, and what it gives back. No row: there is no quota.
with taken as materialized (
    select * from quota_take($1, $2, $3::float8[], $4::float8[], $5, $6, $7, $8, $9, $10)),
told as (
    insert into event_inbox (name, body)
    select 'limit.spent', json_build_object('limit', $1::text, 'why', why, 'until', to_timestamp(until))::text
    from taken where told)
select moment, starts, leaves, why, again, stepped from taken;

-- name: renew
-- $1 names, $2 process, $3 how many each has under way. The quotas that exist of these, and whether they are written to
-- after each call. Where calls under way are limited, their number is the business of take alone: ours may be older.
with given as materialized (select * from unnest($1::text[], $3::integer[]) as g (name, held)),
alive as (
    insert into quota_holder (name, worker, held, expires_at)
    select q.name, $2, g.held, extract(epoch from clock_timestamp()) + 15
    from given g join quota q on q.name = g.name order by q.name
    on conflict (name, worker) do update set expires_at = excluded.expires_at, held = case
        when (select concurrency from quota where name = excluded.name) is null then excluded.held else quota_holder.held end)
select q.name, q.version, q.concurrency is not null as counted,
    coalesce(q.tokens_per_minute, q.learned_tokens) is not null as metered
from given g join quota q on q.name = g.name;

-- name: leave
delete from quota_holder where worker = $1;

-- name: sweep
-- What was left by processes that nobody has heard of for a minute.
delete from quota_holder where expires_at < extract(epoch from clock_timestamp()) - 60;

-- name: refused
-- An answer 429. $2 seconds to wait, $3 seconds since that request was sent, $4 answers of this process within the last
-- minute, $5 and $6 requests and tokens per minute that the provider's headers tell, or null. All wait; the rate goes
-- down once for what was sent before anybody knew. Where no limit is set, one is made from what got through, on all workers.
with clock as materialized (
    select extract(epoch from clock_timestamp())::float8 as t, least(900, greatest(0.5, $2::float8)) as pause,
        greatest(1, (select count(*) from worker where state = 'alive' and lease_until > clock_timestamp())) as workers)
insert into quota as q (name, changed_by, learned_requests, learned_tokens, probing, blocked_until, blocked_for, blocked_why,
    paced_at)
select $1, 'an answer 429', coalesce($5::float8, case when $4::float8 >= 30 then $4::float8 * workers end), $6::float8,
    $5::float8 is null and $4::float8 >= 30, t + pause, pause, 'the provider asks to wait', t from clock
on conflict (name) do update set
    blocked_until = greatest(q.blocked_until, excluded.blocked_until),
    blocked_for = greatest(q.blocked_until, excluded.blocked_until) - (select t from clock),
    blocked_why = case when q.blocked_until > excluded.blocked_until then q.blocked_why else excluded.blocked_why end,
    learned_requests = coalesce($5, q.learned_requests,
        case when coalesce(q.requests_per_minute, q.tokens_per_minute) is null then excluded.learned_requests end),
    learned_tokens = coalesce($6, q.learned_tokens),
    probing = $5::float8 is null and coalesce(q.requests_per_minute, q.tokens_per_minute) is null
        and (q.probing or (q.learned_requests is null and excluded.probing)),
    pace = case when q.paced_at < (select t - $3::float8 from clock)
        then greatest(0.1, 0.8 * quota_pace(q, (select t from clock))) else q.pace end,
    paced_at = case when q.paced_at < (select t - $3::float8 from clock) then (select t from clock) else q.paced_at end,
    request_tat = greatest(q.request_tat, (select t + (q.request_tat - t) / 0.8 from clock))
returning blocked_until - (select t from clock) as wait, blocked_until;

-- name: learn
-- What the provider's headers tell, taken only where nobody has set a limit and before it is reached.
insert into quota as q (name, changed_by, learned_requests, learned_tokens, paced_at)
values ($1, 'headers of an answer', $2::float8, $3::float8, extract(epoch from clock_timestamp()))
on conflict (name) do update set learned_requests = coalesce($2, q.learned_requests),
    learned_tokens = coalesce($3, q.learned_tokens), probing = q.probing and $2::float8 is null;

-- name: park
-- The account or the day is spent, $2 says what. Nothing is sent until the next day; told once.
with before as materialized (
    select name, blocked_why, blocked_until > extract(epoch from clock_timestamp()) as blocked from quota where name = $1 for no key update),
made as (
    insert into quota as q (name, changed_by, blocked_until, blocked_for, blocked_why)
    select $1, 'an answer of the provider', e.until, e.until - e.t, $2
    from (select t, extract(epoch from ((to_timestamp(t) at time zone 'UTC')::date + 1)::timestamp at time zone 'UTC')::float8 as until
          from (select extract(epoch from clock_timestamp())::float8 as t) as clock) as e
    where (select count(*) from before) >= 0
    on conflict (name) do update set
        blocked_until = quota_next_day(q, extract(epoch from clock_timestamp())::float8),
        blocked_for = quota_next_day(q, extract(epoch from clock_timestamp())::float8) - extract(epoch from clock_timestamp()),
        blocked_why = $2
    returning blocked_until),
told as (
    insert into event_inbox (name, body)
    select 'limit.spent', json_build_object('limit', $1::text, 'why', $2::text, 'until', to_timestamp(blocked_until))::text
    from made where not exists (select from before where blocked and blocked_why = $2))
select blocked_until, blocked_until - extract(epoch from clock_timestamp())::float8 as wait from made;

-- name: change
-- $2 to $7 what is to be from now on; $8 who, $9 what the settings say, or null: a person did it. The bucket counts as
-- full, so that nothing is let through twice; what was learned, and a pause, are forgotten.
with clock as materialized (select extract(epoch from clock_timestamp())::float8 as t),
made as (
    insert into quota as q (name, requests_per_minute, tokens_per_minute, requests_per_day, zone, burst, concurrency,
        changed_by, settings)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    on conflict (name) do update set requests_per_minute = excluded.requests_per_minute,
        tokens_per_minute = excluded.tokens_per_minute, requests_per_day = excluded.requests_per_day,
        zone = excluded.zone, burst = excluded.burst, concurrency = excluded.concurrency,
        changed_by = excluded.changed_by, changed_at = clock_timestamp(), settings = coalesce(excluded.settings, q.settings),
        version = q.version + 1, learned_requests = null, learned_tokens = null, probing = false, pace = 1, blocked_until = 0, line = 0,
        token_largest = 0, spent_day = null
    where $9::text is null or q.settings is distinct from $9
    returning name),
told as (
    insert into event_inbox (name, body)
    select 'limit.changed', json_build_object('limit', $1::text, 'requests_per_minute', $2::float8,
        'tokens_per_minute', $3::float8, 'requests_per_day', $4::bigint, 'zone', $5::text, 'burst', $6::integer,
        'concurrency', $7::integer, 'by', $8::text)::text
    from made)
select name from made;

-- name: fill
-- After change, in its transaction: nobody knows what was sent in the last minute.
with clock as materialized (select extract(epoch from clock_timestamp())::float8 as t)
update quota q set
    request_tat = coalesce((select t + r.burst * r.apart from quota_request_rate(q, t) as r), t),
    token_tat = greatest(least(q.token_tat, t + 60), coalesce((select t + r.room * r.apart from quota_token_rate(q, t) as r), t))
from clock where q.name = $1;

-- name: remove
with gone as (delete from quota where name = $1 returning name),
free as (delete from quota_holder where name in (select name from gone)),
told as (
    insert into event_inbox (name, body)
    select 'limit.changed', json_build_object('limit', name, 'requests_per_minute', null, 'tokens_per_minute', null,
        'requests_per_day', null, 'zone', null, 'burst', null, 'concurrency', null, 'by', $2::text)::text
    from gone)
select name from gone;

-- name: wake
-- Tasks that were sent away by this quota, when it has changed.
with away as materialized (
    select id from task where state = 'available' and run_at > clock_timestamp() and left(held, length($1)) = $1
    order by id for update skip locked)
update task t set run_at = clock_timestamp() from away where t.id = away.id returning t.id;

-- name: one
select requests_per_minute, tokens_per_minute, requests_per_day, zone, burst, concurrency from quota where name = $1;

-- name: report
-- $1 one name, or null: all. A figure that a quota does not limit is null.
with clock as materialized (select extract(epoch from clock_timestamp())::float8 as t),
state as (
    select q.*, clock.t, r.burst as most, r.apart, k.room, k.apart as each, quota_pace(q, t) as pace_now,
        case when q.day = quota_day(q, t) then q.day_used else 0 end as today,
        r.burst - greatest(0, q.request_tat - t) / r.apart as permits,
        least(q.blocked_until, t + q.blocked_for) - t as blocked, quota_next_day(q, t) - t as next_day,
        (select coalesce(sum(h.held), 0)::integer from quota_holder h where h.name = q.name and h.expires_at > t
         and not exists (select from worker w where w.nonce = h.worker and w.state = 'dead')) as in_flight
    from quota q cross join clock cross join lateral quota_request_rate(q, t) as r
    cross join lateral quota_token_rate(q, t) as k
    where $1::text is null or q.name = $1),
measured as (
    select *, greatest(0, blocked, case when today >= requests_per_day then next_day end, (1 - permits) * apart,
        token_tat - room * each - t, case when in_flight >= concurrency then 1 end) as wait
    from state)
select name, today as requests_today, requests_per_day as quota_limit,
    round(100.0 * today / requests_per_day, 1)::float8 as percentage_used,
    case when apart is not null then round(greatest(0, permits)::numeric, 1)::float8 end as tokens_available, wait = 0 as can_make_request,
    round(wait::numeric, 1)::float8 as wait_time_seconds,
    requests_per_minute, tokens_per_minute, zone, burst, concurrency, in_flight,
    round((60 / apart)::numeric, 1)::float8 as requests_per_minute_now,
    round((60 / each)::numeric, 1)::float8 as tokens_per_minute_now,
    round((room - greatest(0, token_tat - t) / each)::numeric, 0)::float8 as model_tokens_available,
    case when blocked > 0 then to_timestamp(t + blocked) end as blocked_until,
    case when blocked > 0 then blocked_why end as blocked_why,
    round(pace_now::numeric, 3)::float8 as pace, learned_requests, learned_tokens, changed_by, changed_at
from measured order by name;
