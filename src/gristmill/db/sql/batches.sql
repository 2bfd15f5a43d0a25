-- Batches at providers: which calls wait for which batch, and who looks after it. Time is the database's.

-- name: look
-- $1 key, $2 task or null. "fresh": the answer was asked for by this very try of the task.
select c.state as call, c.response, c.finish_reason, c.tokens_in, c.tokens_out, b.state, b.mode, b.tries, b.status, b.error, b.job,
    extract(epoch from clock_timestamp() - j.opened_at)::float8 as age,
    b.owner = c.owner and b.task is not distinct from $2::bigint
        and b.failures is not distinct from t.failures and b.epoch is not distinct from r.epoch as fresh
from (values ($1::bytea)) as asked (key)
left join call c on c.key = asked.key
left join batch_call b on b.key = asked.key
left join batch_job j on j.id = b.job
left join task t on t.id = $2
left join run r on r.id = t.run_id;

-- name: join
-- $1 fingerprint, $2 account; one array per column: $3 keys (all different), $4 owners, $5 providers, $6 models, $7 tasks,
-- $8 runs, $9 prompts, $10 modes, $11 bodies, $12 requests and $13 their frames (ledger.sql). The intent has no deadline: the batch answers or frees it. What comes back
-- has joined; the others are being asked elsewhere, or were answered.
with asked as materialized (
    select * from unnest($3::bytea[], $4::uuid[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::text[],
        $10::smallint[], $11::bytea[], $12::text[], $13::bytea[])
        as asked (key, owner, provider, model, task, run, prompt, mode, body, request, frame)),
mine as (
    insert into call (key, owner, deadline, provider, model, first_task, run, request, frame)
    select key, owner, 'infinity', provider, model, task, run, request, frame from asked order by key
    on conflict (key) do update
    set owner = excluded.owner, worker = null, deadline = 'infinity', tries = call.tries + 1,
        request = excluded.request, frame = excluded.frame
    where call.state = 'intent' and (call.deadline <= clock_timestamp() or exists (
        select from worker where nonce = call.worker and state = 'dead' and cause = 'its process ended'))
    returning key),
job as (
    insert into batch_job (model, account, calls, bytes)
    select $1, $2, count(*), sum(octet_length(a.body)) from asked a join mine using (key) having count(*) > 0
    on conflict (model, account) where state = 'open' do update
    set calls = batch_job.calls + excluded.calls, bytes = batch_job.bytes + excluded.bytes, joined_at = clock_timestamp()
    returning id, mark)
insert into batch_call (key, job, owner, task, run, prompt, failures, epoch, mode, body)
select a.key, job.id, a.owner, a.task, a.run, a.prompt, t.failures, r.epoch, a.mode, a.body
from asked a join mine using (key) cross join job
left join task t on t.id = a.task left join run r on r.id = t.run_id
order by a.key
on conflict (key) do update set job = excluded.job, state = 'asked', owner = excluded.owner, task = excluded.task,
    run = excluded.run, prompt = excluded.prompt, failures = excluded.failures, epoch = excluded.epoch,
    mode = excluded.mode, body = excluded.body, tries = batch_call.tries + 1, status = null, error = null
returning key, job, (select mark from job) as mark;

-- name: take
-- $1 fingerprint, $2 account, $3 worker, $4 seconds, $5 calls and $6 bytes that fill a batch, $7 seconds without a new call.
-- The next job that something has to be done about. An open one closes when it is full, when nobody joins any more, or
-- when it has been open for ten times as long.
update batch_job set worker = $3, until = clock_timestamp() + make_interval(secs => $4),
    state = case state when 'open' then 'closed' else state end
where id = (
    select id from batch_job j
    where model = $1 and account = $2 and state <> 'ended' and next_at <= clock_timestamp()
      and (until <= clock_timestamp() or exists (
          select from worker w where w.nonce = j.worker and w.state = 'dead' and w.cause = 'its process ended'))
      and (state <> 'open' or calls >= $5 or bytes >= $6 or joined_at <= clock_timestamp() - make_interval(secs => $7)
          or opened_at <= clock_timestamp() - make_interval(secs => 10 * $7))
    order by id limit 1 for update skip locked)
returning id, mark, state, file, begun_at, provider_id, not_ours,
    extract(epoch from clock_timestamp() - begun_at)::float8 as begun_for,
    extract(epoch from clock_timestamp() - started_at)::float8 as running_for;

-- name: unfinished
select exists (select from batch_job where model = $1 and account = $2 and state <> 'ended');

-- name: hold
-- $1 job, $2 worker, $3 seconds
update batch_job set until = clock_timestamp() + make_interval(secs => $3)
where id = $1 and worker = $2 and until > clock_timestamp() returning id;

-- name: leave
-- $1 job, $2 worker, $3 seconds until something has to be done again, $4 what went wrong
update batch_job set until = '-infinity', next_at = clock_timestamp() + make_interval(secs => $3), note = $4
where id = $1 and worker = $2;

-- name: leave_all
-- $1 fingerprint, $2 account, $3 worker, which stops.
update batch_job set until = '-infinity' where model = $1 and account = $2 and worker = $3 and until > clock_timestamp();

-- name: uploaded
update batch_job set file = $3 where id = $1 and worker = $2 returning id;

-- name: begin
-- From here on the provider may know of the batch. No row: somebody else is at it now.
update batch_job set begun_at = clock_timestamp()
where id = $1 and worker = $2 and until > clock_timestamp() returning begun_at;

-- name: not_begun
-- The provider has said no: there is surely no such batch.
update batch_job set begun_at = null where id = $1 and worker = $2 and provider_id is null;

-- name: started
-- $1 job, $2 the provider's name. Not fenced: the batch is there.
update batch_job set provider_id = $2, state = 'running', started_at = clock_timestamp(), note = null
where id = $1 and state = 'closed';

-- name: disown
-- What looked like this job is another one's.
update batch_job set provider_id = null, state = 'closed', started_at = null, not_ours = not_ours || provider_id
where id = $1 and state = 'running';

-- name: others
-- Batches of the provider that are known to be others: $1 their names, $2 this job.
select provider_id from batch_job where provider_id = any ($1::text[]) and id <> $2;

-- name: questions
select key, body from batch_call where job = $1 and state = 'asked' order by key;

-- name: waiting
select b.key, b.owner, b.task, b.run, b.prompt from batch_call b where b.job = $1 and b.state = 'asked';

-- name: wanted
-- Whether somebody still waits for it whose run was not cancelled.
select exists (select from batch_call b left join run r on r.id = b.run
    where b.job = $1 and b.state = 'asked' and r.state is distinct from 'cancelled');

-- name: drop_unwanted
-- Before anything is sent: what only cancelled runs have asked for.
with gone as (
    delete from batch_call b using run r
    where b.job = $1 and b.state = 'asked' and r.id = b.run and r.state = 'cancelled' returning b.key, b.owner)
delete from call c using gone where c.key = gone.key and c.owner = gone.owner and c.state = 'intent';

-- name: settle
-- $1 job; one array per column: $2 keys, $3 states, $4 statuses, $5 errors. What failed was not paid: its intent goes.
-- The money that is set aside shrinks with the calls that wait, and the tasks behind these come back now.
with told as materialized (
    select * from unnest($2::bytea[], $3::text[], $4::smallint[], $5::bytea[]) as told (key, state, status, error)),
before as materialized (select count(*) as calls from batch_call where job = $1 and state = 'asked'),
done as (
    update batch_call b set state = told.state, status = told.status, error = told.error, body = null
    from told where b.key = told.key and b.job = $1 and b.state = 'asked' returning b.key, b.owner, b.state, b.task),
freed as (
    delete from call c using done where done.state = 'failed' and c.key = done.key and c.owner = done.owner and c.state = 'intent'),
shrunk as (
    update budget_hold h set amount = h.amount * greatest(0, before.calls - (select count(*) from done)) / before.calls
    from before, batch_job j where j.id = $1 and h.worker = j.mark and before.calls > 0),
sleeping as materialized (
    select id from task where id in (select task from done) and state = 'available' and held like 'waiting for batch %'
    order by id for update),
woken as (
    update task t set run_at = clock_timestamp() from sleeping where t.id = sleeping.id returning t.id)
select count(*), case when count(*) > 0 then pg_notify('gristmill_wake', '') end from woken;

-- name: ended
with over as (update batch_job set state = 'ended', ended_at = clock_timestamp(), note = $2 where id = $1 returning mark)
delete from budget_hold using over where budget_hold.worker = over.mark;

-- name: forget
-- A failed call whose failure somebody has heard of.
delete from batch_call where key = $1 and state = 'failed';

-- name: forget_old
-- After a month nobody asks in the same try any more.
with old as (
    delete from batch_job where state = 'ended' and ended_at < clock_timestamp() - interval '30 days' returning id)
delete from batch_call using old where batch_call.job = old.id;

-- name: hand_over
-- $1 holder, $2 seconds, $3 scopes, $4 names, $5 currencies, $6 amount: set aside for a call that outlives its process.
insert into budget_hold (scope, name, currency, worker, amount, deadline)
select scope, name, currency, $1, $6, clock_timestamp() + make_interval(secs => $2)
from unnest($3::text[], $4::text[], $5::text[]) as given (scope, name, currency)
order by scope, name, currency
on conflict (scope, name, currency, worker) do update
set amount = budget_hold.amount + excluded.amount, deadline = excluded.deadline;
