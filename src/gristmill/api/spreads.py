"""How the results of a run are spread: scores, lengths, labels, near-duplicates."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import asyncpg
from pydantic import BaseModel

from gristmill.api.record_shapes import Bin, Histogram, LabelCount
from gristmill.data.annotations import ANNOTATIONS
from gristmill.data.dataset import MAKING, SCORING
from gristmill.data.kinds import Duplicate, kind_of
from gristmill.db.statements import statements
from gristmill.workflow import Workflow

SQL = statements("coverage")
Field = Literal["score", "length", "label", "duplicates", "confidence"]
SAMPLE = 20_000  # records, the newest
BINS = 24
LABELS = 100
_KINDS: dict[str, tuple[type[BaseModel], ...]] = {
    "score": SCORING, "length": MAKING, "label": MAKING, "duplicates": (Duplicate,),
    "confidence": tuple(ANNOTATIONS.values()),
}  # fmt: skip


async def histogram(pool: asyncpg.Pool[Any], run_id: int, flow: Workflow, field: Field) -> Histogram:
    """The newest 20,000 results of each step that makes such."""
    kinds = _KINDS[field]
    names = [kind_of(cls) for cls in kinds]
    places = [at for at, spec in enumerate(flow.steps) if set(spec.operator.output_types) & set(kinds)]
    values: list[str | None] = []
    sampled = False
    for place in places:
        rows = await pool.fetch(SQL["spread"], run_id, place, SAMPLE, field, names)
        values += [row["value"] for row in rows]
        sampled = sampled or len(rows) == SAMPLE
    if field == "label":
        return _labels(values, sampled)
    numbers = [float(value) for value in values if value is not None]
    return Histogram(
        field=field, n=len(numbers), without=len(values) - len(numbers), bins=binned(numbers), sampled=sampled,
        mean=statistics.fmean(numbers) if numbers else None, median=statistics.median(numbers) if numbers else None,
    )  # fmt: skip


def binned(numbers: Sequence[float], most: int = BINS) -> list[Bin]:
    """At most so many bins of one width, whole where all values are; what is far out is in the last."""
    if not numbers:
        return []
    ordered = sorted(numbers)
    low, high = ordered[0], ordered[min(len(ordered) - 1, math.ceil(len(ordered) * 0.99))]
    whole = all(value == int(value) for value in numbers)
    if high <= low:
        return [Bin(low=low, high=ordered[-1], n=len(numbers))]
    width = (high - low) / most
    if whole:
        width = max(1.0, math.ceil(width))
    count = max(1, min(most, math.ceil((high - low) / width + (1 if whole else 0))))
    bins = Counter(min(count - 1, int((value - low) / width)) for value in numbers)
    return [Bin(low=low + at * width, high=low + (at + 1) * width, n=bins[at]) for at in range(count)]


def _labels(values: Sequence[str | None], sampled: bool) -> Histogram:
    counted: Counter[str] = Counter()
    without = 0
    for value in values:
        path = json.loads(value) if value else []
        if path:
            counted["/".join(map(str, path))] += 1
        else:
            without += 1
    labels = [LabelCount(label=label, n=n) for label, n in counted.most_common(LABELS)]
    return Histogram(field="label", n=sum(counted.values()), without=without, labels=labels, sampled=sampled)
