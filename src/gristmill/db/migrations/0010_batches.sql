-- Calls that a provider answers together, within a day, for less money. Decisions: docs/decisions/0013-batches.md.

create table batch_job (
    id bigint generated always as identity primary key,
    mark uuid not null default gen_random_uuid() unique,     -- told to the provider, so that a batch is found again
    model bytea not null,                                    -- fingerprint of the binding: who has it open looks after it
    account text not null,                                   -- the limit that the binding's calls count under
    state text not null default 'open' check (state in ('open', 'closed', 'running', 'ended')),
    calls integer not null default 0,
    bytes bigint not null default 0,
    opened_at timestamptz not null default clock_timestamp(),
    joined_at timestamptz not null default clock_timestamp(),  -- the latest call
    file text,                                               -- the provider's name of the questions
    begun_at timestamptz,                                    -- from then on the provider may know of it
    provider_id text,
    not_ours text[] not null default '{}',                   -- batches that looked like this one
    started_at timestamptz,
    ended_at timestamptz,
    worker uuid,                                             -- who is at it, and until when it may be
    until timestamptz not null default '-infinity',
    next_at timestamptz not null default '-infinity',
    note text                                                -- what went wrong last
) with (fillfactor = 50);
create unique index batch_job_open on batch_job (model, account) where state = 'open';
create index batch_job_unfinished on batch_job (model, account, id) where state <> 'ended';

create table batch_call (
    key bytea primary key,                                   -- of the ledger, where its intent and its answer are
    job bigint not null,
    state text not null default 'asked' check (state in ('asked', 'answered', 'failed')),
    owner uuid not null,                                     -- of the intent
    task bigint,
    run bigint,
    prompt text,
    failures smallint,                                       -- of the task, and the epoch of its run, when it asked:
    epoch integer,                                           -- in the same try the answer is new, later it is an old one
    mode smallint not null,                                  -- form in which the schema was asked for
    tries smallint not null default 1,
    body bytea,                                              -- the question as the provider gets it; null: not needed any more
    status smallint,                                         -- of a failed one; 0: the batch, not the question
    error bytea
);
create index batch_call_job on batch_call (job);
