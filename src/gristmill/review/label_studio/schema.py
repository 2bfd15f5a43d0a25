"""The labeling that a workflow's labels and its annotations ask for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gristmill.data.annotations import Annotation, Boxes, Classes, Entities, Rating, Relations
from gristmill.operators.annotation_labels import LabelSet
from gristmill.review.label_studio.labeling import Labeling, labeling_for

_NAMES = {"classes": "class", "rating": "rating", "entities": "entity", "relations": "entity", "boxes": "box"}
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,60}")


def labeling_of(
    kind: str, sets: Sequence[LabelSet], medium: str, labels: Sequence[str] = (), relations: Sequence[str] = (), *,
    scale: str | None = None, tree: bool = False,
) -> Labeling:  # fmt: skip
    """The labels of a workflow's steps, then those that annotations have besides. Raises `UsageError` L101."""
    fitting = [one for one in sets if one.kind == kind and (one.scale is None or one.scale.name == scale)]
    asked = [label for one in fitting for label in one.names]
    joins = [join.name for one in fitting for join in one.relations]
    free = kind == "rating" and bool(fitting) and not asked
    every = () if free else tuple(dict.fromkeys([*asked, *labels]))
    name = scale if scale and _PLAIN.fullmatch(scale) and scale != medium else _NAMES[kind]
    return labeling_for(
        kind, every, medium=medium, multiple=any(one.multiple for one in fitting) or not fitting, name=name,
        relations=tuple(dict.fromkeys([*joins, *relations])), tag="TextArea" if free else "Taxonomy" if tree else None,
    )  # fmt: skip


def labels_in(annotation: Annotation) -> tuple[list[str], list[str]]:
    """The labels of an annotation, and those of its relations."""
    if isinstance(annotation, Classes):
        return list(annotation.labels), []
    if isinstance(annotation, Rating):
        return list(annotation.values), []
    if isinstance(annotation, Boxes):
        return [one.label for one in annotation.boxes], []
    if isinstance(annotation, Relations):
        return [one.label for one in annotation.entities], [one.label for one in annotation.relations]
    return [one.label for one in annotation.entities] if isinstance(annotation, Entities) else [], []
