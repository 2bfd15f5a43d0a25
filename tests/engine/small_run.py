"""The end of a run, small: two tasks, a follower, a barrier, two that keep house, a retry, a late input.

What is modelled is workflow.py and workflow.sql: `advance` (lock the run, look, then open the barrier or end), `retry`
and `add_items` (open tasks, lock the run, open a new epoch), and settling with its followers in one commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.engine.small_model import Model, put

OPEN, COMPLETED, FAILED, LATER = "open", "completed", "failed", "to be enqueued"
IN_THE_COMMIT = "the end is looked for in the settling transaction"
AFTER = "the end is only looked for by who settles"
SECOND = "followers come in a second transaction"
BARRIER_FIRST = "barriers are looked for before open tasks"
LOOK_FIRST = "the look comes before the lock"
NO_LOCK = "advance does not lock the run"
NO_GUARD = "advance does not look at the state again"
CLOSED = "a retry leaves the run closed"


class Task(NamedTuple):
    """`settling`: done but not committed, with what its transaction saw."""

    state: str = OPEN
    barrier: bool = False
    settling: bool | None = None


class House(NamedTuple):
    """One that keeps house, in the middle of `advance`."""

    locked: bool = False
    barrier: bool | None = None  # whether one is due, as it has seen
    busy: bool | None = None


class Ending(NamedTuple):
    tasks: tuple[Task, ...] = (Task(), Task())
    ended: bool = False
    sealed: bool = True
    epoch: int = 1
    gathered: int = 0  # the epoch in which the barrier was opened
    ends: tuple[int, ...] = ()
    barriers: tuple[int, ...] = ()
    houses: tuple[House | None, ...] = (None, None)
    opening: str = ""  # a retry or a late input that has the run's lock
    followers: int = 2
    failures: int = 1
    retries: int = 1
    inputs: int = 1
    kills: int = 1
    unseen: int = 0  # workers that still have to look, after their commit

    @property
    def lock(self) -> bool:
        return bool(self.opening) or any(house is not None and house.locked for house in self.houses)

    @property
    def busy(self) -> bool:
        return any(task.state == OPEN for task in self.tasks)

    @property
    def due(self) -> bool:
        return self.gathered < self.epoch and not self.busy


def _steps(s: Ending, variant: str) -> Iterator[tuple[str, Ending]]:
    for i, task in enumerate(s.tasks):
        if task.state == OPEN and not s.ended:
            yield from _settle(s, i, variant)
        if task.state == LATER:
            yield f"the follower {i} is enqueued", s._replace(tasks=put(s.tasks, i, Task()))
    if variant == IN_THE_COMMIT:
        pass
    elif variant == AFTER:
        yield from _after(s)
    else:
        for place in range(len(s.houses)):
            yield from _advance(s, place, variant)
    yield from _open(s, variant)


def _settle(s: Ending, i: int, variant: str) -> Iterator[tuple[str, Ending]]:
    task = s.tasks[i]
    if variant == IN_THE_COMMIT:
        if task.settling is None:
            others = any(other.state == OPEN for j, other in enumerate(s.tasks) if j != i)
            looked = task._replace(settling=not others)
            yield (
                f"task {i} is settled and {'others are open' if others else 'is the last'}",
                s._replace(tasks=put(s.tasks, i, looked)),
            )
            return
        done = s._replace(tasks=put(s.tasks, i, Task(COMPLETED, task.barrier)))
        yield f"task {i} commits", _act(done) if task.settling else done
        return
    done = s._replace(tasks=put(s.tasks, i, Task(COMPLETED, task.barrier)), unseen=s.unseen + (variant == AFTER))
    yield f"task {i} is settled", done
    if s.failures:
        failed = s._replace(tasks=put(s.tasks, i, Task(FAILED, task.barrier)), unseen=done.unseen)
        yield f"task {i} fails", failed._replace(failures=s.failures - 1)
    if s.followers and not task.barrier:
        follower = Task(LATER) if variant == SECOND else Task()
        more = done._replace(tasks=(*done.tasks, follower), followers=s.followers - 1)
        yield f"task {i} is settled and a follower is {follower.state}", more


def _after(s: Ending) -> Iterator[tuple[str, Ending]]:
    if s.unseen:
        looked = s._replace(unseen=s.unseen - 1)
        idle = s.busy or s.ended or not s.sealed
        yield "who has settled looks", looked if idle else _act(looked)
        if s.kills:
            yield "who has settled is killed", looked._replace(kills=s.kills - 1)


def _act(s: Ending) -> Ending:
    """Opens the barrier, or ends the run."""
    if s.gathered < s.epoch:
        return s._replace(tasks=(*s.tasks, Task(OPEN, True)), gathered=s.epoch, barriers=(*s.barriers, s.epoch))
    return s._replace(ended=True, ends=(*s.ends, s.epoch))


def _advance(s: Ending, place: int, variant: str) -> Iterator[tuple[str, Ending]]:
    house = s.houses[place]
    if house is None:
        ready = not s.ended and s.sealed
        if variant == LOOK_FIRST and ready:
            looked = House(False, s.due, s.busy)
            yield f"house {place} looks", s._replace(houses=put(s.houses, place, looked))
        elif (not s.lock or variant == NO_LOCK) and (ready or variant == NO_GUARD) and s.sealed:
            begun = House(variant != NO_LOCK)
            yield f"house {place} has the run's row", s._replace(houses=put(s.houses, place, begun))
        return
    if not house.locked and variant == LOOK_FIRST:
        if not s.lock:
            yield (
                f"house {place} has the run's row",
                s._replace(houses=put(s.houses, place, house._replace(locked=True))),
            )
        return
    if house.busy is None and (variant != BARRIER_FIRST or house.barrier is not None):
        looked = house._replace(busy=s.busy)
        yield f"house {place} finds {'' if s.busy else 'nothing '}open", s._replace(houses=put(s.houses, place, looked))
    elif house.barrier is None:
        looked = house._replace(barrier=s.due)
        yield (
            f"house {place} finds {'a' if s.due else 'no'} barrier due",
            s._replace(houses=put(s.houses, place, looked)),
        )
    else:
        over = s._replace(houses=put(s.houses, place, None))
        if house.barrier:
            task = Task(OPEN, True)
            yield (
                f"house {place} opens the barrier",
                over._replace(tasks=(*s.tasks, task), gathered=s.epoch, barriers=(*s.barriers, s.epoch)),
            )
        elif house.busy:
            yield f"house {place} goes", over
        else:
            yield f"house {place} ends the run", over._replace(ended=True, ends=(*s.ends, s.epoch))


def _open(s: Ending, variant: str) -> Iterator[tuple[str, Ending]]:
    """A retry, or one more input: their tasks are seen with their commit, after they had the run's row."""
    if s.opening:
        tasks = s.tasks
        if s.opening == "retry":
            tasks = tuple(Task() if task.state == FAILED and not task.barrier else task for task in tasks)
            if s.gathered == s.epoch:  # a broken barrier is made again
                tasks = tuple(Task(COMPLETED, True) if t.barrier and t.state == FAILED else t for t in tasks)
        else:
            tasks = (*tasks, Task())
        over = s._replace(tasks=tasks, opening="")
        if not (variant == CLOSED and s.opening == "retry"):
            fresh = s.ended or s.gathered == s.epoch
            over = over._replace(ended=False, epoch=s.epoch + fresh, sealed=s.opening == "retry")
        yield f"the {s.opening} commits", over
    elif not s.lock or variant == NO_LOCK:
        if s.retries and any(task.state == FAILED for task in s.tasks):
            yield "a retry has the run's row", s._replace(opening="retry", retries=s.retries - 1)
        if s.inputs:
            yield "a late input has the run's row", s._replace(opening="input", inputs=s.inputs - 1)
        if not s.sealed:
            yield "the inputs are sealed", s._replace(sealed=True, unseen=s.unseen + (variant == AFTER))


def _wrong(s: Ending) -> str | None:
    if s.ended and any(task.state in (OPEN, LATER) for task in s.tasks):
        return "something is open in a run that has ended"
    if s.ended and s.gathered < s.epoch:
        return "the run has ended without its barrier"
    if len(set(s.ends)) < len(s.ends):
        return "an epoch has ended twice"
    if len(set(s.barriers)) < len(s.barriers):
        return "a barrier was opened twice in an epoch"
    return None


RUN = Model(
    "the end of a run", Ending(), _steps, _wrong, lambda s: s.ended and s.ends[-1] == s.epoch,
    {
        IN_THE_COMMIT: "it stands still and is not complete",
        AFTER: "it stands still and is not complete",
        SECOND: "something is open in a run that has ended",
        BARRIER_FIRST: "the run has ended without its barrier",
        LOOK_FIRST: "a barrier was opened twice in an epoch",
        NO_LOCK: "something is open in a run that has ended",
        NO_GUARD: "an epoch has ended twice",
        CLOSED: "something is open in a run that has ended",
    },
)  # fmt: skip
