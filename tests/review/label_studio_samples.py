"""Annotations of every kind about hostile texts and pictures, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from gristmill.data.annotations import Annotation, Box, Boxes, Classes, Entities, Entity, Rating, Relation, Relations
from gristmill.data.kinds import Chunk, Image, content_hash
from gristmill.review.label_studio.labeling import Labeling, labeling_for
from gristmill.review.label_studio.subjects import Subject

HOSTILE = (
    "<b>", "A & B",
    '"quoted"', "it's", "人物", "$100", "a/b", "back\\slash", "名=\"x\" name=\"text\"", "]]>", "&amp;", "שלום",
    "é",
    "e\u0301", "🙂", "<!--", " padded ", "PER",
)  # fmt: skip
PIECES = (
    "🙂", "👩‍👩‍👧", "e\u0301", "שלום", "مرحبا", "\r\n", "\n", "\r",
    "a", "b ", "名", "\t", " ", "<b>&amp;</b>", "\u2028", "\ufeff",
    "𝒳",
    "\N{RIGHT-TO-LEFT MARK}",
)  # fmt: skip
labels = st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=6, unique=True)
texts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=30).map("".join)
scores = st.none() | st.floats(0, 1)
Case = tuple[Annotation, Subject, Labeling]


def subject_of(text: str) -> Subject:
    chunk = Chunk(text=text)
    return Subject.of(7, content_hash(chunk).hex(), chunk, {"source": "a.md"})


def picture_of(width: int, height: int) -> Subject:
    image = Image(blob="ab" * 32, media_type="image/png", width=width, height=height, name="a.png")
    return Subject.of(8, content_hash(image).hex(), image)


def whole(text: str, place: int) -> int:
    """A place that is not between CR and LF."""
    return place - 1 if text[place - 1 : place + 1] == "\r\n" else place


@st.composite
def spans(draw: Any, text: str, names: list[str]) -> tuple[Entity, ...]:
    made = []
    for number in range(draw(st.integers(0, 5))):
        start, end = sorted(whole(text, draw(st.integers(0, len(text)))) for _ in "ab")
        if start < end:
            label, score = draw(st.sampled_from(names)), draw(scores)
            made.append(
                Entity(id=f"e{number + 1}", start=start, end=end, text=text[start:end], label=label, score=score)
            )
    return tuple(sorted(made, key=lambda one: (one.start, one.end)))


@st.composite
def entities(draw: Any) -> Case:
    text, names = draw(texts), draw(labels)
    subject = subject_of(text)
    made = Entities(subject=subject.hash, annotator="me", entities=draw(spans(text, names)))
    return made, subject, labeling_for("entities", names)


@st.composite
def relations(draw: Any) -> Case:
    text, names, words = draw(texts), draw(labels), draw(labels)
    subject, found = subject_of(text), draw(spans(text, names))
    ends = st.sampled_from([one.id for one in found]) if found else st.nothing()
    one = st.builds(
        Relation, head=ends, tail=ends, label=st.sampled_from(words), symmetric=st.booleans(), score=st.none()
    )
    joins = draw(st.lists(one, max_size=4, unique_by=lambda r: (r.head, r.tail, r.label))) if found else []
    made = Relations(subject=subject.hash, annotator="me", entities=found, relations=tuple(joins))
    return made, subject, labeling_for("relations", names, relations=words)


@st.composite
def classes(draw: Any) -> Case:
    tag = draw(st.sampled_from(["Choices", "Taxonomy"]))
    names = draw(labels)
    if tag == "Taxonomy":
        names = [name for name in names if "\\" not in name] or ["a/b"]
    subject = draw(st.sampled_from([subject_of("text 🙂\r\nmore"), picture_of(4, 3)]))
    chosen = draw(st.lists(st.sampled_from(names), unique=True))
    made = Classes(subject=subject.hash, annotator="me", labels=tuple(chosen), score=draw(scores))
    return made, subject, labeling_for("classes", names, medium=subject.medium, multiple=True, tag=tag)


@st.composite
def ratings(draw: Any) -> Case:
    tag = draw(st.sampled_from(["Choices", "TextArea", "Rating"]))
    names = ["1", "2", "7"] if tag == "Rating" else draw(labels)
    subject = subject_of("text")
    chosen = draw(st.lists(st.sampled_from(names), unique=True, max_size=1 if tag == "Rating" else None))
    made = Rating(subject=subject.hash, annotator="me", scale="urgency", values=tuple(chosen), score=draw(scores))
    return made, subject, labeling_for("rating", names, multiple=True, tag=tag, name="urgency")


@st.composite
def boxes(draw: Any) -> Case:
    names, width, height = draw(labels), draw(st.integers(1, 12_000)), draw(st.integers(1, 12_000))
    subject = picture_of(width, height)
    found = []
    for number in range(draw(st.integers(0, 5))):
        left, right = sorted(draw(st.lists(st.integers(0, width), min_size=2, max_size=2, unique=True)))
        top, bottom = sorted(draw(st.lists(st.integers(0, height), min_size=2, max_size=2, unique=True)))
        turned = draw(st.sampled_from([0.0, 0.0, 90.0, -45.5, 359.99]))
        found.append(
            Box(
                id=f"b{number + 1}", label=draw(st.sampled_from(names)), x=left / width, y=top / height,
                width=(right - left) / width, height=(bottom - top) / height, rotation=turned, score=draw(scores),
            )
        )  # fmt: skip
    made = Boxes(subject=subject.hash, annotator="me", width=width, height=height, boxes=tuple(found))
    return made, subject, labeling_for("boxes", names, medium="image")


cases = st.one_of(classes(), ratings(), entities(), relations(), boxes())
