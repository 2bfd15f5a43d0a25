-- Annotation projects for Label Studio.

-- name: annotations_of_run
-- The annotations of a kind that steps $2 of a run made, each with what was annotated: the nearest ancestor with the hash
-- that it names. One that another one was made from (a vote of a panel) is `voted`. `offset 0` keeps look-ups by key.
select a.id, a.subject_hash, subject.id as subject_id, member.item, member.place, review.state,
    coalesce(review.revision_id, a.id) as standing_id,
    exists (select 1 from (select record_id from lineage where parent_id = a.id offset 0) as l
        cross join lateral (select id, kind from record where id = l.record_id offset 0) as later
        where later.kind = $3 and exists (select 1 from run_record rr
            where rr.run_id = $1 and rr.step = any ($2::smallint[]) and rr.record_id = later.id offset 0) offset 0) as voted
from (select distinct on (rr.record_id) rr.record_id, i.name as item, rr.place
      from run_record rr left join item i on i.id = rr.item_id
      where rr.run_id = $1 and rr.step = any ($2::smallint[]) and (rr.item_id = 0 or i.state = 'active')
      order by rr.record_id, i.name, rr.place) as member
cross join lateral (
    select id, body::json ->> 'subject' as subject_hash from record
    where id = member.record_id and kind = $3 and ($4::text is null or body::json ->> 'scale' = $4) offset 0) as a
cross join lateral (
    with recursive up as (
        select a.id, null::bytea as hash, 0 as distance
        union
        select p.id, p.hash, u.distance + 1
        from up u cross join lateral (
            select r.id, r.hash from (select parent_id from lineage where record_id = u.id offset 0) as l
                cross join lateral (select id, hash from record where id = l.parent_id offset 0) as r) as p
        where u.distance < 16)
    select id from up where hash = decode(a.subject_hash, 'hex') order by distance, id limit 1) as subject
left join review on review.record_id = a.id
order by member.item, member.place, a.id;

-- name: scales_of_run
select distinct r.body::json ->> 'scale' as scale
from run_record rr join record r on r.id = rr.record_id and r.kind = 'rating'
where rr.run_id = $1 and rr.step = any ($2::smallint[])
order by 1;

-- name: subjects_of_run
-- What steps $2 of a run made to be annotated.
select distinct on (rr.record_id) rr.record_id as subject_id, i.name as item, rr.place
from run_record rr left join item i on i.id = rr.item_id
where rr.run_id = $1 and rr.step = any ($2::smallint[]) and (rr.item_id = 0 or i.state = 'active')
    and exists (select 1 from record r where r.id = rr.record_id and r.kind = any ($3::text[]))
order by rr.record_id, i.name, rr.place;

-- name: origins
-- From which file and which document records come.
select s.id, family.source, family.title, family.document
from unnest($1::bigint[]) as s (id)
cross join lateral (
    with recursive up as (
        select s.id, 0 as distance
        union
        select p.parent_id, u.distance + 1
        from up u cross join lateral (select parent_id from lineage where record_id = u.id offset 0) as p
        where u.distance < 16)
    select (array_agg(r.body::json ->> 'name' order by up.distance, r.id) filter (where r.kind = 'source'))[1] as source,
        (array_agg(r.body::json ->> 'title' order by up.distance, r.id) filter (where r.kind = 'document'))[1] as title,
        (array_agg(r.body::json ->> 'text_blob' order by up.distance, r.id)
            filter (where r.kind = 'document'))[1] as document
    from up cross join lateral (select id, kind, body from record where record.id = up.id offset 0) as r) as family;

-- name: subject_of
-- The nearest ancestor of a record, or of what a person put in another's place, that has this hash.
with recursive up as (
    select $1::bigint as id, 0 as distance
    union
    select l.parent_id, u.distance + 1
    from up u cross join lateral (select parent_id from lineage where record_id = u.id offset 0) as l
    where u.distance < 16)
select r.id from up join record r on r.id = up.id where r.hash = $2 order by up.distance, r.id limit 1;

-- name: lock_project
select pg_advisory_xact_lock(hashtextextended('label_project ' || $1 || ' ' || $2, 0));

-- name: project_named
select * from label_project where project = $1 and name = $2;

-- name: projects
select p.*, (select count(*) from label_piece where project_id = p.id) as pieces,
    (select count(*) from label_piece where project_id = p.id and result is not null) as annotated,
    (select count(*) from label_pulled where project_id = p.id and state = 'conflict') as conflicts,
    (select count(*) from label_pulled where project_id = p.id and state = 'refused') as refused,
    (select json_agg(url order by url) from label_server where project_id = p.id) as servers
from label_project p where p.project = $1 order by p.id;

-- name: add_project
insert into label_project (project, name, run_id, step, kind, scale, mode, config, run_state, made_by)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
returning *;

-- name: change_project
update label_project set config = $2, run_state = $3, changed_at = clock_timestamp() where id = $1 returning *;

-- name: put_pieces
insert into label_piece (project_id, subject_id, ordinal, annotation_id, standing_id, result, predictions, about)
select $1, g.*
from unnest($2::bigint[], $3::int[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[])
    as g (subject_id, ordinal, annotation_id, standing_id, result, predictions, about)
on conflict (project_id, subject_id) do update set ordinal = excluded.ordinal, annotation_id = excluded.annotation_id,
    standing_id = excluded.standing_id, result = excluded.result, predictions = excluded.predictions,
    about = excluded.about;

-- name: pieces
-- A page of tasks in order.
select subject_id, ordinal, annotation_id, standing_id, result, predictions, about
from label_piece where project_id = $1 and ordinal > $2 order by ordinal limit $3;

-- name: server_of
select server_project from label_server where project_id = $1 and url = $2;

-- name: put_server
insert into label_server (project_id, url, server_project) values ($1, $2, $3)
on conflict (project_id, url) do update set server_project = excluded.server_project, pushed_at = clock_timestamp();

-- name: tasks_of
select subject_id, task, standing_id, sent from label_task where project_id = $1 and url = $2;

-- name: put_tasks
insert into label_task (project_id, url, subject_id, task, standing_id, sent)
select $1, $2, g.*
from unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[]) as g (subject_id, task, standing_id, sent)
on conflict (project_id, url, subject_id) do update set task = excluded.task, standing_id = excluded.standing_id,
    sent = excluded.sent;

-- name: forget_server
with gone as (delete from label_task where project_id = $1 and url = $2)
delete from label_server where project_id = $1 and url = $2;

-- name: pieces_named
-- What is known of these pieces, and what was sent of them to one server.
select p.subject_id, p.annotation_id, p.standing_id, p.about, p.result, t.standing_id as sent_id, t.sent,
    review.state, coalesce(review.revision_id, p.annotation_id) as now_id
from label_piece p
left join label_task t on t.project_id = p.project_id and t.subject_id = p.subject_id and t.url = $2
left join review on review.record_id = p.annotation_id
where p.project_id = $1 and p.subject_id = any ($3::bigint[]);

-- name: pulled_of
select annotation, who, updated_at, state, subject_id, result from label_pulled
where project_id = $1 and url = $2 and subject_id = any ($3::bigint[]);

-- name: put_pulled
insert into label_pulled (project_id, url, subject_id, annotation, who, updated_at, result, state, reason, record_id)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict (project_id, url, annotation) do update set who = excluded.who, updated_at = excluded.updated_at,
    result = excluded.result, state = excluded.state, reason = excluded.reason, record_id = excluded.record_id,
    at = clock_timestamp();

-- name: open_pulled
select l.*, p.annotation_id, p.standing_id, p.about, review.state as review_state,
    coalesce(review.revision_id, p.annotation_id) as now_id
from label_pulled l
join label_piece p on p.project_id = l.project_id and p.subject_id = l.subject_id
left join review on review.record_id = p.annotation_id
where l.project_id = $1 and l.state in ('conflict', 'refused') and ($2::bigint is null or l.id = $2)
order by p.ordinal, l.id;

-- name: close_pulled
-- The others that were said about the same piece are settled with it.
update label_pulled set state = case when id = $3 then $4 else 'left' end, at = clock_timestamp(),
    record_id = case when id = $3 then $5 else record_id end, settled_by = $6
where project_id = $1 and subject_id = $2 and (id = $3 or state = 'conflict');

-- name: give_annotation
-- A person annotated what nobody had.
update label_piece set annotation_id = $3, standing_id = $3 where project_id = $1 and subject_id = $2;

-- name: membership
select item_id, task_id, place from run_record
where run_id = $1 and record_id = $2 order by step desc, item_id limit 1;
