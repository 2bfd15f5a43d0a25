"""Annotations as Label Studio's results, and back: one entry of a table for each kind.

Ids of regions are made of the subject, the kind and the part's own id: they are the same every time, and relations lead
somewhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gristmill.data.annotations import (
    DIGITS,
    Annotation,
    Box,
    Boxes,
    Classes,
    Entities,
    Entity,
    Rating,
    Relation,
    Relations,
)
from gristmill.data.rows import joined, parted
from gristmill.errors import UsageError
from gristmill.review.label_studio.check import SLACK, check_result, told
from gristmill.review.label_studio.labeling import CONTROLS, Control, Labeling
from gristmill.review.label_studio.offsets import Unit
from gristmill.review.label_studio.subjects import Subject

Item = dict[str, Any]
PERCENT_DIGITS = 7  # of a percentage: a fraction has 9, so nothing is lost on the way


def region_id(subject: str, kind: str, part: str) -> str:
    """The id of a region: 10 characters that are fit for a URL."""
    digest = hashlib.blake2b("\0".join((subject, kind, part)).encode(), digest_size=8).digest()
    return base64.urlsafe_b64encode(digest).decode()[:10]


def to_result(annotation: Annotation, subject: Subject, labeling: Labeling, unit: Unit = "codepoint") -> list[Item]:
    """The result that says what the annotation says; one that is undecided says nothing. Places count in `unit`.

    Raises `UsageError`: L105 the configuration has no tag for it, L107 it does not fit what is annotated or the labels.
    """
    if annotation.undecided:
        return []
    made = _KINDS[_kind(annotation)].out(annotation, _Place(subject, labeling, unit))
    problems = check_result(made, labeling, subject, unit)
    if problems:
        raise UsageError(
            f"the {_kind(annotation)} of record {subject.record_id} do not fit this configuration: {told(problems)}",
            code="L107",
        )
    return made


def from_result(
    kind: str, result: Any, subject: Subject, labeling: Labeling, annotator: str, *, original: Annotation | None = None,
    unit: Unit = "codepoint", scale: str | None = None,
) -> Annotation:  # fmt: skip
    """What a person said, as an annotation of that kind. Parts that are as in `original` keep its ids, scores and exact
    places. `scale` is of a rating; that of `original` by default, else the tag's name.

    Raises `UsageError` L108 with everything that is wrong.
    """
    problems = check_result(result, labeling, subject, unit)
    if problems:
        raise UsageError(
            f"the result for record {subject.record_id} cannot be used: {told(problems)}", code="L108",
            hint="mend it in Label Studio", safe="nothing was changed",
        )  # fmt: skip
    place = _Place(subject, labeling, unit, original if original and _kind(original) == kind else None, scale)
    try:
        return _KINDS[kind].back(result, place, annotator)
    except ValidationError as error:
        raise UsageError(
            f"the result for record {subject.record_id} cannot be used: {error.errors()[0]['msg']}", code="L108",
            hint="mend it in Label Studio", safe="nothing was changed",
        ) from None  # fmt: skip


def unit_of(result: Any, subject: Subject, labeling: Labeling, usual: Unit = "codepoint") -> Unit:
    """The unit in which all spans fit their words: `usual`, unless only the other one does."""
    other: Unit = "utf16" if usual == "codepoint" else "codepoint"
    fits = not check_result(result, labeling, subject, usual) or check_result(result, labeling, subject, other)
    return usual if fits else other


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a conversion takes place."""

    subject: Subject
    labeling: Labeling
    unit: Unit
    original: Annotation | None = None
    scale: str | None = None

    def item(self, control: Control, value: Item, part: str, score: float | None = None) -> Item:
        made = {
            "id": region_id(self.subject.hash, control.type, part), "from_name": control.name,
            "to_name": self.labeling.object_name, "type": control.type, "value": value,
        }  # fmt: skip
        return made if score is None else {**made, "score": score}

    def common(self, annotator: str, found: Sequence[Any]) -> Item:
        """What every annotation of a person has."""
        return {
            "subject": self.subject.hash, "annotator": annotator, "by": "person", "outcome": "ok" if found else "empty",
        }  # fmt: skip


def _kind(annotation: Annotation) -> str:
    return type(annotation).kind


def _answer(result: Sequence[Item], control: Control) -> Any:
    """The value of an answer that stands for the whole; None where nobody gave one."""
    value = next((item["value"] for item in result if item.get("from_name") == control.name), None)
    found = value and value["text" if control.tag == "TextArea" else control.type]
    return [found] if isinstance(found, str) else found


def _say(control: Control, labels: Sequence[str]) -> Item:
    """Labels as the value of an answer."""
    if control.tag == "Taxonomy":
        return {"taxonomy": [list(parted(label)) for label in labels]}
    if control.tag == "Rating":
        return {"rating": int(labels[0]) if labels[0].isascii() and labels[0].isdigit() else labels[0]}
    return {"text" if control.tag == "TextArea" else "choices": list(labels)}


def _hear(control: Control, found: Any) -> tuple[str, ...]:
    if found is None:
        return ()
    if control.tag == "Rating":
        return (str(int(found)),)
    if control.tag == "Taxonomy":
        return tuple(joined("label", tuple(path)) for path in found)
    return tuple(dict.fromkeys(found))


def _classes_out(annotation: Classes, place: _Place) -> list[Item]:
    control = place.labeling.need(*CONTROLS["classes"])
    if not annotation.labels:
        return []
    return [place.item(control, _say(control, annotation.labels), "", annotation.score)]


def _classes_back(result: Sequence[Item], place: _Place, annotator: str) -> Classes:
    control = place.labeling.need(*CONTROLS["classes"])
    labels = _hear(control, _answer(result, control))
    before = place.original.labels if isinstance(place.original, Classes) else ()
    kept = before if set(before) == set(labels) else labels
    return Classes(labels=kept, **place.common(annotator, labels))


def _rating_out(annotation: Rating, place: _Place) -> list[Item]:
    control = place.labeling.need(*CONTROLS["rating"])
    if not annotation.values:
        return []
    return [place.item(control, _say(control, annotation.values), annotation.scale, annotation.score)]


def _rating_back(result: Sequence[Item], place: _Place, annotator: str) -> Rating:
    control = place.labeling.need(*CONTROLS["rating"])
    values = _hear(control, _answer(result, control))
    before = place.original if isinstance(place.original, Rating) else None
    scale = place.scale or (before.scale if before else control.name)
    if before and set(before.values) == set(values):
        values = before.values
    return Rating(scale=scale, values=values, **place.common(annotator, values))


def _spans_out(entities: Sequence[Entity], place: _Place) -> list[Item]:
    control = place.labeling.need("Labels")
    shown = place.subject.shown
    made = []
    for one in entities:
        value = {
            "start": shown.out(one.start, place.unit), "end": shown.out(one.end, place.unit),
            "text": shown.text[shown.out(one.start) : shown.out(one.end)], "labels": [one.label],
        }  # fmt: skip
        made.append(place.item(control, value, one.id, one.score))
    return made


def _spans_back(result: Sequence[Item], place: _Place) -> dict[str, Entity]:
    """Region -> entity, in the order of the text."""
    control = place.labeling.need("Labels")
    original = place.original
    known = original.entities if isinstance(original, Entities | Relations) else ()
    before = {region_id(place.subject.hash, control.type, one.id): one for one in known}
    text, shown, unit = place.subject.text or "", place.subject.shown, place.unit
    found = {}
    for item in result:
        if item.get("from_name") != control.name:
            continue
        value, was = item["value"], before.get(item["id"])
        spot = (value["start"], value["end"], value["labels"][0])
        if was and spot == (shown.out(was.start, unit), shown.out(was.end, unit), was.label):
            found[item["id"]] = was
            continue
        start, end = shown.back(value["start"], unit), shown.back(value["end"], unit)
        name = was.id if was else _free(item["id"], known)
        found[item["id"]] = Entity(id=name, start=start, end=end, text=text[start:end], label=spot[2])
    return dict(sorted(found.items(), key=lambda entry: (entry[1].start, entry[1].end)))


def _entities_out(annotation: Entities, place: _Place) -> list[Item]:
    return _spans_out(annotation.entities, place)


def _entities_back(result: Sequence[Item], place: _Place, annotator: str) -> Entities:
    found = _in_order(_spans_back(result, place), place.original)
    return Entities(entities=found, **place.common(annotator, found))


def _in_order(found: Mapping[str, Entity], original: Annotation | None) -> tuple[Entity, ...]:
    """In the order of the text; in that of the original where nothing has changed."""
    parts = tuple(found.values())
    before = original.entities if isinstance(original, Entities | Relations) else ()
    return before if set(parts) == set(before) and len(parts) == len(before) else parts


def _relations_out(annotation: Relations, place: _Place) -> list[Item]:
    spans = _spans_out(annotation.entities, place)
    ids = {one.id: item["id"] for one, item in zip(annotation.entities, spans, strict=True)}
    place.labeling.need("Relations")
    return spans + [
        {
            "type": "relation", "from_id": ids[one.head], "to_id": ids[one.tail],
            "direction": "bi" if one.symmetric else "right", "labels": [one.label],
        }
        for one in annotation.relations
    ]  # fmt: skip


def _relations_back(result: Sequence[Item], place: _Place, annotator: str) -> Relations:
    spans = _spans_back(result, place)
    original = place.original.relations if isinstance(place.original, Relations) else ()
    before = {(one.head, one.tail, one.label, one.symmetric): one for one in original}
    found: dict[tuple[str, str, str], Relation] = {}
    for item in result:
        if item.get("type") != "relation":
            continue
        head, tail = spans[item["from_id"]].id, spans[item["to_id"]].id
        direction = item.get("direction", "right")
        if direction == "left":
            head, tail = tail, head
        for label in item["labels"]:
            fresh = Relation(head=head, tail=tail, label=label, symmetric=direction == "bi")
            found[head, tail, label] = before.get((head, tail, label, fresh.symmetric), fresh)
    relations = tuple(found.values())
    if len(relations) == len(original) and set(relations) == set(original):
        relations = original
    return Relations(
        entities=_in_order(spans, place.original), relations=relations,
        **place.common(annotator, relations),
    )  # fmt: skip


def _boxes_out(annotation: Boxes, place: _Place) -> list[Item]:
    control = place.labeling.need("RectangleLabels")
    return [
        {
            **place.item(control, {**_percent(one), "rectanglelabels": [one.label]}, one.id, one.score),
            "original_width": annotation.width, "original_height": annotation.height, "image_rotation": 0,
        }
        for one in annotation.boxes
    ]  # fmt: skip


def _percent(box: Box) -> dict[str, float]:
    sides = {name: round(getattr(box, name) * 100, PERCENT_DIGITS) for name in ("x", "y", "width", "height")}
    return {**sides, "rotation": box.rotation}


def _boxes_back(result: Sequence[Item], place: _Place, annotator: str) -> Boxes:
    control = place.labeling.need("RectangleLabels")
    known = place.original.boxes if isinstance(place.original, Boxes) else ()
    before = {region_id(place.subject.hash, control.type, one.id): one for one in known}
    found = []
    for item in result:
        if item.get("from_name") != control.name:
            continue
        value, was = item["value"], before.get(item["id"])
        label = value["rectanglelabels"][0]
        if was and was.label == label and _as_before(was, value):
            found.append(was)
        else:
            name = was.id if was else _free(item["id"], known)
            found.append(Box(id=name, label=label, **_fractions(value)))
    if place.subject.picture is None:
        raise UsageError("boxes belong to a picture", code="L106")
    size = {"width": place.subject.picture.width, "height": place.subject.picture.height}
    return Boxes(boxes=tuple(found), **size, **place.common(annotator, found))


def _free(region: str, known: Sequence[Entity] | Sequence[Box]) -> str:
    """The id of a new part: its region's, with a dash where an older part has that as its own."""
    return f"{region}-" if any(one.id == region for one in known) else region


def _as_before(box: Box, value: Mapping[str, Any]) -> bool:
    """What a browser gives back differs in the last digits."""
    return all(abs(float(value.get(name, 0)) - number) <= SLACK for name, number in _percent(box).items())


def _fractions(value: Mapping[str, Any]) -> dict[str, float]:
    """Percentages as fractions. Corners are clamped and the sides follow from them, so that nothing sticks out."""
    rotation = float(value.get("rotation", 0))
    made = {"rotation": rotation}
    for start, side in (("x", "width"), ("y", "height")):
        first = round(min(max(float(value[start]), 0.0), 100.0) / 100, DIGITS)
        last = round((float(value[start]) + float(value[side])) / 100, DIGITS)
        length = (last if rotation else min(last, 1.0)) - first
        made |= {start: first, side: min(round(length, DIGITS), 1.0)}
    return made


@dataclass(frozen=True, slots=True)
class _Ways:
    out: Callable[[Any, _Place], list[Item]]
    back: Callable[[Sequence[Item], _Place, str], Annotation]


_KINDS = {
    "classes": _Ways(_classes_out, _classes_back), "rating": _Ways(_rating_out, _rating_back),
    "entities": _Ways(_entities_out, _entities_back), "relations": _Ways(_relations_out, _relations_back),
    "boxes": _Ways(_boxes_out, _boxes_back),
}  # fmt: skip
