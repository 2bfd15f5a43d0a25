"""What a workflow annotates: the kind, its labels, and which steps make what is annotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gristmill.data.annotated import TEXTS
from gristmill.data.annotations import ANNOTATIONS
from gristmill.data.kinds import Image, kind_of
from gristmill.errors import UsageError
from gristmill.operators.annotation_labels import LabelSet, label_sets
from gristmill.operators.operator import StepSpec

SUBJECTS = (*TEXTS, Image)


@dataclass(frozen=True, slots=True)
class Flow:
    """Places of steps in the workflow: `steps` make annotations of `kind`, `subject_steps` what these are about."""

    kind: str
    steps: tuple[int, ...]
    label_sets: tuple[LabelSet, ...]
    subject_steps: tuple[int, ...]
    subject_kinds: tuple[str, ...]


class WorkflowLike(Protocol):
    """What is needed of a `Workflow`: its steps, and for each the places of those it follows (negative: the inputs)."""

    @property
    def steps(self) -> Sequence[StepSpec]: ...

    @property
    def edges(self) -> Sequence[Sequence[int]]: ...


def flow_of(workflow: WorkflowLike, kind: str | None = None) -> Flow:
    """What a workflow annotates: `kind`, or what its last annotating step makes. Raises `UsageError` L120."""
    steps, edges = workflow.steps, workflow.edges
    named = label_sets(steps, edges)
    sets = {at: named[spec.name] for at, spec in enumerate(steps) if spec.name in named}
    kinds = [one.kind for one in sets.values()]
    if not kinds or (kind is not None and kind not in kinds):
        what = "no step of this workflow annotates" if not kinds else f"no step of this workflow makes {kind}"
        known = f"it makes: {', '.join(dict.fromkeys(kinds))}" if kinds else f"kinds: {', '.join(ANNOTATIONS)}"
        raise UsageError(what, code="L120", hint=known)
    chosen = kind or kinds[-1]
    asking = [at for at, one in sets.items() if one.kind == chosen]
    about = dict.fromkeys(place for at in asking for place in _sources(steps, edges, at))
    makes = [cls for at in about for cls in steps[at].operator.output_types if cls in SUBJECTS]
    takes = {cls for at in asking for cls in steps[at].operator.input_types if cls in SUBJECTS} or set(SUBJECTS)
    found = dict.fromkeys(kind_of(cls) for cls in makes if cls in takes)
    return Flow(chosen, tuple(asking), tuple(sets[at] for at in asking), tuple(about), tuple(found))


def _sources(steps: Sequence[StepSpec], edges: Sequence[Sequence[int]], at: int) -> list[int]:
    """The nearest steps before this one that make texts or pictures."""
    found: list[int] = []
    for place in edges[at]:
        if place >= 0:
            makes = set(steps[place].operator.output_types) & set(SUBJECTS)
            found += [place] if makes else _sources(steps, edges, place)
    return found
