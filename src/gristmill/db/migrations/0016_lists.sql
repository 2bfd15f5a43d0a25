-- Lists of tasks that have failed, or wait for others, go page by page along these: with the id they are in order. Both
-- are partial and small, and no claim or settle writes to them.
drop index task_broken;
create index task_broken on task (run_id, step, id) where state in ('failed', 'quarantined');
drop index task_waiting;
create index task_waiting on task (run_id, step, id) where state = 'waiting';
