"""Which of a group of duplicates stays, and among which duplicates are looked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

from gristmill.data.kinds import Evaluation, Example, content_hash
from gristmill.errors import InputError
from gristmill.operators.dedup_found import Found

Keep = Literal["first", "best_score", "longest"]
Scope = Literal["run", "label"]
T = TypeVar("T")


def within(examples: Sequence[Example], scope: Scope, find: Callable[[list[int]], list[Found]]) -> list[Found]:
    """What `find` says of the positions of each scope, in the order of the duplicates."""
    if scope == "run":
        return find(list(range(len(examples))))
    labels: dict[tuple[str, ...] | None, list[int]] = defaultdict(list)
    for position, example in enumerate(examples):
        labels[example.label].append(position)
    found = [one for members in labels.values() for one in find(members)]
    return sorted(found, key=lambda one: one.later)


def choose_kept(
    examples: Sequence[Example], found: Sequence[Found], keep: Keep, evaluations: Sequence[Evaluation] = ()
) -> list[Found]:
    """The same groups with another one kept in each: the best score (the mean of its evaluations, as stored), or the
    longest question and answer; the first of equals. A mark keeps its similarity to the first of its group.

    Raises `InputError` T224 for "best_score" without any evaluation.
    """
    if keep == "first" or not found:
        return list(found)
    scores = _scores(evaluations) if keep == "best_score" else {}
    if keep == "best_score" and not scores:
        raise InputError(
            "dedup keeps the best score, and no example has an evaluation", code="T224",
            hint='a step that evaluates comes before it: dedup.using(keep="best_score").after("answer", "evaluate")',
        )  # fmt: skip

    def rank(position: int) -> tuple[float, int]:
        example = examples[position]
        if keep == "longest":
            return len(example.question) + len(example.answer), -position
        return scores.get(content_hash(example).hex(), float("-inf")), -position

    groups: dict[int, list[Found]] = defaultdict(list)
    for one in found:
        groups[one.kept].append(one)
    chosen: list[Found] = []
    for first, marks in groups.items():
        best = max([first, *(one.later for one in marks)], key=rank)
        own = next((one for one in marks if one.later == best), None)
        if own is None:
            chosen += marks
            continue
        chosen.append(own._replace(later=first, kept=best))
        chosen += [one._replace(kept=best) for one in marks if one is not own]
    return sorted(chosen, key=lambda one: one.later)


def _scores(evaluations: Sequence[Evaluation]) -> Mapping[str, float]:
    """The mean overall score by content hash of what was evaluated."""
    by_subject: dict[str, list[float]] = defaultdict(list)
    for one in evaluations:
        if one.subject is not None:
            by_subject[one.subject].append(one.overall)
    return {subject: sum(values) / len(values) for subject, values in by_subject.items()}
