"""The ledger of paid answers, small: one call that two workers want, deaths, false suspicions, frozen calls.

What is modelled is ledger.sql: `begin` (an intent, or wait for somebody else's), `journal` (not fenced by the task's
token, the first one wins), `renew` (a deadline that a frozen owner lets pass); and the task's claim, rescue, settling.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.engine.small_model import Model, put

NO_LEDGER = "answers are kept with the task only"
FENCED = "the journal is fenced by the token"
NO_WAIT = "nobody waits for a live call"
BURIED = "a buried owner counts as dead"
LAST = "the last answer wins"
BEGINS, ASKS, PAID = "begins", "asks", "was answered"


class Worker(NamedTuple):
    """One attempt at the task, under a token. `answer` is the number of the purchase."""

    token: int
    phase: str = BEGINS
    answer: int = 0
    buried: bool = False


class Intent(NamedTuple):
    """Who is asking: the place of a worker, and its token. `over`: its deadline has passed."""

    owner: int
    token: int
    over: bool = False


class Ledger(NamedTuple):
    workers: tuple[Worker | None, ...] = (None, None)
    token: int = 0
    held: bool = False
    settled: bool = False
    intent: Intent | None = None
    answer: int = 0
    paid: int = 0
    kills: int = 3
    suspicions: int = 3
    freezes: int = 2
    killed: int = 0
    frozen: int = 0
    wrong: str = ""


def _steps(s: Ledger, variant: str) -> Iterator[tuple[str, Ledger]]:
    alive = any(worker is not None and worker.token == s.token for worker in s.workers)
    if s.held and not s.settled and (not alive or s.suspicions):
        workers = tuple(w and w._replace(buried=w.buried or w.token == s.token) for w in s.workers)
        yield (
            f"the worker of token {s.token} is buried",
            s._replace(held=False, workers=workers, suspicions=s.suspicions - alive),
        )
    if s.intent is not None and not s.intent.over and s.freezes:
        over = s._replace(intent=s.intent._replace(over=True), freezes=s.freezes - 1, frozen=s.frozen + 1)
        yield "the call's owner is frozen until its deadline has passed", over
    for place, worker in enumerate(s.workers):
        if worker is None:
            if not s.held and not s.settled:
                claimed = s._replace(workers=put(s.workers, place, Worker(s.token + 1)), token=s.token + 1, held=True)
                yield f"worker {place} claims with token {s.token + 1}", claimed
            continue
        if s.kills:
            killed = s._replace(workers=put(s.workers, place, None), kills=s.kills - 1, killed=s.killed + 1)
            yield f"worker {place} is killed", killed
        yield from _goes_on(s, place, worker, variant)


def _goes_on(s: Ledger, place: int, worker: Worker, variant: str) -> Iterator[tuple[str, Ledger]]:
    gone = s._replace(workers=put(s.workers, place, None))
    mine = s.held and worker.token == s.token and not s.settled
    if worker.phase == BEGINS and s.answer:
        yield (
            f"worker {place} has the answer{' and settles' if mine else ', and its claim is lost'}",
            gone._replace(settled=s.settled or mine, held=s.held and not mine),
        )
    elif worker.phase == BEGINS and _may_ask(s, variant):
        asks = worker._replace(phase=ASKS, answer=s.paid + 1)
        yield (
            f"worker {place} asks",
            s._replace(workers=put(s.workers, place, asks), intent=Intent(place, worker.token), paid=s.paid + 1),
        )
    elif worker.phase == ASKS:
        yield (
            f"worker {place} gets answer {worker.answer}",
            s._replace(workers=put(s.workers, place, worker._replace(phase=PAID))),
        )
    elif worker.phase == PAID:
        yield from _journal(s, gone, place, worker, mine, variant)


def _may_ask(s: Ledger, variant: str) -> bool:
    if s.intent is None or s.intent.over or variant in (NO_LEDGER, NO_WAIT):
        return True
    owner = s.workers[s.intent.owner]
    ended = owner is None or owner.token != s.intent.token
    return ended or (variant == BURIED and owner is not None and owner.buried)


def _journal(
    s: Ledger, gone: Ledger, place: int, worker: Worker, mine: bool, variant: str
) -> Iterator[tuple[str, Ledger]]:
    if variant in (NO_LEDGER, FENCED) and not mine:
        wrong = "" if s.answer or s.settled else "a paid answer was thrown away"
        yield f"worker {place} may not keep answer {worker.answer}", gone._replace(wrong=wrong)
    elif variant == NO_LEDGER:
        yield f"worker {place} settles with answer {worker.answer}", gone._replace(settled=True, held=False)
    else:
        kept = worker.answer if variant == LAST or not s.answer else s.answer
        wrong = "an answer that was in use was replaced" if s.answer not in (0, kept) else ""
        yield (
            f"worker {place} journals answer {worker.answer}",
            s._replace(
                workers=put(s.workers, place, worker._replace(phase=BEGINS)), answer=kept, intent=None, wrong=wrong
            ),
        )


def _wrong(s: Ledger) -> str | None:
    if s.paid > 1 + s.killed + s.frozen:
        return "it was paid more than once for each kill, and once"
    return s.wrong or None


PAID_ANSWERS = Model(
    "the ledger", Ledger(), _steps, _wrong, lambda s: s.settled,
    {
        NO_LEDGER: "a paid answer was thrown away",
        FENCED: "a paid answer was thrown away",
        NO_WAIT: "it was paid more than once for each kill, and once",
        BURIED: "it was paid more than once for each kill, and once",
        LAST: "an answer that was in use was replaced",
    },
)  # fmt: skip
