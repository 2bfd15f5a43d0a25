"""The queue's own SQL on a real server, driven by random steps and compared with a model after every step."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import asyncpg

from gristmill.db.database import connect
from gristmill.engine import processes, queue, upkeep, workflow
from gristmill.engine.queue import Claimer, Failure, NewTask
from gristmill.engine.workflow import NewItem, NewRun, Step

STEPS = (
    Step("first", "bare", "*", max_attempts=2, max_crashes=3),
    Step("second", "other", "parse", max_attempts=3, max_crashes=2),
    Step("gather", "bare", "*", barrier=True, max_attempts=2, max_crashes=2),
)
GATHER = 2
OPEN = ("waiting", "available", "running")
BROKEN = ("failed", "quarantined")
CAUSES = (Failure("T300", "TransientError", "no answer", True, 0.0), Failure("T200", "InputError", "bad", True, 0.0))
CRASHED = hashlib.sha256(b"crash").digest()
DIED = hashlib.sha256(b"worker died").digest()
NAMES = "abcdefghij"
BEYOND = 2**40
SLOTS = {"one": 1, "two": 2}  # of the locks
HISTORIES, STEPS_EACH = 100, 60
RESCUED = -32768

LOOK = """
select json_build_object(
    'tasks', (select json_agg(json_build_array(id, run_id, step, item_id, state, attempt, failures, crashes, priority,
        worker_id, token, state <> 'available' or run_at <= clock_timestamp(), ended_at is not null)) from task),
    'attempts', (select json_agg(json_build_array(task_id, token, attempt, worker_id, outcome)) from attempt),
    'counters', (select json_agg(json_build_array(run_id, step, name, n)) from (
        select run_id, step, name, sum(n) as n
        from (select * from counter union all select * from counter_delta) as every
        group by 1, 2, 3 having sum(n) <> 0) as s),
    'runs', (select json_agg(json_build_array(r.id, r.state, r.sealed, r.epoch, s.opened_epoch, r.ended_at is not null))
        from run r join step s on s.run_id = r.id and s.barrier),
    'items', (select json_agg(json_build_array(id, state)) from item),
    'workers', (select json_agg(json_build_array(id, state, suspect_at is not null, lease_until < clock_timestamp()
        or lease_until > clock_timestamp() + 2 * ttl)) from worker),
    'locks', (select json_agg(json_build_array(key, task_id, token)) from lock
        where holder_kind = 'task' or expires_at > clock_timestamp()),
    'needs', (select json_agg(json_build_array(task_id, needs_id, lost)) from dependency),
    'events', (select json_agg(json_build_array(name, run_id, task_id, worker_id, n)) from (
        select name, run_id, task_id, case when name = 'worker.died' then worker_id end as worker_id, count(*) as n
        from (select name, run_id, task_id, worker_id from event
              union all select name, run_id, task_id, worker_id from event_inbox) as every
        group by 1, 2, 3, 4) as s))::text
"""
ORPHANS = """
select count(*) from task t join worker w on w.id = t.worker_id
where t.state = 'running' and t.worker_id <> $1
  and (w.state not in ('alive', 'paused', 'draining') or w.lease_until < clock_timestamp())
"""
TABLES = (
    "worker", "run", "step", "item", "item_step", "item_check", "task", "dependency", "lock", "pool", "breaker",
    "attempt", "counter", "counter_delta", "metric_delta", "event_inbox", "event",
)  # fmt: skip
# Much faster than truncate, and nothing counts on ids.
FORGET = "; ".join(f"delete from {table}" for table in TABLES)  # noqa: S608


@dataclass(slots=True)
class ModelTask:
    """What a task must look like."""

    run: int
    step: int
    item: int | None
    state: str = "available"
    due: bool = True
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    priority: int = 0
    token: uuid.UUID | None = None
    worker: int | None = None
    cause: bytes | None = None
    lock: str | None = None
    needs: dict[int, int] = field(default_factory=dict)  # 0: open, 1: lost, 2: lost, and this task was told
    told: bool = False  # cancelled because something that it needed was lost

    @property
    def open(self) -> bool:
        return self.state in OPEN


@dataclass(slots=True)
class ModelWorker:
    """What is known of a worker, and what really became of it."""

    nonce: uuid.UUID
    isolates: bool = False  # runs suspects alone in a child process
    state: str = "alive"
    lease: str = "good"  # or "over", or "absurd": so far away that the clock must have been set back
    announced: bool = False
    holding: bool = False  # somebody holds its liveness lock
    sighted: bool = False
    ended: bool = False  # its process is gone, and everybody on its machine can see that

    @property
    def live(self) -> bool:
        return self.state in ("alive", "paused", "draining")


@dataclass(slots=True)
class ModelRun:
    """A run, the names of its inputs, and the epochs that have ended."""

    state: str = "running"
    sealed: bool = False
    epoch: int = 1
    gathered: int = 0  # the epoch in which its barrier was made
    items: dict[str, int] = field(default_factory=dict)
    counting: set[int] = field(default_factory=set)
    ended: list[int] = field(default_factory=list)

    @property
    def under_way(self) -> bool:
        return self.state in ("running", "paused")


def tickets(dice: Random, most: int) -> list[tuple[str, int]]:
    """Which tickets to use: of whom, and how old."""
    return [
        (dice.choice(("current", "current", "overtaken", "overtaken", "any")), dice.randrange(6))
        for _ in range(dice.randint(1, most))
    ]


def young(dice: Random) -> int:
    """A worker, mostly one of the youngest."""
    return min(dice.randrange(6), dice.randrange(6))


def names(dice: Random, most: int) -> list[str]:
    return dice.sample(NAMES, dice.randint(1, most))


# What may happen, how often, and with what: one number decides all of one step. (Hypothesis repeats itself on purpose
# and knows no weights: most of its histories ended without a single ticket that was overtaken.)
ACTIONS: dict[str, tuple[int, Callable[[Random], dict[str, Any]]]] = {
    "new_worker": (3, lambda d: {"locked": d.random() < 0.7, "isolates": d.random() < 0.3}),
    "announce": (1, lambda d: {"number": young(d), "really": d.random() < 0.8}),
    "lose_the_lock": (3, lambda d: {"number": young(d)}),
    "spoil_the_lease": (7, lambda d: {"number": young(d), "how": d.choice(("over", "over", "absurd"))}),
    "end_the_process": (2, lambda d: {"number": young(d)}),
    "beat": (3, lambda d: {"number": d.randrange(12)}),
    "drain": (1, lambda d: {"number": young(d)}),
    "order": (2, lambda d: {"number": young(d), "state": d.choice(("paused", "alive", "alive"))}),
    "give_back": (3, lambda d: {"number": young(d), "choice": d.choice((None, *tickets(d, 1)))}),
    "leave": (1, lambda d: {"number": young(d)}),
    "rescue": (7, lambda d: {"number": d.choice((None, 0, 1, 2))}),
    "usurp": (7, lambda d: {"n": d.randint(2, 5)}),
    "claim": (17, lambda d: {
        "number": young(d) if d.random() < 0.5 else None, "n": d.randrange(4), "m": d.randrange(4),
        "suspects": d.random() < 0.4, "low": BEYOND if d.random() < 0.1 else None,
        "kinds": ("bare",) if d.random() < 0.2 else None, "limited": d.random() < 0.5, "locked": d.random() < 0.3,
    }),
    "settle": (10, lambda d: {
        "choices": tickets(d, 4), "outcome": d.choice(("ok", "ok", "empty")), "twice": d.random() < 0.3,
        "follow": d.random() < 0.7, "number": young(d),
    }),
    "fail": (8, lambda d: {
        "choice": tickets(d, 1)[0], "cause": d.choice(CAUSES), "final": d.random() < 0.15, "number": young(d),
    }),
    "crash": (6, lambda d: {"choice": tickets(d, 1)[0], "number": young(d)}),
    "release": (6, lambda d: {"choices": tickets(d, 3), "later": d.random() < 0.5}),
    "wait": (3, lambda d: {}),
    "limit": (3, lambda d: {
        "pool": d.choice(("*", "parse")), "slots": d.choice((None, None, 1, 2, 4)), "paused": d.random() < 0.2,
    }),
    "lock": (4, lambda d: {"number": d.randrange(2), "key": d.choice(("one", "two")), "n": d.randint(1, 3)}),
    "hold": (4, lambda d: {"number": d.randrange(2), "key": d.choice(("one", "two")), "over": d.random() < 0.5}),
    "depend": (6, lambda d: {"number": d.randrange(2), "of": [d.randrange(8) for _ in range(d.randint(1, 2))]}),
    "abandon": (6, lambda d: {}),
    "add": (5, lambda d: {"number": d.randrange(2), "names": names(d, 5)}),
    "seal": (8, lambda d: {"number": d.randrange(2), "dropped": set(names(d, 1)) if d.random() < 0.4 else set()}),
    "withdraw": (4, lambda d: {"number": d.randrange(2), "name": d.choice(NAMES)}),
    "cancel": (4, lambda d: {"number": d.randrange(2), "all_of_it": d.random() < 0.6}),
    "retry": (10, lambda d: {
        "number": d.randrange(2), "cause": d.choice((None, None, CAUSES[0].cause, CAUSES[1].cause, CRASHED, DIED)),
    }),
    "pause": (1, lambda d: {"number": d.randrange(2)}),
    "resume": (6, lambda d: {"number": d.randrange(2)}),
    "advance": (8, lambda d: {"number": d.randrange(2)}),
    "sweep": (3, lambda d: {}),
    "work_off": (12, lambda d: {"number": d.randrange(2), "badly": d.random() < 0.3}),
    "fold": (2, lambda d: {}),
}  # fmt: skip
WEIGHTS = [weight for weight, _ in ACTIONS.values()]


class Machine:
    """Every action sends statements of the product and does the same to the model."""

    def __init__(
        self, runner: asyncio.Runner, connection: asyncpg.Connection[Any], holder: asyncpg.Connection[Any],
        seen: Counter[str],
    ) -> None:  # fmt: skip
        self.runner = runner
        self.connection = connection
        self.holder = holder  # the session that holds the liveness locks
        self.seen = seen
        self.patience = 30.0  # seconds for one call
        self.story: list[str] = []

    def play(self, seeds: Sequence[int]) -> None:
        """One history from an empty database on; every step is decided by one number, and compared."""
        self.begin()
        self.same_as_the_database()
        for seed in seeds:
            self.step(seed)
            self.same_as_the_database()

    def do(self, sent: Coroutine[Any, Any, Any]) -> Any:
        self.seen["statements"] += 1
        return self.runner.run(asyncio.wait_for(sent, self.patience))

    async def together(self, *sent: Any) -> Any:
        """Calls one after the other in one transaction; returns what the last one returns."""
        result = None
        async with self.connection.transaction():
            for call in sent:
                result = await call()
        return result

    # What everything begins with.

    def begin(self) -> None:
        self.tasks: dict[int, ModelTask] = {}
        self.workers: dict[int, ModelWorker] = {}
        self.runs: dict[int, ModelRun] = {}
        self.removed: set[int] = set()
        self.tickets: list[queue.Task] = []
        self.attempts: set[tuple[Any, ...]] = set()
        self.extra: Counter[tuple[int, int, str]] = Counter()  # counters that are not numbers of tasks
        self.events: Counter[tuple[Any, ...]] = Counter()
        self.limits: dict[str, tuple[int | None, bool]] = {}
        self.foreign: Counter[str] = Counter()  # slots of locks that others hold for a long time
        self.breaker: Counter[str] = Counter()  # crashes of child processes
        self.fence = 0
        self.seen["histories"] += 1
        self.story = []
        self.do(self.holder.execute("select pg_advisory_unlock_all()"))
        self.do(self.connection.execute(FORGET))
        self.do(self.connection.execute("select setseed(0.5)"))  # a history must be the same when it is played again
        for number in range(2):
            new = NewRun(f"run {number}", "model", STEPS, {}, detail=0)
            run_id, _ = self.do(self.together(lambda new=new: workflow.find_or_create(self.connection, new)))
            self.runs[run_id] = ModelRun()
            self.events["run.start", run_id, None, None] += 1
        self.new_worker(False, False)
        self.new_worker(True, False)
        self.add(0, list("abcdef"))
        self.add(1, list("abc"))

    def step(self, seed: int) -> None:
        dice = Random(seed)
        (name,) = dice.choices(list(ACTIONS), WEIGHTS)
        arguments = ACTIONS[name][1](dice)
        self.story.append(f"{name} {arguments}")
        self.seen["steps"] += 1
        getattr(self, name)(**arguments)

    # What actions have in common.

    def worker(self, number: int) -> tuple[int, ModelWorker]:
        """Any worker that ever was, the youngest first."""
        ids = sorted(self.workers, reverse=True)
        return ids[number % len(ids)], self.workers[ids[number % len(ids)]]

    def able(self) -> int:
        """The number of a worker that can claim, if there is one: a new one when all others have ended."""
        for number, worker_id in enumerate(sorted(self.workers, reverse=True)):
            if self.workers[worker_id].state == "alive" and self.workers[worker_id].lease == "good":
                return number
        self.new_worker(True, False)
        return 0

    def claimer(self, number: int) -> Claimer:
        worker_id, worker = self.worker(number)
        return Claimer(worker_id, worker.nonce)

    def run_at(self, number: int) -> tuple[int, ModelRun]:
        return sorted(self.runs.items())[number]

    def holds(self, ticket: queue.Task) -> bool:
        task = self.tasks[ticket.id]
        return task.state == "running" and task.token == ticket.token

    def pick(self, choice: tuple[str, int]) -> queue.Task | None:
        """A ticket that was ever issued, the youngest first; "overtaken": while somebody else holds its task."""
        wanted, number = choice
        current = [ticket for ticket in self.tickets if self.holds(ticket)]
        running = [t for t in self.tickets if self.tasks[t.id].state == "running"]
        overtaken = [ticket for ticket in running if not self.holds(ticket)]
        found = {"current": current, "overtaken": overtaken}.get(wanted) or self.tickets
        return found[-1 - number % len(found)] if found else None

    def made(self, ids: Sequence[int], tasks: Sequence[ModelTask]) -> None:
        assert len(ids) == len(tasks)
        self.tasks |= zip(ids, tasks, strict=True)

    def ends(self, task_id: int, outcome: str, cause: bytes | None = None, worker: int | None = None) -> None:
        """The attempt that runs is over."""
        task = self.tasks[task_id]
        by = task.worker if worker is None else worker
        self.attempts.add((task_id, str(task.token), task.attempt, by, outcome))
        task.cause = cause
        self.seen["locks that became free"] += task.lock is not None

    def lose(self, task_id: int) -> None:
        """It ended, and not well."""
        for other in self.tasks.values():
            if other.needs.get(task_id) == 0:
                other.needs[task_id] = 1

    def put_back(self, task_id: int, state: str = "available", *, due: bool = True) -> None:
        task = self.tasks[task_id]
        task.state, task.due, task.token, task.worker = state, due, None, None
        if state not in OPEN:
            self.lose(task_id)

    def stop(self, task_id: int) -> None:
        task = self.tasks[task_id]
        task.told = False
        if task.state == "running":
            self.seen["tasks taken from their worker by a cancel or a withdraw"] += 1
            self.ends(task_id, "cancelled")
        self.put_back(task_id, "cancelled")

    def open_run(self, run: ModelRun) -> None:
        if not run.under_way or run.gathered == run.epoch:
            run.epoch += 1
        run.state, run.sealed = "paused" if run.state == "paused" else "running", False

    def end_run(self, run_id: int, state: str) -> None:
        run = self.runs[run_id]
        assert run.under_way
        assert run.epoch not in run.ended, "an epoch ends once"
        assert not any(task.open for task in self.tasks.values() if task.run == run_id), "nothing is open at the end"
        run.state = state
        run.ended.append(run.epoch)
        self.events["run.end", run_id, None, None] += 1
        self.seen["ends"] += 1

    def of_run(self, run_id: int, *states: str) -> set[int]:
        return {i for i, task in self.tasks.items() if task.run == run_id and task.state in states}

    # Workers.

    def new_worker(self, locked: bool, isolates: bool) -> None:
        if sum(worker.live for worker in self.workers.values()) >= 4 or len(self.workers) >= 25:
            return
        nonce = uuid.uuid4()
        worker_id = self.do(
            self.connection.fetchval(
                queue.SQL["register_worker"], nonce, "model", "here", "boot", os.getpid(), 0, "{}", "test", 600.0,
                ["bare", "other"], isolates,
            )
        )  # fmt: skip
        self.workers[worker_id] = ModelWorker(nonce, isolates)
        self.events["worker.started", None, None, None] += 1
        if locked:
            self.do(self.holder.execute("select pg_advisory_lock($1, $2)", queue.LOCK_CLASS, worker_id))
            self.workers[worker_id].holding = True
            self.announce(0, True)

    def announce(self, number: int, really: bool) -> None:
        worker_id, worker = self.worker(number)
        got = self.do(self.connection.fetchval(queue.SQL["announce_lock"], worker_id, worker.nonce, really))
        assert (got is not None) == worker.live
        if worker.live:
            worker.announced, worker.sighted = really, False

    def lose_the_lock(self, number: int) -> None:
        worker_id, worker = self.worker(number)
        if worker.holding:
            self.do(self.holder.execute("select pg_advisory_unlock($1, $2)", queue.LOCK_CLASS, worker_id))
            worker.holding = False

    def spoil_the_lease(self, number: int, how: str) -> None:
        worker_id, worker = self.worker(number)
        change = "- interval '1 s'" if how == "over" else "+ interval '1 day'"
        sql = f"update worker set lease_until = clock_timestamp() {change} where id = $1"  # noqa: S608
        self.do(self.connection.execute(sql, worker_id))
        worker.lease = how

    def end_the_process(self, number: int) -> None:
        """Its pid stands for another process from now on."""
        worker_id, worker = self.worker(number)
        sql = "update worker set boot_id = $2, pid = $3, pid_started = 1 where id = $1"
        self.do(self.connection.execute(sql, worker_id, processes.machine(), os.getpid()))
        worker.ended = True

    def beat(self, number: int) -> None:
        worker_id, worker = self.worker(number)
        got = self.do(self.connection.fetchval(queue.SQL["beat"], worker_id, worker.nonce))
        assert got == (worker.state if worker.live else None)
        self.seen["beats of the buried"] += worker.state == "dead"
        if worker.live:
            worker.lease, worker.sighted = "good", False

    def drain(self, number: int) -> None:
        worker_id, worker = self.worker(number)
        got = self.do(self.connection.fetchval(queue.SQL["drain_worker"], worker_id, worker.nonce))
        assert (got is not None) == (worker.state in ("alive", "paused"))
        if worker.state in ("alive", "paused"):
            worker.state = "draining"

    def order(self, number: int, state: str) -> None:
        """A person pauses a worker, or lets it go on."""
        worker_id, worker = self.worker(number)
        before = "alive" if state == "paused" else "paused"
        got = self.do(self.connection.fetchval(queue.SQL["order_worker"], worker_id, state, [before], state, "me"))
        assert (got is not None) == (worker.state == before)
        if worker.state == before:
            worker.state = state
            self.events[f"worker.{state}", None, None, None] += 1

    def give_back(self, number: int, choice: tuple[str, int] | None) -> None:
        """What one claim took, or all that the worker holds."""
        claimer = self.claimer(number)
        ticket = self.pick(choice) if choice else None
        tokens = [ticket.token] if ticket else None
        got = self.do(self.together(lambda: queue.give_back(self.connection, claimer, "away", tokens)))
        expected = self.held_by(claimer.id, tokens)
        assert sorted(got) == sorted(expected)
        for task_id in expected:
            self.put_back(task_id)

    def held_by(self, worker_id: int, tokens: Sequence[uuid.UUID] | None = None) -> list[int]:
        return [
            task_id
            for task_id, task in self.tasks.items()
            if task.state == "running" and task.worker == worker_id and (tokens is None or task.token in tokens)
        ]

    def leave(self, number: int) -> None:
        claimer = self.claimer(number)
        worker = self.workers[claimer.id]
        got = self.do(
            self.together(
                lambda: queue.give_back(self.connection, claimer, "leaves"),
                lambda: self.connection.fetchval(queue.SQL["leave"], claimer.id, claimer.nonce, "done"),
            )
        )
        assert (got is not None) == worker.live
        for task_id in self.held_by(claimer.id):
            self.put_back(task_id)
        if worker.live:
            worker.state = "stopped"
            self.events["worker.stopped", None, None, None] += 1

    def rescue(self, number: int | None) -> None:
        mine = 0 if number is None else self.worker(number)[0]
        got = self.do(queue.rescue(self.connection, mine, confirm=0.0))
        buried = {}
        for worker_id, worker in sorted(self.workers.items()):
            if not worker.live or worker_id == mine:
                continue
            vanished = worker.announced and not worker.holding
            gone = vanished and worker.sighted
            worker.sighted = vanished
            if not (worker.ended or gone or worker.lease != "good"):
                continue
            charged = worker.ended or not (worker.lease != "good" and worker.holding)
            worker.state = "dead"
            buried[worker_id] = len(self.held_by(worker_id))
            self.events["worker.died", None, None, worker_id] += 1
            self.seen["rescues"] += bool(self.held_by(worker_id))
            self.seen["rescues without a charge"] += bool(self.held_by(worker_id)) and not charged
            for task_id in self.held_by(worker_id):
                task = self.tasks[task_id]
                guilty = charged and not (worker.isolates and task.crashes >= 2)
                self.seen["rescues of suspects that were alone"] += charged and not guilty
                self.ends(task_id, "crashed" if guilty else "stalled", DIED)
                task.priority = RESCUED
                self.charge_crash(task_id, guilty, STEPS[task.step].max_crashes)
        assert got == buried
        assert not self.do(self.connection.fetchval(ORPHANS, mine)), "nothing runs without a live holder"

    def charge_crash(self, task_id: int, charged: bool, longest: int) -> str:
        task = self.tasks[task_id]
        task.crashes += charged
        self.extra[task.run, task.step, "crashes"] += charged
        state = "quarantined" if charged and task.crashes >= longest else "available"
        if state == "quarantined":
            self.seen["quarantines"] += 1
            self.events["step.quarantined", task.run, task_id, None] += 1
        self.put_back(task_id, state)
        return state

    def usurp(self, n: int) -> None:
        """Everybody is thought dead, and a new worker takes what they hold."""
        for number, worker in enumerate(self.workers[i] for i in sorted(self.workers, reverse=True)):
            if worker.live:
                self.spoil_the_lease(number, "over")
        self.rescue(None)
        self.same_as_the_database()
        self.new_worker(False, False)
        self.claim(0, n, n)
        self.claim(0, n, n, suspects=True)
        self.claim(0, n, n, locked=True)

    # Tasks.

    def claim(
        self, number: int | None, n: int, m: int, suspects: bool = False, low: int | None = None,
        kinds: tuple[str, ...] | None = None, limited: bool = True, locked: bool = False,
    ) -> None:  # fmt: skip
        claimer, wanted, known = (
            self.claimer(self.able() if number is None else number),
            {"*": n, "parse": m},
            kinds or ("bare", "other"),
        )
        got = self.do(
            self.together(
                lambda: queue.claim(
                    self.connection, claimer, wanted, known, low={"*": low} if low is not None else None,
                    suspects=suspects, limited=limited, locked=locked,
                )
            )
        )  # fmt: skip
        worker = self.workers[claimer.id]
        able = worker.state == "alive" and worker.lease != "over"
        live = self.foreign + Counter(t.lock for t in self.tasks.values() if t.state == "running" and t.lock)
        for pool, asked in wanted.items():
            free = {
                i: task
                for i, task in self.tasks.items()
                if task.state == "available" and task.due and STEPS[task.step].pool == pool and able
                and self.runs[task.run].state == "running" and STEPS[task.step].kind in known
                and self.breaker[STEPS[task.step].kind] < 6 and (suspects or (task.lock is not None) == locked)
                and (task.crashes >= 2) == suspects and (locked or suspects or not (pool == "*" and low))
            }  # fmt: skip
            taken = {ticket.id for ticket in got if ticket.pool == pool}
            assert taken <= free.keys()
            most = min(asked, self.room(pool, limited))
            keys = Counter(task.lock for task in free.values())
            possible = sum(min(n, SLOTS[key[-3:]] - live[key]) if key else n for key, n in keys.items())
            assert len(taken) <= min(most, possible)
            if not suspects or not any(keys.keys() - {None}):  # suspects whose lock is held take places of a claim
                assert len(taken) == min(most, possible)
            self.seen["claims that a limit cut"] += len(taken) < min(asked, possible)
            self.seen["tasks that a held lock kept back"] += possible < len(free)
            self.seen["tasks claimed with a lock"] += sum(free[i].lock is not None for i in taken)
            for i in taken:
                behind = [o for o in free if o not in taken and self.same_line(o, i) and not suspects]
                assert all(free[i].priority <= free[other].priority for other in behind), "the first in line goes first"
        assert len({ticket.id for ticket in got}) == len(got)
        assert [ticket.seq for ticket in got] == sorted(ticket.seq for ticket in got)
        for ticket in got:
            task = self.tasks[ticket.id]
            task.state, task.token, task.worker = "running", ticket.token, claimer.id
            task.attempt += 1
            assert (ticket.attempt, ticket.failures, ticket.crashes) == (task.attempt, task.failures, task.crashes)
            assert (ticket.run_id, ticket.item_id, ticket.step) == (task.run, task.item, task.step)
            assert ticket.lock_key == task.lock
            assert ticket.fence > self.fence, "fences grow with every claim"
        self.fence = max([self.fence, *(ticket.fence for ticket in got)])
        self.tickets += got
        self.seen["claims of suspects"] += suspects and bool(got)

    def room(self, pool: str, limited: bool) -> int:
        """How many more tasks of this pool the limits of the fleet allow."""
        slots, paused = self.limits.get(pool, (None, False))
        if paused or (slots is not None and not limited):
            return 0
        if slots is None:
            return len(self.tasks)
        return max(0, slots - sum(t.state == "running" and STEPS[t.step].pool == pool for t in self.tasks.values()))

    def same_line(self, one: int, other: int) -> bool:
        return (self.tasks[one].run, self.tasks[one].lock) == (self.tasks[other].run, self.tasks[other].lock)

    def settle(
        self, choices: list[tuple[str, int]], outcome: str, twice: bool, follow: bool, number: int
    ) -> None:  # fmt: skip
        """With any tickets that were ever issued: its own, those of others, lost ones, one and the same twice."""
        tickets = [ticket for choice in choices if (ticket := self.pick(choice))]
        claimer = self.claimer(number)
        expected = {ticket.id for ticket in tickets if self.holds(ticket)}
        for ticket in tickets:
            if not self.holds(ticket) and self.tasks[ticket.id].state == "running":
                self.seen["stale settles while another holds the task"] += 1
        self.seen["mixed batches"] += 0 < len(expected) < len({(ticket.id, ticket.token) for ticket in tickets})
        batch = [(ticket, outcome) for ticket in tickets]
        followed = sorted(i for i in expected if follow and self.tasks[i].step == 0)
        new = [NewTask(self.tasks[i].run, "other", "parse", "{}", self.tasks[i].item, 1, priority=-1,
                       max_attempts=3, max_crashes=2)
               for i in followed]  # fmt: skip

        async def finish() -> tuple[set[int], list[int]]:
            async with self.connection.transaction():
                done = await queue.settle(self.connection, claimer, batch)
                return done, await queue.enqueue(self.connection, new)

        done, ids = self.do(finish())
        assert done == expected
        self.made(ids, [ModelTask(self.tasks[i].run, 1, self.tasks[i].item, priority=-1) for i in followed])
        for task_id in expected:
            task = self.tasks[task_id]
            self.ends(task_id, "completed", worker=claimer.id)
            task.state, task.worker = "completed", None
            self.meet(task_id)
            if outcome != "ok":
                self.extra[task.run, task.step, outcome] += 1
        self.seen["settled"] += len(expected)
        if twice:
            assert self.do(queue.settle(self.connection, claimer, batch)) == set()
        completed = {(task_id, token) for task_id, token, *_, ended in self.attempts if ended == "completed"}
        known = {ticket.id for ticket in tickets if (ticket.id, str(ticket.token)) in completed}
        assert self.do(queue.settled_by(self.connection, tickets)) == known

    def meet(self, task_id: int) -> None:
        """It completed: who needed nothing else may begin."""
        for number, other in self.tasks.items():
            if other.needs.pop(task_id, None) is not None and other.state == "waiting":
                self.seen["tasks whose needs were met" if not other.needs else "tasks that need more"] += 1
                if not other.needs:
                    self.put_back(number, due=other.due)

    def fail(self, choice: tuple[str, int], cause: Failure, final: bool, number: int) -> None:
        ticket = self.pick(choice)
        if ticket is not None:
            self.fail_one(ticket, cause, final, number)

    def fail_one(self, ticket: queue.Task, cause: Failure, final: bool, number: int) -> None:
        claimer, task = self.claimer(number), self.tasks[ticket.id]
        failure = Failure(cause.code, cause.error, cause.message, not final, cause.backoff)
        got = self.do(queue.fail(self.connection, claimer, ticket, failure))
        if not self.holds(ticket):
            self.seen["stale failures while another holds the task"] += task.state == "running"
            assert got is None
            return
        again = not final and task.failures + 1 < STEPS[task.step].max_attempts
        self.ends(ticket.id, "failed", failure.cause, claimer.id)
        task.failures += 1
        self.put_back(ticket.id, "available" if again else "failed")
        self.extra[task.run, task.step, "errors"] += 1
        if not again:
            self.seen["failures for good"] += 1
            self.events["step.failed", task.run, ticket.id, None] += 1
        assert got == task.state

    def crash(self, choice: tuple[str, int], number: int) -> None:
        ticket = self.pick(choice)
        if ticket is None:
            return
        claimer, task = self.claimer(number), self.tasks[ticket.id]
        got = self.do(queue.crash(self.connection, claimer, ticket, "signal"))
        if not self.holds(ticket):
            self.seen["stale crashes while another holds the task"] += task.state == "running"
            assert got is None
            return
        self.ends(ticket.id, "crashed", CRASHED, claimer.id)
        self.breaker[STEPS[task.step].kind] += 1
        self.seen["breakers that opened"] += self.breaker[STEPS[task.step].kind] == 6
        assert got == self.charge_crash(ticket.id, True, STEPS[task.step].max_crashes)

    def release(self, choices: list[tuple[str, int]], later: bool) -> None:
        tickets = [ticket for choice in choices if (ticket := self.pick(choice))]
        expected = {ticket.id for ticket in tickets if self.holds(ticket)}
        for ticket in tickets:
            if not self.holds(ticket) and self.tasks[ticket.id].state == "running":
                self.seen["stale releases while another holds the task"] += 1
        back = [(ticket, 600.0 if later else 0.0, "quota") for ticket in tickets]
        assert self.do(queue.release(self.connection, back)) == expected
        for task_id in expected:
            self.put_back(task_id, due=not later)

    def wait(self) -> None:
        """Long enough for everything that was put off."""
        self.do(self.connection.execute("update task set run_at = clock_timestamp() where state = 'available'"))
        self.do(self.connection.execute("delete from breaker"))
        for task in self.tasks.values():
            task.due = task.due or task.state == "available"
        self.breaker.clear()

    def limit(self, pool: str, slots: int | None, paused: bool) -> None:
        """A person limits a pool over the whole fleet, or pauses it."""
        sql = """insert into pool (name, slots, paused) values ($1, $2, $3)
            on conflict (name) do update set slots = $2, paused = $3"""
        self.do(self.connection.execute(sql, pool, slots, paused))
        self.limits[pool] = (slots, paused)

    def lock(self, number: int, key: str, n: int) -> None:
        """Tasks that run only while they hold a slot."""
        run_id, run = self.run_at(number)
        if run.under_way:
            new = NewTask(
                run_id, "bare", lock=f"item:{number}{key}", lock_slots=SLOTS[key], max_attempts=2, max_crashes=3
            )
            ids = self.do(self.together(lambda: queue.enqueue(self.connection, [new] * n)))
            self.made(ids, [ModelTask(run_id, 0, None, lock=f"item:{number}{key}") for _ in ids])

    def hold(self, number: int, key: str, over: bool) -> None:
        """Somebody who is no task takes a slot for a day, or has died since."""
        sql = """insert into lock (key, slot, holder_kind, holder, token, fence, expires_at)
            select $1::text, s, 'cli', 'model', gen_random_uuid(), 0, clock_timestamp() + $3 * interval '1 day'
            from generate_series(1, $2::int) as s where not exists (select 1 from lock where key = $1 and slot = s)
            limit 1 returning slot"""
        slot = self.do(self.connection.fetchval(sql, f"item:{number}{key}", SLOTS[key], -1 if over else 1))
        self.foreign[f"item:{number}{key}"] += slot is not None and not over

    def depend(self, number: int, of: list[int]) -> None:
        """A task that waits for others, some of which have ended already."""
        run_id, run = self.run_at(number)
        known = sorted((i for i, t in self.tasks.items() if t.run == run_id and t.step != GATHER), reverse=True)
        after = tuple({known[place % len(known)] for place in of}) if known else ()
        if not run.under_way or not after:
            return
        new = NewTask(run_id, "bare", after=after, max_attempts=2, max_crashes=3)
        ids = self.do(self.together(lambda: queue.enqueue(self.connection, [new])))
        lost = {need: int(not self.tasks[need].open) for need in after if self.tasks[need].state != "completed"}
        self.made(ids, [ModelTask(run_id, 0, None, "waiting" if lost else "available", needs=lost)])

    def abandon(self) -> None:
        """Who waits for what will never complete is cancelled; those behind him at the next call."""
        told = {i: [need for need, lost in t.needs.items() if lost == 1] for i, t in self.tasks.items()}
        expected = {i for i, needs in told.items() if needs and self.tasks[i].state == "waiting"}
        assert set(self.do(queue.abandon(self.connection))) == expected
        for task_id, needs in told.items():
            self.tasks[task_id].needs |= dict.fromkeys(needs, 2)
        for task_id in expected:
            self.stop(task_id)
            self.tasks[task_id].told = True
        self.seen["abandoned"] += len(expected)

    # Runs.

    def add(self, number: int, names: list[str]) -> None:
        """Inputs, some of them known already; known ones count again when they had been taken out."""
        run_id, run = self.run_at(number)
        items = [NewItem(hashlib.sha256(name.encode()).digest(), name, name) for name in names]
        by_key = self.do(self.together(lambda: workflow.add_items(self.connection, run_id, items)))
        found = {item.name: by_key[item.key] for item in items}
        fresh = {item_id for item_id in found.values() if item_id not in run.counting}
        if fresh:
            self.seen["runs that began again with new inputs"] += not run.under_way
            self.open_run(run)
        run.items |= found
        run.counting |= fresh
        self.removed -= fresh
        rows = self.do(self.connection.fetch("select id, item_id from task where not id = any ($1)", [*self.tasks]))
        assert sorted(row["item_id"] for row in rows) == sorted(fresh)
        self.made([row["id"] for row in rows], [ModelTask(run_id, 0, row["item_id"]) for row in rows])

    def seal(self, number: int, dropped: set[str]) -> None:
        run_id, run = self.run_at(number)
        kept = [item for name, item in run.items.items() if item in run.counting and name not in dropped]
        gone = run.counting - set(kept)
        got = self.do(self.together(lambda: workflow.seal(self.connection, run_id, [], [], kept)))
        assert sorted(got) == sorted(name for name, item in run.items.items() if item in gone)
        self.stop_all({i for i in self.tasks if self.tasks[i].item in gone and self.tasks[i].state in OPEN + BROKEN})
        self.removed |= gone
        run.counting -= gone
        if gone:
            self.seen["inputs taken out"] += 1
            self.open_run(run)
        run.sealed = True

    def stop_all(self, ids: set[int]) -> None:
        for task_id in ids:
            self.stop(task_id)

    def withdraw(self, number: int, name: str) -> None:
        _, run = self.run_at(number)
        item = run.items.get(name, 0)
        expected = {i for i, t in self.tasks.items() if t.item == item and t.state in OPEN + BROKEN}
        assert (
            set(self.do(self.together(lambda: queue.cancel(self.connection, item_ids=[item], broken=True)))) == expected
        )
        self.stop_all(expected)

    def cancel(self, number: int, all_of_it: bool) -> None:
        """The tasks alone, or the run with them."""
        run_id, run = self.run_at(number)
        expected = self.of_run(run_id, *OPEN)
        if all_of_it:
            assert self.do(self.together(lambda: workflow.cancel(self.connection, run_id))) == len(expected)
        else:
            assert set(self.do(self.together(lambda: queue.cancel(self.connection, run_id=run_id)))) == expected
        self.stop_all(expected)
        if all_of_it and run.under_way:
            self.end_run(run_id, "cancelled")

    def retry(self, number: int, cause: bytes | None) -> None:
        run_id, run = self.run_at(number)
        again = {i for i in self.of_run(run_id, *BROKEN) if cause is None or self.tasks[i].cause == cause}
        assert self.do(self.together(lambda: workflow.retry(self.connection, run_id, cause))) == len(again)
        for i in again:
            task = self.tasks[i]
            if task.step != GATHER:
                task.failures, task.crashes, task.priority = 0, 0, -task.step
                self.put_back(i)
        self.find_again(again)
        if again:
            self.seen["reopened"] += len(again)
            self.seen["reopened of one cause"] += cause is not None
            self.open_run(run)
            run.sealed = True
            self.events["run.retry", run_id, None, None] += 1

    def find_again(self, ids: set[int]) -> None:
        """What was needed begins anew, and whoever was cancelled for the lack of it waits again."""
        while ids:
            for task in self.tasks.values():
                task.needs |= dict.fromkeys(ids & task.needs.keys(), 0)
            ids = {i for i, t in self.tasks.items() if t.told and ids & t.needs.keys() and not any(t.needs.values())}
            for task_id in ids:
                self.tasks[task_id].told = False
                self.put_back(task_id, "waiting", due=self.tasks[task_id].due)
            self.seen["revived"] += len(ids)

    def pause(self, number: int) -> None:
        run_id, run = self.run_at(number)
        got = self.do(self.connection.fetchval(workflow.SQL["pause"], run_id))
        assert (got is not None) == (run.state == "running")
        if run.state == "running":
            run.state = "paused"
            self.events["run.pause", run_id, None, None] += 1

    def resume(self, number: int) -> None:
        run_id, run = self.run_at(number)
        got = self.do(self.connection.fetchval(workflow.SQL["resume"], run_id))
        assert (got is not None) == (run.state == "paused")
        if run.state == "paused":
            run.state = "running"
            self.events["run.resume", run_id, None, None] += 1

    def due(self, run_id: int) -> str | None:
        """What must become of a run now."""
        run = self.runs[run_id]
        steps = {task.step for task in self.tasks.values() if task.run == run_id and task.open}
        if run.state != "running" or not run.sealed:
            return None
        if run.gathered < run.epoch and not steps:
            return "barrier"
        if steps:
            return None
        if not self.of_run(run_id, *BROKEN):
            return "completed"
        return "partial" if any(self.tasks[i].step == 1 for i in self.of_run(run_id, "completed")) else "failed"

    def follow(self, run_id: int, became: str | None) -> None:
        """What `advance` has done, done to the model too; the barrier's new task is the one that nobody knows yet."""
        if became == "barrier":
            self.seen["barriers"] += 1
            self.runs[run_id].gathered = self.runs[run_id].epoch
            for task_id in self.of_run(run_id, *BROKEN):
                if self.tasks[task_id].step == GATHER:
                    self.put_back(task_id, "cancelled")
                    self.seen["barriers that began anew"] += 1
            sql = "select id from task where run_id = $1 and not id = any ($2)"
            rows = self.do(self.connection.fetch(sql, run_id, [*self.tasks]))
            self.made([row["id"] for row in rows], [ModelTask(run_id, GATHER, None)])
        elif became is not None:
            self.end_run(run_id, became)

    def advance(self, number: int) -> None:
        run_id, _ = self.run_at(number)
        expected = self.due(run_id)
        assert self.do(workflow.advance(self.connection, run_id)) == expected
        self.follow(run_id, expected)

    def sweep(self) -> None:
        """What any process does for all runs, and finds by itself."""
        expected = {run_id: self.due(run_id) for run_id in self.runs}
        self.do(upkeep.advance_runs(self.connection))
        for run_id, became in expected.items():
            self.follow(run_id, became)

    def work_off(self, number: int, badly: bool) -> None:
        """A good worker does all that it can, or fails at it for good, so that runs come to their end."""
        place = self.able()
        self.abandon()
        self.claim(place, 6, 4)
        self.claim(place, 3, 0, locked=True)
        if badly:
            for ticket in [ticket for ticket in self.tickets if self.holds(ticket)][-4:]:
                self.fail_one(ticket, CAUSES[1], True, place)
        else:
            self.settle([("current", i) for i in range(12)], "ok", False, False, place)
        self.same_as_the_database()
        self.advance(number)

    def fold(self) -> None:
        assert self.do(upkeep.fold(self.connection))

    # The comparison.

    def same_as_the_database(self) -> None:
        self.seen["comparisons"] += 1
        found = json.loads(self.do(self.connection.fetchval(LOOK)))
        rows = {name: [tuple(row) for row in rows or ()] for name, rows in found.items()}
        ended = (*BROKEN, "completed", "cancelled")
        tasks = {
            (i, t.run, t.step, t.item, t.state, t.attempt, t.failures, t.crashes, t.priority, t.worker,
             str(t.token) if t.token else None, t.due or t.state != "available", t.state in ended)
            for i, t in self.tasks.items()
        }  # fmt: skip
        differ("tasks", set(rows["tasks"]), tasks)
        differ("attempts", set(rows["attempts"]), self.attempts)
        completed = Counter(row[0] for row in rows["attempts"] if row[-1] == "completed")
        assert all(n == 1 for n in completed.values()), "at most one completed attempt for each task"
        counters = Counter((t.run, t.step, t.state) for t in self.tasks.values()) + self.extra
        differ("counters", set(rows["counters"]), {(*key, n) for key, n in counters.items() if n})
        runs = {
            (i, r.state, r.sealed, r.epoch, r.gathered, not r.under_way) for i, r in self.runs.items()
        }  # fmt: skip
        differ("runs", set(rows["runs"]), runs)
        items = {item for run in self.runs.values() for item in run.items.values()}
        differ("items", set(rows["items"]), {(i, "removed" if i in self.removed else "active") for i in items})
        workers = {(i, w.state, w.sighted, w.lease != "good") for i, w in self.workers.items()}
        differ("workers", set(rows["workers"]), workers)
        locks = {(t.lock, i, str(t.token)) for i, t in self.tasks.items() if t.state == "running" and t.lock}
        differ("locks", {row for row in rows["locks"] if row[1]}, locks)
        held = Counter(row[0] for row in rows["locks"] if not row[1])
        assert held == +self.foreign, f"locks of others: database {held}, model {self.foreign}"
        needs = {(i, need, lost) for i, t in self.tasks.items() for need, lost in t.needs.items()}
        differ("needs", set(rows["needs"]), needs)
        differ("events", set(rows["events"]), {(*key, n) for key, n in self.events.items()})


def differ(what: str, found: set[tuple[Any, ...]], expected: set[tuple[Any, ...]]) -> None:
    """Fails with what is only in the database and what is only in the model."""
    assert found == expected, f"{what}: database {sorted(found - expected, key=str)}, model {expected - found}"


def explore(
    url: str, *, histories: int, steps: int, shrink: bool = True, seen: Counter[str] | None = None
) -> Counter[str]:
    """Random histories on the database at `url`, the same ones every time; returns what was seen. The first that fails
    is cut down to the steps that it needs. Call it in a thread of its own: the machine has an event loop to itself."""
    seen = Counter() if seen is None else seen
    with asyncio.Runner() as runner:
        first, second = runner.run(connect(url)), runner.run(connect(url))
        machine = Machine(runner, first, second, seen)
        machine.patience = 30.0 if shrink else 3.0
        try:
            for history in range(histories):
                dice = Random(history)
                seeds = [dice.getrandbits(40) for _ in range(steps)]
                error = fails(machine, seeds)
                if error is not None and shrink:
                    shortest(machine, seeds[: len(machine.story)])
                if error is not None:
                    raise AssertionError("\n".join([f"{type(error).__name__}: {error}", *machine.story])) from error
        finally:
            first.terminate()
            second.terminate()
    return seen


def fails(machine: Machine, seeds: Sequence[int]) -> Exception | None:
    """What a history fails with."""
    try:
        machine.play(seeds)
    except (AssertionError, KeyError, TimeoutError, asyncpg.PostgresError) as error:
        return error
    return None


def shortest(machine: Machine, seeds: list[int]) -> None:
    """Leaves the machine at a short history that still fails: takes out halves, quarters, ..., single steps."""
    size = len(seeds) // 2
    while size:
        for start in reversed(range(0, len(seeds), size)):
            shorter = seeds[:start] + seeds[start + size :]
            if fails(machine, shorter) is not None:
                seeds = shorter
        size //= 2
    fails(machine, seeds)


LEAST = {
    "comparisons": 3600,
    "settled": 400,
    "stale settles while another holds the task": 30,
    "stale failures while another holds the task": 8,
    "stale releases while another holds the task": 8,
    "stale crashes while another holds the task": 3,
    "mixed batches": 25,
    "rescues": 40,
    "rescues without a charge": 5,
    "quarantines": 5,
    "failures for good": 50,
    "claims of suspects": 8,
    "beats of the buried": 20,
    "tasks taken from their worker by a cancel or a withdraw": 8,
    "inputs taken out": 10,
    "reopened": 20,
    "reopened of one cause": 3,
    "barriers": 20,
    "ends": 20,
    "runs that began again with new inputs": 5,
    "tasks claimed with a lock": 40,
    "tasks that a held lock kept back": 10,
    "locks that became free": 20,
    "claims that a limit cut": 10,
    "tasks whose needs were met": 5,
    "tasks that need more": 3,
    "abandoned": 20,
    "revived": 2,
}


async def test_the_queue_does_what_the_model_does(database_url: str) -> None:
    seen = await asyncio.to_thread(explore, database_url, histories=HISTORIES, steps=STEPS_EACH)
    print(json.dumps(dict(sorted(seen.items())), indent=1))
    assert {what: seen[what] for what, least in LEAST.items() if seen[what] < least} == {}
