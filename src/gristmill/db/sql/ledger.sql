-- The ledger of paid answers: one statement, one round trip each, for all calls that begin or end at that moment. Time is the database's.

-- name: begin
-- $1 keys (all different), $2 owners, $3 worker, $4 seconds, $5 providers, $6 models, $7 tasks, $8 runs
-- "go": the call is ours; with more than one try somebody had begun it before us. "ok", "unusable": here is the answer.
-- "intent": somebody else is asking. No row: somebody began in this very moment, look again. The first part keeps a read
-- of an answered call free of locks and writes. After an outage of the server all deadlines look over: who still asks
-- gets a quarter of $4 to move his on.
-- An intent that a crash of the server forgets costs at most a second purchase of a call in flight, so its commit does
-- not wait for the disk. Rows are written in the order of their keys, so that two processes cannot block each other.
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest($1::bytea[], $2::uuid[], $5::text[], $6::text[], $7::bigint[], $8::bigint[])
        AS asked (key, owner, provider, model, task, run)
),
known AS MATERIALIZED (
    SELECT key, state, response, finish_reason FROM call WHERE key = ANY ($1::bytea[])
),
mine AS (
    INSERT INTO call (key, owner, worker, deadline, provider, model, first_task, run)
    SELECT key, owner, $3, clock_timestamp() + make_interval(secs => $4), provider, model, task, run
    FROM asked
    WHERE key NOT IN (SELECT key FROM known WHERE state <> 'intent')
        AND (SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL
    ORDER BY key
    ON CONFLICT (key) DO UPDATE
    SET owner = excluded.owner, worker = excluded.worker, deadline = excluded.deadline,
        tries = call.tries + (call.owner <> excluded.owner)::integer
    WHERE call.state = 'intent' AND (call.deadline = '-infinity' OR call.owner = excluded.owner
        OR (call.deadline <= clock_timestamp()
            AND pg_postmaster_start_time() <= clock_timestamp() - make_interval(secs => $4 / 4))
        OR EXISTS (SELECT FROM worker WHERE nonce = call.worker AND state = 'dead' AND cause = 'its process ended'))
    RETURNING key, tries
)
SELECT key, 'go' AS what, NULL::bytea AS response, NULL::text AS finish_reason, tries FROM mine
UNION ALL
SELECT key, state, response, finish_reason, 0 FROM known WHERE key NOT IN (SELECT key FROM mine);

-- name: look
-- $1 key, $2 seconds. A waiting asker's poll: takes no lock and writes nothing while the call is alive.
-- "expired" as in "begin"; nobody waits for the deadline of a worker whose process has surely ended.
SELECT state, deadline = '-infinity' OR (deadline <= clock_timestamp()
        AND pg_postmaster_start_time() <= clock_timestamp() - make_interval(secs => $2 / 4)) OR EXISTS (
    SELECT FROM worker WHERE nonce = call.worker AND state = 'dead' AND cause = 'its process ended') AS expired
FROM call WHERE key = $1;

-- name: journal
-- One array per column ($1 .. $20), all keys different; $21 project of calls without a run, $22 time zone of its days.
-- Not fenced by any lease: the answers were paid. The first one wins; a key that does not come back was answered before.
-- The money is noted in the same statement: no kill comes in between. Who bought what another one had bought meanwhile
-- has spent it too; the same purchase that arrives a second time (from a spool) has not.
WITH paid AS MATERIALIZED (
    SELECT * FROM unnest(
        $1::bytea[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::smallint[], $7::text[], $8::integer[],
        $9::integer[], $10::integer[], $11::integer[], $12::integer[], $13::bigint[], $14::bigint[], $15::text[],
        $16::numeric[], $17::text[], $18::bytea[], $19::text[], $20::bytea[]
    ) AS paid (
        key, owner, worker, provider, model, status, finish_reason, tokens_in, tokens_out, tokens_cached,
        tokens_reasoning, latency_ms, task, run, prompt, cost, currency, response, request, frame
    )
),
kept AS (
    INSERT INTO call (
        key, state, owner, worker, deadline, provider, model, status, finish_reason, tokens_in, tokens_out,
        tokens_cached, tokens_reasoning, latency_ms, first_task, run, prompt, cost, currency, response, made_at, request,
        frame
    )
    SELECT key, 'ok', owner, worker, clock_timestamp(), provider, model, status, finish_reason, tokens_in, tokens_out,
        tokens_cached, tokens_reasoning, latency_ms, task, run, prompt, cost, currency, response, clock_timestamp(),
        request, frame
    FROM paid
    ORDER BY key
    ON CONFLICT (key) DO UPDATE
    SET state = 'ok', owner = excluded.owner, status = excluded.status, finish_reason = excluded.finish_reason,
        tokens_in = excluded.tokens_in, tokens_out = excluded.tokens_out, tokens_cached = excluded.tokens_cached,
        tokens_reasoning = excluded.tokens_reasoning, latency_ms = excluded.latency_ms, prompt = excluded.prompt,
        cost = excluded.cost, currency = excluded.currency, response = excluded.response, made_at = excluded.made_at,
        first_task = excluded.first_task, run = excluded.run, request = coalesce(excluded.request, call.request),
        frame = coalesce(excluded.frame, call.frame)  -- a batch has noted them when the call joined it
    WHERE call.state = 'intent'
    RETURNING key
),
spent AS (
    INSERT INTO spending_delta (project, run, day, currency, amount)
    SELECT coalesce(run.project, $21), paid.run, (clock_timestamp() AT TIME ZONE $22)::date, paid.currency, sum(paid.cost)
    FROM paid LEFT JOIN run ON run.id = paid.run
    WHERE paid.cost > 0 AND (paid.key IN (SELECT key FROM kept) OR EXISTS (
        SELECT FROM call WHERE call.key = paid.key AND call.state <> 'intent' AND call.owner <> paid.owner))
    GROUP BY 1, 2, 3, 4
)
SELECT key FROM kept;

-- name: keep_frames
-- $1 digests, $2 bodies of what many requests share.
INSERT INTO call_frame (digest, body) SELECT * FROM unnest($1::bytea[], $2::text[]) ORDER BY 1
ON CONFLICT (digest) DO UPDATE SET used_at = clock_timestamp();

-- name: answer
SELECT state, response, finish_reason FROM call WHERE key = $1 AND state <> 'intent';

-- name: reject
-- $1 key, $2 why: paid, kept, and of no use.
UPDATE call SET state = 'unusable', note = $2 WHERE key = $1 AND state = 'ok';

-- name: give_back
-- $1 key, $2 owner. Surely nothing was paid, so nothing has to be remembered.
DELETE FROM call WHERE key = $1 AND owner = $2 AND state = 'intent';

-- name: expire
-- $1 keys, $2 owners. They may have been paid; nobody has to wait for them any longer, and the next try is counted.
UPDATE call SET deadline = '-infinity' FROM unnest($1::bytea[], $2::uuid[]) AS over (key, owner)
WHERE call.key = over.key AND call.owner = over.owner AND call.state = 'intent';

-- name: renew
-- $1 keys, $2 owners, $3 worker, $4 seconds, $5 providers, $6 models, $7 tasks, $8 runs. Moves deadlines on; an intent
-- that a crash of the server has forgotten is there again.
INSERT INTO call (key, owner, worker, deadline, provider, model, first_task, run)
SELECT key, owner, $3, clock_timestamp() + make_interval(secs => $4), provider, model, task, run
FROM unnest($1::bytea[], $2::uuid[], $5::text[], $6::text[], $7::bigint[], $8::bigint[])
    AS alive (key, owner, provider, model, task, run)
WHERE (SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL
ORDER BY key
ON CONFLICT (key) DO UPDATE SET deadline = excluded.deadline
WHERE call.owner = excluded.owner AND call.state = 'intent';

-- name: count_reuse
-- $1 runs, $2 providers, $3 models, $4 answers
INSERT INTO call_reuse (run, provider, model, answers)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[]);

-- name: usage
-- $1 run
SELECT coalesce(paid.provider, reused.provider) AS provider, coalesce(paid.model, reused.model) AS model,
    coalesce(calls, 0) AS calls, coalesce(unusable, 0) AS unusable, coalesce(answers, 0) AS from_ledger,
    coalesce(tokens_in, 0) AS tokens_in, coalesce(tokens_out, 0) AS tokens_out,
    coalesce(tokens_cached, 0) AS tokens_cached, coalesce(tokens_reasoning, 0) AS tokens_reasoning,
    cost, currency, coalesce(unpriced, 0) AS unpriced
FROM (
    SELECT provider, model, count(*) AS calls, count(*) FILTER (WHERE state = 'unusable') AS unusable,
        sum(tokens_in) AS tokens_in, sum(tokens_out) AS tokens_out, sum(tokens_cached) AS tokens_cached,
        sum(tokens_reasoning) AS tokens_reasoning, sum(cost) AS cost, max(currency) AS currency,
        count(*) FILTER (WHERE cost IS NULL) AS unpriced
    FROM call WHERE run = $1 AND state <> 'intent' GROUP BY provider, model
) AS paid
FULL JOIN (
    SELECT provider, model, sum(answers)::bigint AS answers FROM call_reuse WHERE run = $1 GROUP BY provider, model
) AS reused ON reused.provider = paid.provider AND reused.model = paid.model
ORDER BY 1, 2;
