-- What annotators said in a run, and what people made of it.

-- name: said
-- Annotations of step $2 in the order of their ids, after $3, at most $4.
select r.id, r.kind, r.body
from (select distinct record_id from run_record where run_id = $1 and step = $2 and record_id > $3
      order by record_id limit $4) as m
join record r on r.id = m.record_id
order by r.id;

-- name: rows
-- The same with the input that they came from, and what people decided.
select r.id, r.kind, r.body, i.name as item, v.state, d.reviewer, revision.body as revised
from (select distinct on (record_id) record_id, item_id from run_record
      where run_id = $1 and step = $2 and record_id > $3 order by record_id, item_id limit $4) as m
join record r on r.id = m.record_id
left join item i on i.id = m.item_id
left join review v on v.record_id = r.id
left join review_decision d on d.id = v.decision_id
left join record revision on revision.id = v.revision_id
order by r.id;

-- name: reviewed
-- What people let stand of steps $2: the record itself where it was accepted, else the revision. Edited ones last.
select r.kind, coalesce(revision.body, r.body) as truth
from review v
join record r on r.id = v.record_id
left join record revision on revision.id = v.revision_id
where v.state in ('accepted', 'edited') and r.kind = any ($3)
  and exists (select 1 from run_record m where m.run_id = $1 and m.step = any ($2) and m.record_id = v.record_id)
order by v.state = 'edited', v.decision_id;

-- name: reports
select r.body
from run_record m join record r on r.id = m.record_id
where m.run_id = $1 and r.kind = 'agreement'
order by m.step, r.id;
