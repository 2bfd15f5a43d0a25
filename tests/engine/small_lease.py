"""The lease, small: two tasks, two workers, claims in batches whose replies get lost, deaths, and false suspicions.

What is modelled is queue.sql: `claim` (its worker's row is locked until it commits), `mark_dead` and `rescue` (two
statements of one transaction), `settle`, `beat`, `give_back` after `lock_worker`, `release` by a person.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.engine.small_model import Model, put

AVAILABLE, RUNNING, COMPLETED = "available", "running", "completed"


class Task(NamedTuple):
    state: str = AVAILABLE
    token: int = 0
    worker: int = -1
    recorded: int = 0


class Worker(NamedTuple):
    """A process and its row. A claim under way is (token, tasks, whether somebody waits for the reply)."""

    up: bool = True
    buried: bool = False
    holds: frozenset[tuple[int, int]] = frozenset()  # (task, token): attempts that the process believes are its own
    claiming: tuple[int, tuple[int, ...], bool] | None = None
    unanswered: frozenset[int] = frozenset()


class Lease(NamedTuple):
    tasks: tuple[Task, ...] = (Task(), Task())
    workers: tuple[Worker, ...] = (Worker(), Worker())
    burial: tuple[int, bool, tuple[int, ...]] | None = None  # (whose, row locked, what its first statement saw)
    token: int = 1
    kills: int = 1
    suspicions: int = 1  # of workers that live: frozen, cut off, or with a clock that was set
    losses: int = 1  # of replies
    orders: int = 1  # of a person: take a task away from its worker
    wrong: str = ""

    def task(self, place: int, task: Task) -> Lease:
        return self._replace(tasks=put(self.tasks, place, task))

    def worker(self, place: int, worker: Worker) -> Lease:
        return self._replace(workers=put(self.workers, place, worker))


def _steps(s: Lease, variant: str) -> Iterator[tuple[str, Lease]]:
    for place in range(len(s.workers)):
        yield from _process(s, place, variant)
        yield from _claims(s, place, variant)
    yield from _burial(s, variant)
    for i, task in enumerate(s.tasks):
        if task.state == RUNNING and s.orders:
            back = Task(recorded=task.recorded)
            yield f"somebody takes task {i} from its worker", s.task(i, back)._replace(orders=s.orders - 1)


def _process(s: Lease, place: int, variant: str) -> Iterator[tuple[str, Lease]]:
    worker = s.workers[place]
    claiming = worker.claiming and (*worker.claiming[:2], False)
    gone = Worker(False, worker.buried, claiming=claiming)
    if worker.up and s.kills:
        yield f"worker {place} is killed", s.worker(place, gone)._replace(kills=s.kills - 1)
    if worker.up and worker.buried:
        if variant == "a beat revives the buried":
            back = s.worker(place, worker._replace(buried=False))
            yield f"worker {place} beats", back._replace(wrong="who was buried lives again")
        else:
            yield f"worker {place} beats, is refused and exits", s.worker(place, gone)
    if not worker.up and worker.buried and worker.claiming is None:
        yield f"worker {place} is started again", s.worker(place, Worker())
    for i, token in sorted(worker.holds):
        yield from _settle(s, place, i, token, variant)


def _settle(s: Lease, place: int, i: int, token: int, variant: str) -> Iterator[tuple[str, Lease]]:
    worker, task = s.workers[place], s.tasks[i]
    mine = task.state == RUNNING and task.token == token
    checks = {
        "settle checks nothing": True,
        "settle checks the state only": task.state == RUNNING,
        "settle checks the worker": task.state == RUNNING and task.worker == place,
    }
    dropped = s.worker(place, worker._replace(holds=worker.holds - {(i, token)}))
    if not checks.get(variant, mine):
        yield f"worker {place} settles task {i} with token {token}: refused", dropped
        return
    done = Task(COMPLETED, recorded=task.recorded + 1)
    wrong = "" if mine else "a stale attempt was recorded"
    yield f"worker {place} settles task {i} with token {token}", dropped.task(i, done)._replace(wrong=wrong)
    if s.losses:
        again = s.task(i, done)._replace(wrong=wrong, losses=s.losses - 1)
        yield f"worker {place} settles task {i} with token {token}, and the reply is lost", again


def _claims(s: Lease, place: int, variant: str) -> Iterator[tuple[str, Lease]]:
    worker = s.workers[place]
    locked = s.burial is not None and s.burial[0] == place and s.burial[1]
    unlocked = variant == "claim does not lock its worker"
    if worker.claiming is not None:
        yield from _commit(s, place)
    elif worker.up and not worker.unanswered and not worker.buried and (unlocked or not locked):
        others = {i for other in s.workers if other.claiming for i in other.claiming[1]}
        free = tuple(i for i, task in enumerate(s.tasks) if task.state == AVAILABLE and i not in others)
        if free:
            claim = s.worker(place, worker._replace(claiming=(s.token, free, True)))
            yield f"worker {place} claims {list(free)} with token {s.token}", claim._replace(token=s.token + 1)
    if worker.up and worker.unanswered and not worker.buried and not locked:
        if variant == "a lost claim is forgotten":
            yield f"worker {place} goes on", s.worker(place, worker._replace(unanswered=frozenset()))
        elif worker.claiming is None or variant == "giving back does not wait for the claim":
            back = s.worker(place, worker._replace(unanswered=frozenset()))
            for i, task in enumerate(s.tasks):
                if task.token in worker.unanswered:
                    back = back.task(i, Task(recorded=task.recorded))
            yield f"worker {place} gives back what the lost reply named", back


def _commit(s: Lease, place: int) -> Iterator[tuple[str, Lease]]:
    """The server goes on with a claim whether or not anybody still waits for the reply."""
    worker = s.workers[place]
    assert worker.claiming is not None
    token, taken, awaited = worker.claiming
    idle = worker._replace(claiming=None)
    done = s
    for i in taken:
        done = done.task(i, Task(RUNNING, token, place, s.tasks[i].recorded))
    if not awaited:
        yield f"the claim {token} commits, and nobody hears of it", done.worker(place, idle)
        return
    holds = idle._replace(holds=idle.holds | {(i, token) for i in taken})
    yield f"the claim {token} commits", done.worker(place, holds)
    if s.losses:
        deaf = worker._replace(claiming=(token, taken, False), unanswered=frozenset({token}))
        lost = s.worker(place, deaf)._replace(losses=s.losses - 1)
        yield f"worker {place} loses the connection of claim {token}", lost


def _burial(s: Lease, variant: str) -> Iterator[tuple[str, Lease]]:
    if s.burial is None:
        for place, worker in enumerate(s.workers):
            if worker.buried or (worker.up and not s.suspicions):
                continue
            free = worker.claiming is None or variant == "claim does not lock its worker"
            seen = tuple(i for i, task in enumerate(s.tasks) if task.state == RUNNING and task.worker == place)
            begun = s._replace(burial=(place, free, seen), suspicions=s.suspicions - worker.up)
            yield f"worker {place} is marked dead{'' if free else ', when its claim has committed'}", begun
        return
    place, locked, seen = s.burial
    worker = s.workers[place]
    if not locked:
        if worker.claiming is None:
            yield f"worker {place} is marked dead now", s._replace(burial=(place, True, seen))
        return
    over = s.worker(place, worker._replace(buried=True))._replace(burial=None)
    rescued = seen if variant == "rescue looks with the snapshot of the mark" else range(len(s.tasks))
    for i in rescued:
        task = s.tasks[i]
        if task.state == RUNNING and task.worker == place:
            keeps = task.token if variant == "rescue keeps the token" else 0
            over = over.task(i, Task(AVAILABLE, keeps, recorded=task.recorded))
    yield f"what worker {place} held is rescued", over


def _wrong(s: Lease) -> str | None:
    if s.wrong:
        return s.wrong
    for task in s.tasks:
        if task.recorded > 1:
            return "a task was recorded twice"
        if task.state == RUNNING and s.workers[task.worker].buried:
            return "a task is left with a worker that was buried"
        if task.state != RUNNING and task.token:
            return "a task that nobody runs has a token"
    return None


LEASE = Model(
    "the lease", Lease(), _steps, _wrong, lambda s: all(task.state == COMPLETED for task in s.tasks),
    {
        "settle checks nothing": "a stale attempt was recorded",
        "settle checks the state only": "a stale attempt was recorded",
        "settle checks the worker": "a stale attempt was recorded",
        "a beat revives the buried": "who was buried lives again",
        "claim does not lock its worker": "a task is left with a worker that was buried",
        "rescue looks with the snapshot of the mark": "a task is left with a worker that was buried",
        "rescue keeps the token": "a task that nobody runs has a token",
        "a lost claim is forgotten": "it stands still and is not complete",
        "giving back does not wait for the claim": "it stands still and is not complete",
    },
)  # fmt: skip
