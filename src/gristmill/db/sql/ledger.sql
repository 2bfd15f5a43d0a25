-- The ledger of paid answers: one statement, one round trip each. Time is the database's.

-- name: begin
-- $1 key, $2 owner, $3 worker, $4 seconds, $5 provider, $6 model, $7 task, $8 run
-- "go": the call is ours. "ok", "unusable": here is the answer. "intent": somebody else is asking. No row: somebody
-- began in this very moment, look again. The first part keeps a read of an answered call free of locks and writes.
WITH known AS MATERIALIZED (
    SELECT state, deadline, response, finish_reason FROM call WHERE key = $1
),
mine AS (
    INSERT INTO call (key, owner, worker, deadline, provider, model, first_task, run)
    SELECT $1, $2, $3, clock_timestamp() + make_interval(secs => $4), $5, $6, $7, $8
    WHERE NOT EXISTS (SELECT FROM known WHERE state <> 'intent')
    ON CONFLICT (key) DO UPDATE
    SET owner = excluded.owner, worker = excluded.worker, deadline = excluded.deadline,
        tries = call.tries + (call.owner <> excluded.owner)::integer
    WHERE call.state = 'intent' AND (call.deadline <= clock_timestamp() OR call.owner = excluded.owner)
    RETURNING tries
)
SELECT 'go' AS what, NULL::bytea AS response, NULL::text AS finish_reason FROM mine
UNION ALL
SELECT state, response, finish_reason FROM known WHERE NOT EXISTS (SELECT FROM mine);

-- name: look
-- $1 key. A waiting asker's poll: takes no lock and writes nothing while the call is alive.
SELECT state, deadline <= clock_timestamp() AS expired FROM call WHERE key = $1;

-- name: journal
-- Not fenced by any lease: the answer was paid. The first one wins; no row means that this was not the first.
INSERT INTO call (
    key, state, owner, worker, deadline, provider, model, status, finish_reason, tokens_in, tokens_out, tokens_cached,
    tokens_reasoning, latency_ms, first_task, run, response, made_at
)
VALUES ($1, 'ok', $2, $3, clock_timestamp(), $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, clock_timestamp())
ON CONFLICT (key) DO UPDATE
SET state = 'ok', status = excluded.status, finish_reason = excluded.finish_reason, tokens_in = excluded.tokens_in,
    tokens_out = excluded.tokens_out, tokens_cached = excluded.tokens_cached,
    tokens_reasoning = excluded.tokens_reasoning, latency_ms = excluded.latency_ms, response = excluded.response,
    made_at = excluded.made_at
WHERE call.state = 'intent'
RETURNING true;

-- name: answer
SELECT state, response, finish_reason FROM call WHERE key = $1 AND state <> 'intent';

-- name: reject
-- $1 key, $2 why: paid, kept, and of no use.
UPDATE call SET state = 'unusable', note = $2 WHERE key = $1 AND state = 'ok';

-- name: give_back
-- $1 key, $2 owner. Surely nothing was paid, so nothing has to be remembered.
DELETE FROM call WHERE key = $1 AND owner = $2 AND state = 'intent';

-- name: expire
-- $1 key, $2 owner. It may have been paid; nobody has to wait for it any longer, and the next try is counted.
UPDATE call SET deadline = '-infinity' WHERE key = $1 AND owner = $2 AND state = 'intent';

-- name: renew
-- $1 keys, $2 owners, $3 seconds
UPDATE call SET deadline = clock_timestamp() + make_interval(secs => $3)
FROM unnest($1::bytea[], $2::uuid[]) AS alive (key, owner)
WHERE call.key = alive.key AND call.owner = alive.owner AND call.state = 'intent';

-- name: abandon
-- $1 worker. Its process is gone: whoever asks next need not wait for the deadlines.
UPDATE call SET deadline = '-infinity' WHERE worker = $1 AND state = 'intent' AND deadline > '-infinity';

-- name: count_reuse
-- $1 runs, $2 providers, $3 models, $4 answers
INSERT INTO call_reuse (run, provider, model, answers)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[]);

-- name: usage
-- $1 run
SELECT coalesce(paid.provider, reused.provider) AS provider, coalesce(paid.model, reused.model) AS model,
    coalesce(calls, 0) AS calls, coalesce(unusable, 0) AS unusable, coalesce(answers, 0) AS from_ledger,
    coalesce(tokens_in, 0) AS tokens_in, coalesce(tokens_out, 0) AS tokens_out,
    coalesce(tokens_cached, 0) AS tokens_cached, coalesce(tokens_reasoning, 0) AS tokens_reasoning
FROM (
    SELECT provider, model, count(*) AS calls, count(*) FILTER (WHERE state = 'unusable') AS unusable,
        sum(tokens_in) AS tokens_in, sum(tokens_out) AS tokens_out, sum(tokens_cached) AS tokens_cached,
        sum(tokens_reasoning) AS tokens_reasoning
    FROM call WHERE run = $1 AND state <> 'intent' GROUP BY provider, model
) AS paid
FULL JOIN (
    SELECT provider, model, sum(answers)::bigint AS answers FROM call_reuse WHERE run = $1 GROUP BY provider, model
) AS reused ON reused.provider = paid.provider AND reused.model = paid.model
ORDER BY 1, 2;
