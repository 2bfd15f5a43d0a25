-- Reading, moving and pruning the ledger. See ledger.sql for how calls come into it.

-- name: list
-- $1 run, $2 model ("provider:model" or its end), $3 state, $4 since, $5 limit; null: any. The newest first; calls in
-- flight have no time yet and come before all.
select key, state, provider, model, prompt, status, finish_reason, tokens_in, tokens_out, tokens_cached,
    tokens_reasoning, latency_ms, cost, currency, first_task as task, run, tries, note, made_at, imported is true as imported,
    octet_length(response) as bytes
from call
where ($1::bigint is null or run = $1)
  and ($2::text is null or model = $2 or provider || ':' || model = $2)
  and ($3::text is null or state = $3)
  and ($4::timestamptz is null or made_at >= $4)
order by made_at desc limit $5;

-- name: show
-- $1, $2 the first and the last key that begin as was asked; two rows say that more than one does.
select key, state, provider, model, prompt, status, finish_reason, tokens_in, tokens_out, tokens_cached,
    tokens_reasoning, latency_ms, cost, currency, first_task as task, run, tries, note, made_at, imported is true as imported,
    octet_length(response) as bytes, response, deadline, request,
    (select body from call_frame where digest = call.frame) as frame
from call where key between $1 and $2 order by key limit 2;

-- name: whose
-- Run, step and input of a task, wherever it is by now.
select t.run_id, r.name as run, coalesce(s.name, t.step::text) as step, i.name as item
from (select run_id, step, item_id from task where id = $1
      union all select run_id, step, item_id from task_history where id = $1 limit 1) as t
left join run r on r.id = t.run_id left join step s on s.run_id = t.run_id and s.ordinal = t.step
left join item i on i.id = t.item_id;

-- name: cost_by_run
-- $1 run or null, $2 since or null, $3 rows. Calls that were paid in another database are left out everywhere.
select coalesce(r.name, c.run::text, '(none)') as name, c.* from (
    select run, currency, count(*) as calls, sum(tokens_in) as tokens_in, sum(tokens_out) as tokens_out, sum(cost) as cost,
        count(*) filter (where cost is null) as unpriced
    from call where state <> 'intent' and imported is not true and ($1::bigint is null or run = $1)
      and ($2::timestamptz is null or made_at >= $2)
    group by run, currency) as c left join run r on r.id = c.run
order by c.cost desc nulls last, c.calls desc limit $3;

-- name: cost_by_model
select provider || ':' || model as name, currency, count(*) as calls, sum(tokens_in) as tokens_in,
    sum(tokens_out) as tokens_out, sum(cost) as cost, count(*) filter (where cost is null) as unpriced
from call where state <> 'intent' and imported is not true and ($1::bigint is null or run = $1)
  and ($2::timestamptz is null or made_at >= $2)
group by provider, model, currency order by cost desc nulls last, calls desc limit $3;

-- name: cost_by_day
select (made_at at time zone 'UTC')::date::text as name, currency, count(*) as calls, sum(tokens_in) as tokens_in,
    sum(tokens_out) as tokens_out, sum(cost) as cost, count(*) filter (where cost is null) as unpriced
from call where state <> 'intent' and imported is not true and ($1::bigint is null or run = $1)
  and ($2::timestamptz is null or made_at >= $2)
group by (made_at at time zone 'UTC')::date, currency order by (made_at at time zone 'UTC')::date desc limit $3;

-- name: cost_by_task
select coalesce('task ' || first_task, '(none)') as name, first_task as task, currency, count(*) as calls,
    sum(tokens_in) as tokens_in, sum(tokens_out) as tokens_out, sum(cost) as cost,
    count(*) filter (where cost is null) as unpriced
from call where state <> 'intent' and imported is not true and ($1::bigint is null or run = $1)
  and ($2::timestamptz is null or made_at >= $2)
group by first_task, currency order by cost desc nulls last, calls desc limit $3;

-- name: cost_by_step
select coalesce(r.name || ' ', '') || coalesce(s.name, '(none)') as name, c.* from (
    select p.run, t.step, p.currency, count(*) as calls, sum(p.tokens_in) as tokens_in, sum(p.tokens_out) as tokens_out,
        sum(p.cost) as cost, count(*) filter (where p.cost is null) as unpriced
    from call p left join lateral (
        select step from task where id = p.first_task
        union all select step from task_history where id = p.first_task limit 1) as t on true
    where p.state <> 'intent' and p.imported is not true and ($1::bigint is null or p.run = $1)
      and ($2::timestamptz is null or p.made_at >= $2)
    group by p.run, t.step, p.currency) as c
left join step s on s.run_id = c.run and s.ordinal = c.step left join run r on r.id = c.run
order by c.cost desc nulls last, c.calls desc limit $3;

-- name: cost_by_record
-- The newest $3 records of the steps of run $1 that call models: each with its share of what the work that made it has
-- paid, and the same of all that it came from. Work that was found finished cost this run nothing and shows what it cost
-- when it was done.
with recursive members as materialized (
    select distinct record_id as id from (
        select record_id from run_record where run_id = $1 order by step desc, record_id desc limit $3) as newest),
family as (
    select id as top, id from members
    union
    select f.top, l.parent_id from family f
    cross join lateral (select parent_id from lineage where record_id = f.id offset 0) as l),
works as materialized (
    select distinct f.top, f.id = f.top as own, r.work_key
    from family f cross join lateral (select work_key from record where record.id = f.id offset 0) as r),
shares as materialized (
    select w.work_key, p.currency, p.cost / greatest(1, n.made) as cost, p.calls, p.unpriced
    from (select distinct work_key from works) as w
    join work k on k.key = w.work_key
    cross join lateral (select count(*) as made from record where work_key = w.work_key) as n
    cross join lateral (
        select run_id from task where id = k.task_id
        union all select run_id from task_history where id = k.task_id limit 1) as t
    cross join lateral (
        select currency, sum(cost) as cost, count(*) as calls, count(*) filter (where cost is null) as unpriced
        from call where run = t.run_id and first_task = k.task_id and state <> 'intent' and imported is not true
        group by currency) as p)
select 'record ' || w.top as name, w.top as record, s.currency, sum(s.calls)::bigint as calls,
    sum(s.cost) filter (where w.own) as own_cost, sum(s.cost) as cost, sum(s.unpriced)::bigint as unpriced
from works w join shares s on s.work_key = w.work_key
where $2::timestamptz is null or exists (select from record r where r.id = w.top and r.made_at >= $2)
group by w.top, s.currency order by cost desc nulls last, w.top limit $3;

-- name: past
-- $1 provider, $2 model, $3 prompt: what the latest answers to this prompt were like, of the last 20,000 calls.
select count(*) as calls, avg(tokens_in)::float8 as tokens_in, avg(tokens_out)::float8 as tokens_out,
    percentile_cont(0.1) within group (order by tokens_out) as low, percentile_cont(0.9) within group (order by tokens_out) as high,
    avg(latency_ms)::float8 as latency_ms
from (select * from (select provider, model, prompt, tokens_in, tokens_out, latency_ms from call where state <> 'intent'
                     order by made_at desc limit 20000) as latest
      where provider = $1 and model = $2 and ($3::text is null or prompt = $3) and tokens_out > 0 limit 1000) as alike;

-- name: export
-- $1 run, $2 model, $3 since; null: any.
select key, state, provider, model, prompt, status, finish_reason, tokens_in, tokens_out, tokens_cached,
    tokens_reasoning, latency_ms, cost, currency, tries, note, made_at, response, request, body as frame
from call left join call_frame f on f.digest = call.frame
where state <> 'intent' and ($1::bigint is null or run = $1)
  and ($2::text is null or model = $2 or provider || ':' || model = $2) and ($3::timestamptz is null or made_at >= $3);

-- name: import
-- One array per column. What is known stays; a call that is asked right now is not.
insert into call (
    key, state, owner, deadline, provider, model, prompt, status, finish_reason, tokens_in, tokens_out, tokens_cached,
    tokens_reasoning, latency_ms, cost, currency, tries, note, made_at, response, request, imported)
select key, state, gen_random_uuid(), clock_timestamp(), provider, model, prompt, status, finish_reason, tokens_in,
    tokens_out, tokens_cached, tokens_reasoning, latency_ms, cost, currency, tries, note, made_at, response, request, true
from unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::smallint[], $7::text[], $8::integer[],
    $9::integer[], $10::integer[], $11::integer[], $12::integer[], $13::numeric[], $14::text[], $15::integer[], $16::text[],
    $17::timestamptz[], $18::bytea[], $19::text[])
    as given (key, state, provider, model, prompt, status, finish_reason, tokens_in, tokens_out, tokens_cached,
        tokens_reasoning, latency_ms, cost, currency, tries, note, made_at, response, request)
order by key
on conflict (key) do nothing
returning key;

-- name: unfinished
-- Runs that may still ask, with the models their steps are bound to, as they were written down.
select r.id, r.name, r.state, r.definition from run r where r.state in ('waiting', 'running', 'paused') order by r.id;

-- name: prunable
-- $1 older than, $2 only those of no use, $3 models to spare as "provider:model", $4 runs to spare: how many calls go,
-- how many stay for the sake of runs, and the bytes of the former.
select count(*) filter (where not spared) as calls, count(*) filter (where spared) as spared,
    coalesce(sum(bytes) filter (where not spared), 0)::bigint as bytes
from (select provider || ':' || model = any ($3::text[]) or coalesce(run = any ($4::bigint[]), false) as spared,
          octet_length(response) as bytes
      from call where state <> 'intent' and made_at < $1 and (not $2 or state = 'unusable')) as old;

-- name: prune
-- The next thousand of them. Parameters as above.
with old as (
    select key from call
    where state <> 'intent' and made_at < $1 and (not $2 or state = 'unusable')
      and not provider || ':' || model = any ($3::text[]) and not coalesce(run = any ($4::bigint[]), false)
    order by made_at limit 1000)
delete from call using old where call.key = old.key and call.state <> 'intent' and call.made_at < $1;

-- name: askable
-- $1 older than: how many calls have a request that can go without them, and its bytes.
select count(*) as calls, coalesce(sum(octet_length(request)), 0)::bigint as bytes
from call where state <> 'intent' and made_at < $1 and request is not null;

-- name: forget_requests
-- The next thousand of them, from $2 (null: from the first): those before it have none any more. `last`: where it ended.
with old as (
    select key from call
    where state <> 'intent' and made_at >= coalesce($2, '-infinity'::timestamptz) and made_at < $1 and request is not null
    order by made_at limit 1000),
forgotten as (
    update call set request = null, frame = null from old where call.key = old.key returning call.made_at)
select count(*) as calls, max(made_at) as last from forgotten;

-- name: prune_frames
-- Whoever is about to use one has marked it within the last hour.
delete from call_frame f where used_at < clock_timestamp() - interval '1 day'
    and not exists (select from call where call.frame = f.digest);
