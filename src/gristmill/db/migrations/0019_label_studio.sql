-- Annotation projects made of runs, where they stand on Label Studio servers, and what came back.

create table label_project (
    id bigint generated always as identity primary key,
    project text not null default 'default',
    name text not null,
    mark uuid not null default gen_random_uuid(),  -- told to servers, so that a project is found again
    run_id bigint not null,
    step smallint not null,                      -- of the run's workflow, that annotates
    kind text not null,                          -- of the annotations: classes, rating, entities, relations, boxes
    scale text,                                  -- of ratings
    mode text not null check (mode in ('annotations', 'predictions')),
    config text not null,                        -- XML
    run_state text not null,                     -- of the run, when it was made
    made_by text not null,
    made_at timestamptz not null default clock_timestamp(),
    changed_at timestamptz not null default clock_timestamp(),
    unique (project, name)
);
create index label_project_run on label_project (run_id);

create table label_piece (                       -- one task: records never change, so their ids are the snapshot
    project_id bigint not null,
    subject_id bigint not null,                  -- record: a text or a picture
    ordinal integer not null,
    annotation_id bigint,                        -- record that is reviewed; null: nobody has annotated it yet
    standing_id bigint,                          -- that record, or the revision in a person's words
    result text,                                 -- JSON; null: only a person can say
    predictions text not null default '[]',      -- JSON: model_version, score, result
    about text not null,                         -- JSON: where it came from
    primary key (project_id, subject_id)
);
create index label_piece_order on label_piece (project_id, ordinal);

create table label_server (                      -- a project on a server
    project_id bigint not null,
    url text not null,
    server_project bigint not null,
    pushed_at timestamptz not null default clock_timestamp(),
    primary key (project_id, url)
);

create table label_task (                        -- a piece on a server
    project_id bigint not null,
    url text not null,
    subject_id bigint not null,
    task bigint not null,
    standing_id bigint,                          -- record that was sent
    sent bytea,                                  -- sha256 of the result as it was sent
    primary key (project_id, url, subject_id)
);

create table label_pulled (                      -- what somebody said on a server
    id bigint generated always as identity primary key,
    project_id bigint not null,
    url text not null,
    subject_id bigint not null,
    annotation bigint not null,                  -- of the server
    who text not null,
    updated_at text not null,                    -- as the server says it: compared for equality only
    result text not null,                        -- JSON
    state text not null check (state in ('taken', 'conflict', 'refused', 'left')),
    reason text,                                 -- of a conflict, of a refusal
    record_id bigint,                            -- record that was decided about
    settled_by text,
    at timestamptz not null default clock_timestamp(),
    unique (project_id, url, annotation)
);
create index label_pulled_open on label_pulled (project_id) where state in ('conflict', 'refused');
