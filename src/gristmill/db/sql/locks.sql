-- Slots of locks for everybody who is not a task: claims take theirs in queue.sql. The primary key (key, slot) is the
-- arbiter; what looks free is only where to try. Slots count from 1; slot 0 is a place at the door (see wait_turn).
-- Keys sort as "C", which is how Python sorts them: whoever takes several goes in one order. Only the database's clock.

-- name: take
-- A slot of one key, free or expired. $1 key, $2 slots, $3 kind, $4 who, $5 worker, $6 token, $7 seconds.
-- "tried" null: none looked free. "tried" without "slot": somebody else was quicker, look again.
with free as materialized (
    select s.slot from generate_series(1, $2::int) as s (slot)
    where (select count(*) from lock l where l.key = $1 and l.token <> $6
           and (l.expires_at is null or l.expires_at > clock_timestamp())) < $2
      and not exists (select 1 from lock l where l.key = $1 and l.slot = s.slot
                      and (l.expires_at is null or l.expires_at > clock_timestamp()))
    order by random() limit 1),
taken as (
    insert into lock as l (key, slot, holder_kind, holder, worker_id, token, fence, expires_at)
    select $1, free.slot, $3, $4, $5, $6, 0, clock_timestamp() + make_interval(secs => $7::float8) from free
    on conflict (key, slot) do update set holder_kind = excluded.holder_kind, holder = excluded.holder, task_id = null,
        worker_id = excluded.worker_id, token = excluded.token, fence = 0, since = clock_timestamp(),
        expires_at = clock_timestamp() + make_interval(secs => $7::float8)
    where l.expires_at <= clock_timestamp()
    returning l.slot)
select (select slot from free) as tried, (select slot from taken) as slot;

-- name: patience
set local lock_timeout = '1s';

-- name: number
-- After `take`, in the same transaction: a number drawn before a slot was won could be lower than an earlier holder's.
with next as materialized (select nextval('fence_seq') as fence),
mine as materialized (
    select key, slot from lock where token = $1 and key = any ($2::text[]) and holder_kind <> 'task' and slot > 0
    order by key collate "C", slot for update)
update lock l set fence = next.fence, since = clock_timestamp(),
    expires_at = clock_timestamp() + make_interval(secs => $3::float8)
from next, mine where l.key = mine.key and l.slot = mine.slot
returning l.key, l.slot, l.fence;

-- name: refresh
-- A row that is still there with its token was nobody else's in between, even when its time had passed.
with mine as materialized (
    select key, slot from lock where token = $1 and key = any ($2::text[]) and holder_kind <> 'task' and slot > 0
    order by key collate "C", slot for update)
update lock l set expires_at = clock_timestamp() + make_interval(secs => $3::float8)
from mine where l.key = mine.key and l.slot = mine.slot
returning l.key, l.slot, l.fence;

-- name: release
with mine as materialized (
    select key, slot from lock where token = $1 and key = any ($2::text[]) and holder_kind <> 'task'
    order by key collate "C", slot for update)
delete from lock l using mine where l.key = mine.key and l.slot = mine.slot
returning l.slot;

-- name: wait_turn
-- The first in the row outside of the queue keeps a place at the door: claims and others count it as a holder, so that
-- ten thousand tasks cannot pass by for ever. It is a courtesy, not the arbiter; it lapses with who waits.
insert into lock as l (key, slot, holder_kind, holder, worker_id, token, fence, expires_at)
values ($1, 0, $2, $3, $4, $5, 0, clock_timestamp() + make_interval(secs => $6::float8))
on conflict (key, slot) do update set holder_kind = excluded.holder_kind, holder = excluded.holder, task_id = null,
    worker_id = excluded.worker_id, token = excluded.token, expires_at = excluded.expires_at,
    since = case when l.token = excluded.token then l.since else clock_timestamp() end
where l.token = excluded.token or l.expires_at <= clock_timestamp();

-- name: leave_door
-- $2: the key at whose door to stay; null: none.
delete from lock where token = $1 and slot = 0 and ($2::text is null or key <> $2);

-- name: holders
-- Of one key, or of all; expired ones count only as long as nobody has taken or swept them.
select l.key, l.slot, l.holder_kind as kind, l.holder as who, l.task_id, l.worker_id, l.token,
    case when l.holder_kind = 'task' and t.token = l.token then t.fence else l.fence end as fence, l.since, l.expires_at,
    coalesce(l.expires_at > clock_timestamp(), true) as live,
    extract(epoch from clock_timestamp() - l.since)::float8 as age, t.run_id, t.kind as operator
from lock l left join task t on t.id = l.task_id
where $1::text is null or l.key = $1
order by l.key collate "C", l.slot;

-- name: drop
delete from lock where key = $1 and slot = $2 and token = $3 returning slot;

-- name: tell_forced
insert into event_inbox (name, run_id, task_id, worker_id, body)
values ('lock.forced', $1, $2, $3, json_build_object('key', $4::text, 'slot', $5::int, 'holder_kind', $6::text,
    'holder', $7::text, 'since', $8::timestamptz, 'fence', $9::bigint, 'next_fence', nextval('fence_seq'),
    'by', $10::text, 'reason', $11::text)::text);

-- name: sweep
-- Slots whose time has passed, and slots of tasks that do not run any more under that token (somebody edited by hand:
-- a claim and its slot begin and end in one transaction). A slot that is being renewed right now is left alone. The
-- minute is longer than any statement: a row that a claim has just taken over is judged by our old snapshot of its task.
with over as materialized (
    select l.key, l.slot from lock l
    where l.expires_at <= clock_timestamp()
       or (l.holder_kind = 'task' and l.since < clock_timestamp() - interval '1 minute' and not exists (
           select 1 from task t where t.id = l.task_id and t.token = l.token and t.state = 'running'))
    order by l.key collate "C", l.slot for update skip locked)
delete from lock l using over where l.key = over.key and l.slot = over.slot
returning l.key, l.slot, l.holder_kind as kind, l.holder as who, l.since;
