-- What has ended moves out of the hot tables. One process at a time, a few pages a step; see docs/concepts/history.md.
-- A horizon of 0 seconds means: for ever.

-- name: due
select next_at <= clock_timestamp() from history_walk;

-- name: try_walk
select pg_try_advisory_xact_lock($1, 1);

-- name: wait_for_walk
select pg_advisory_xact_lock($1, 1);

-- name: by_keys
-- For this transaction. A plan that was made while the tables were small would read them whole when they are large.
select set_config('enable_seqscan', 'off', true);

-- name: place
select page, event_seq, next_at <= clock_timestamp() as due,
    greatest(pg_relation_size('task'), pg_relation_size('result')) / current_setting('block_size')::int as pages
from history_walk;

-- name: look
-- Pages $1 to $2 of task, $3 keep_finished, $4 keep_history. "goes" says where to: history, or away (older than all
-- history). What failed stays as long as its run may be tried again, and so does what was cancelled because something
-- it needs was lost. A task with a key stays, too: as long as it is there, no second one is made. `offset 0` keeps
-- every check a look-up by key, whatever the planner believes about the tables.
select id, week, goes from (
    select t.id, date_trunc('week', t.ended_at at time zone 'UTC')::date as week,
        case
            when $4::float8 > 0 and t.ended_at < clock_timestamp() - make_interval(secs => $4::float8)
                and (lone.settled or exists (
                    select 1 from run r where r.id = t.run_id and r.ended_at < clock_timestamp() - make_interval(secs => $4::float8)
                    offset 0))
                and not exists (select 1 from dependency d where d.needs_id = t.id and d.lost < 2 offset 0) then 'away'
            when lone.settled and t.key is null then 'history' end as goes
    from task t cross join lateral (
        select t.state in ('completed', 'cancelled')
            and not exists (select 1 from dependency d where d.task_id = t.id offset 0)
            and not exists (select 1 from dependency d where d.needs_id = t.id offset 0) as settled offset 0) as lone
    where t.ctid >= format('(%s,0)', $1::bigint)::tid and t.ctid < format('(%s,0)', $2::bigint)::tid
      and t.state in ('completed', 'cancelled', 'failed', 'quarantined')
      and t.ended_at < clock_timestamp() - make_interval(secs => $3::float8)) as ended
where goes is not null;

-- name: make_week
select make_history_week($1);

-- name: move
-- One statement: a task is here or there. It waits for nobody, so it can be in nobody's way: a row that somebody has
-- locked is left for the next round. `= any (array(..))` is a look-up by key under every plan.
with held as materialized (
    select id from task where id = any ($1::bigint[]) and state in ('completed', 'cancelled')
    order by id for update skip locked),
gone as (delete from task where id = any (array(select id from held)) returning *),
kept as (insert into task_history select * from gone returning id),
tried as (delete from attempt where task_id = any (array(select id from held)) returning *),
kept_attempts as (
    insert into attempt_history select tried.*, gone.ended_at from tried join gone on gone.id = tried.task_id)
select count(*) from kept;

-- name: forget
with held as materialized (
    select id from task where id = any ($1::bigint[]) and state in ('completed', 'cancelled', 'failed', 'quarantined')
    order by id for update skip locked),
tried as (delete from attempt where task_id = any (array(select id from held))),
needed as (delete from dependency where task_id = any (array(select id from held))),
needs as (delete from dependency where needs_id = any (array(select id from held))),
gone as (delete from task where id = any (array(select id from held)) returning id)
select count(*) from gone;

-- name: look_events
-- After $1, at most $2, older than $3 seconds: the beginning of what there is, so that everything in the history comes
-- before everything that is hot. The newest event always stays: the next number is made from it.
select seq, date_trunc('week', at at time zone 'UTC')::date as week,
    $4::float8 > 0 and at < clock_timestamp() - make_interval(secs => $4::float8) as away
from (
    select seq, at, min(seq) filter (where at >= clock_timestamp() - make_interval(secs => $3::float8)) over () as young
    from (select seq, at from event where seq > $1 order by seq limit $2) as first) as batch
where (young is null or seq < young) and seq < (select max(seq) from event)
order by seq;

-- name: move_events
with gone as (delete from event where seq > $1 and seq <= $2 returning *),
kept as (
    insert into event_history
    select * from gone where $3::float8 = 0 or at >= clock_timestamp() - make_interval(secs => $3::float8))
select count(*) from gone;

-- name: forget_results
-- Pages $1 to $2 of result, $3 keep_history. Tasks that still are in the hot table keep their results.
with old as materialized (
    select r.task_id from result r
    where r.ctid >= format('(%s,0)', $1::bigint)::tid and r.ctid < format('(%s,0)', $2::bigint)::tid
      and r.at < clock_timestamp() - make_interval(secs => $3::float8)
      and not exists (select 1 from task t where t.id = r.task_id offset 0)),
gone as (delete from result where task_id = any (array(select task_id from old)) returning task_id)
select count(*) from gone;

-- name: go_on
-- Four times as long as this step took, nobody takes another one: the walk costs a fifth of one connection at most.
update history_walk set page = $1, event_seq = $2, next_at = clock_timestamp()
    + greatest(make_interval(secs => $3::float8), 4 * (clock_timestamp() - transaction_timestamp()));

-- name: short_lock_wait
select set_config('lock_timeout', '200ms', true);

-- name: drop_week
select drop_history_week(clock_timestamp() - make_interval(secs => $1::float8));

-- name: old_weeks
select name, tuples from history_week
where (monday + 7)::timestamp at time zone 'UTC' <= clock_timestamp() - make_interval(secs => $1::float8);

-- name: states
select id, state from gristmill.task_history where id = any ($1::bigint[]);
