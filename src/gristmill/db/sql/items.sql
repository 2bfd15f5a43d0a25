-- Items: the inputs of runs, from the first task to one end in each round. Lock order: tasks by id, items by id, run.

-- name: adding
-- One at a time adds inputs to a run, until its commit: two that add the same one would both find it new.
select pg_advisory_xact_lock(hashtextextended('inputs', $1));

-- name: add_items
-- "fresh" are new inputs, and those that count again after they had been taken out: they have a round before them.
with before as materialized (select key, state from item where run_id = $1 and key = any ($2::bytea[])),
added as (
    insert into item (run_id, key, name, uri, state, code, reason)
    select $1, g.key, g.name, g.uri, g.state, g.code, g.reason
    from unnest($2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
        as g (key, name, uri, state, code, reason)
    on conflict (run_id, key) do update set state = excluded.state, code = excluded.code, reason = excluded.reason,
        name = excluded.name,
        outcome = case when item.state = excluded.state then item.outcome end,
        ended_at = case when item.state = excluded.state then item.ended_at end
    returning id, key, state)
select added.id, added.key, added.state, before.state is distinct from added.state as fresh
from added left join before on before.key = added.key;

-- name: refuse_items
-- Inputs that cannot be read have failed before they began.
with refused as (
    update item i set outcome = 'failed', ended_at = clock_timestamp()
    from run r where i.id = any ($1::bigint[]) and i.outcome is null and r.id = i.run_id
    returning i.id, i.run_id, i.name, i.code, i.reason, r.detail, r.epoch)
insert into event_inbox (name, run_id, item_id, body)
select 'item.failed', run_id, id, json_build_object('name', name, 'outcome', 'failed', 'epoch', epoch, 'code', code,
    'message', reason)::text
from refused where detail >= 1;

-- name: going
-- Inputs that no longer count: same place and other content, or gone.
select i.id, i.uri, case when i.uri = any ($2::text[]) then 'superseded' else 'removed' end as becomes
from item i
where i.run_id = $1 and i.state in ('active', 'unreadable')
  and not exists (select 1 from unnest($3::bigint[]) as kept where kept = i.id);

-- name: supersede_items
-- What was made from the old content stays, and is no longer part of the run's result.
with gone as materialized (
    select i.id, g.becomes from unnest($1::bigint[], $2::text[]) as g (id, becomes) join item i on i.id = g.id
    order by i.id for no key update of i)
update item set state = gone.becomes from gone where item.id = gone.id;

-- name: check_items
insert into item_check select unnest($1::bigint[]);

-- name: take_checks
delete from item_check where ctid = any (array(select ctid from item_check limit 2000 for update skip locked))
returning item_id;

-- name: take_checks_of_run
delete from item_check where ctid = any (array(
    select c.ctid from item_check c join item i on i.id = c.item_id where i.run_id = $1 limit 2000
    for update of c skip locked))
returning item_id;

-- name: left_behind
-- Open tasks of items that are over: they slipped through while the item was cancelled or taken away.
select t.id, t.state, t.item_id from item i join task t on t.item_id = i.id
where i.id = any ($1::bigint[]) and (i.outcome = 'cancelled' or i.state in ('superseded', 'removed'))
  and t.item_id is not null and t.state in ('waiting', 'available', 'running') limit 10000;

-- name: due_barriers
-- Barriers of items that have not begun in this round, and before which nothing of the item is open.
select i.id as item_id, i.run_id, s.ordinal, s.kind, s.pool, s.max_attempts, s.max_crashes, r.epoch, s.lock, s.lock_slots
from item i join run r on r.id = i.run_id join step s on s.run_id = i.run_id and s.per_item
where i.id = any ($1::bigint[]) and i.state = 'active' and i.outcome is null and r.state <> 'cancelled'
  and not exists (select 1 from item_step o where o.item_id = i.id and o.ordinal = s.ordinal)
  and not exists (select 1 from task t where t.item_id = i.id and t.item_id is not null and t.step = any (s.upstream)
                  and t.state in ('waiting', 'available', 'running'))
  and not exists (select 1 from step p where p.run_id = i.run_id and p.per_item and p.ordinal = any (s.upstream)
                  and not exists (select 1 from item_step o where o.item_id = i.id and o.ordinal = p.ordinal))
order by i.id, s.ordinal;

-- name: stale
-- What an earlier round of these barriers ($1 items, $2 steps) has left: their own tasks, and those that came from what
-- they had made. The place of such a task begins with the barrier it comes from: -1 - ordinal.
select t.id, t.state, t.item_id
from unnest($1::bigint[], $2::smallint[]) as due (item_id, ordinal)
join item i on i.id = due.item_id
join task t on t.item_id = due.item_id and t.item_id is not null
    and t.state in ('waiting', 'available', 'running', 'failed', 'quarantined')
join step d on d.run_id = i.run_id and d.ordinal = t.step
-- asked once more: what somebody else has just made of the barrier is not left, it is new
where not exists (select 1 from item_step o where o.item_id = due.item_id and o.ordinal = due.ordinal)
  and (t.step = due.ordinal or due.ordinal = any (d.upstream))
  and (d.barrier or substring(t.payload from '"place": ?\[(-\d+)') in (
        select (-1 - b.ordinal)::text from step b
        where b.run_id = i.run_id and b.barrier and (b.ordinal = due.ordinal or due.ordinal = any (b.upstream))));

-- name: lock_items
select id from item where id = any ($1::bigint[]) order by id for no key update;

-- name: open_item_step
insert into item_step (item_id, ordinal, epoch) values ($1, $2, $3) on conflict do nothing returning item_id;

-- name: end_items
-- Items of which nothing is open have come to their end, once in each round. After lock_items, in a second statement:
-- only a new snapshot sees what was committed while we waited. One with a barrier that has not begun is not at its end: its
-- last task may have ended after we looked for barriers that are due.
with gathering as materialized (
    select s.run_id, s.ordinal from step s
    where s.per_item and s.run_id in (select run_id from item where id = any ($1::bigint[]))),
quiet as materialized (
    select i.id, r.detail, r.epoch,
        case when r.state = 'cancelled' or i.state in ('superseded', 'removed') then 'cancelled'
             when exists (select 1 from task t where t.item_id = i.id and t.item_id is not null
                          and t.state in ('failed', 'quarantined')) then 'failed'
             else 'completed' end as outcome
    from item i join run r on r.id = i.run_id
    where i.id = any ($1::bigint[]) and i.outcome is null and i.state <> 'unreadable'
      and not exists (select 1 from task t where t.item_id = i.id and t.item_id is not null
                      and t.state in ('waiting', 'available', 'running'))
      and (i.state <> 'active' or r.state = 'cancelled' or not exists (
        select 1 from gathering g where g.run_id = i.run_id and not exists (
            select 1 from item_step o where o.item_id = i.id and o.ordinal = g.ordinal)))),
ended as (
    update item i set outcome = quiet.outcome, ended_at = clock_timestamp()
    from quiet where i.id = quiet.id and i.outcome is null
    returning i.id, i.run_id, i.name, i.outcome, quiet.detail, quiet.epoch)
insert into event_inbox (name, run_id, item_id, body)
select case when outcome = 'failed' then 'item.failed' else 'item.end' end, run_id, id,
    json_build_object('name', name, 'outcome', outcome, 'epoch', epoch)::text
from ended where detail >= 1 order by id;

-- name: begin_again
-- Items in which tasks begin anew have no outcome any more; barriers behind those tasks are due again. The items are
-- looked at in any case: a barrier may be all that has to be done again.
with again as materialized (
    select t.item_id, t.step from task t where t.id = any ($1::bigint[]) and t.item_id is not null),
held as materialized (
    select i.id from item i where i.id in (select item_id from again) order by i.id for no key update),
cleared as (update item i set outcome = null, ended_at = null from held where i.id = held.id returning i.id, i.run_id),
closed as (
    delete from item_step o using again a, cleared c, step s
    where o.item_id = a.item_id and c.id = a.item_id and s.run_id = c.run_id and s.ordinal = o.ordinal
      and (s.ordinal = a.step or a.step = any (s.upstream)))
insert into item_check select id from cleared;

-- name: close_barriers
delete from item_step where item_id = any ($1::bigint[]);

-- name: items_named
select id, name, state, outcome from item
where run_id = $1 and state in ('active', 'unreadable') and (name = $2 or uri = $2 or id::text = $2) order by id;

-- name: item_names
select distinct name from item where run_id = $1 and state in ('active', 'unreadable') order by name limit 1000;

-- name: pause_items
with held as materialized (
    select i.id from item i
    where i.id = any ($1::bigint[]) and i.paused <> $2 and i.outcome is null order by i.id for no key update),
changed as (update item i set paused = $2 from held where i.id = held.id returning i.id, i.run_id, i.name),
told as (
    insert into event_inbox (name, run_id, item_id, body)
    select case when $2 then 'item.pause' else 'item.resume' end, c.run_id, c.id, json_build_object('name', c.name)::text
    from changed c join run r on r.id = c.run_id where r.detail >= 1)
select id from changed;

-- name: cancel_items
with held as materialized (
    select i.id from item i
    where i.id = any ($1::bigint[]) and i.outcome is null and i.state = 'active' order by i.id for no key update),
ended as (
    update item i set outcome = 'cancelled', ended_at = clock_timestamp(), paused = false
    from held, run r where i.id = held.id and r.id = i.run_id
    returning i.id, i.run_id, i.name, r.detail, r.epoch),
told as (
    insert into event_inbox (name, run_id, item_id, body)
    select 'item.end', run_id, id, json_build_object('name', name, 'outcome', 'cancelled', 'epoch', epoch)::text
    from ended where detail >= 1)
select id from ended;

-- name: release_items
-- Items that are over are taken out, so that the next look at the inputs finds them new.
with held as materialized (
    select i.id from item i
    where i.id = any ($1::bigint[]) and i.outcome in ('failed', 'cancelled') and i.state = 'active'
    order by i.id for no key update)
update item i set state = 'removed' from held where i.id = held.id returning i.id;
