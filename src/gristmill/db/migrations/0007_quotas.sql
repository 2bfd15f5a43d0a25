-- Quotas: what a provider allows, kept by all processes together. Why it is built this way: docs/decisions/0011-quotas.md.
-- Moments that are only compared with each other are seconds since 1970 on the database's clock, as float8.

create table quota (
    name text primary key,
    requests_per_minute float8 check (requests_per_minute > 0),
    tokens_per_minute float8 check (tokens_per_minute > 0),
    requests_per_day bigint check (requests_per_day > 0),
    zone text not null default 'UTC',                -- in which a day begins
    burst integer check (burst > 0),                 -- requests at once; null: half a percent of a minute's
    concurrency integer check (concurrency > 0),     -- requests under way at once
    window_seconds float8 not null default 60,       -- over which the provider counts: its minute
    settings text,                                   -- what a settings file said last; it is taken over once
    version bigint not null default 1,               -- moved on by each change
    changed_at timestamptz not null default clock_timestamp(),
    changed_by text not null default '',
    learned_requests float8,                         -- per minute, from answers 429 and headers, where nobody set a limit
    learned_tokens float8,
    probing boolean not null default false,          -- what was learned is a guess: it is raised until an answer 429
    request_tat float8 not null default 0,           -- when the bucket of requests is empty again (GCRA)
    token_tat float8 not null default 0,
    token_largest float8 not null default 0,         -- the largest reservation of late: a bucket must hold it
    pace float8 not null default 1,                  -- of the rate, at paced_at: x 0.8 with a 429, + 2 % a minute
    paced_at float8 not null default 0,
    line float8 not null default 0,                  -- when the last of those who were sent away comes back
    day date,
    day_used bigint not null default 0,
    spent_day date,                                  -- the day whose end of the quota was told
    blocked_until float8 not null default 0,         -- the provider asked all to wait
    blocked_for float8 not null default 0,           -- how long that was: more is a clock that was set back
    blocked_why text
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- What each process has under way. A row counts until its process is known to be dead, or has not renewed it in time.
create table quota_holder (
    name text not null,
    worker uuid not null,                            -- nonce of the worker row, or any other for who is no worker
    held integer not null,
    expires_at float8 not null,
    primary key (name, worker)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

create function quota_day(q quota, t float8) returns date language sql stable as
$$ select (to_timestamp(t) at time zone q.zone)::date $$;

-- When the next day begins there.
create function quota_next_day(q quota, t float8) returns float8 language sql stable as
$$ select extract(epoch from ((quota_day(q, t) + 1)::timestamp at time zone q.zone))::float8 $$;

-- How fast it goes now. Limits that were set are never passed; a guess is probed: + 10 % a minute.
create function quota_pace(q quota, t float8) returns float8 language sql immutable as
$$ select case when q.probing
    then least(100, q.pace * power(1.1, least(60, greatest(0, t - q.paced_at) / 60)))
    else least(1, q.pace + 0.02 * greatest(0, t - q.paced_at) / 60) end $$;

-- The burst, and the seconds between two requests: so many that no window of the provider's sees more than it allows,
-- even if each request leaves or arrives up to half a second late.
create function quota_request_rate(q quota, t float8, out burst float8, out apart float8) language sql immutable as
$$ select case when n is not null then b end,
       (q.window_seconds + 0.5) / (case when n - b + 1 > 0.01 then n - b + 1 when n is not null then 0.01 end * quota_pace(q, t))
   from (select coalesce(q.requests_per_minute, q.learned_requests) as n) as given
   cross join lateral (select greatest(1, least(n, coalesce(q.burst, ceil(n * 0.005)))) as b) as chosen $$;

-- The same for tokens: how many at once, and the seconds for each.
create function quota_token_rate(q quota, t float8, out room float8, out apart float8) language sql immutable as
$$ select r, (q.window_seconds + 0.5) / ((n - r) * quota_pace(q, t))
   from (select coalesce(q.tokens_per_minute, q.learned_tokens) as n) as given
   cross join lateral (select least(n / 2, greatest(n * 0.015, q.token_largest)) as r) as chosen $$;

-- Permits for requests that wait in this order. tokens, age: of each its reservation and how long it has waited already.
-- used_more: tokens by which earlier reservations were too small (negative: too large). back: permits that nobody used,
-- back_age seconds after they were given: what the bucket has lost since then is not given back, so that no window ever
-- sees more than without them. held: what the process has under way, without these.
-- For each: starts, how many seconds after the moment of this block it may leave; null where that is not known yet, and
-- then leaves: after how many seconds to come back, or null: wait here, and ask once more in about `again` seconds. Only
-- a quota that exists gives a row.
create function quota_take(
    which text, who uuid, tokens float8[], age float8[], used_more float8, back integer, back_age float8, held integer,
    ahead float8, patience float8, at float8 default null)
returns table (moment float8, starts float8[], leaves float8[], why text, until float8, again float8, told boolean,
    stepped boolean)
language plpgsql set search_path from current as $$
#variable_conflict use_column
declare
    q quota; t float8; today date; b float8; apart float8; room float8; each float8;
    s float8; soonest float8; free integer; granted integer := 0; spacing float8; expected float8; i integer;
    wanted integer := coalesce(array_length(tokens, 1), 0);
begin
    select * into q from quota where name = which for no key update;
    if not found then return; end if;
    t := coalesce(at, extract(epoch from clock_timestamp())::float8);
    moment := t;
    starts := array_fill(null::float8, array[wanted]); leaves := starts; told := false; stepped := false;
    -- What is granted must survive a crash of the server, or it would be granted twice.
    perform set_config('synchronous_commit', case when coalesce(q.requests_per_minute, q.tokens_per_minute,
        q.requests_per_day) is null then 'off' else 'on' end, true);
    q.token_largest := greatest(q.token_largest * power(0.999, wanted), (select max(x) from unnest(tokens) as x));
    select r.burst, r.apart into b, apart from quota_request_rate(q, t) as r;
    select r.room, r.apart into room, each from quota_token_rate(q, t) as r;
    -- A clock that was set back must not hold everybody up.
    if q.request_tat > t + 2 * b * apart + ahead + 1 or q.token_tat > t + 600 or q.blocked_until > t + q.blocked_for then
        stepped := true;
        q.request_tat := least(q.request_tat, t + b * apart + ahead);
        q.token_tat := least(q.token_tat, t + room * each);
        q.blocked_until := least(q.blocked_until, t + q.blocked_for);
        q.line := least(q.line, t);
    end if;
    today := quota_day(q, t);
    if q.day is distinct from today then q.day := today; q.day_used := 0; end if;
    if back > 0 then
        if apart is not null then q.request_tat := q.request_tat - greatest(0, back * apart - back_age); end if;
        if back_age < t - extract(epoch from today::timestamp at time zone q.zone) then
            q.day_used := greatest(0, q.day_used - back);
        end if;
    end if;
    if each is not null and used_more <> 0 then q.token_tat := greatest(q.token_tat, t) + used_more * each; end if;
    if q.concurrency is not null then
        free := q.concurrency - held - (
            select coalesce(sum(h.held), 0) from quota_holder h
            where h.name = which and h.worker <> who and h.expires_at > t
              and not exists (select from worker w where w.nonce = h.worker and w.state = 'dead'));
    end if;
    for i in 1 .. wanted loop
        s := t;
        if q.blocked_until > t then
            why := coalesce(q.blocked_why, 'the provider asks to wait'); soonest := q.blocked_until; until := soonest;
        elsif q.requests_per_day is not null and (q.day_used >= q.requests_per_day
            or quota_next_day(q, t) - t < 1) then  -- what leaves in the last second may be counted tomorrow
            why := 'requests per day'; soonest := quota_next_day(q, t); until := soonest;
            if q.day_used >= q.requests_per_day and q.spent_day is distinct from today then
                q.spent_day := today; told := true;
            end if;
        elsif free <= granted then
            why := 'requests under way'; soonest := t;
        else
            if apart is not null then s := greatest(s, q.request_tat - (b - 1) * apart); end if;
            if each is not null then s := greatest(s, q.token_tat - greatest(0, room - tokens[i]) * each); end if;
            if s - t > ahead then
                why := case when apart is not null and s <= q.request_tat - (b - 1) * apart
                    then 'requests per minute' else 'tokens per minute' end;
                soonest := s;
            end if;
        end if;
        exit when why is not null;
        if apart is not null then
            if i = 1 and q.request_tat < t - apart then q.line := least(q.line, t); end if;  -- nobody was in line
            q.request_tat := greatest(q.request_tat, s) + apart;
        end if;
        if each is not null then q.token_tat := greatest(q.token_tat, s) + tokens[i] * each; end if;
        q.day_used := q.day_used + 1;
        granted := i;
        starts[i] := s - t;
    end loop;
    again := soonest - t;
    -- Who cannot leave within its patience comes back when its turn is near: twice as many as can leave, so that there
    -- is always somebody, and the others go to the end of the line again.
    for i in granted + 1 .. wanted loop
        spacing := greatest(coalesce(apart, 0.02), coalesce(tokens[i] * each, 0));
        expected := soonest - t + (i - granted - 1) * spacing;
        if age[i] + expected > patience or (why = 'requests under way' and age[i] >= patience) then
            q.line := greatest(q.line, soonest, t + 0.5);
            q.line := least(q.line, greatest(soonest, t) + 900) + spacing / 2;
            leaves[i] := q.line - t + case when q.line > soonest + 890 then -random() * 300 else 0 end;
        end if;
    end loop;
    update quota set request_tat = q.request_tat, token_tat = q.token_tat, token_largest = q.token_largest,
        blocked_until = q.blocked_until, line = q.line, day = q.day, day_used = q.day_used, spent_day = q.spent_day
    where name = which;
    if q.concurrency is not null then
        insert into quota_holder (name, worker, held, expires_at) values (which, who, held + granted, t + 15)
        on conflict (name, worker) do update set held = excluded.held, expires_at = excluded.expires_at;
    end if;
    return next;
end $$;
