"""What the annotations of a workflow may say: kind and labels of each annotating step, read from its options.

One place knows it, so that configuration of an editor, checks of edits and pages need not ask what a step is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from gristmill.data.annotations import ANNOTATIONS, Boxes, Classes, Entities, Rating, Relations
from gristmill.data.kinds import kind_of
from gristmill.operators.annotation_options import Named, RelationType, Scale
from gristmill.operators.operator import StepSpec


@dataclass(frozen=True, slots=True)
class LabelSet:
    """`kind` of the annotation and what it may say. Without `labels` any label is allowed (`free`).

    `relations` belong to the kind "relations", whose `labels` are those of the entities; `scale` to "rating". `least`
    and `most` bound how many classes or values there are; None: no bound.
    """

    kind: str
    labels: tuple[Named, ...] = ()
    relations: tuple[RelationType, ...] = ()
    scale: Scale | None = None
    least: int = 0
    most: int | None = None

    @property
    def free(self) -> bool:
        return not self.labels

    @property
    def multiple(self) -> bool:
        """Whether several classes or values may be chosen."""
        return self.most is None or self.most > 1

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.labels)


def label_sets(steps: Sequence[StepSpec], edges: Sequence[Sequence[int]]) -> dict[str, LabelSet]:
    """The label set of each step that annotates, by the name of the step; `Workflow.steps` and `Workflow.edges`.

    A step that joins votes (`panel`) has that of the step before it, and relations have the labels of their entities.
    """
    found: dict[int, LabelSet] = {}
    for place, spec in enumerate(steps):
        before = [found[number] for number in edges[place] if number in found]
        made = label_set(spec, before)
        if made is not None:
            found[place] = made
    return {steps[place].name: one for place, one in found.items()}


def taken_over(steps: Sequence[StepSpec], edges: Sequence[Sequence[int]]) -> frozenset[int]:
    """The places of steps whose annotations a later step says again, so that nobody needs to look at them: the votes of
    a panel, and the entities of relations."""
    annotating = {
        place for place, spec in enumerate(steps)
        if set(map(kind_of, spec.operator.output_types)) <= set(ANNOTATIONS)
    }  # fmt: skip
    return frozenset(number for place in annotating for number in edges[place] if number in annotating)


def label_set(spec: StepSpec, before: Sequence[LabelSet] = ()) -> LabelSet | None:
    """What the annotations of one step may say; None for a step that does not annotate. `before` are the sets of the
    steps that it follows."""
    kinds = [kind_of(cls) for cls in spec.operator.output_types]
    if not kinds or not set(kinds) <= set(ANNOTATIONS):
        return None
    if len(kinds) > 1:
        return before[0] if before else None
    options = dict(spec.operator.options_model.model_validate(dict(spec.options)))
    labels = tuple(options.get("labels") or ())
    if kinds[0] == Classes.kind:
        least, most = 0 if options.get("allow_none") else 1, len(labels) if options.get("multiple") else 1
        return LabelSet(Classes.kind, labels, least=least, most=most)
    if kinds[0] == Rating.kind and isinstance(scale := options.get("scale"), Scale):
        least, most = scale.bounds
        return LabelSet(Rating.kind, tuple(scale.offered), scale=scale, least=least, most=most)
    if kinds[0] == Relations.kind:
        entities = next((one.labels for one in before if one.kind == Entities.kind), ())
        return LabelSet(Relations.kind, entities, tuple(options.get("relations") or ()))
    return LabelSet(kinds[0], labels)


def problems_with(annotation: BaseModel, allowed: LabelSet) -> list[str]:
    """What of an annotation is not allowed, a sentence each: its kind, its labels, how many there are, and which
    entities a relation joins. [] when everything is."""
    if kind_of(annotation) != allowed.kind:
        return [f"this step makes {allowed.kind}, and not {kind_of(annotation)}"]
    found = _unknown(annotation, allowed)
    if isinstance(annotation, Classes | Rating) and not annotation.undecided:
        chosen = annotation.labels if isinstance(annotation, Classes) else annotation.values
        found += _wrong_number(chosen, allowed)
    if isinstance(annotation, Relations):
        found += _wrong_ends(annotation, allowed.relations)
    return found


def _unknown(annotation: BaseModel, allowed: LabelSet) -> list[str]:
    said: list[str] = []
    if isinstance(annotation, Classes):
        said += annotation.labels
    elif isinstance(annotation, Rating):
        said += annotation.values
        if allowed.scale is not None and annotation.scale != allowed.scale.name:
            return [f'the scale is "{allowed.scale.name}", and not "{annotation.scale}"']
    elif isinstance(annotation, Entities | Relations):
        said += [one.label for one in annotation.entities]
    elif isinstance(annotation, Boxes):
        said += [one.label for one in annotation.boxes]
    names = set(allowed.names)
    return [f"{label!r} is not one of the labels" for label in dict.fromkeys(said) if names and label not in names]


def _wrong_number(chosen: Sequence[str], allowed: LabelSet) -> list[str]:
    none = allowed.scale.none if allowed.scale is not None else None
    if none is not None and none in chosen:
        return [f"{none} stands alone"] if len(chosen) > 1 else []
    if len(chosen) < allowed.least:
        return [f"at least {allowed.least} must be chosen, and there are {len(chosen)}"]
    if allowed.most is not None and len(chosen) > allowed.most:
        return [f"at most {allowed.most} may be chosen, and there are {len(chosen)}"]
    return []


def _wrong_ends(annotation: Relations, types: Sequence[RelationType]) -> list[str]:
    by_name = {one.name: one for one in types}
    label: Mapping[str, str] = {one.id: one.label for one in annotation.entities}
    found: list[str] = []
    for one in annotation.relations:
        type_ = by_name.get(one.label)
        if type_ is None:
            found.append(f"{one.label!r} is not one of the relations")
        elif not type_.allows(label[one.head], label[one.tail]):
            found.append(f"{one.label!r} does not join {label[one.head]} to {label[one.tail]}")
    return list(dict.fromkeys(found))


def described(one: LabelSet) -> dict[str, Any]:
    """The set as plain JSON values, for pages and programs."""
    return {
        "kind": one.kind, "labels": [label.model_dump() for label in one.labels], "least": one.least, "most": one.most,
        "relations": [type_.model_dump() for type_ in one.relations],
        "scale": None if one.scale is None else one.scale.model_dump(),
    }  # fmt: skip
