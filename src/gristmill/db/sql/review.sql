-- Review. `review` holds one row for each record that people are asked about, `review_piece` its places in the queues of
-- runs. A review row is locked before its pieces; several of them by record.

-- name: open_queue
insert into review_queue (run_id, seed) values ($1, coalesce($2, '0')) on conflict (run_id) do nothing;

-- name: queue_row
select run_id, seed, seen, look_after <= clock_timestamp() as due from review_queue where run_id = $1;

-- name: lock_queue
select run_id, seed, seen from review_queue where run_id = $1 for update;

-- name: sow
with sown as (update review_queue set seed = $2 where run_id = $1)
update review_piece p
set lot = ('x' || substr(encode(sha256(convert_to($2::text || ':', 'UTF8') || r.hash), 'hex'), 1, 13))::bit(52)::bigint
    / 4503599627370496.0
from record r where p.run_id = $1 and r.id = p.record_id;

-- name: try_lock_queue
-- Whoever looks already looks for all.
select run_id, seed, seen from review_queue where run_id = $1 for update skip locked;

-- name: signature
-- Differs as soon as a task of the run has ended, or its inputs have changed.
select concat_ws(' ', r.state, r.epoch, r.ended_at,
    (select sum(n) from (select n from counter where run_id = r.id and name in ('completed', 'reused') union all
                         select n from counter_delta where run_id = r.id and name in ('completed', 'reused')) as moved),
    (select count(*) from item where run_id = r.id and state <> 'active')) as seen
from run r where r.id = $1;

-- name: looked
-- $3: seconds that the look has taken. On a run that grows, looks take at most a twentieth of the time.
update review_queue set seen = $2, look_after = clock_timestamp() + make_interval(secs => greatest(0.5, 20 * $3::float8))
where run_id = $1;

-- name: look
-- Takes into the queue of run $1 what its steps $2 have made of the kinds $3 and still counts: no later revision of it in
-- this run, no mark of steps $5 on it or above it (as `dataset` in records.sql has it). Scores come from steps $6, or from
-- the annotation itself ($4: kinds of annotations). Withdraws what no longer counts, unless somebody has it or decided.
-- `offset 0` as in records.sql.
with recursive member as materialized (
    select rr.record_id as id, r.kind, min(rr.step) as step
    from run_record rr join record r on r.id = rr.record_id and r.kind = any ($3::text[])
        left join item i on i.id = rr.item_id
    where rr.run_id = $1 and rr.step = any ($2::smallint[]) and (rr.item_id = 0 or i.state = 'active')
    group by rr.record_id, r.kind),
later as materialized (
    select distinct p.id
    from member c cross join lateral (select parent_id, ordinal from lineage where record_id = c.id offset 0) as l
        join member p on p.id = l.parent_id
    where (p.kind = c.kind and (l.ordinal = 0 or p.kind = any ($4::text[])))
        or (p.kind = 'entities' and c.kind = 'relations')),
marked (id) as (
    select l.parent_id
    from run_record rr join record m on m.id = rr.record_id and m.kind in ('duplicate', 'rejection')
        join lineage l on l.record_id = m.id and l.ordinal = 0
    where rr.run_id = $1 and rr.step = any ($5::smallint[])
    union
    select l.record_id
    from marked cross join lateral (select record_id from lineage where parent_id = marked.id offset 0) as l),
verdict as materialized (
    select l.parent_id, v.id, coalesce(v.body::json ->> 'overall', v.body::json ->> 'score')::float8 as value,
        coalesce(v.body::json ->> 'judge', v.body::json ->> 'by') as judge
    from run_record rr join record v on v.id = rr.record_id and v.kind in ('evaluation', 'judgement')
        join lineage l on l.record_id = v.id and l.ordinal = 0
    where rr.run_id = $1 and rr.step = any ($6::smallint[])),
scored as materialized (
    select parent_id, (array_agg(value order by id desc))[1] as value,
        case when count(distinct judge) > 1 then max(value) - min(value) end as spread
    from verdict group by parent_id),
top as materialized (  -- each one that counts. Grouped: an anti-join of lists of unknown length compares each with each
    select id, max(kind) as kind, max(step) as step
    from (select id, kind, step, false as gone from member union all select id, null, null, true from later
          union all select id, null, null, true from marked) as said
    group by id having not bool_or(gone)),
line as (  -- and the revisions before it
    select top.id as top, top.id, top.kind, 0 as distance from top
    union all
    select line.top, p.id, p.kind, distance + 1
    from line cross join lateral (
        select r.id, r.kind
        from (select parent_id from lineage where record_id = line.id and ordinal = 0 offset 0) as l
            cross join lateral (select id, kind from record where id = l.parent_id offset 0) as r
        where r.kind = line.kind) as p
    where distance < 16),
decided as materialized (  -- by people, and from what it was made
    select v.record_id, v.decision_id, r.kind, r.ordinal, r.work_key, w.kind as made_by, l.parent_id
    from review v join record r on r.id = v.record_id join work w on w.key = r.work_key
        join lineage l on l.record_id = r.id and l.ordinal = 0
    where v.decision_id is not null
        and not exists (select 1 from run_record rr where rr.run_id = $1 and rr.record_id = v.record_id)),
anew as materialized (  -- made of the same by the same operator, as other work
    select distinct on (m.id) m.id, d.record_id as since
    from member m join record r on r.id = m.id join work w on w.key = r.work_key
        join lineage l on l.record_id = m.id and l.ordinal = 0
        join decided d on d.parent_id = l.parent_id and d.kind = m.kind and d.ordinal = r.ordinal
            and d.made_by = w.kind and d.work_key <> r.work_key
    order by m.id, d.decision_id desc),
revised as materialized (
    select distinct on (line.top) line.top, line.id as since
    from line join review v on v.record_id = line.id and v.decision_id is not null
    where distance > 0 order by line.top, distance),
scores as materialized (
    select distinct on (line.top) line.top, scored.value, scored.spread
    from line join scored on scored.parent_id = line.id order by line.top, distance),
present as materialized (
    select top.id, top.kind, top.step, r.hash,
        case when top.kind <> all ($4::text[]) then scores.value
            when r.body::json ->> 'outcome' in ('tie', 'degraded') then 0
            else (r.body::json ->> 'score')::float8 end as score,
        case when top.kind <> all ($4::text[]) then scores.spread
            when r.body::json ->> 'outcome' = 'tie' then 1
            when r.body::json ->> 'by' = 'panel' then 1 - (r.body::json ->> 'score')::float8 end as disagreement,
        coalesce(revised.since, anew.since) as since
    from top join record r on r.id = top.id left join scores on scores.top = top.id
        left join revised on revised.top = top.id left join anew on anew.id = top.id),
rows as (insert into review (record_id) select id from present order by id on conflict (record_id) do nothing),
withdrawn as (
    delete from review_piece p
    where p.run_id = $1 and p.open and not exists (select 1 from present where present.id = p.record_id)
        and not exists (
            select 1 from review v where v.record_id = p.record_id
                and (v.decision_id is not null or v.lease_until > clock_timestamp()))
    returning 1),
added as (
    insert into review_piece as p (run_id, record_id, kind, step, score, disagreement, lot, since, open)
    select $1, n.id, n.kind, n.step, n.score, n.disagreement,
        ('x' || substr(encode(sha256(convert_to($7::text || ':', 'UTF8') || n.hash), 'hex'), 1, 13))::bit(52)::bigint
            / 4503599627370496.0,
        n.since, coalesce(v.state, 'proposed') = 'proposed'
    from present n left join review v on v.record_id = n.id
    order by n.id
    on conflict (run_id, record_id) do update set score = excluded.score, disagreement = excluded.disagreement,
        since = coalesce(p.since, excluded.since)
    where (p.score, p.disagreement, p.since) is distinct from
        (excluded.score, excluded.disagreement, coalesce(p.since, excluded.since))
    returning (xmax = 0) as fresh)
select (select count(*) from added where fresh) as added, (select count(*) from withdrawn) as withdrawn;

-- name: close_decided
-- Pieces that came in while somebody was deciding about their records.
update review_piece p set open = false
from review v where p.run_id = $1 and p.open and p.wants = 1 and v.record_id = p.record_id and v.state <> 'proposed';

-- name: learn
-- Plans that were made for empty tables would read these whole.
analyze review, review_piece;

-- name: renew_held
-- What a person has before him already, longest first; the lease begins anew, the token stays.
update review r set lease_until = clock_timestamp() + make_interval(secs => $3)
from (select r.record_id
      from review r join review_piece p on p.record_id = r.record_id and p.run_id = $1 and p.open
      where r.holder = $2 and r.lease_until > clock_timestamp() and ($5::text is null or p.kind = $5)
      order by r.held_at, r.record_id limit $4 for update of r) as held
where r.record_id = held.record_id
returning r.record_id, r.token, r.lease_until, r.held_at;

-- name: choose_by_score
-- Pieces of run $1 for person $2 that are assigned to $3 ('': to nobody), at most $4, of kind $5, within the sample $6.
-- Nobody has them, and $2 has not decided on them. What is decided while we wait for its row is looked at again.
select r.record_id
from review_piece p join review r on r.record_id = p.record_id
where p.run_id = $1 and p.assignee = $3 and p.open and ($5::text is null or p.kind = $5) and p.lot < $6
    and (r.state = 'proposed' or p.wants > 1) and not r.disputed
    and (r.lease_until is null or r.lease_until <= clock_timestamp())
    and not exists (select 1 from review_decision d where d.record_id = p.record_id and d.reviewer = $2 and d.undone_at is null)
order by p.score, p.record_id limit $4 for update of r skip locked;

-- name: choose_by_disagreement
select r.record_id
from review_piece p join review r on r.record_id = p.record_id
where p.run_id = $1 and p.assignee = $3 and p.open and ($5::text is null or p.kind = $5) and p.lot < $6
    and (r.state = 'proposed' or p.wants > 1) and not r.disputed
    and (r.lease_until is null or r.lease_until <= clock_timestamp())
    and not exists (select 1 from review_decision d where d.record_id = p.record_id and d.reviewer = $2 and d.undone_at is null)
order by p.disagreement desc nulls last, p.record_id limit $4 for update of r skip locked;

-- name: choose_by_random
select r.record_id
from review_piece p join review r on r.record_id = p.record_id
where p.run_id = $1 and p.assignee = $3 and p.open and ($5::text is null or p.kind = $5) and p.lot < $6
    and (r.state = 'proposed' or p.wants > 1) and not r.disputed
    and (r.lease_until is null or r.lease_until <= clock_timestamp())
    and not exists (select 1 from review_decision d where d.record_id = p.record_id and d.reviewer = $2 and d.undone_at is null)
order by p.lot, p.record_id limit $4 for update of r skip locked;

-- name: choose_by_changed
select r.record_id
from review_piece p join review r on r.record_id = p.record_id
where p.run_id = $1 and p.assignee = $3 and p.open and p.since is not null and ($5::text is null or p.kind = $5) and p.lot < $6
    and (r.state = 'proposed' or p.wants > 1) and not r.disputed
    and (r.lease_until is null or r.lease_until <= clock_timestamp())
    and not exists (select 1 from review_decision d where d.record_id = p.record_id and d.reviewer = $2 and d.undone_at is null)
order by p.record_id limit $4 for update of r skip locked;

-- name: choose_disputed
-- What two people decided differently, whoever they were and whoever it is assigned to.
select r.record_id
from review_piece p join review r on r.record_id = p.record_id
where p.run_id = $1 and p.open and p.wants > 1 and r.disputed and ($3::text is null or p.kind = $3) and p.lot < $4
    and (r.lease_until is null or r.lease_until <= clock_timestamp())
order by p.record_id limit $2 for update of r skip locked;

-- name: choose_second
-- What somebody has decided and more people are to decide, whoever it is assigned to.
select r.record_id
from review_piece p join review r on r.record_id = p.record_id
where p.run_id = $1 and p.open and p.wants > 1 and p.assignee not in ('', $2::text)
    and r.state in ('accepted', 'edited', 'rejected') and ($4::text is null or p.kind = $4) and p.lot < $5
    and (r.lease_until is null or r.lease_until <= clock_timestamp())
    and not exists (select 1 from review_decision d where d.record_id = p.record_id and d.reviewer = $2 and d.undone_at is null)
order by p.record_id limit $3 for update of r skip locked;

-- name: choose_skipped
select r.record_id
from review r join review_piece p on p.record_id = r.record_id
where p.run_id = $1 and r.state = 'skipped' and p.assignee = $3 and $2::text is not null
    and ($5::text is null or p.kind = $5) and p.lot < $6
    and (r.lease_until is null or r.lease_until <= clock_timestamp())
order by r.record_id limit $4 for update of r skip locked;

-- name: hold
-- Who asks again gets them in the same order: each is held a microsecond longer than the next.
with moment as materialized (select clock_timestamp() as now)
update review r set holder = $2, token = gen_random_uuid(), held_at = moment.now + chosen.place * interval '1 microsecond',
    lease_until = moment.now + make_interval(secs => $3)
from moment, unnest($1::bigint[]) with ordinality as chosen (record_id, place)
where r.record_id = chosen.record_id
returning r.record_id, r.token, r.lease_until, r.held_at;

-- name: take
-- One certain piece, unless somebody else has it.
update review v set holder = $2, token = gen_random_uuid(), held_at = clock_timestamp(),
    lease_until = clock_timestamp() + make_interval(secs => $3)
where v.record_id = $4 and exists (select 1 from review_piece p where p.run_id = $1 and p.record_id = $4)
    and (v.holder is null or v.holder = $2 or v.lease_until <= clock_timestamp())
returning v.record_id, v.token, v.lease_until, v.held_at;

-- name: give_back
-- Pieces that a person has before him, of run $1: all of them, or the records $3.
update review r set holder = null, token = null, lease_until = null, held_at = null
from (select r.record_id from review r join review_piece p on p.record_id = r.record_id and p.run_id = $1
      where r.holder = $2 and ($3::bigint[] is null or r.record_id = any ($3))
      order by r.record_id for update of r) as held
where r.record_id = held.record_id
returning r.record_id;

-- name: make_row
insert into review (record_id) select id from record where id = $1 and kind = any ($2::text[])
on conflict (record_id) do nothing;

-- name: lock_review
-- asked: person $2 has not decided, and somebody still is to.
select v.record_id, r.kind, v.state, v.revision_id, v.decision_id, v.disputed, v.holder, v.token,
    v.lease_until > clock_timestamp() as live, v.lease_until,
    extract(epoch from clock_timestamp() - v.held_at)::float8 as seconds,
    (select reviewer from review_decision where id = v.decision_id) as decided_by,
    exists (select 1 from review_piece p where p.record_id = v.record_id and p.open) and not exists (
        select 1 from review_decision d where d.record_id = v.record_id and d.reviewer = $2 and d.undone_at is null) as asked
from review v join record r on r.id = v.record_id where v.record_id = $1 for update of v;

-- name: run_of_piece
-- The newest run that has the record in its queue.
select max(run_id) from review_piece where record_id = $1;

-- name: add_decision
insert into review_decision (record_id, run_id, reviewer, decision, opinion, said_id, note, seconds,
    before_state, before_revision, before_decision, before_disputed, after_state)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) returning id;

-- name: set_review
-- The state after a decision or an undo; nobody has it any longer.
update review set state = $2, revision_id = $3, decision_id = $4, disputed = $5,
    holder = null, token = null, lease_until = null, held_at = null
where record_id = $1;

-- name: restore
-- The state before a decision that is taken back; who has it before him keeps it.
update review set state = $2, revision_id = $3, decision_id = $4, disputed = $5 where record_id = $1;

-- name: give_up
update review set holder = null, token = null, lease_until = null, held_at = null where record_id = $1;

-- name: open_pieces
-- In the queues stays what nobody has decided, and what more people are to decide.
update review_piece p set open = now_open.open
from (select p.run_id, v.state = 'proposed' or (v.state <> 'skipped' and p.wants > (
          select count(distinct d.reviewer) from review_decision d
          where d.record_id = p.record_id and d.undone_at is null and d.decision <> 'skip')) as open
      from review_piece p join review v on v.record_id = p.record_id where p.record_id = $1) as now_open
where p.record_id = $1 and p.run_id = now_open.run_id and p.open <> now_open.open;

-- name: last_own
-- A person's last decision that stands, in any queue or in that of run $2.
select id, record_id from review_decision
where reviewer = $1 and undone_at is null and ($2::bigint is null or run_id = $2) order by id desc limit 1;

-- name: last_own_on
select id, decision, opinion, said_id from review_decision
where record_id = $1 and reviewer = $2 and undone_at is null order by id desc limit 1;

-- name: last_on
-- The last decision on a record that stands.
select d.id, d.record_id, d.run_id, d.reviewer, d.decision, d.opinion, d.before_state, d.before_revision,
    d.before_decision, d.before_disputed, d.after_state
from review_decision d where d.record_id = $1 and d.undone_at is null order by d.id desc limit 1;

-- name: undo
update review_decision set undone_at = clock_timestamp() where id = $1 and undone_at is null returning id;

-- name: history
select d.id, d.record_id, d.run_id, d.reviewer, d.decision, d.opinion, d.said_id, d.note, d.seconds, d.before_state,
    d.after_state, d.at, d.undone_at
from review_decision d where d.record_id = $1 order by d.id;

-- name: states
select v.record_id, v.state, v.revision_id, v.disputed, d.reviewer, d.at as decided_at, d.note
from review v left join review_decision d on d.id = v.decision_id
where v.record_id = any ($1::bigint[]);

-- name: pieces
-- Pieces of run $1 with what is known of them: in the order of their records after $5, or by their ids $2. second: others
-- have decided, and person $8 is still asked.
select p.run_id, p.record_id, p.kind, p.step, p.score, p.disagreement, p.since, p.assignee, p.wants, p.open,
    v.state, v.revision_id, v.disputed, v.holder, v.lease_until, coalesce(v.lease_until > clock_timestamp(), false) as live,
    v.state in ('accepted', 'edited', 'rejected') and p.open and not exists (
        select 1 from review_decision own where own.record_id = p.record_id and own.reviewer = $8 and own.undone_at is null)
        and $8::text is not null as second,
    o.body as original, coalesce(n.body, o.body) as body, d.reviewer, d.note, d.at as decided_at
from review_piece p join review v on v.record_id = p.record_id join record o on o.id = p.record_id
    left join record n on n.id = v.revision_id left join review_decision d on d.id = v.decision_id
where p.run_id = $1 and ($2::bigint[] is null or p.record_id = any ($2)) and ($3::text is null or v.state = $3)
    and ($4::text is null or p.kind = $4) and p.record_id > $5 and ($6::text is null or p.assignee = $6)
order by p.record_id limit $7;

-- name: step_of
select step from review_piece where run_id = $1 and record_id = $2;

-- name: assign
-- Shares $4 undecided pieces that are assigned to nobody out among $2 in turn, in the order $3.
with chosen as materialized (
    select p.record_id, case $3::text when 'score' then row_number() over (order by p.score, p.record_id)
        when 'disagreement' then row_number() over (order by p.disagreement desc nulls last, p.record_id)
        when 'random' then row_number() over (order by p.lot, p.record_id)
        else row_number() over (order by p.record_id) end as place
    from review_piece p join review v on v.record_id = p.record_id
    where p.run_id = $1 and p.assignee = '' and p.open and v.state = 'proposed' and p.lot < $5
        and ($3 <> 'changed' or p.since is not null)
        and (v.lease_until is null or v.lease_until <= clock_timestamp())),
given as (
    update review_piece p
    set assignee = ($2::text[])[1 + (c.place - 1) % cardinality($2::text[])]
    from chosen c where p.run_id = $1 and p.record_id = c.record_id and c.place <= $4
    returning p.assignee)
select assignee, count(*) as pieces from given group by assignee order by assignee;

-- name: want_more
-- A sample $2 of the pieces that nobody has decided yet is to be decided by $3 people.
update review_piece p set wants = $3
from record r, review_queue q, review v
where p.run_id = $1 and r.id = p.record_id and q.run_id = $1 and v.record_id = p.record_id and p.open and v.state = 'proposed'
    and p.wants <> $3
    and ('x' || substr(encode(sha256(convert_to(q.seed || ':overlap:', 'UTF8') || r.hash), 'hex'), 1, 13))::bit(52)::bigint
        / 4503599627370496.0 < $2;

-- name: unassign
update review_piece set assignee = '' where run_id = $1 and assignee = $2 and open returning record_id;

-- name: assignments
select p.assignee, count(*) filter (where p.open) as open, count(*) filter (where not p.open) as decided
from review_piece p where p.run_id = $1 and p.assignee <> '' group by p.assignee order by p.assignee;

-- name: counts
-- What was decided while a look was under way may still be marked open: its state tells.
select v.state, count(*) as pieces, count(*) filter (where p.open and (v.state = 'proposed' or p.wants > 1)) as open, count(*) filter (where v.disputed) as disputed,
    count(*) filter (where v.lease_until > clock_timestamp()) as held
from review_piece p join review v on v.record_id = p.record_id where p.run_id = $1 group by v.state;

-- name: waiting
-- The newest $2 runs of project $1 with what waits in their queues, counted up to $3. `looked`: its records are in a queue.
select r.id as run, r.name, r.state, r.definition, q.seen is not null as looked, w.pieces
from (select id, name, state, definition from run where project = $1 and key is not null order by id desc limit $2) r
    left join review_queue q on q.run_id = r.id
    cross join lateral (
        select count(*) as pieces from (
            select 1 from review_piece p join review v on v.record_id = p.record_id
            where p.run_id = r.id and p.open and (v.state = 'proposed' or p.wants > 1) limit $3) as counted) w
order by r.id desc;

-- name: reviewers
-- What people have decided in the queue of a run. The pace is that of what they had before them and decided.
select d.reviewer, count(*) filter (where d.undone_at is null) as decided,
    count(*) filter (where d.undone_at is null and d.decision = 'accept') as accepted,
    count(*) filter (where d.undone_at is null and d.decision = 'edit') as edited,
    count(*) filter (where d.undone_at is null and d.decision = 'reject') as rejected,
    count(*) filter (where d.undone_at is null and d.decision = 'skip') as skipped,
    count(*) filter (where d.undone_at is not null) as undone,
    percentile_cont(0.5) within group (order by d.seconds) filter (where d.undone_at is null) as seconds_median,
    max(d.at) as last_at,
    count(*) filter (where d.undone_at is null and d.at > clock_timestamp() - interval '1 hour') as last_hour
from review_decision d where d.run_id = $1 group by d.reviewer order by d.reviewer;

-- name: opinions
-- What each person last said about the pieces of a run that more than one has decided, with the body that he wants.
with last as materialized (
    select distinct on (d.record_id, d.reviewer) d.record_id, d.reviewer, d.decision, d.said_id
    from review_decision d
    where d.undone_at is null and d.decision <> 'skip'
        and d.record_id in (select p.record_id from review_piece p where p.run_id = $1)
    order by d.record_id, d.reviewer, d.id desc)
select l.record_id, l.reviewer, l.decision, r.kind, r.body
from last l left join record r on r.id = l.said_id
where exists (select 1 from last o where o.record_id = l.record_id and o.reviewer <> l.reviewer)
order by l.record_id, l.reviewer;

-- name: scores_of
-- What was said about records by evaluations and judgements, the newest first.
select l.parent_id as record_id, v.body
from (select parent_id, record_id from lineage where parent_id = any ($1::bigint[]) and ordinal = 0 offset 0) as l
cross join lateral (select id, kind, body from record where id = l.record_id offset 0) as v
where v.kind in ('evaluation', 'judgement') order by l.parent_id, v.id desc;
