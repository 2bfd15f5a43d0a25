-- Records, lineage and the work that made them. Insert only: "editing" a record makes another one.
-- `offset 0` keeps look-ups by key what they are: a plan made while the tables were empty would read them whole, until
-- they are analyzed for the first time.

-- name: known_work
select w.key, w.outcome
from unnest($1::bytea[]) as g (key) cross join lateral (select key, outcome from work where key = g.key offset 0) as w;

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
select r.id, r.work_key, r.ordinal, r.kind
from unnest($1::bytea[]) as g (key)
cross join lateral (select id, work_key, ordinal, kind from record where work_key = g.key offset 0) as r
order by r.work_key, r.ordinal;

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
select r.id, r.kind, r.hash, r.body
from unnest($1::bigint[]) as g (id)
cross join lateral (select id, kind, hash, body from record where record.id = g.id offset 0) as r;

-- name: load_families
-- The records themselves and all their ancestors, each once: of which of them ($1), and how far away.
with recursive family as (
    select root, root as id, 0 as distance from unnest($1::bigint[]) as root
    union
    select f.root, l.parent_id, f.distance + 1
    from family f cross join lateral (select parent_id from lineage where record_id = f.id offset 0) as l
    where f.distance < 16),
nearest as (select root, id, min(distance) as distance from family group by root, id),
member as (select id, array_agg(root) as roots, array_agg(distance) as distances from nearest group by id)
select r.id, r.kind, r.hash, r.body, member.roots, member.distances
from member cross join lateral (select * from record where record.id = member.id offset 0) as r;

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
-- One row for each example, conversation and test item of steps $2, in the order of the inputs and of their text. The
-- last of a chain of revisions is the row; what a person has edited stands as he left it. Marks of steps $3 (duplicates,
-- rejections) on one of them leave it out, unless $5; those on what it came from are looked up by `marks_of`, once for
-- all rows that share it: a document may have ten thousand children. Its score is the newest evaluation or judgement of
-- steps $4 of the nearest revision.
-- Everything beside the order is looked up by key for one row at a time: constant memory, however many rows there are.
-- `offset 0` keeps it so where the planner knows nothing yet: a run may end before its tables are first analyzed.
select e.id as record_id, e.kind, e.body, encode(e.work_key, 'hex') as work_key, member.name as item, e.review, e.reviewer,
    family.chunk_id, family.document_id, family.source_id, family.question_id, family.above, mark.reason as left_out, score.value as score
from (select distinct_member.* from (
          select distinct on (rr.record_id) rr.record_id, i.name, rr.place
          from run_record rr left join item i on i.id = rr.item_id
          where rr.run_id = $1 and rr.step = any ($2::smallint[]) and (rr.item_id = 0 or i.state = 'active') /* only */
          order by rr.record_id, i.name, rr.place) as distinct_member
      order by name, place, record_id) as member
cross join lateral (
    select r.id, r.kind, r.body, r.work_key, coalesce(v.state, 'proposed') as review, d.reviewer
    from record o left join review v on v.record_id = o.id left join review_decision d on d.id = v.decision_id
        join record r on r.id = coalesce(v.revision_id, o.id)
    where o.id = member.record_id and o.kind in ('example', 'conversation', 'test_item') offset 0) as e
cross join lateral (
    with recursive family as (
        select e.id, e.kind, 0 as distance
        union
        select p.id, p.kind, f.distance + 1
        from family f cross join lateral (
            select r.id, r.kind from (select parent_id from lineage where record_id = f.id offset 0) as l
                cross join lateral (select id, kind from record where id = l.parent_id offset 0) as r) as p
        where f.distance < 16)
    select array_agg(distinct id) filter (where kind <> e.kind) as above,
        array_agg(id order by distance) filter (where kind = e.kind) as revisions,
        (array_agg(id order by distance, id) filter (where kind = 'chunk'))[1] as chunk_id,
        (array_agg(id order by distance, id) filter (where kind = 'document'))[1] as document_id,
        (array_agg(id order by distance, id) filter (where kind = 'source'))[1] as source_id,
        (array_agg(id order by distance, id) filter (where kind = 'question'))[1] as question_id
    from family) as family
left join lateral (
    select case m.kind when 'duplicate' then 'duplicate'
        else concat_ws(': ', m.body::json ->> 'rule', m.body::json ->> 'reason') end as reason
    from (select record_id from lineage where parent_id = any (family.revisions) and ordinal = 0 offset 0) as l
        cross join lateral (select id, kind, body from record where id = l.record_id offset 0) as m
    where m.kind in ('duplicate', 'rejection') and exists (select 1 from run_record rr
        where rr.run_id = $1 and rr.step = any ($3::smallint[]) and rr.record_id = m.id offset 0)
    order by m.id limit 1) as mark on cardinality($3::smallint[]) > 0
left join lateral (
    select coalesce(v.body::json ->> 'overall', v.body::json ->> 'score')::float8 as value
    from (select record_id, parent_id from lineage
          where parent_id = any (family.revisions) and ordinal = 0 offset 0) as l
        cross join lateral (select id, kind, body from record where id = l.record_id offset 0) as v
    where v.kind in ('evaluation', 'judgement') and exists (select 1 from run_record rr
        where rr.run_id = $1 and rr.step = any ($4::smallint[]) and rr.record_id = v.id offset 0)
    order by array_position(family.revisions, l.parent_id), v.id desc limit 1) as score on cardinality($4::smallint[]) > 0
where ($5 or mark.reason is null)
    and not exists (
        select 1 from (select record_id from lineage where parent_id = member.record_id and ordinal = 0 offset 0) as l
            cross join lateral (select id, kind from record where id = l.record_id offset 0) as later
        where later.kind = e.kind and exists (select 1 from run_record rr
            where rr.run_id = $1 and rr.step = any ($2::smallint[]) and rr.record_id = later.id offset 0) offset 0)
order by member.name, member.place, member.record_id;

-- name: marks_of
-- The first mark of steps $2 of a run on each of these records. `offset 0` keeps every step a look-up by key.
select distinct on (above.id) above.id, case m.kind when 'duplicate' then 'duplicate'
    else concat_ws(': ', m.body::json ->> 'rule', m.body::json ->> 'reason') end as reason
from unnest($3::bigint[]) as above (id)
cross join lateral (select record_id from lineage where parent_id = above.id and ordinal = 0 offset 0) as l
cross join lateral (select id, kind, body from record where record.id = l.record_id offset 0) as m
where m.kind in ('duplicate', 'rejection')
    and exists (select 1 from run_record rr
        where rr.run_id = $1 and rr.step = any ($2::smallint[]) and rr.record_id = m.id offset 0)
order by above.id, m.id;

-- name: document_facts
-- What a row says of its document. The whole body may be large: a heading for every line.
select id, body::json ->> 'title' as title, body::json ->> 'text_blob' as text_blob
from record where id = any ($1::bigint[]);
