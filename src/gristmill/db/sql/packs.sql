-- Packs of actions: what is installed, and the files of each, for workers that may take them from here.

-- name: packs
select ref, version, digest, label, installed_by, installed_at from pack order by ref;

-- name: files
select path, executable, content from pack_file where ref = $1 order by path;

-- name: lock_pack
select version, digest from pack where ref = $1 for update;

-- name: save_pack
insert into pack (ref, version, digest, label, installed_by) values ($1, $2, $3, $4, $5)
on conflict (ref) do update set version = excluded.version, digest = excluded.digest, label = excluded.label,
    installed_by = excluded.installed_by, installed_at = clock_timestamp();

-- name: forget_files
delete from pack_file where ref = $1;

-- name: save_files
insert into pack_file (ref, path, executable, content)
select $1, f.path, f.executable, f.content from unnest($2::text[], $3::boolean[], $4::bytea[]) as f (path, executable, content);

-- name: remove_pack
delete from pack where ref = $1 returning digest;

-- name: runs_with
-- Runs that still need an action of the pack.
select r.name from run r
where r.state in ('waiting', 'running', 'paused')
    and exists (select 1 from step s where s.run_id = r.id and starts_with(s.kind, $1 || '.'))
order by r.id limit 5;

-- name: actions_of_runs
-- Steps of open runs whose operator may be an action, each with one of the runs.
select s.kind, min(r.name) as run from run r join step s on s.run_id = r.id
where r.state in ('waiting', 'running', 'paused') and s.kind like '%.%'
group by s.kind order by s.kind limit 200;
