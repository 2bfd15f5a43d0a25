-- Crews: the worker processes that a supervisor keeps alive on a machine, and what people want of them. All small and cold.

create table crew (
    name text primary key,                       -- the machine's, unless the setting `crew_name` says another
    fence bigint not null default 0,             -- grows with every supervisor: what an older one writes fits no more
    state text not null default 'down' check (state in ('up', 'stopping', 'down')),
    host text,
    machine text,                                -- boot and space of pids, as worker.boot_id
    pid integer,
    pid_started bigint,
    version text,
    logs text,                                   -- folder of the log files, on that machine
    most integer not null default 10,            -- workers at once
    ttl interval,
    lease_until timestamptz,
    asked text check (asked in ('stop', 'now')), -- what `gristmill down` wants of the supervisor
    scale text not null default '{}',            -- JSON: spec -> count that a person wants instead of that of the settings
    problem text,                                -- why changed settings were not taken over
    started_at timestamptz,
    ended_at timestamptz,
    cause text
);

create table crew_place (
    crew text not null references crew (name) on delete cascade,
    name text not null,                          -- "parse-2"
    kind text not null check (kind in ('worker', 'api')),
    spec text not null,
    number integer not null,
    settings text not null default '{}',         -- JSON: pools, models, annotator, domain
    enabled boolean not null default true,       -- by the settings
    wanted boolean not null default true,        -- by people, and by the limit of the crew
    blacklisted boolean not null default false,
    dropped boolean not null default false,      -- the settings name it no more: it goes when its process has ended
    paused boolean not null default false,       -- its workers begin paused
    again boolean not null default false,        -- when it has been stopped it is started again
    ending text check (ending in ('drain', 'stop', 'now')),
    state text not null default 'idle' check (state in ('idle', 'due', 'starting', 'running', 'stopping')),
    restarts integer not null default 0,         -- in a row; 0 again after 30 s of good running
    died_at timestamptz[] not null default '{}', -- its deaths of the last hour
    due_at timestamptz,
    nonce uuid,                                  -- of this start, and of its row in worker
    machine text,
    pid integer,                                 -- known before the process begins its work
    pid_started bigint,
    started_at timestamptz,
    cause text,                                  -- why it does not run, or how it ended last
    changed_at timestamptz not null default clock_timestamp(),
    primary key (crew, name),
    constraint crew_place_started check ((state in ('starting', 'running', 'stopping')) = (nonce is not null)),
    constraint crew_place_process check (state not in ('running', 'stopping') or pid is not null)
);
create unique index crew_place_nonce on crew_place (nonce) where nonce is not null;
