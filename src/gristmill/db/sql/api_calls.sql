-- The ledger in pages. Reading it for a person is never hot; both parts go by an index.

-- name: page
-- $1 run, $2 task, $3 model, $4 state, $5 and $6 the place behind which the page begins, $7 rows.
(select key, state, provider, model, prompt, status, finish_reason, tokens_in, tokens_out, tokens_cached,
    tokens_reasoning, latency_ms, cost, currency, first_task as task, run, tries, note, made_at
 from call
 where state = 'intent' and $5::timestamptz is null and ($4::text is null or $4 = 'intent')
   and ($1::bigint is null or run = $1) and ($2::bigint is null or first_task = $2)
   and ($3::text is null or model = $3 or provider || ':' || model = $3)
 limit $7)
union all
(select key, state, provider, model, prompt, status, finish_reason, tokens_in, tokens_out, tokens_cached,
    tokens_reasoning, latency_ms, cost, currency, first_task, run, tries, note, made_at
 from call
 where state <> 'intent' and ($4::text is null or state = $4)
   and ($1::bigint is null or run = $1) and ($2::bigint is null or first_task = $2)
   and ($3::text is null or model = $3 or provider || ':' || model = $3)
   and ($5::timestamptz is null or made_at <= $5 and (made_at, key) < ($5, $6::bytea))
 order by made_at desc, key desc limit $7)
order by made_at desc nulls first, key desc limit $7;
