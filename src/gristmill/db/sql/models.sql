-- Models under names of the user's own.

-- name: put
-- $1 project, $2 name, $3 settings, $4 whether another one of that name is replaced. No row: it is taken.
insert into model_binding (project, name, settings) values ($1, $2, $3::text::jsonb)
on conflict (project, name) do update set settings = excluded.settings, changed_at = clock_timestamp() where $4
returning name;

-- name: remove
delete from model_binding where project = $1 and name = $2 returning name;

-- name: find
select settings::text as settings from model_binding where project = $1 and name = $2;

-- name: list
select name, settings::text as settings, changed_at from model_binding where project = $1 order by name;
