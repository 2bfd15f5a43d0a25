"""The figures of an agreement report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from gristmill.data.agreement import Counts, cohen, fleiss, krippendorff, pairs_of, percent, summed
from gristmill.data.annotation_units import compared
from gristmill.data.annotations import Agreement, Annotation, Classes, Measure, Rating
from gristmill.operators.annotation_votes import QUORUM, agreed

Numbers = dict[str, dict[str, float]]  # by scale: what its codes are worth
Value = tuple[str, ...]
_ENDS_WITH = re.compile(r"(-?\d+(?:\.\d+)?)\s*\Z")


def measured(about: str, units: Sequence[Mapping[str, Annotation]], numbers: Mapping[str, float]) -> Agreement:
    """The report over `units`: for each thing the annotation of each annotator."""
    decided = [{name: vote for name, vote in unit.items() if not vote.undecided} for unit in units]
    shared = [unit for unit in decided if len(unit) >= QUORUM]
    names = sorted({name for unit in units for name in unit})
    measures = _of_values(shared, names, numbers) if _is_chosen(units) else _of_spans(shared, names)
    return Agreement(
        about=about, annotators=tuple(names), subjects=len(shared),
        ties=sum(agreed(list(unit.values()), "panel").outcome == "tie" for unit in shared),
        undecided=sum(len(unit) for unit in units) - sum(len(unit) for unit in decided),
        measures=tuple(Measure(name=name, value=_rounded(value)) for name, value in measures.items()),
    )  # fmt: skip


def _is_chosen(units: Sequence[Mapping[str, Annotation]]) -> bool:
    return any(isinstance(vote, Classes | Rating) for unit in units for vote in unit.values())


def value_of(vote: Annotation) -> Value:
    """What was chosen, as one value: sets of labels are the same or they are not."""
    if isinstance(vote, Classes):
        return tuple(sorted(vote.labels))
    return tuple(sorted(vote.values)) if isinstance(vote, Rating) else ()


def _of_values(
    units: Sequence[Mapping[str, Annotation]], names: Sequence[str], numbers: Mapping[str, float]
) -> dict[str, float | None]:  # fmt: skip
    values = [{name: value_of(vote) for name, vote in unit.items()} for unit in units]
    rows = [list(unit.values()) for unit in values]
    pairs = {
        f"cohen {a} | {b}": cohen([(unit[a], unit[b]) for unit in values if a in unit and b in unit])
        for a, b in pairs_of(names)
    }  # fmt: skip
    found: dict[str, float | None] = {
        "percent": percent(rows), "cohen": _mean(pairs.values()), "fleiss": fleiss(rows),
        "krippendorff nominal": krippendorff(rows),
    }  # fmt: skip
    worth = _worth({value for row in rows for value in row}, numbers)
    if worth:
        known = [[value for value in row if value in worth] for row in rows]
        order = sorted(worth, key=worth.__getitem__)
        found["krippendorff ordinal"] = krippendorff(known, "ordinal", order)
        found["krippendorff interval"] = krippendorff(known, "interval", worth)
    return found | pairs


def _worth(values: set[Value], numbers: Mapping[str, float]) -> dict[Value, float]:
    """What single codes are worth; {} where they are not ordered. A code without a number ("NONE") stands aside."""
    worth: dict[Value, float] = {}
    for value in values:
        if len(value) > 1:
            return {}
        if value and value[0] in numbers:
            worth[value] = numbers[value[0]]
        elif value and not numbers and (found := _ENDS_WITH.search(value[0])) is not None:
            worth[value] = float(found[1].lstrip("-") if value[0] != found[1] else found[1])
    return worth if len(worth) > 1 and len(set(worth.values())) == len(worth) else {}


def _of_spans(units: Sequence[Mapping[str, Annotation]], names: Sequence[str]) -> dict[str, float | None]:
    pairs: dict[str, float | None] = {}
    labels: list[dict[str, Counts]] = []
    for a, b in pairs_of(names):
        counts = [compared(unit[a], unit[b]) for unit in units if a in unit and b in unit]
        pairs[f"f1 {a} | {b}"] = sum((one for by in counts for one in by.values()), Counts()).f1
        labels += counts
    by_label = {f"f1 of {label}": counts.f1 for label, counts in summed(labels).items()}
    exact = [float(value) for unit in units for value in _same(list(unit.values()))]
    return {"percent": _mean(exact), "f1": _mean(pairs.values()), **pairs, **by_label}


def _same(votes: Sequence[Annotation]) -> list[bool]:
    return [
        all(not counts.extra and not counts.missed for counts in compared(a, b).values())
        for a, b in combinations(votes, 2)
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
