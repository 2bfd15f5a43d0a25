-- Who may use the API, and what was done through it. Secrets are kept as hashes only.

create table api_token (
    id bigint generated always as identity primary key,
    name text not null,                          -- a rotated token and its successor share it
    role text not null check (role in ('viewer', 'reviewer', 'operator', 'admin')),
    hash bytea not null unique,                  -- sha256 of the secret, which has 256 random bits
    made_at timestamptz not null default clock_timestamp(),
    made_by text not null,
    expires_at timestamptz,
    revoked_at timestamptz,
    used_at timestamptz                          -- to the minute
);

create table api_session (
    hash bytea primary key,                      -- sha256 of what the browser keeps
    token_id bigint not null references api_token (id) on delete cascade,
    made_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null
);

-- Every call that may change something: written before it is done, and again with how it ended.
create table api_audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    caller text not null,
    role text not null,
    address text not null,
    method text not null,
    path text not null,
    body_hash bytea,                             -- sha256: what was sent may hold anything
    status smallint,                             -- null: it is under way, or its process died
    code text
);

-- Answers to POSTs that named a key: the same call again is answered with what is kept here.
create table api_answer (
    caller text not null,
    key text not null,
    request bytea not null,                      -- sha256 of method, path and body
    claimed_until timestamptz not null,          -- while it is under way; renewed
    status smallint,
    media_type text,
    body bytea,
    at timestamptz not null default clock_timestamp(),
    primary key (caller, key)
);
create index api_answer_age on api_answer (at);

-- What ended in the last minutes. Attempts are appended as they end, so this costs next to nothing.
create index attempt_ended on attempt using brin (ended_at) with (pages_per_range = 32);

-- What pictures of progress are drawn from: whoever folds the counters notes it, so no picture counts a task.

-- How many tasks of a step were in each state at the end of a span of time. Spans get longer with the age of the run
-- (a second in its first minutes, then twice as long each time it doubles), so a run of a month has a few thousand rows.
create table flow (
    run_id bigint not null,
    step smallint not null,
    at timestamptz not null,                     -- when the span began
    waiting bigint not null,
    running bigint not null,
    completed bigint not null,
    failed bigint not null,
    primary key (run_id, step, at)
) with (fillfactor = 50);

-- What was finished in each minute; kept for a few days.
create table pace (
    minute timestamptz not null,
    run_id bigint not null,
    step smallint not null,
    completed bigint not null,
    failed bigint not null,
    primary key (minute, run_id, step)
) with (fillfactor = 50);
