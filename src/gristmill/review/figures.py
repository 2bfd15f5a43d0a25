"""How a review goes: what is done, by whom, how fast, and how far people agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import asyncpg

from gristmill.data.agreement import cohen, krippendorff, pairs_of, percent
from gristmill.review.bodies import content_of
from gristmill.review.decisions import SQL
from gristmill.review.states import STATES


@dataclass(frozen=True, slots=True)
class Reviewer:
    """What a person has decided in the queue of a run; `undone` is not among the rest. `seconds_median`: from claim to
    decision; `per_hour`: what that pace comes to; `last_hour`: decisions of the past hour."""

    reviewer: str
    decided: int
    accepted: int
    edited: int
    rejected: int
    skipped: int
    undone: int
    seconds_median: float | None
    last_at: datetime
    last_hour: int

    @property
    def per_hour(self) -> float | None:
        return 3600 / self.seconds_median if self.seconds_median else None


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """Two people over the pieces that both have decided: share with the same decision, and Cohen's kappa."""

    first: str
    second: str
    pieces: int
    percent: float | None
    cohen: float | None


@dataclass(frozen=True, slots=True)
class ReviewAgreement:
    """Over all pieces that several people have decided: how many, the share of pairs with the same decision
    (`percent`), the share that wants the very same content (`same`), Krippendorff's alpha of the decisions."""

    pieces: int
    percent: float | None
    same: float | None
    krippendorff: float | None
    pairs: tuple[PairAgreement, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """`states` counts pieces by state, `open` those that still wait for somebody, `held` those before somebody now."""

    states: Mapping[str, int]
    open: int
    held: int
    disputed: int
    reviewers: tuple[Reviewer, ...]
    agreement: ReviewAgreement

    @property
    def total(self) -> int:
        return sum(self.states.values())

    def as_document(self) -> dict[str, Any]:
        """For JSON."""
        people = [
            {**asdict(one), "last_at": one.last_at.isoformat(), "per_hour": one.per_hour} for one in self.reviewers
        ]
        return {**asdict(self), "total": self.total, "reviewers": people}


async def figures(pool: asyncpg.Pool[Any], run_id: int) -> Figures:
    """The figures of a run's review."""
    counts = await pool.fetch(SQL["counts"], run_id)
    people = await pool.fetch(SQL["reviewers"], run_id)
    opinions = await pool.fetch(SQL["opinions"], run_id)
    found = {row["state"]: row["pieces"] for row in counts}

    def total(name: str) -> int:
        return sum(row[name] for row in counts)

    return Figures(
        {state: found.get(state, 0) for state in STATES}, total("open"), total("held"), total("disputed"),
        tuple(Reviewer(**row) for row in people), _agreement(opinions),
    )  # fmt: skip


def _agreement(rows: Sequence[Any]) -> ReviewAgreement:
    decisions: dict[int, dict[str, str]] = {}
    contents: dict[int, list[str]] = {}
    for row in rows:
        decisions.setdefault(row["record_id"], {})[row["reviewer"]] = row["decision"]
        wanted = content_of(row["kind"], row["body"]) if row["body"] is not None else ""
        contents.setdefault(row["record_id"], []).append(wanted)
    units = [list(said.values()) for said in decisions.values()]
    pairs = []
    for first, second in pairs_of(name for said in decisions.values() for name in said):
        both = [(said[first], said[second]) for said in decisions.values() if first in said and second in said]
        if both:
            pairs.append(PairAgreement(first, second, len(both), percent(both), cohen(both)))
    return ReviewAgreement(
        len(units), percent(units), percent(list(contents.values())), krippendorff(units), tuple(pairs)
    )  # fmt: skip
