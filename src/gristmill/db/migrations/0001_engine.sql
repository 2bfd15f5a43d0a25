-- The engine's tables. Decisions: docs/decisions/0001-engine-tables.md. No foreign key points from a hot table to a
-- parent: concurrent inserts of children would turn the parent's lock into multixacts (reliability, E5).

create sequence task_seq;
create sequence fence_seq;

create table worker (
    id bigint generated always as identity primary key,
    nonce uuid not null,                         -- random per process start: a reused name or pid fools nobody
    name text not null,
    host text not null,
    boot_id text not null,
    pid integer not null,
    pid_started bigint not null,                 -- clock ticks since boot, from /proc/<pid>/stat
    pools text not null,                         -- JSON object: pool -> slots
    isolates boolean not null default false,     -- it runs suspects in child processes: its own death is not theirs
    version text not null,
    state text not null default 'alive' check (state in ('alive', 'draining', 'stopped', 'dead')),
    ttl interval not null,
    lease_until timestamptz not null,
    postmaster_started timestamptz,              -- when the liveness lock was taken; null: no fast notice of death
    suspect_at timestamptz,                      -- first sighting of a vanished lock
    started_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    cause text
) with (fillfactor = 50);
create unique index worker_nonce on worker (nonce);  -- the ledger asks whether the owner of a call is dead
create index worker_live on worker (lease_until) where state in ('alive', 'draining');

create table run (
    id bigint generated always as identity primary key,
    project text not null default 'default',
    name text not null,
    workflow text not null,
    key bytea,                                   -- workflow fingerprint + inputs: the same command finds the same run
    definition text not null,                    -- JSON, pinned for the life of the run
    inputs text not null default '[]',           -- JSON list of paths, so that retry can look at them again
    priority smallint not null default 0,
    state text not null default 'running'
        check (state in ('running', 'paused', 'completed', 'partial', 'failed', 'cancelled')),
    sealed boolean not null default false,       -- no more inputs will come: the run may end
    epoch integer not null default 1,            -- each epoch ends once
    created_at timestamptz not null default clock_timestamp(),
    started_at timestamptz not null default clock_timestamp(),   -- of this epoch
    ended_at timestamptz
);
create unique index run_key on run (project, key) where key is not null;
create index run_active on run (priority, id) where state = 'running';

create table step (
    run_id bigint not null,
    ordinal smallint not null,
    name text not null,
    kind text not null,                          -- the operator's stored name
    pool text not null,
    barrier boolean not null default false,
    upstream smallint[] not null default '{}',   -- every step before it, not only the nearest
    max_attempts smallint not null default 5,
    max_crashes smallint not null default 3,
    opened_epoch integer not null default 0,     -- barrier: the epoch in which its task was made
    primary key (run_id, ordinal)
);

create table item (
    id bigint generated always as identity primary key,
    run_id bigint not null,
    key bytea not null,                          -- content and name of the input
    name text not null,
    uri text not null,
    state text not null default 'active' check (state in ('active', 'unreadable', 'superseded', 'removed')),
    code text,
    reason text,
    created_at timestamptz not null default clock_timestamp(),
    unique (run_id, key)
);
create index item_uri on item (run_id, uri);
create index item_unreadable on item (run_id) where state = 'unreadable';

create table task (
    id bigint generated always as identity primary key,
    run_id bigint not null,
    item_id bigint,
    step smallint not null default 0,
    kind text not null,
    pool text not null,
    priority smallint not null default 0,        -- lower goes first; a rescued task goes in front of all
    seq bigint not null default nextval('task_seq'),
    state text not null default 'available' check (state in
        ('waiting', 'available', 'running', 'completed', 'failed', 'cancelled', 'quarantined')),
    run_at timestamptz not null default clock_timestamp(),
    payload text not null default '{}',          -- JSON as text: a body no driver has to decode cannot poison a claim
    attempt integer not null default 0,          -- claims so far; one that waits for a quota has many
    failures smallint not null default 0,        -- handled errors; max_attempts counts these
    crashes smallint not null default 0,         -- processes it died with; max_crashes counts these
    max_attempts smallint not null default 5,
    max_crashes smallint not null default 3,
    worker_id bigint,
    token uuid,
    fence bigint,
    claimed_at timestamptz,
    ended_at timestamptz,
    held text                                    -- why it was put back: quota, back-off, shutdown
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 2000);
create index task_available on task (run_id, pool, priority, seq) where state = 'available';
create index task_running on task (run_id, step) where state = 'running';  -- small: a rescue reads all of it
create index task_waiting on task (run_id, step) where state = 'waiting';
create index task_broken on task (run_id, step) where state in ('failed', 'quarantined');

create table attempt (
    task_id bigint not null,
    attempt integer not null,
    token uuid not null,
    run_id bigint not null,
    worker_id bigint,
    started_at timestamptz,
    ended_at timestamptz not null default clock_timestamp(),
    outcome text not null,                       -- completed, failed, crashed, stalled, cancelled
    code text,
    error text,
    message text,
    cause bytea,                                 -- hash of the message without its numbers: failures group by it
    primary key (task_id, token)                 -- the last line of defence: one end per claim
);

create table counter_delta (
    run_id bigint not null,
    step smallint not null,
    name text not null,
    n bigint not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

create table counter (
    run_id bigint not null,
    step smallint not null,
    name text not null,
    n bigint not null,
    primary key (run_id, step, name)
) with (fillfactor = 50);

create table event_inbox (
    id bigint generated always as identity primary key,
    name text not null,
    run_id bigint,
    item_id bigint,
    task_id bigint,
    worker_id bigint,
    body text not null default '{}',
    at timestamptz not null default clock_timestamp()
);

create table event (
    seq bigint primary key,                      -- given by the folder, in the order in which commits became visible
    name text not null,
    run_id bigint,
    item_id bigint,
    task_id bigint,
    worker_id bigint,
    body text not null,
    at timestamptz not null
);
create index event_run on event (run_id, seq) where run_id is not null;
