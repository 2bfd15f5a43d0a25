"""What a candidate was made from: the passage or the picture that people see beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from gristmill.data.annotated import text_of
from gristmill.data.annotations import ANNOTATIONS, Annotation
from gristmill.data.kinds import KINDS, Chunk, Document, Image
from gristmill.data.kinds import Source as File
from gristmill.data.records import Record
from gristmill.review.bodies import subject_of
from gristmill.review.pieces import Mark, Source

B = TypeVar("B", bound=BaseModel)


def source_of(kind: str, body: Mapping[str, Any], family: Sequence[Record]) -> Source:
    """The source of a body, from its record's family (nearest first): of an annotation what was annotated, of a row the
    nearest passage, or the picture that it is about. Spans and boxes are those of `body`."""
    file, document = _nearest(family, File), _nearest(family, Document)
    about: dict[str, Any] = {
        "name": file[1].name if file else "", "title": document[1].title if document else None,
        "document": document[0].id if document else None,
    }  # fmt: skip
    if kind in ANNOTATIONS:
        return _annotated(ANNOTATIONS[kind].model_validate_json(json.dumps(dict(body))), family, about)
    chunk, image = _nearest(family, Chunk), _nearest(family, Image)
    if body.get("image") and image is not None:
        return _picture(image, (), about)
    if chunk is None:
        return Source(**about)
    return _passage(chunk, _evidence(body, chunk[1]), about)


def _annotated(annotation: Annotation, family: Sequence[Record], about: dict[str, Any]) -> Source:
    record = subject_of(annotation, family)
    if record is None or record.kind not in KINDS:
        return Source(**about)
    subject = KINDS[record.kind].model_validate_json(record.body)
    if isinstance(subject, Image):
        boxes = tuple(one.model_dump(mode="json") for one in getattr(annotation, "boxes", ()))
        return _picture((record, subject), boxes, about)
    marks = tuple(Mark(one.start, one.end, one.label) for one in getattr(annotation, "entities", ()))
    if isinstance(subject, Chunk):
        return _passage((record, subject), marks, about)
    text = text_of(subject)
    if text is None:
        return Source(**about)
    return Source(what="text", record_id=record.id, text=text, marks=marks, **about)


def _passage(found: tuple[Record, Chunk], marks: tuple[Mark, ...], about: dict[str, Any]) -> Source:
    record, chunk = found
    start, end = chunk.place(0, len(chunk.text))
    return Source(
        what="text", record_id=record.id, text=chunk.text, start=start, end=end, page=chunk.page_start, marks=marks,
        **about,
    )  # fmt: skip


def _picture(found: tuple[Record, Image], boxes: tuple[dict[str, Any], ...], about: dict[str, Any]) -> Source:
    record, image = found
    return Source(
        what="image", record_id=record.id, image=image.blob, width=image.width, height=image.height, page=image.page,
        boxes=boxes, **{**about, "name": about["name"] or image.name},
    )  # fmt: skip


def _evidence(body: Mapping[str, Any], chunk: Chunk) -> tuple[Mark, ...]:
    """Where the passage supports a row; offsets of rows count in the document, those of marks in the passage."""
    start, end = body.get("evidence_start"), body.get("evidence_end")
    if start is None or end is None or chunk.cleaned:
        quote = body.get("quote")
        at = chunk.text.find(quote) if quote else -1
        return (Mark(at, at + len(quote), "evidence"),) if quote and at >= 0 else ()
    start, end = start - chunk.start, end - chunk.start
    return (Mark(start, end, "evidence"),) if 0 <= start < end <= len(chunk.text) else ()


def _nearest(family: Sequence[Record], kind: type[B]) -> tuple[Record, B] | None:
    for record in family:
        if record.kind == getattr(kind, "kind", None):
            return record, kind.model_validate_json(record.body)
    return None


def scores_of(rows: Sequence[Any]) -> dict[int, tuple[dict[str, Any], ...]]:
    """By record what evaluations and judgements say of it, from rows of record_id and body."""
    made: dict[int, tuple[dict[str, Any], ...]] = {}
    for row in rows:
        body = json.loads(row["body"])
        rubric, judge = body.get("rubric", "test"), body.get("judge") or body.get("by")
        lines = [
            {"name": one["name"], "value": one["value"], "comment": one["comment"]} for one in body.get("scores", ())
        ]
        overall = {"name": "overall", "value": body.get("overall", body.get("score")), "comment": body.get("comment")}
        found = tuple({"rubric": rubric, "judge": judge, **line} for line in (overall, *lines))
        made[row["record_id"]] = (*made.get(row["record_id"], ()), *found)
    return made
