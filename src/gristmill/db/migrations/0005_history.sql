-- What has ended leaves the hot tables. Decisions: docs/concepts/history.md. Partitions are weeks (Monday to Monday, UTC).

-- The same columns in the same order as the hot tables: a row moves as it is.
create table task_history (like task, primary key (id, ended_at)) partition by range (ended_at);
create index task_history_run on task_history (run_id, id);

-- Attempts go where their task goes, whenever they ended themselves: a week is dropped with both.
create table attempt_history (like attempt, finished_at timestamptz not null, primary key (task_id, token, finished_at))
    partition by range (finished_at);

create table event_history (like event, primary key (seq, at)) partition by range (at);
create index event_history_run on event_history (run_id, seq) where run_id is not null;

-- How far the walk has come. One row.
create table history_walk (
    id smallint primary key default 1 check (id = 1),
    page bigint not null default 0,              -- of task and of result, where the next step begins
    event_seq bigint not null default 0,         -- events up to this one have left
    next_at timestamptz not null default clock_timestamp()   -- nobody takes a step before
);
insert into history_walk default values;

-- Created by itself and attached: ATTACH lets everybody read and write the history meanwhile (SHARE UPDATE EXCLUSIVE),
-- CREATE TABLE .. PARTITION OF would lock them all out. No hot table is touched.
create function make_history_week(monday date) returns integer language plpgsql set search_path from current as $$
declare
    parent text;
    part text;
    made integer := 0;
begin
    foreach parent in array array['task_history', 'attempt_history', 'event_history'] loop
        part := parent || to_char(monday, '_YYYYMMDD');
        if to_regclass(quote_ident(part)) is null then
            execute format('create table %I (like %I)', part, parent);
            execute format('alter table %I attach partition %I for values from (%L) to (%L)', parent, part,
                monday::timestamp at time zone 'UTC', (monday + 7)::timestamp at time zone 'UTC');
            made := made + 1;
        end if;
    end loop;
    return made;
end $$;

-- All partitions of the history, oldest first, with about how many rows they have (-1: not known yet).
create view history_week as
select child.relname::text as name, to_date(right(child.relname, 8), 'YYYYMMDD') as monday, child.reltuples::bigint as tuples
from pg_inherits i join pg_class child on child.oid = i.inhrelid
where i.inhparent in ('task_history'::regclass, 'attempt_history'::regclass, 'event_history'::regclass)
order by monday, name;

-- Drops the oldest partition that ended before this time; null when there is none. Waits for readers of the history only,
-- as long as the caller's lock_timeout says.
create function drop_history_week(horizon timestamptz) returns text language plpgsql set search_path from current as $$
declare
    part text;
begin
    select name into part from history_week
    where (monday + 7)::timestamp at time zone 'UTC' <= horizon order by monday, name limit 1;
    if part is not null then
        execute format('drop table %I', part);
    end if;
    return part;
end $$;

-- For people: one name for what is hot and what is history.
create view every_task as
select id, run_id, item_id, step, kind, pool, priority, state, payload, attempt, failures, crashes, worker_id,
    claimed_at, ended_at, held, trace, false as history from task
union all
select id, run_id, item_id, step, kind, pool, priority, state, payload, attempt, failures, crashes, worker_id,
    claimed_at, ended_at, held, trace, true from task_history;
comment on view every_task is 'version 1: all tasks that are still on record; columns are only ever added';

create view every_attempt as
select task_id, attempt, run_id, worker_id, started_at, ended_at, outcome, code, error, message, false as history
from attempt
union all
select task_id, attempt, run_id, worker_id, started_at, ended_at, outcome, code, error, message, true
from attempt_history;
comment on view every_attempt is 'version 1: all attempts that are still on record; columns are only ever added';

create view every_event as
select seq, name, run_id, item_id, task_id, worker_id, body, at, false as history from event
union all
select seq, name, run_id, item_id, task_id, worker_id, body, at, true from event_history;
comment on view every_event is 'version 1: all events that are still on record; columns are only ever added';
