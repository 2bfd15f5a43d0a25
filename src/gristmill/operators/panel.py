"""A panel: several annotators say the same kind of thing about the same records, and are joined, and compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

from gristmill.data.annotations import Agreement, Annotation, Boxes, Classes, Entities, Rating, Relations
from gristmill.data.kinds import kind_of
from gristmill.operators.annotation_measures import Numbers, measured
from gristmill.operators.annotation_votes import agreed
from gristmill.operators.operator import Context, Derived, operator

A = TypeVar("A", bound=Annotation)
Votes = dict[str, dict[str, int]]  # by subject and annotator: the position of the vote


@operator("panel", version=1, barrier=True)
async def panel(
    votes: list[Classes | Rating | Entities | Relations | Boxes], ctx: Context, annotator: str = "panel"
) -> list[Derived[Classes | Rating | Entities | Relations | Boxes]]:
    """One annotation for each thing that was annotated: what more than half of the annotators say.

    Follows the annotators: `panel.using(per="item").after("anna", "ben", "carl")`. Each of them is a step of its own,
    with its model, its prompt and its `annotator` name; two with one name are one annotator. What has no majority is a
    "tie" and waits for a person. See `agreed` for what counts as the same.
    """
    made: list[Derived[Classes | Rating | Entities | Relations | Boxes]] = []
    counts: dict[str, int] = defaultdict(int)
    for group in groups_of(votes).values():
        for chosen in group.values():
            one = agreed([votes[at] for at in chosen.values()], annotator)
            counts[one.outcome] += 1
            made.append(Derived(one, tuple(chosen.values())))  # type: ignore[arg-type]
    ctx.notes["outcomes"] = dict(counts)
    return made


@operator("agreement", version=1, barrier=True, timeout=3600)
async def agreement(
    votes: list[Classes | Rating | Entities | Relations | Boxes], ctx: Context, numbers: Numbers = {},  # noqa: B006
) -> list[Agreement]:  # fmt: skip
    """How far the annotators of the run agree: one report for each kind, and for each scale.

    For classes and ratings: the share of pairs that agree, Cohen's kappa of each two annotators, Fleiss' kappa and
    Krippendorff's alpha. Codes of a scale count as ordered by the numbers that they end with; `numbers` says otherwise:
    {"urgency": {"LOW": 1, "HIGH": 3}}. For spans, relations and boxes: the F1 of each two annotators, and by label.
    Annotations that say nothing (degraded) count as missing.
    """
    made = []
    for about, group in groups_of(votes).items():
        by_annotator = [{name: votes[at] for name, at in chosen.items()} for chosen in group.values()]
        made.append(measured(about, by_annotator, numbers.get(about.partition(":")[2], {})))
    ctx.notes["reports"] = len(made)
    return made


def groups_of(votes: Sequence[Annotation]) -> dict[str, Votes]:
    """The positions of the votes by what they are about ("classes", "rating:urgency"), subject and annotator."""
    groups: dict[str, Votes] = {}
    for at, vote in enumerate(votes):
        about = f"{kind_of(vote)}:{vote.scale}" if isinstance(vote, Rating) else kind_of(vote)
        groups.setdefault(about, {}).setdefault(vote.subject, {}).setdefault(vote.annotator, at)
    return groups
