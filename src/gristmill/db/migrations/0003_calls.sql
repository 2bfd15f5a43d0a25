-- The ledger of paid answers. One row per question that was ever sent; see docs/decisions/0003-http-client-and-ledger.md.

CREATE TABLE call (
    key bytea PRIMARY KEY CHECK (octet_length(key) = 32),  -- sha256 over everything that can change the answer
    state text NOT NULL DEFAULT 'intent' CHECK (state IN ('intent', 'ok', 'unusable')),
    owner uuid NOT NULL,                                    -- who may ask now: a fresh token for every try
    worker uuid,                                            -- the process of the owner, so that its death frees the intent
    deadline timestamptz NOT NULL,                          -- of the intent; moved on while the call is alive
    tries integer NOT NULL DEFAULT 1,                       -- how often it was sent; more than 1 may be paid more than once
    provider text NOT NULL,
    model text NOT NULL,
    status smallint,                                        -- of the HTTP answer
    finish_reason text,
    tokens_in integer NOT NULL DEFAULT 0,
    tokens_out integer NOT NULL DEFAULT 0,
    tokens_cached integer NOT NULL DEFAULT 0,
    tokens_reasoning integer NOT NULL DEFAULT 0,
    latency_ms integer,
    response bytea,                                         -- the body as received, before anyone parsed it
    note text,                                              -- why an answer was of no use
    made_at timestamptz,
    first_task bigint,                                      -- on whose behalf it was paid; no foreign key: the ledger
    run bigint,                                             -- outlives runs, and hot parents would be locked
    CHECK (state = 'intent' OR response IS NOT NULL)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- Small: only calls that are in flight. A dead worker's intents are given back through it.
CREATE INDEX call_intents ON call (worker) WHERE state = 'intent';

-- Totals of a run.
CREATE INDEX call_run ON call (run) WHERE state <> 'intent' AND run IS NOT NULL;

-- How often the ledger answered, as small sums that every process appends now and then: a read of the ledger writes nothing.
CREATE TABLE call_reuse (
    run bigint,
    provider text NOT NULL,
    model text NOT NULL,
    answers bigint NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX call_reuse_run ON call_reuse (run);
