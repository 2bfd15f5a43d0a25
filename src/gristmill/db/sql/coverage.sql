-- What a run has made of each of its documents, and how its results are spread. All by key, a page of documents at a time.

-- name: roots
-- What the first steps of a run have made of its inputs, in their order: $1 run, $2 step, $3 after this record, $4 rows.
select rr.record_id as id, rr.item_id, r.kind, i.name as item, i.state as item_state, r.title
from (select record_id, min(item_id) as item_id from run_record
      where run_id = $1 and step = $2 and ($3::bigint is null or record_id > $3)
      group by record_id order by record_id limit $4) as rr
cross join lateral (
    select kind, case when kind = 'document' then body::json ->> 'title' end as title from record where id = rr.record_id offset 0) as r
left join lateral (select name, state from item where id = rr.item_id offset 0) as i on true
order by rr.record_id;

-- name: below
-- What the steps $2 of a run have made of the records $3: each with the child of the top that it came through ("cell").
with recursive below as (
    select top.id as top, top.id, 0 as distance, null::bigint as cell from unnest($3::bigint[]) as top (id)
    union
    select b.top, child.id, b.distance + 1, coalesce(b.cell, child.id)
    from below b cross join lateral (
        select l.record_id as id from (select record_id from lineage where parent_id = b.id offset 0) as l where exists (
            select 1 from run_record rr
            where rr.run_id = $1 and rr.step = any ($2::smallint[]) and rr.record_id = l.record_id offset 0)
        offset 0) as child
    where b.distance < 10)
select top, id, distance, cell from below where distance > 0 limit $4;

-- name: facts
-- Kind and first parent of records, and what people said of them.
select r.id, r.kind, l.parent_id as parent, v.state, v.revision_id is not null as edited,
    case when r.kind = 'chunk' then (r.body::json ->> 'page_start')::integer end as page
from unnest($1::bigint[]) as wanted (id)
cross join lateral (select id, kind, body from record where id = wanted.id offset 0) as r
left join lateral (select parent_id from lineage where record_id = wanted.id and ordinal = 0 offset 0) as l on true
left join lateral (select state, revision_id from review where record_id = wanted.id offset 0) as v on true;

-- name: open_of_items
-- What waits, runs or has failed of these items; at most $2.
select id, item_id, step, state, payload from task
where item_id = any ($1::bigint[]) and item_id is not null
  and state in ('waiting', 'available', 'running', 'failed', 'quarantined') limit $2;

-- name: unread
-- Inputs that have come to no document: they cannot be read, or what was to read them failed. $2 first steps, $3 rows.
(select null::bigint as task, name, coalesce(reason, code) as why from item
 where run_id = $1 and state = 'unreadable' limit $3)
union all
select t.id, i.name, a.message
from (select id, step, item_id from task where run_id = $1 and state in ('failed', 'quarantined') order by step, id limit $3) as t
join item i on i.id = t.item_id
left join lateral (select message from attempt where task_id = t.id order by ended_at desc limit 1) as a on true
where t.step = any ($2::smallint[]);

-- name: spread
-- One value of each of the newest $3 records that the steps $2 have made: score, length of the answer, label, similarity.
select case $4
    when 'score' then coalesce(r.body::json ->> 'overall', r.body::json ->> 'score')
    when 'length' then length(coalesce(r.body::json ->> 'answer', r.body::json ->> 'text', r.body))::text
    when 'duplicates' then r.body::json ->> 'similarity'
    when 'confidence' then r.body::json ->> 'score'
    else r.body::json ->> $4 end as value, r.kind
from (select distinct record_id from (
        select record_id from run_record where run_id = $1 and step = $2 order by record_id desc limit $3) as latest) as rr
cross join lateral (select kind, body from record where id = rr.record_id offset 0) as r
where r.kind = any ($5::text[]);
