-- name: ready
select to_regclass('vector_entry') is not null;

-- name: add
-- Again for the same chunk: what is there and the same is left alone, so a step that runs twice writes once.
insert into vector_entry (chunk_id, model, embedding, words)
select g.chunk_id, $1, g.embedding::vector, to_tsvector('simple', g.words)
from unnest($2::bigint[], $3::text[], $4::text[]) as g (chunk_id, embedding, words)
order by g.chunk_id
on conflict (chunk_id, model) do update set embedding = excluded.embedding, words = excluded.words
where (vector_entry.embedding, vector_entry.words) is distinct from (excluded.embedding, excluded.words);

-- name: search
-- Hybrid: the nearest vectors and the best by words, each list by place; score = sum of 1 / (60 + place) (reciprocal rank
-- fusion). Only chunks of the run $1 whose inputs still count. $3 empty: words alone; $4 empty: vectors alone.
with member as materialized (
    select rr.record_id as chunk_id, min(i.name) as item
    from run_record rr join record r on r.id = rr.record_id and r.kind = 'chunk'
        left join item i on i.id = rr.item_id
    where rr.run_id = $1 and (rr.item_id = 0 or i.state = 'active')
    group by rr.record_id),
near as (
    select chunk_id, row_number() over (order by distance, chunk_id) as place
    from (select e.chunk_id, e.embedding <=> nullif($3::text, '')::vector as distance
          from vector_entry e join member m using (chunk_id)
          where e.model = $2 and vector_dims(e.embedding) = vector_dims(nullif($3::text, '')::vector)
          order by distance, e.chunk_id limit $6) as found
    where distance <> 'NaN'),
worded as (
    select chunk_id, row_number() over (order by rank desc, chunk_id) as place
    from (select e.chunk_id, ts_rank_cd(e.words, $4::text::tsquery, 1) as rank
          from vector_entry e join member m using (chunk_id)
          where e.model = $2 and $4 <> '' and e.words @@ $4::text::tsquery
          order by rank desc, e.chunk_id limit $6) as found)
select chunk_id, m.item, r.body, near.place as near, worded.place as worded,
    coalesce(1.0 / (60 + near.place), 0)::float8 + coalesce(1.0 / (60 + worded.place), 0)::float8 as score
from near full join worded using (chunk_id) join member m using (chunk_id) join record r on r.id = chunk_id
order by score desc, chunk_id
limit $5;

-- name: found
-- The chunks that another store has found, as far as they belong to the run and their inputs still count.
select r.id as chunk_id, min(i.name) as item, r.body
from unnest($2::bigint[]) as g (id) join record r on r.id = g.id and r.kind = 'chunk'
    join run_record rr on rr.record_id = r.id and rr.run_id = $1
    left join item i on i.id = rr.item_id
where rr.item_id = 0 or i.state = 'active'
group by r.id, r.body;

-- name: index_of_run
-- What the step "index" said last.
select r.body from run_record rr join record r on r.id = rr.record_id
where rr.run_id = $1 and r.kind = 'indexed' order by r.id desc limit 1;

-- name: forget_unused
-- Entries of chunks that no run has any more.
delete from vector_entry e
where not exists (select 1 from run_record rr where rr.record_id = e.chunk_id);

-- name: stores
-- Where the runs of a project have put their chunks.
select distinct r.body::json ->> 'store' as store
from record r join run_record rr on rr.record_id = r.id join run on run.id = rr.run_id
where r.kind = 'indexed' and run.project = $1 order by 1;

-- name: verify
-- Entries, how many of them no run has, and chunks of runs with a vector that is missing here.
select count(*) as entries,
    count(*) filter (where not exists (select 1 from run_record rr where rr.record_id = e.chunk_id)) as unused,
    count(*) filter (where not exists (select 1 from record r where r.id = e.chunk_id)) as orphans,
    pg_total_relation_size('vector_entry') as bytes
from vector_entry e;
