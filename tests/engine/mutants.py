"""Faults sown into the product's own SQL, one at a time: a proof that cannot see them proves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType, ModuleType

from gristmill.engine import items, queue, upkeep, workflow

OF: dict[str, ModuleType] = {"items": items, "queue": queue, "workflow": workflow, "upkeep": upkeep}
MODEL = "model"


@dataclass(frozen=True, slots=True)
class Mutant:
    """What the fault is, the statement ("file.name"), the text to replace and what stands there then.

    `proof` is what must fail: the model, or the name of a test of two sessions in test_mutants.py. `rare`: it takes the
    model more than two seconds.
    """

    title: str
    statement: str
    old: str
    new: str
    proof: str = MODEL
    rare: bool = False


BY_TOKEN = "t.id = g.id and t.token = g.token for update"

MUTANTS = (
    # Fencing.
    Mutant("settle does not check the token", "queue.settle", BY_TOKEN, "t.id = g.id for update"),
    Mutant("settle does not check the state", "queue.settle", "where l.state = 'running'", "where true"),
    Mutant("settle checks the worker instead of the token", "queue.settle", BY_TOKEN,
           "t.id = g.id and t.worker_id = $4 for update"),
    Mutant("settle lets go of the locks", "queue.settle", " for update offset 0", " offset 0",
           "two_settles_at_once"),
    Mutant("fail does not check the token", "queue.fail", "and token = $2 and", "and $2::uuid is not null and"),
    Mutant("fail does not check the state", "queue.fail", " and state = 'running' for", " for"),
    Mutant("crash does not check the token", "queue.crash", "and token = $2 and", "and $2::uuid is not null and",
           rare=True),
    Mutant("crash keeps the token", "queue.crash", "worker_id = null, token = null,", "worker_id = null,"),
    Mutant("release does not check the token", "queue.release", BY_TOKEN, "t.id = g.id for update", rare=True),
    Mutant("release does not check the state", "queue.release", "where l.state = 'running'", "where true"),
    Mutant("release keeps the token", "queue.release", "worker_id = null, token = null,", "worker_id = null,",
           rare=True),
    Mutant("giving back takes the tasks of everybody", "queue.give_back", "where worker_id = $1 and",
           "where $1::bigint is not null and"),
    Mutant("giving back does not look at the tokens", "queue.give_back",
           "($2::uuid[] is null or token = any ($2))", "($2::uuid[] is null or true)", rare=True),
    Mutant("cancel keeps the token", "queue.cancel", "worker_id = null, token = null,", "worker_id = null,"),
    Mutant("cancel leaves running tasks alone", "queue.open_of_run", " or state = 'running'", ""),
    Mutant("cancelling an item leaves its failures", "queue.of_items", "where $2 and", "where $2 and false and",
           rare=True),
    # Claims.
    Mutant("claim ignores that the worker is dead", "queue.claim", "and state = 'alive' and lease", "and lease"),
    Mutant("claim ignores that the lease is over", "queue.claim", " and lease_until > clock_timestamp()", "",
           rare=True),
    Mutant("claim ignores the nonce", "queue.claim", "and nonce = $2 and", "and $2::uuid is not null and",
           "a_wrong_nonce"),
    Mutant("claim takes from paused runs", "queue.claim", "where r.state = 'running'",
           "where r.state in ('running', 'paused')"),
    Mutant("claim ignores the time", "queue.claim", "and t.run_at <= clock_timestamp() and", "and", rare=True),
    Mutant("claim ignores the kinds", "queue.claim", "t.kind = any ((select kinds from known)::text[])",
           "$6::text[] is not null", rare=True),
    Mutant("claim ignores the pools", "queue.claim", "and t.pool = lane.pool and", "and"),
    Mutant("claim gives suspects to everybody", "queue.claim", "and t.crashes < 2\n            order",
           "\n            order"),
    Mutant("claim ignores the priority", "queue.claim", "order by t.priority, t.seq", "order by t.seq"),
    Mutant("claim takes more than was asked for", "queue.claim", "        limit lane.want) as pick", ") as pick"),
    Mutant("claim counts no attempt", "queue.claim", "attempt = t.attempt + 1, ", ""),
    Mutant("claim gives no new token", "queue.claim", "token = $7,", "token = coalesce(t.token, $7),",
           "a_released_task_gets_another_token"),
    Mutant("claim waits for what others are taking", "queue.claim", "for update skip locked", "for update",
           "two_claims_at_once"),
    Mutant("claim takes without locks", "queue.claim", "limit lane.want for update skip locked", "limit lane.want",
           "two_claims_at_once"),
    Mutant("claim does not lock its worker", "queue.claim", "    for no key update),\nknown", "    ),\nknown",
           "a_claim_while_its_worker_is_buried"),
    # Workers and their end.
    Mutant("beat revives the buried", "queue.beat", " and state in ('alive', 'paused', 'draining')", ""),
    Mutant("beat forgets the suspicion", "queue.beat", ", suspect_at = null", "",
           "a_suspicion_is_forgotten"),
    Mutant("mark_dead takes anybody", "queue.mark_dead", "  and ($4 or lease_until", "  and ($4 or true or lease_until",
           "a_beat_while_its_worker_is_buried"),
    Mutant("mark_dead buries the dead again", "queue.mark_dead", "and state in ('alive', 'paused', 'draining')", "",
           "two_burials_at_once"),
    Mutant("suspects includes the caller", "queue.suspects", " and id <> $2)", " and $2::bigint is not null)",
           rare=True),
    Mutant("suspects believes the first sighting", "queue.suspects",
           "vanished and suspect_at < clock_timestamp() - make_interval(secs => $3)",
           "vanished and $3::float8 is not null", rare=True),
    Mutant("suspects forgets no sighting", "queue.suspects", "j.vanished <> (w.suspect_at is not null)",
           "j.vanished and w.suspect_at is null", "a_suspicion_is_forgotten"),
    Mutant("suspects does not look for absurd leases", "queue.suspects",
           " or live.lease_until > clock_timestamp() + 2 * live.ttl as", " as"),
    Mutant("rescue charges no crash", "queue.rescue", "held.crashes + held.charged::int", "t.crashes"),
    Mutant("rescue charges the stalled too", "queue.rescue", "held.crashes + held.charged::int",
           "t.crashes + 1", rare=True),
    Mutant("rescue forgets to clear the token", "queue.rescue", "worker_id = null, token = null, held",
           "worker_id = null, held"),
    Mutant("rescue puts nothing in front", "queue.rescue", "priority = -32768, ", "", rare=True),
    Mutant("rescue never quarantines", "queue.rescue", "then 'quarantined' else", "then 'available' else", rare=True),
    Mutant("rescue takes the tasks of everybody", "queue.rescue", "and worker_id = $1 order", "order"),
    Mutant("rescue keeps no attempt", "queue.rescue", "sha256('worker died') from rescued)",
           "sha256('worker died') from rescued where false)", rare=True),
    Mutant("crash never quarantines", "queue.crash", "then 'quarantined' else", "then 'available' else", rare=True),
    Mutant("crash is one crash late", "queue.crash", "held.crashes >=", "held.crashes - 1 >=", rare=True),
    Mutant("crash charges nothing", "queue.crash", "else crashes + 1 end", "else crashes end"),
    # Accounts.
    Mutant("settle forgets the counter", "queue.settle", "('completed', 1)", "('completed', 0)"),
    Mutant("settle writes no attempt", "queue.settle", "claimed_at, 'completed' from done)",
           "claimed_at, 'completed' from done where false)"),
    Mutant("release forgets the counter", "queue.release", "('running', -1), ", ""),
    Mutant("fail charges nothing", "queue.fail", "failures = t.failures + 1,", "failures = t.failures,"),
    Mutant("fail tries for ever", "queue.fail", "$4 and t.failures + 1 < t.max_attempts then 'available'",
           "$4 then 'available'", "the_attempts_are_spent"),
    Mutant("fail tells nobody", "queue.fail", "from failed where state = 'failed'", "from failed where false"),
    Mutant("reopen keeps the failures", "queue.reopen", "failures = 0, crashes = 0,", "crashes = 0,"),
    Mutant("reopen keeps the crashes", "queue.reopen", "failures = 0, crashes = 0,", "failures = 0,", rare=True),
    Mutant("reopen begins barriers again", "queue.reopen", " where not b.barrier)", ")", rare=True),
    Mutant("reopen ignores the cause", "queue.reopen", "a.attempt = t.attempt and a.cause = $2", "true"),
    Mutant("reopen looks at earlier attempts", "queue.reopen", "and a.attempt = t.attempt and", "and", rare=True),
    Mutant("cancel forgets what the tasks were", "queue.cancel", "(was, -1), ", ""),
    Mutant("folding counts twice", "upkeep.fold_counters", "n = c.n + excluded.n", "n = c.n + 2 * excluded.n"),
    Mutant("folding forgets what was there", "upkeep.fold_counters", "n = c.n + excluded.n", "n = excluded.n"),
    # Ends of runs.
    Mutant("end_run is not guarded", "workflow.end_run", " and state in ('waiting', 'running', 'paused')", "",
           rare=True),
    Mutant("advance does not lock the run", "workflow.lock_run", " for no key update", "", "two_advances_at_once"),
    Mutant("advance does not look for open tasks",
           "workflow.anything_open", "t.run_id = $1", "t.run_id = $1 and false"),
    Mutant("advance overlooks running tasks", "workflow.anything_open", "t.state = 'running'",
           "t.state = 'running' and false"),
    Mutant("a barrier does not wait for running tasks", "workflow.ready_barrier",
           "t.step = any (s.upstream) and t.state = 'running'",
           "t.step = any (s.upstream) and t.state = 'failed' and false"),
    Mutant("a barrier opens again and again", "workflow.ready_barrier", "and s.opened_epoch < $2",
           "and $2::int is not null", rare=True),
    Mutant("a broken barrier stays broken", "workflow.stale", " or t.state in ('failed', 'quarantined')", "",
           rare=True),
    Mutant("a new barrier takes all failures away", "workflow.stale", "(d.ordinal = $2 or $2 = any (d.upstream))",
           "$2::int is not null", rare=True),
    Mutant("open_run stays in the same epoch", "workflow.open_run", "then 0 else 1 end,", "then 0 else 0 end,"),
    Mutant("open_run leaves the run sealed", "workflow.open_run", ", sealed = false,", ","),
    Mutant("the sweep overlooks what can end", "workflow.sealed_runs", "limit 1)) is null\n    or exists",
           "limit 1)) is null and false\n    or exists"),
    # Not here, because it changes nothing: a sweep that offers runs which are not sealed; `advance` looks again.
    Mutant("the verdict forgets what is not folded yet", "workflow.verdict",
           " union all\n                       select run_id, step, name, n from counter_delta", ""),
    Mutant("the verdict overlooks the quarantined", "workflow.verdict", "state in ('failed', 'quarantined')",
           "state = 'failed'"),
    Mutant("inputs that count again are not enqueued", "items.add_items",
           "before.state is distinct from added.state", "before.state is null"),
    # Locks.
    Mutant("settle leaks the lock", "queue.settle", "l.task_id = d.id", "l.task_id = -d.id"),
    Mutant("fail leaks the lock", "queue.fail", "l.task_id = f.id", "l.task_id = -f.id"),
    Mutant("crash leaks the lock", "queue.crash", "l.task_id = c.id", "l.task_id = -c.id"),
    Mutant("release leaks the lock", "queue.release", "l.task_id = p.id", "l.task_id = -p.id"),
    Mutant("giving back leaks the lock", "queue.give_back", "l.task_id = p.id", "l.task_id = -p.id"),
    Mutant("rescue leaks the lock", "queue.rescue", "l.task_id = r.id", "l.task_id = -r.id"),
    Mutant("cancel leaks the lock", "queue.cancel", "l.task_id = s.id", "l.task_id = -s.id"),
    Mutant("claim takes a slot that somebody holds", "queue.claim_apart",
           "    where l.expires_at <= clock_timestamp()\n", "", "two_claims_of_one_lock_at_once"),
    Mutant("claim runs a task that got no slot", "queue.claim_apart",
           "taken.task_id is not null)\n    returning", "true)\n    returning",
           "two_claims_of_one_lock_at_once"),
    Mutant("claim takes no slot that is over", "queue.claim_apart",
           "(l.expires_at is null or l.expires_at > clock_timestamp())", "(l.expires_at is null or true)"),
    Mutant("claim with locks ignores that the worker is dead", "queue.claim_apart", "and state = 'alive' and lease",
           "and lease", "a_dead_worker_claims_no_lock"),
    Mutant("claim with locks ignores the time", "queue.claim_apart", "and t.run_at <= clock_timestamp() and", "and"),
    Mutant("claim with locks counts no attempt", "queue.claim_apart", "attempt = t.attempt + 1, ", ""),
    # Pools of the fleet.
    Mutant("claim ignores the limit of a pool", "queue.claim", "when p.slots is null then l.want",
           "when true then l.want"),
    Mutant("claim takes from paused pools", "queue.claim", "not p.paused and", "true and"),
    Mutant("claim counts in a limited pool without its lock", "queue.claim", "(p.slots is null or $8)",
           "(p.slots is null or $8::boolean is not null)"),
    Mutant("lock_pools locks nothing", "queue.lock_pools", " for no key update", "", "two_claims_of_a_limited_pool"),
    Mutant("claim ignores the breaker", "queue.claim", "b.open_until > clock_timestamp()", "false",
           "a_breaker_that_is_open"),
    # What waits for others.
    Mutant("unblock does not look at other needs", "queue.unblock", "d.task_id = t.id)", "d.task_id = t.id and false)"),
    Mutant("settle does not say who is needed", "queue.settle", "select id, needed from done",
           "select id, false as needed from done"),
    Mutant("need marks nobody", "queue.need", "set needed = true", "set needed = false"),
    # Not here, because the update behind it waits all the same: `need` without its lock; only the order is lost.
    Mutant("fail does not say who is needed", "queue.fail", "select id, state, needed from",
           "select id, state, false as needed from"),
    Mutant("cancel does not say who is needed", "queue.cancel", "select id, needed, was",
           "select id, false as needed, was"),
    Mutant("the abandoned are forgotten", "queue.abandoned", "where lost = 1 limit", "where lost = 3 limit"),
    Mutant("revive brings back what is still lost", "queue.revive", "d.lost > 0", "d.lost > 2"),
    Mutant("a rescued suspect that was alone is charged", "queue.rescue", "crashes >= 2 and (select",
           "crashes >= 200 and (select",
           "a_suspect_that_was_alone"),
)  # fmt: skip


@contextmanager
def sown(mutant: Mutant) -> Iterator[None]:
    """The product with this fault in it. Raises `ValueError` when the text to replace is gone: the SQL has changed."""
    file, name = mutant.statement.split(".")
    module = OF[file]
    sound = module.SQL
    if mutant.old not in sound[name]:
        raise ValueError(f"{mutant.title}: {mutant.statement} does not say {mutant.old!r}")
    module.SQL = MappingProxyType({**sound, name: sound[name].replace(mutant.old, mutant.new)})
    runs = items.RUNS
    if module is workflow:  # items send some of the statements of runs too
        items.RUNS = module.SQL
    try:
        yield
    finally:
        module.SQL = sound
        items.RUNS = runs
