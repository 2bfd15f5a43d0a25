-- Standing runs have no key: lists of runs and "the last run" leave them out.

-- name: find
select id from run where project = $1 and workflow = $2 and name = $3 and state in ('running', 'paused') order by id limit 1;

-- name: hold
-- Two processes that both miss the run make one.
select pg_advisory_xact_lock(hashtextextended($1, 0));

-- name: create
with made as (
    insert into run (project, name, workflow, definition) values ($1, $3, $2, '{}') returning id),
stepped as (
    insert into step (run_id, ordinal, name, kind, pool) select id, 0, $3, '*', '*' from made)
select id from made;
