-- What calls cost, what may be spent, and what was foreseen. The ledger may be large: its new columns are empty, so that
-- no row is written anew. Decisions: docs/decisions/0012-costs-and-budgets.md.

alter table call add column cost numeric;                    -- null: nobody told us the price, or how many tokens it were
alter table call add column currency text;                   -- of the cost
alter table call add column prompt text;                     -- name of the prompt, so that the next forecast knows its answers
alter table call add column imported boolean;                -- true: paid in another database; counts in no total

-- What a run, and what a task of it, has paid.
create index call_paid on call (run, first_task) where state <> 'intent' and run is not null;
drop index call_run;
-- The latest, the oldest, a day's.
create index call_made on call (made_at) where state <> 'intent';

-- Money spent. Every journal appends to the deltas in the statement that keeps the answer, so that no kill comes in
-- between and nobody waits for a common row; one process at a time sums them up.
create table spending_delta (
    project text not null,
    run bigint,
    day date not null,
    currency text not null,
    amount numeric not null,
    uncertain boolean not null default false                 -- an estimate: sent, and never answered
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

create table spending (
    scope text not null check (scope in ('run', 'day', 'project')),
    name text not null,                                      -- number of the run; project and date; project
    currency text not null,
    spent numeric not null default 0,                        -- what is uncertain is part of it
    uncertain numeric not null default 0,
    primary key (scope, name, currency)
) with (fillfactor = 50);

-- What may be spent. A row wins over the setting; without a cap there is no limit.
create table budget (
    scope text not null check (scope in ('run', 'day', 'project')),
    name text not null,                                      -- number of the run; project
    cap numeric check (cap >= 0),
    currency text not null default 'USD',
    changed_at timestamptz not null default clock_timestamp(),
    primary key (scope, name)
);

-- Money that a process has set aside for its calls in flight and the next few. Its death, or the deadline, frees it.
create table budget_hold (
    scope text not null,
    name text not null,                                      -- as in "spending"
    currency text not null,
    worker uuid not null,
    amount numeric not null,
    deadline timestamptz not null,
    primary key (scope, name, currency, worker)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Why a run is paused, when nobody did it: its budget. And when it goes on by itself.
alter table run add column held text;
alter table run add column held_until timestamptz;
create index run_held on run (held_until) where state = 'paused' and held_until is not null;

-- What `--plan` said, by the key of the run that the same command starts, so that it can be compared with the truth.
create table forecast (
    key bytea primary key,
    plan text not null,                                      -- JSON
    made_at timestamptz not null default clock_timestamp()
);
