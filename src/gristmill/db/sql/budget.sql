-- Budgets: what may be spent, what was, and what is set aside for calls in flight. Time is the database's.

-- name: limits
-- $1 the run or null, $2 project of what belongs to no run, $3 time zone of the days; settings: $4 scopes, $5 caps,
-- $6 currency. One row for each cap that a call of this run has to respect, and always the project.
with own as (select coalesce((select project from run where id = $1), $2) as project),
scopes as (
    select 'run' as scope, ($1::bigint)::text as owner, ($1::bigint)::text as name from own where $1::bigint is not null
    union all
    select 'day', project, project || ' ' || (clock_timestamp() at time zone $3)::date from own
    union all
    select 'project', project, project from own)
select own.project, s.scope, s.name, case when b.scope is null then d.cap else b.cap end as cap,
    coalesce(b.currency, $6) as currency
from own cross join scopes s
left join budget b on b.scope = s.scope and b.name = s.owner
left join unnest($4::text[], $5::numeric[]) as d (scope, cap) on d.scope = s.scope
order by s.scope;

-- name: lock_project
-- $1 class, $2 project. Whoever sets money aside waits for whoever is at it. A statement of its own: the next one has to
-- see what that one did.
select pg_advisory_xact_lock($1, hashtext($2));

-- name: set_aside
-- $1 worker, $2 seconds; one array per column: $3 scopes, $4 names, $5 currencies, $6 caps, $7 what has to fit, with
-- all that this process has in flight, $8 what would be good to have beyond it, $9 what it has in flight. All or
-- nothing: when one cap is in the way, only what is in flight stays set aside. "granted" is null for what does not fit.
with asked as materialized (
    select * from unnest($3::text[], $4::text[], $5::text[], $6::numeric[], $7::numeric[], $8::numeric[], $9::numeric[])
        as asked (scope, name, currency, cap, need, more, busy)),
known as materialized (
    select a.*,
        coalesce((select s.spent from spending s
                  where s.scope = a.scope and s.name = a.name and s.currency = a.currency), 0)
        + coalesce((select sum(d.amount) from spending_delta d where d.currency = a.currency and case a.scope
                when 'run' then d.run::text = a.name
                when 'day' then d.project || ' ' || d.day = a.name
                else d.project = a.name end), 0) as spent,
        coalesce((select sum(h.amount) from budget_hold h
            where h.scope = a.scope and h.name = a.name and h.currency = a.currency and h.worker <> $1
              and h.deadline > clock_timestamp() and not exists (
                  select from worker w where w.nonce = h.worker and w.state = 'dead'
                    and w.cause = 'its process ended')), 0) as others
    from asked a),
judged as materialized (
    select k.*, k.need <= k.cap - k.spent - k.others as fits,
        bool_and(k.need <= k.cap - k.spent - k.others) over () as all_fit
    from known k),
amounts as materialized (
    select j.*, case when all_fit then need + least(more, greatest(0, cap - spent - others - need) / 8) else busy end as amount
    from judged j),
kept as (
    insert into budget_hold (scope, name, currency, worker, amount, deadline)
    select scope, name, currency, $1, amount, clock_timestamp() + make_interval(secs => $2) from amounts
    order by scope, name, currency
    on conflict (scope, name, currency, worker) do update
    set amount = excluded.amount, deadline = excluded.deadline)
select scope, name, currency, cap, spent, others, amount, fits, case when all_fit then amount end as granted from amounts;

-- name: renew_holds
-- $1 worker, $2 seconds, $3 scopes, $4 names, $5 currencies, $6 amounts: never more than was granted. What comes back is
-- still ours; a hold whose deadline has passed is not, others may have taken the money.
with given as (
    select * from unnest($3::text[], $4::text[], $5::text[], $6::numeric[]) as given (scope, name, currency, amount)),
gone as (
    delete from budget_hold h using given g
    where h.worker = $1 and h.scope = g.scope and h.name = g.name and h.currency = g.currency and g.amount <= 0)
update budget_hold h set amount = g.amount, deadline = clock_timestamp() + make_interval(secs => $2)
from given g
where h.worker = $1 and h.scope = g.scope and h.name = g.name and h.currency = g.currency and g.amount > 0
  and h.deadline > clock_timestamp()
returning h.scope, h.name, h.currency;

-- name: forget_holds
delete from budget_hold where deadline < clock_timestamp() - interval '1 hour';

-- name: uncertain
-- $1 run, $2 project, $3 time zone, $4 currency, $5 amount: sent, perhaps paid, never answered.
insert into spending_delta (project, run, day, currency, amount, uncertain)
select coalesce((select project from run where id = $1), $2), $1, (clock_timestamp() at time zone $3)::date, $4, $5, true;

-- name: sum_up
-- Deltas into sums. Two at once take different rows or wait for each other; nothing is counted twice.
with taken as (
    delete from spending_delta where ctid = any (array(select ctid from spending_delta limit 5000))
    returning project, run, day, currency, amount, uncertain),
parts as (
    select 'project' as scope, project as name, currency, amount, uncertain from taken
    union all select 'day', project || ' ' || day, currency, amount, uncertain from taken
    union all select 'run', run::text, currency, amount, uncertain from taken where run is not null)
insert into spending (scope, name, currency, spent, uncertain)
select scope, name, currency, sum(amount), coalesce(sum(amount) filter (where uncertain), 0)
from parts group by scope, name, currency order by scope, name, currency
on conflict (scope, name, currency) do update
set spent = spending.spent + excluded.spent, uncertain = spending.uncertain + excluded.uncertain;

-- name: hold_run
-- $1 run, $2 why, $3 scope, $4 time zone, $5 body of the event. Once: a run that is not running is not held again. A
-- day's budget lets it go on when the next day begins.
with held as (
    update run set state = 'paused', held = $2, held_until = case $3 when 'day' then
        ((clock_timestamp() at time zone $4)::date + 1)::timestamp at time zone $4 end
    where id = $1 and state = 'running' returning id)
insert into event_inbox (name, run_id, body) select 'budget.spent', id, $5 from held returning run_id;

-- name: set_cap
-- $1 scope, $2 name, $3 cap or null: none, $4 currency
insert into budget (scope, name, cap, currency) values ($1, $2, $3, $4)
on conflict (scope, name) do update set cap = excluded.cap, currency = excluded.currency, changed_at = clock_timestamp();

-- name: status
-- $1 the run or null, $2 project, $3 time zone; settings: $4 scopes, $5 caps, $6 currency. What was spent in each
-- scope and currency, with the cap that holds there.
with own as (select coalesce((select project from run where id = $1), $2) as project),
scopes as (
    select 'run' as scope, ($1::bigint)::text as owner, ($1::bigint)::text as name from own where $1::bigint is not null
    union all
    select 'day', project, project || ' ' || (clock_timestamp() at time zone $3)::date from own
    union all
    select 'project', project, project from own),
caps as (
    select s.scope, s.name, case when b.scope is null then d.cap else b.cap end as cap,
        coalesce(b.currency, $6) as currency
    from scopes s left join budget b on b.scope = s.scope and b.name = s.owner
    left join unnest($4::text[], $5::numeric[]) as d (scope, cap) on d.scope = s.scope),
sums as (
    select scope, name, currency, sum(spent) as spent, sum(uncertain) as uncertain from (
        select scope, name, currency, spent, uncertain from spending
        union all select 'project', project, currency, amount, case when uncertain then amount else 0 end from spending_delta
        union all select 'day', project || ' ' || day, currency, amount, case when uncertain then amount else 0 end from spending_delta
        union all select 'run', run::text, currency, amount, case when uncertain then amount else 0 end from spending_delta) as all_of_it
    group by scope, name, currency),
holds as (
    select scope, name, currency, sum(amount) as held from budget_hold h
    where deadline > clock_timestamp() and not exists (
        select from worker w where w.nonce = h.worker and w.state = 'dead' and w.cause = 'its process ended')
    group by scope, name, currency)
select c.scope, c.name, case when c.currency = coalesce(s.currency, c.currency) then c.cap end as cap,
    coalesce(s.currency, c.currency) as currency, coalesce(s.spent, 0) as spent,
    coalesce(s.uncertain, 0) as uncertain, coalesce(h.held, 0) as held
from caps c left join sums s on s.scope = c.scope and s.name = c.name
left join holds h on h.scope = c.scope and h.name = c.name and h.currency = coalesce(s.currency, c.currency)
order by array_position(array['run', 'day', 'project'], c.scope), 4;
