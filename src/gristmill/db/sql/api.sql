-- Who calls the API, what was changed through it, and answers that are given twice.

-- name: identify
-- $1: hash of a bearer token, $2: hash of a session. One row: is anything guarded, and who is it. A token that has run out
-- still guards: otherwise the door would open by itself one day.
select exists (select from api_token where revoked_at is null) as guarded,
    b.name as token_name, b.role as token_role, s.name as session_name, s.role as session_role
from (select) as one
left join (select name, role from api_token
           where hash = $1 and revoked_at is null and (expires_at is null or expires_at > clock_timestamp())) as b on true
left join (select t.name, t.role from api_session s join api_token t on t.id = s.token_id
           where s.hash = $2 and s.expires_at > clock_timestamp() and t.revoked_at is null
             and (t.expires_at is null or t.expires_at > clock_timestamp())) as s on true;

-- name: touch_token
update api_token set used_at = clock_timestamp()
where hash = $1 and (used_at is null or used_at < clock_timestamp() - interval '1 minute');

-- name: guarded
select exists (select from api_token where revoked_at is null);

-- name: add_token
-- Nothing comes back when a token of that name is in force.
insert into api_token (name, role, hash, made_by, expires_at)
select $1, $2, $3, $4, clock_timestamp() + make_interval(secs => $5::float8)
where not exists (select from api_token where name = $1 and revoked_at is null
                  and (expires_at is null or expires_at > clock_timestamp()))
returning id;

-- name: lock_tokens
-- One at a time changes tokens: two may not add the same name.
select pg_advisory_xact_lock(1735555433, 1);

-- name: retire_token
-- What is in force under that name ends in $2 seconds.
update api_token set expires_at = least(expires_at, clock_timestamp() + make_interval(secs => $2))
where name = $1 and revoked_at is null and (expires_at is null or expires_at > clock_timestamp())
returning role, made_at, expires_at;

-- name: succeed_token
insert into api_token (name, role, hash, made_by) values ($1, $2, $3, $4);

-- name: is_token
select exists (select from api_token where name = $1 and hash = $2 and revoked_at is null and expires_at is null);

-- name: set_token
-- One that was in use before, under whatever name, gets this one.
insert into api_token as t (name, role, hash, made_by) values ($1, $2, $3, $4)
on conflict (hash) do update set name = excluded.name, role = excluded.role, made_by = excluded.made_by,
    made_at = clock_timestamp(), expires_at = null, revoked_at = null;

-- name: revoke_tokens
update api_token set revoked_at = clock_timestamp() where name = $1 and revoked_at is null returning id;

-- name: tokens
select id, name, role, made_at, made_by, expires_at, revoked_at, used_at,
    revoked_at is null and (expires_at is null or expires_at > clock_timestamp()) as in_force
from api_token order by name, id;

-- name: open_session
-- Nothing comes back for a secret that is no token in force. Sessions that are over go by the way.
with gone as (delete from api_session where expires_at < clock_timestamp()),
token as (
    select id, name, role from api_token
    where hash = $1 and revoked_at is null and (expires_at is null or expires_at > clock_timestamp())),
made as (
    insert into api_session (hash, token_id, expires_at)
    select $2, id, clock_timestamp() + make_interval(secs => $3) from token)
select name, role from token;

-- name: close_session
delete from api_session where hash = $1 returning hash;

-- name: audit_begin
insert into api_audit (caller, role, address, method, path, body_hash) values ($1, $2, $3, $4, $5, $6) returning id;

-- name: failed_login
-- Writes down a login from address $1 that failed; how many that were within a minute, of all processes (of the newest
-- 1,000 calls: more than one process lets through in that time).
with now as (
    insert into api_audit (caller, role, address, method, path, status, code)
    values ('(unknown)', 'viewer', $1, 'POST', '/api/session', 401, 'A401'))
select 1 + count(*) from (select address, path, status, at from api_audit order by id desc limit 1000) as newest
where address = $1 and path = '/api/session' and status = 401 and at > clock_timestamp() - interval '1 minute';

-- name: audit_end
update api_audit set status = $2, code = $3 where id = $1;

-- name: audit
-- The newest first, behind the place $1.
select id, at, caller, role, address, method, path, status, code from api_audit
where $1::bigint is null or id < $1 order by id desc limit $2;

-- name: forget_old
-- Audit and tokens out of force that are older than $1 seconds (0 keeps them), and sessions that are over.
with audit as (
    delete from api_audit where $1::float8 > 0 and at < clock_timestamp() - make_interval(secs => $1)),
tokens as (
    delete from api_token where $1::float8 > 0 and revoked_at < clock_timestamp() - make_interval(secs => $1))
delete from api_session where expires_at < clock_timestamp();

-- name: claim_answer
-- "mine" when this call may go on: nobody has used the key, or whoever did died on the way. Otherwise what is known of it.
with made as (
    insert into api_answer as a (caller, key, request, claimed_until)
    values ($1, $2, $3, clock_timestamp() + make_interval(secs => $4))
    on conflict (caller, key) do update set claimed_until = excluded.claimed_until, at = clock_timestamp()
        where a.request = excluded.request and a.status is null and a.claimed_until < clock_timestamp()
    returning caller)
select true as mine, null::bytea as request, null::smallint as status, null::text as media_type, null::bytea as body
from made
union all
select false, request, status, media_type, body from api_answer
where caller = $1 and key = $2 and not exists (select from made);

-- name: renew_answer
update api_answer set claimed_until = clock_timestamp() + make_interval(secs => $3)
where caller = $1 and key = $2 and status is null;

-- name: keep_answer
update api_answer set status = $3, media_type = $4, body = $5 where caller = $1 and key = $2 and status is null;

-- name: drop_answer
delete from api_answer where caller = $1 and key = $2 and status is null;

-- name: forget_answers
delete from api_answer where ctid = any (array(
    select ctid from api_answer where at < clock_timestamp() - interval '1 day' limit 100));
