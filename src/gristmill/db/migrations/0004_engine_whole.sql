-- The engine, whole: locks, dependencies, deadlines, pools of the fleet, pauses, schedules, hooks. Only additions, so that
-- workers of the version before go on while this is applied. Decisions: docs/decisions/0006-the-engine-whole.md.

-- Workers can be paused, and say which kinds of task they know.
alter table worker drop constraint worker_state_check;
alter table worker add constraint worker_state_check check (state in ('alive', 'paused', 'draining', 'stopped', 'dead'));
alter table worker add column kinds text[] not null default '{}';
drop index worker_live;
create index worker_live on worker (lease_until) where state in ('alive', 'paused', 'draining');

-- A run may wait for other runs, and says how much of it is told as events.
alter table run drop constraint run_state_check;
alter table run add constraint run_state_check check (state in
    ('waiting', 'running', 'paused', 'completed', 'partial', 'failed', 'cancelled'));
alter table run add column after bigint[] not null default '{}';       -- runs that have to be completed first
alter table run add column detail smallint not null default 1;         -- events of 0: the run, 1: its items, 2: every task
create index run_waiting on run (id) where state = 'waiting';

-- Steps form a graph. "upstream" stays what it was: every step that comes before.
alter table step add column after smallint[] not null default '{}';    -- the steps right before it
alter table step add column per_item boolean not null default false;   -- a barrier for each item instead of the whole run

alter table item add column paused boolean not null default false;
alter table item add column outcome text check (outcome in ('completed', 'failed', 'cancelled'));
alter table item add column ended_at timestamptz;
create index item_paused on item (id) where paused;

-- Items in which something has ended without a successor: whoever keeps house looks whether they are finished.
create table item_check (
    item_id bigint not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Which barriers of an item are open, and since which epoch of the run.
create table item_step (
    item_id bigint not null,
    ordinal smallint not null,
    epoch integer not null,
    primary key (item_id, ordinal)
);

alter table task add column key bytea;                                 -- of two tasks of a run with one key, one is made
alter table task add column timeout float8;                            -- seconds an attempt may take; null: its operator's
alter table task add column deadline timestamptz;                      -- what has not ended by then fails
alter table task add column lock_key text;                             -- runs only while it holds a slot of this lock
alter table task add column lock_slots smallint not null default 1;
alter table task add column locked boolean generated always as (lock_key is not null) stored;
alter table task add column trace text;                                -- W3C trace context of who enqueued it
alter table task add column crashed_at timestamptz;                    -- the latest crash that was charged
alter table task add column needed boolean not null default false;     -- others wait for it: its end has to look for them
create unique index task_key on task (run_id, key) where key is not null;
create index task_deadline on task (deadline) where deadline is not null and state in ('waiting', 'available');
-- What is open, and what has failed, of an item: both are asked whenever something of it ends.
create index task_item on task (item_id)
    where item_id is not null and state in ('waiting', 'available', 'running', 'failed', 'quarantined');
-- A task with a lock must not stand in the way of those without one, nor ten thousand of one key in the way of others.
drop index task_available;
create index task_available on task (run_id, pool, locked, priority, seq) where state = 'available';
create index task_suspect on task (pool, seq) where state = 'available' and crashes >= 2;
create index task_locked on task (run_id, pool, lock_key, priority, seq) where state = 'available' and locked;

-- What a waiting task waits for. A row goes when the needed task has completed; "lost" says that it never will (1), and
-- that those who waited for it were told (2).
create table dependency (
    task_id bigint not null,
    needs_id bigint not null,
    lost smallint not null default 0,
    primary key (needs_id, task_id)
);
create index dependency_task on dependency (task_id);
create index dependency_lost on dependency (task_id) where lost = 1;

-- Slots of locks that are held. A task's slot lives as long as its claim; everybody else's until expires_at.
create table lock (
    key text not null,
    slot smallint not null,
    holder_kind text not null check (holder_kind in ('task', 'worker', 'cli', 'api', 'hook')),
    holder text not null,                        -- for people: who it is
    task_id bigint,
    worker_id bigint,
    token uuid not null,
    fence bigint not null,                       -- grows with every holder: a store refuses what comes with an older one
    since timestamptz not null default clock_timestamp(),
    expires_at timestamptz,                      -- null: held by a task, for as long as it runs
    primary key (key, slot)
);

-- Limits and pauses of pools over the whole fleet. A pool without a row has neither.
create table pool (
    name text primary key,
    slots integer check (slots >= 0),            -- tasks that may run at once, on all workers together; null: no limit
    paused boolean not null default false,
    changed_at timestamptz not null default clock_timestamp()
);

-- Operators whose tasks have killed too many of their child processes within a minute rest for a while.
create table breaker (
    kind text primary key,
    crashes integer not null,                    -- since "since"
    since timestamptz not null,
    open_until timestamptz,                      -- until then nothing of this kind is claimed
    strikes integer not null default 0           -- how often in a row; the rest doubles with each
);

-- What the functions of the bare engine have returned. The primary key is the last line of defence.
create table result (
    task_id bigint primary key,
    token uuid not null,
    value text not null,
    at timestamptz not null default clock_timestamp()
);

create table schedule (
    id bigint generated always as identity primary key,
    project text not null default 'default',
    name text not null,
    cron text,                                   -- five or six fields; or "every"
    every interval,
    timezone text not null default 'UTC',
    catch_up text not null default 'last' check (catch_up in ('all', 'last', 'none')),  -- ticks missed while nobody ran
    run_id bigint not null,                      -- the run that its tasks belong to
    task text not null,                          -- JSON: kind, pool, payload and the rest of a new task
    paused boolean not null default false,
    next_at timestamptz not null,
    last_at timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    check ((cron is null) <> (every is null)),
    unique (project, name)
);
create index schedule_due on schedule (next_at) where not paused;

create table hook (
    id bigint generated always as identity primary key,
    project text not null default 'default',
    name text not null,
    events text[] not null,                      -- names, or their beginning with a star: run.end, item.*
    of_run bigint,                               -- only events of this run; null: of all
    run_id bigint not null,                      -- the run that its tasks belong to: never the one it is about
    kind text not null,
    pool text not null default '*',
    options text not null default '{}',          -- JSON, handed to every task of the hook
    created_at timestamptz not null default clock_timestamp(),
    unique (project, name)
);
