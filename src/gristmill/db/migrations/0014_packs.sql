-- Packs of actions. Their files are kept here, so that a worker needs nothing but the database.

create table pack (
    ref text primary key,
    version text not null,
    digest text not null,                        -- sha256 over all files, in hex: the same version is the same content
    label text not null,
    installed_by text not null,
    installed_at timestamptz not null default clock_timestamp()
);

create table pack_file (
    ref text not null references pack on delete cascade,
    path text not null,
    executable boolean not null,
    content bytea not null,
    primary key (ref, path)
);

-- Text fills stdout, structured output fills result, never both. `not valid`: rows that are there are not read again.
alter table record add constraint action_output_is_text_or_result check (
    case when kind = 'action_result'
        then coalesce(body::json ->> 'stdout', '') = '' or body::json ->> 'result' is null
        else true end) not valid;

-- A step whose tasks run only while they hold one of the slots of a lock.
alter table step add column lock text;
alter table step add column lock_slots integer not null default 1;
