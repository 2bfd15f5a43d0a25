-- Records, lineage and the work that made them. Insert only: "editing" a record makes another one.

-- name: known_work
select key, outcome from work where key = any ($1::bytea[]);

-- name: save_work
insert into work (key, kind, outcome, notes, task_id)
select g.key, g.kind, g.outcome, g.notes, g.task_id
from unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::bigint[]) as g (key, kind, outcome, notes, task_id)
order by g.key
on conflict (key) do nothing
returning key;

-- name: save_records
insert into record (kind, hash, work_key, ordinal, body)
select g.kind, g.hash, g.work_key, g.ordinal, g.body
from unnest($1::text[], $2::bytea[], $3::bytea[], $4::int[], $5::text[]) as g (kind, hash, work_key, ordinal, body)
on conflict (work_key, ordinal) do nothing
returning id, work_key, ordinal;

-- name: records_of_work
select id, work_key, ordinal, kind from record where work_key = any ($1::bytea[]) order by work_key, ordinal;

-- name: save_lineage
insert into lineage (record_id, parent_id, ordinal)
select * from unnest($1::bigint[], $2::bigint[], $3::int[])
on conflict do nothing;

-- name: join_run
insert into run_record (run_id, step, record_id, item_id, task_id, place)
select g.run_id, g.step, g.record_id, coalesce(g.item_id, 0), g.task_id, g.place::int[]
from unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[])
    as g (run_id, step, record_id, item_id, task_id, place)
on conflict do nothing;

-- name: leave_run
-- A barrier that ran again replaces what it said before, and what was made from that.
delete from run_record where run_id = $1 and step >= $2;

-- name: load
select id, kind, hash, body from record where id = any ($1::bigint[]);

-- name: load_family
-- The records themselves and all their ancestors, nearest first. `offset 0` keeps every step a look-up by key: a plan
-- made while the tables were empty would read them whole for ever.
with recursive family as (
    select unnest($1::bigint[]) as id, 0 as distance
    union
    select l.parent_id, f.distance + 1
    from family f cross join lateral (select parent_id from lineage where record_id = f.id offset 0) as l
    where f.distance < 16),
nearest as (select id, min(distance) as distance from family group by id)
select r.id, r.kind, r.hash, r.body, nearest.distance
from nearest cross join lateral (select * from record where record.id = nearest.id offset 0) as r
order by nearest.distance, r.id;

-- name: of_run
-- What a step of a run has made from inputs that still count, in the order of the inputs and of their text.
-- A record that several inputs share counts once, at the first of them.
select r.id, r.kind, r.hash, r.body
from (select distinct on (rr.record_id) rr.record_id, i.name, rr.place
      from run_record rr left join item i on i.id = rr.item_id
      where rr.run_id = $1 and rr.step = $2 and (rr.item_id = 0 or i.state = 'active')
      order by rr.record_id, i.name, rr.place) as member
join record r on r.id = member.record_id
order by member.name, member.place, r.id;

-- name: dataset
-- One row an example with everything it came from, without those that step $3 marked as duplicates.
select e.id as record_id, e.body as example, encode(e.work_key, 'hex') as work_key, member.name as item,
    (select json_object_agg(a.kind, a.body)::text from (
        with recursive family as (
            select e.id, 0 as distance
            union
            select l.parent_id, f.distance + 1
            from family f cross join lateral (select parent_id from lineage where record_id = f.id offset 0) as l
            where f.distance < 16)
        select distinct on (r.kind) r.kind, r.body
        from family f cross join lateral (select id, kind, body from record where record.id = f.id offset 0) as r
        where f.distance > 0 order by r.kind, f.distance, r.id) a) as ancestors
from (select distinct on (rr.record_id) rr.record_id, i.name, rr.place
      from run_record rr left join item i on i.id = rr.item_id
      where rr.run_id = $1 and rr.step = $2 and (rr.item_id = 0 or i.state = 'active')
      order by rr.record_id, i.name, rr.place) as member
join record e on e.id = member.record_id
where not exists (
    select 1 from run_record mark join lineage l on l.record_id = mark.record_id and l.ordinal = 0
    where mark.run_id = $1 and mark.step = $3 and l.parent_id = e.id)
order by member.name, member.place, e.id;
