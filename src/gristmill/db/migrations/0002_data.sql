-- Records, their lineage, and the work that made them.

create table work (
    key bytea primary key,                       -- operator, version, options, input hashes, binding, prompts, language
    kind text not null,
    outcome text not null,                       -- ok, empty
    notes text,
    task_id bigint,
    made_at timestamptz not null default clock_timestamp()
);

create table record (
    id bigint generated always as identity primary key,
    kind text not null,
    hash bytea not null,
    work_key bytea not null,
    ordinal integer not null,
    body text not null,
    made_at timestamptz not null default clock_timestamp(),
    unique (work_key, ordinal)
);

create table lineage (
    record_id bigint not null,
    parent_id bigint not null,
    ordinal integer not null,                    -- a barrier may have more inputs than a smallint can count
    primary key (record_id, ordinal)
);
create index lineage_parent on lineage (parent_id);

create table run_record (
    run_id bigint not null,
    step smallint not null,
    record_id bigint not null,
    item_id bigint not null default 0,           -- 0: of the whole run. Two inputs with the same text share records
    task_id bigint,
    place integer[] not null default '{}',        -- path of ordinals from the input: the order of the text, whatever ran when
    primary key (run_id, step, record_id, item_id)
);
