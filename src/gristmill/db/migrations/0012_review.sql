-- Review: what people decided about records, what they said before, and who looks at what. States: review/states.py.

create table review (                            -- one row for each record that people are asked about, or were
    record_id bigint primary key,
    state text not null default 'proposed' check (state in ('proposed', 'accepted', 'edited', 'rejected', 'skipped')),
    revision_id bigint,                          -- the record in a person's words, which stands in its place
    decision_id bigint,                          -- that made the state; null: nobody has decided
    disputed boolean not null default false,     -- two people decided differently: somebody has to settle it
    holder text,                                 -- the person who has it before them
    token uuid,
    lease_until timestamptz,
    held_at timestamptz,                         -- since when
    check ((state = 'edited') = (revision_id is not null)),
    check (not disputed or state = 'proposed'),
    check (num_nulls(holder, token, lease_until, held_at) in (0, 4))
) with (fillfactor = 80);
create index review_held on review (holder) where holder is not null;
create index review_skipped on review (record_id) where state = 'skipped';

create table review_queue (                      -- a run whose records are reviewed
    run_id bigint primary key,
    seed text not null default '0',              -- decides what a sample takes
    seen text,                                   -- counters of the run when its records were last looked through
    look_after timestamptz not null default clock_timestamp(),
    opened_at timestamptz not null default clock_timestamp()
);

create table review_piece (                      -- a record in the queue of a run
    run_id bigint not null,
    record_id bigint not null,
    kind text not null,
    step smallint not null,                      -- of the run's workflow, that made it
    score double precision,                      -- the lowest comes first; null: nobody scored it
    disagreement double precision,               -- of its scorers, or of the votes it was made from
    lot double precision not null,               -- 0 to 1, by seed and content: a sample is what lies below its share
    since bigint,                                -- what was reviewed once, and was made anew since then as this record
    assignee text not null default '',           -- '': anybody
    wants smallint not null default 1,           -- people who are to decide
    open boolean not null,                       -- mirrors state and wants, for the indexes; written by `open_pieces` and `look`
    primary key (run_id, record_id)
) with (fillfactor = 80);
create index review_piece_record on review_piece (record_id);
create index review_piece_score on review_piece (run_id, assignee, score, record_id) where open;
create index review_piece_disagreement on review_piece (run_id, assignee, disagreement desc nulls last, record_id) where open;
create index review_piece_lot on review_piece (run_id, assignee, lot, record_id) where open;
create index review_piece_since on review_piece (run_id, assignee, record_id) where open and since is not null;
create index review_piece_more on review_piece (run_id, record_id) where open and wants > 1;

create table review_decision (                   -- what was said, in order; an undone one stays
    id bigint generated always as identity primary key,
    record_id bigint not null,
    run_id bigint,                               -- in whose queue
    reviewer text not null,
    decision text not null check (decision in ('accept', 'edit', 'reject', 'skip')),
    opinion boolean not null default false,      -- somebody else had decided before: state is changed by a dispute only
    said_id bigint,                              -- the record that this person wants in its place
    note text,
    seconds double precision,                    -- from claim to decision; null: it was not claimed
    before_state text not null,                  -- what an undo gives back
    before_revision bigint,
    before_decision bigint,
    before_disputed boolean not null,
    after_state text not null,
    at timestamptz not null default clock_timestamp(),
    undone_at timestamptz
);
create index review_decision_record on review_decision (record_id, id) where undone_at is null;
create index review_decision_reviewer on review_decision (reviewer, id) where undone_at is null;
create index review_decision_run on review_decision (run_id, id);
