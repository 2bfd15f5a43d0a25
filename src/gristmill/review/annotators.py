"""What each annotator of a run said, and how far people agree with it: precision, recall and F1, label by label."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from gristmill.data.agreement import Counts, summed
from gristmill.data.annotation_units import compared
from gristmill.data.annotations import ANNOTATIONS, Agreement, Annotation, Boxes, Classes, Rating, Relations
from gristmill.data.kinds import kind_of
from gristmill.db.statements import statements
from gristmill.operators.operator import StepSpec

SQL = statements("annotators")
PAGE = 1000  # annotations that are read at once

Key = tuple[str, str, str]  # step, kind (with the scale of a rating), annotator


@dataclass(slots=True)
class AnnotatorFigures:
    """One annotator in one step. `outcomes` and `labels` count its annotations and what they say. `reviewed` of them
    are about what people have decided, `exact` of these say just what people let stand; `by_label` counts pieces."""

    step: str
    about: str
    annotator: str
    by: str
    annotations: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    reviewed: int = 0
    exact: int = 0
    by_label: dict[str, Counts] = field(default_factory=dict)

    @property
    def total(self) -> Counts:
        return sum(self.by_label.values(), Counts())

    def as_document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "step": self.step, "about": self.about, "annotator": self.annotator, "by": self.by,
            "annotations": self.annotations, "outcomes": dict(self.outcomes),
            "labels": dict(self.labels.most_common()), "dropped": dict(self.dropped), "reviewed": self.reviewed,
            "exact": self.exact, "total": _document(self.total),
            "by_label": {label: _document(counts) for label, counts in self.by_label.items()},
        }  # fmt: skip


async def annotator_figures(pool: asyncpg.Pool[Any], run_id: int, steps: Sequence[StepSpec]) -> list[AnnotatorFigures]:
    """All annotators of a run, by step; `steps` are those of its workflow.

    What people let stand about a subject counts for every annotator of that kind: accepting or editing the panel's
    annotation judges its members too. Of several an edited one counts before an accepted one, then the last.
    """
    places = annotating(steps)
    truths = await _truths(pool, run_id, places)
    found: dict[Key, AnnotatorFigures] = {}
    for place in places:
        async for said in _said(pool, run_id, place):
            key = (steps[place].name, about_of(said), said.annotator)
            _count(found.setdefault(key, AnnotatorFigures(*key, said.by)), said, truths.get((key[1], said.subject)))
    return list(found.values())


def annotating(steps: Sequence[StepSpec]) -> list[int]:
    """The places of the steps that annotate."""
    kinds = set(ANNOTATIONS.values())
    return [place for place, spec in enumerate(steps) if set(spec.operator.output_types) <= kinds]


async def agreement_reports(pool: asyncpg.Pool[Any], run_id: int) -> list[Agreement]:
    """The reports of the run's steps `agreement`."""
    return [Agreement.model_validate_json(row["body"]) for row in await pool.fetch(SQL["reports"], run_id)]


def about_of(said: Annotation) -> str:
    """The kind, for a rating with its scale: "classes", "rating:urgency"."""
    return f"{kind_of(said)}:{said.scale}" if isinstance(said, Rating) else kind_of(said)


def labels_of(said: Annotation) -> list[str]:
    """The labels of what it says, each as often as it says it."""
    if isinstance(said, Classes):
        return list(said.labels)
    if isinstance(said, Rating):
        return list(said.values)
    parts = said.boxes if isinstance(said, Boxes) else said.relations if isinstance(said, Relations) else None
    return [one.label for one in (getattr(said, "entities", ()) if parts is None else parts)]


def _count(one: AnnotatorFigures, said: Annotation, truth: Annotation | None) -> None:
    one.annotations += 1
    one.outcomes[said.outcome] += 1
    one.labels.update(labels_of(said))
    one.dropped.update(part.reason for part in said.dropped)
    if truth is not None and not said.undecided:
        counts = compared(said, truth)
        one.reviewed += 1
        one.exact += all(not part.extra and not part.missed for part in counts.values())
        one.by_label = summed([one.by_label, counts])


async def _truths(pool: asyncpg.Pool[Any], run_id: int, places: Sequence[int]) -> dict[tuple[str, str], Annotation]:
    """What people let stand, by what it is about and its subject."""
    found: dict[tuple[str, str], Annotation] = {}
    for row in await pool.fetch(SQL["reviewed"], run_id, list(places), list(ANNOTATIONS)):
        truth = ANNOTATIONS[row["kind"]].model_validate_json(row["truth"])
        if not truth.undecided:  # a degraded one that somebody let stand says nothing about labels
            found[about_of(truth), truth.subject] = truth
    return found


async def _said(pool: asyncpg.Pool[Any], run_id: int, place: int) -> AsyncIterator[Annotation]:
    after = 0
    while rows := await pool.fetch(SQL["said"], run_id, place, after, PAGE):
        for row in rows:
            yield ANNOTATIONS[row["kind"]].model_validate_json(row["body"])
        after = rows[-1]["id"]


def _document(counts: Counts) -> dict[str, float | int | None]:
    return {
        "right": counts.right, "extra": counts.extra, "missed": counts.missed, "precision": _short(counts.precision),
        "recall": _short(counts.recall), "f1": _short(counts.f1),
    }  # fmt: skip


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
