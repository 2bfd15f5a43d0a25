"""Annotations in words, as the tables tell them."""

from __future__ import annotations

from typing import Any

from gristmill.data.annotations import Box, Boxes, Classes, Entities, Entity, Rating, Relation, Relations
from gristmill.review.annotation_tables import told
from gristmill.review.annotators import about_of, labels_of

ABOUT: dict[str, Any] = {"subject": "0" * 64, "annotator": "anna"}
SPANS = (
    Entity(id="e1", start=0, end=3, text="Ada", label="PERSON"),
    Entity(id="e2", start=7, end=11, text="Acme", label="COMPANY"),
)
SAID = [
    (Classes(**ABOUT, labels=("a", "b")), "classes", "a; b", ["a", "b"]),
    (Rating(**ABOUT, scale="care", values=("C-1",)), "rating:care", "C-1", ["C-1"]),
    (Entities(**ABOUT, entities=SPANS), "entities", "Ada (PERSON 0-3); Acme (COMPANY 7-11)", ["PERSON", "COMPANY"]),
    (
        Relations(**ABOUT, entities=SPANS, relations=(Relation(head="e1", tail="e2", label="works_for"),)),
        "relations", "Ada works_for Acme", ["works_for"],
    ),
    (
        Boxes(**ABOUT, width=10, height=10, boxes=(Box(id="b1", label="cat", x=0.5, y=0, width=0.25, height=1),)),
        "boxes", "cat (0.5000, 0.0000, 0.2500, 1.0000)", ["cat"],
    ),
    (Classes(**ABOUT, outcome="tie"), "classes", "", []),
]  # fmt: skip


def test_every_kind_of_annotation_can_be_told_in_one_line() -> None:
    for said, about, words, labels in SAID:
        assert (about_of(said), told(said), labels_of(said)) == (about, words, labels)
