-- Moves a database to another server: src/gristmill/db/moving.py.

-- name: identity
select (select system_identifier from pg_control_system())::text || '/'
    || (select oid from pg_database where datname = current_database())::text;

-- name: alive
select name, host, pid from worker
where state not in ('stopped', 'dead') and lease_until > clock_timestamp() order by name;

-- name: last
select id, direction, place, system, ended_at is not null as ended from move order by id desc limit 1;

-- name: begin
insert into move (direction, place, system) values ($1, $2, $3) returning id;

-- name: end
update move set ended_at = clock_timestamp() where id = $1;

-- From here on only a mover can write: what else is open on this database, an API or a program of one's own, is refused.
-- name: guard
do $$
declare name text;
begin
    create or replace function refuse_write() returns trigger language plpgsql as $guard$
    begin
        if current_setting('gristmill.moving', true) = 'on' then
            return null;
        end if;
        raise exception '%', (
            select case direction when 'to' then 'this database has moved to ' else 'a copy arrives here from ' end || place
            from gristmill.move order by id desc limit 1) using errcode = 'GM135';
    end $guard$;
    for name in select relname from pg_class where relnamespace = 'gristmill'::regnamespace and relkind in ('r', 'p')
        and not relispartition and relname not in ('schema_migration', 'move') order by relname
    loop
        execute format('create or replace trigger moved_away before insert or update or delete or truncate on %I
            for each statement execute function refuse_write()', name);
    end loop;
end $$;

-- name: unguard
drop function if exists refuse_write() cascade;

-- name: forget
delete from move where direction = 'to' and id = (select max(id) from move);

-- The tables with what a copy needs: columns that are stored, and the key by which it goes forward, if there is one.
-- name: tables
select c.relname::text as name,
    (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
     where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '') as columns,
    coalesce((select array_agg(a.attname::text order by k.place) from pg_index i
     cross join lateral unnest(i.indkey::int[]) with ordinality as k (number, place)
     join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number
     where i.indrelid = c.oid and i.indisprimary), '{}') as key,
    array(select r.relname::text from pg_constraint f join pg_class r on r.oid = f.confrelid
     where f.conrelid = c.oid and f.contype = 'f' and f.confrelid <> c.oid) as needs
from pg_class c
where c.relnamespace = 'gristmill'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
    and c.relname not in ('schema_migration', 'move')
order by c.relname;

-- name: weeks
select distinct monday from history_week order by monday;

-- name: make_week
select make_history_week($1);

-- name: sequences
select sequencename::text as name, last_value from pg_sequences where schemaname = 'gristmill' order by sequencename;
