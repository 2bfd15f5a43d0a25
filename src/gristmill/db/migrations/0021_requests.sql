-- expand
-- What models were asked, beside what they answered; and how often a task was sent away. Both for people.

-- The ledger may be large: its new columns are empty, so that no row is written anew.
alter table call add column request text;                    -- JSON; null: not kept
alter table call add column frame bytea;                     -- of call_frame: the part that many calls share

create table call_frame (
    digest bytea primary key check (octet_length(digest) = 32),  -- sha256 of the body
    body text not null,                                      -- JSON: system message, schema, parameters, address
    used_at timestamptz not null default clock_timestamp()   -- moved on once an hour by every process that uses it
);

-- Cheaper than the usual method, where the server was built with it.
do $$ begin
    alter table call alter column request set compression lz4;
    alter table call_frame alter column body set compression lz4;
exception when feature_not_supported then null;
end $$;

-- A claim that was given back uncharged: a quota, a lock, a shutdown. Kept for three days.
create table task_wait (
    task_id bigint not null,
    run_id bigint not null,
    attempt integer not null,                                -- number of the claim that was given back
    worker_id bigint,
    began_at timestamptz,                                    -- of that claim
    since timestamptz not null default clock_timestamp(),
    until timestamptz not null,                              -- when it may be claimed again
    reason text not null
);
create index task_wait_task on task_wait (task_id);
create index task_wait_since on task_wait (since);
