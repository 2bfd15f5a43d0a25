"""The slot of a lock, small: two tasks and one from outside of the queue want it, and write to a store.

What is modelled is the lock's part of queue.sql (`claim` looks and then inserts, the key decides; `settle`, `release`
and `rescue` free by token) and locks.sql (`take`, `number`, `refresh`, `release`); and a store that checks fences.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.engine.small_model import Model, put

TRUSTS = "the look decides and not the key"
BY_KEY = "a slot is freed by its key alone"
REFRESH = "a renewal does not look at the token"
KEPT_BY_RESCUE = "rescue keeps the slot"
KEPT_BY_SETTLE = "settle keeps the slot"
ANY_FENCE = "the store takes any fence"
EARLY = "the fence is drawn before the slot is won"
LOOKED, HOLDS, DONE = "looked", "holds", "done"


class Hold(NamedTuple):
    """What somebody believes to have. A token is the number of a claim; the fence says who came later."""

    token: int
    fence: int


class Seeker(NamedTuple):
    """A task (0 and 1) or somebody else (2), and what is left of attempts that do not know that they are over."""

    phase: str = ""
    hold: Hold | None = None
    stale: frozenset[Hold] = frozenset()
    writes: int = 1


class Slot(NamedTuple):
    seekers: tuple[Seeker, ...] = (Seeker(), Seeker(), Seeker())
    row: tuple[int, Hold, bool] | None = None  # (whose, token and fence, whether its time has passed)
    tokens: int = 0
    fences: int = 0
    stored: int = 0  # the highest fence that the store has seen
    suspicions: int = 3  # a rescue of a task that runs, or the time of the other one passing
    wrong: str = ""

    def seeker(self, place: int, seeker: Seeker) -> Slot:
        return self._replace(seekers=put(self.seekers, place, seeker))


def _steps(s: Slot, variant: str) -> Iterator[tuple[str, Slot]]:
    for place, seeker in enumerate(s.seekers):
        yield from _seeks(s, place, seeker, variant)
        if seeker.phase == HOLDS:
            yield from _holds(s, place, seeker, variant)
        for hold in sorted(seeker.stale):
            yield from _stale(s, place, seeker, hold, variant)
    if s.row is not None and s.row[2]:
        yield "the sweep frees it", s._replace(row=None)


def _seeks(s: Slot, place: int, seeker: Seeker, variant: str) -> Iterator[tuple[str, Slot]]:
    free = s.row is None or s.row[2]
    if seeker.phase == "" and free:
        early = Hold(0, s.fences + 1) if variant == EARLY else None
        fences = s.fences + (variant == EARLY)
        yield (
            f"{place} looks: it is free",
            s.seeker(place, seeker._replace(phase=LOOKED, hold=early))._replace(fences=fences),
        )
    elif seeker.phase == LOOKED and not (free or variant == TRUSTS):
        yield f"{place} was too late", s.seeker(place, seeker._replace(phase="", hold=None))
    elif seeker.phase == LOOKED:
        fence = seeker.hold.fence if seeker.hold is not None else s.fences + 1
        won = Hold(s.tokens + 1, fence)
        yield (
            f"{place} has it: token {won.token}, fence {won.fence}",
            s.seeker(place, seeker._replace(phase=HOLDS, hold=won))._replace(
                row=(place, won, False), tokens=s.tokens + 1, fences=max(s.fences, fence)
            ),
        )


def _holds(s: Slot, place: int, seeker: Seeker, variant: str) -> Iterator[tuple[str, Slot]]:
    hold = seeker.hold
    assert hold is not None
    mine = s.row is not None and s.row[1] == hold and not s.row[2]
    if seeker.writes:
        wrote = s.seeker(place, seeker._replace(writes=seeker.writes - 1))
        refused = hold.fence < s.stored and variant != ANY_FENCE
        wrong = "the store refuses who holds the slot" if refused and mine else ""
        yield (
            f"{place} writes with fence {hold.fence}",
            wrote._replace(stored=s.stored if refused else hold.fence, wrong=wrong),
        )
    over = s.seeker(place, Seeker(DONE, None, seeker.stale, seeker.writes))
    keeps = variant == KEPT_BY_SETTLE and place < 2
    yield f"{place} is done and lets go", over if keeps else _freed(over, hold, variant)
    if s.suspicions and mine:
        late = s._replace(suspicions=s.suspicions - 1)
        if place < 2:
            again = late.seeker(place, Seeker("", None, seeker.stale | {hold}, seeker.writes))
            freed = again if variant == KEPT_BY_RESCUE else _freed(again, hold, variant)
            yield f"the worker of {place} is buried", freed
        else:
            passed = late.seeker(place, Seeker(DONE, None, seeker.stale | {hold}, seeker.writes))
            yield f"the time of {place} passes", passed._replace(row=(place, hold, True))


def _stale(s: Slot, place: int, seeker: Seeker, hold: Hold, variant: str) -> Iterator[tuple[str, Slot]]:
    """What was frozen goes on, as if it still held the slot."""
    gone = s.seeker(place, seeker._replace(stale=seeker.stale - {hold}))
    yield f"the former {place} lets go", _freed(gone, hold, variant)
    if variant == ANY_FENCE or hold.fence >= s.stored:
        wrong = "an older write came after a newer one" if hold.fence < s.stored else ""
        yield f"the former {place} writes with fence {hold.fence}", gone._replace(stored=hold.fence, wrong=wrong)
    if place == 2 and s.row is not None and (s.row[1] == hold or variant == REFRESH):
        back = gone.seeker(2, gone.seekers[2]._replace(phase=HOLDS, hold=hold))
        yield "the former 2 renews", back._replace(row=(2, hold, False))


def _freed(s: Slot, hold: Hold, variant: str) -> Slot:
    mine = s.row is not None and (s.row[1].token == hold.token or variant == BY_KEY)
    return s._replace(row=None) if mine else s


def _wrong(s: Slot) -> str | None:
    if s.wrong:
        return s.wrong
    if sum(seeker.phase == HOLDS for seeker in s.seekers) > 1:
        return "two hold one slot"
    return None


SLOT = Model(
    "the slot of a lock", Slot(), _steps, _wrong,
    lambda s: s.row is None and all(seeker.phase == DONE for seeker in s.seekers),
    {
        TRUSTS: "two hold one slot",
        BY_KEY: "two hold one slot",
        REFRESH: "two hold one slot",
        KEPT_BY_RESCUE: "it stands still and is not complete",
        KEPT_BY_SETTLE: "it stands still and is not complete",
        ANY_FENCE: "an older write came after a newer one",
        EARLY: "the store refuses who holds the slot",
    },
)  # fmt: skip
