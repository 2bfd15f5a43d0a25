-- So that no priority waits for ever. Decision: docs/decisions/0009-ageing.md. Both look for the task of pool $1 that has
-- waited longest of those that could be claimed now ($2: the kinds), in runs and behind priorities of every rank. "free":
-- a slot of its lock is.

-- name: oldest
-- Without locks. A walk over the index: the first of every priority of every run, at most a hundred of each.
select oldest.id, true as free
from (select r.id from run r where r.state = 'running') as active
cross join lateral (
    with recursive head as (
        (select t.id, t.priority, t.seq, 1 as place from task t
         where t.run_id = active.id and t.pool = $1 and not t.locked and t.state = 'available'
           and t.run_at <= clock_timestamp() and t.kind = any ($2::text[]) and t.crashes < 2
           and (t.deadline is null or t.deadline > clock_timestamp())
         order by t.priority, t.seq limit 1)
        union all
        select following.id, following.priority, following.seq, head.place + 1 from head cross join lateral (
            select t.id, t.priority, t.seq from task t
            where t.run_id = active.id and t.pool = $1 and not t.locked and t.state = 'available'
              and t.priority > head.priority
              and t.run_at <= clock_timestamp() and t.kind = any ($2::text[]) and t.crashes < 2
              and (t.deadline is null or t.deadline > clock_timestamp())
            order by t.priority, t.seq limit 1) as following
        where head.place < 100)
    select head.id, head.seq from head) as oldest
order by oldest.seq limit 1;

-- name: oldest_locked
-- With locks; those with a free slot before others. The first of every key and priority, at most a thousand of each run.
select oldest.id, oldest.free
from (select r.id from run r where r.state = 'running') as active
cross join lateral (
    with recursive head as (
        (select t.id, t.lock_key, t.priority, t.seq, t.lock_slots, 1 as place from task t
         where t.run_id = active.id and t.pool = $1 and t.locked and t.state = 'available'
           and t.run_at <= clock_timestamp() and t.kind = any ($2::text[]) and t.crashes < 2
           and (t.deadline is null or t.deadline > clock_timestamp())
         order by t.lock_key, t.priority, t.seq limit 1)
        union all
        select following.id, following.lock_key, following.priority, following.seq, following.lock_slots, head.place + 1
        from head cross join lateral (
            select t.id, t.lock_key, t.priority, t.seq, t.lock_slots from task t
            where t.run_id = active.id and t.pool = $1 and t.locked and t.state = 'available'
              and (t.lock_key, t.priority) > (head.lock_key, head.priority)
              and t.run_at <= clock_timestamp() and t.kind = any ($2::text[]) and t.crashes < 2
              and (t.deadline is null or t.deadline > clock_timestamp())
            order by t.lock_key, t.priority, t.seq limit 1) as following
        where head.place < 1000)
    select head.id, head.seq, (
        select count(*) from lock l where l.key = head.lock_key
        and (l.expires_at is null or l.expires_at > clock_timestamp())) < head.lock_slots as free
    from head) as oldest
order by oldest.free desc, oldest.seq limit 1;
