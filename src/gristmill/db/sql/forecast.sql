-- What a forecast needs to know, and what it said.

-- name: save
-- $1 key of the run that the same command starts, $2 JSON
insert into forecast (key, plan) values ($1, $2)
on conflict (key) do update set plan = excluded.plan, made_at = clock_timestamp();

-- name: of_run
select f.plan, f.made_at from run r join forecast f on f.key = r.key where r.id = $1;

-- name: quota
-- $1 name
select requests_per_minute, tokens_per_minute, requests_per_day, concurrency, learned_requests, learned_tokens
from quota where name = $1;
