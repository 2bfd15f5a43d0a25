"""Annotations under review: panels and ties, edits held against the text and the labels."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from gristmill.data.annotations import Boxes, Classes, Entities, Entity, Relation, Relations
from gristmill.data.kinds import Chunk, Image, Source, content_hash
from gristmill.errors import UsageError
from gristmill.operators.annotation_labels import LabelSet
from gristmill.operators.annotation_options import Named
from gristmill.review.decisions import decide, states
from gristmill.review.queues import Review
from tests.review.conftest import Made, Runs

OUTPUTS: tuple[list[type[BaseModel]], ...] = ([Source], [Chunk, Image], [Classes], [Entities], [Relations], [Boxes])
CHUNK = Chunk(text="Ada met Bob. 🦊 ran.", start=100, end=118)
HASH = content_hash(CHUNK).hex()


def entity(number: int, start: int, end: int, label: str) -> Entity:
    return Entity(id=f"e{number}", start=start, end=end, text=CHUNK.text[start:end], label=label, score=0.9)


@pytest.fixture
async def made(runs: Runs) -> Made:
    return await runs.make(OUTPUTS)


async def refused(awaitable: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        await awaitable
    return caught.value


async def test_of_a_panel_the_joined_vote_is_reviewed_and_ties_come_first(made: Made) -> None:
    sure, tied = [await made.add(CHUNK.model_copy(update={"ordinal": at})) for at in (0, 1)]
    for chunk, outcome, score in ((sure, "ok", 0.67), (tied, "tie", 0.5)):
        votes = [
            await made.add(Classes(subject=HASH, annotator=who, labels=(label,)), [chunk])
            for who, label in (("a", "good"), ("b", "bad"), ("c", "good"))
        ]
        joined = Classes(
            subject=HASH, annotator="panel", by="panel", outcome=outcome, score=score,
            labels=("good",) if outcome == "ok" else (), reason=None if outcome == "ok" else "good 1, bad 1",
        )  # fmt: skip
        await made.add(joined, votes)
    pieces = await made.review.claim("ann", 10)
    assert [(piece.score, piece.disagreement) for piece in pieces] == [(0.0, 1.0), (0.67, pytest.approx(0.33))]
    tie = pieces[0]
    error = await refused(decide(made.pool, tie.record_id, "accept", "ann", token=tie.token))
    assert (error.code, "good 1, bad 1" in error.message) == ("V132", True)
    told = await decide(made.pool, tie.record_id, "edit", "ann", changes={"labels": ["bad"]}, token=tie.token)
    (piece,) = await made.review.pieces(records=[tie.record_id])
    assert told.state == "edited"
    assert {name: piece.body[name] for name in ("labels", "annotator", "by", "outcome", "reason", "score")} == {
        "labels": ["bad"], "annotator": "ann", "by": "person", "outcome": "ok", "reason": None, "score": None,
    }  # fmt: skip


async def test_nothing_is_an_answer_too_when_a_person_says_so(made: Made) -> None:
    chunk = await made.add(CHUNK)
    lost = await made.add(Entities(subject=HASH, annotator="m", outcome="degraded", reason="no JSON"), [chunk])
    await decide(made.pool, lost, "edit", "ann", changes={"entities": []})
    assert (await states(made.pool, [lost]))[lost].state == "edited"
    await made.review.look()
    (piece,) = await made.review.pieces(records=[lost])
    assert piece.body["outcome"] == "empty"


async def test_spans_are_shown_in_their_text_and_edits_are_held_against_it(made: Made) -> None:
    chunk = await made.add(CHUNK)
    spans = (entity(1, 0, 3, "PERSON"), entity(2, 13, 14, "ANIMAL"))
    number = await made.add(Entities(subject=HASH, annotator="m", entities=spans, score=0.9), [chunk])
    (piece,) = await made.review.claim("ann")
    assert piece.source.text is not None
    assert [(piece.source.text[m.start : m.end], m.what) for m in piece.source.marks] == [
        ("Ada", "PERSON"),
        ("🦊", "ANIMAL"),
    ]
    assert (piece.source.start, piece.source.end) == (100, 100 + len(CHUNK.text))
    wrong = [{"id": "e1", "start": 4, "end": 7, "text": "Bob", "label": "PERSON"}]
    error = await refused(decide(made.pool, number, "edit", "ann", changes={"entities": wrong}))
    assert (error.code, "the text has 'met' there" in error.message) == ("V120", True)
    right = [{"id": "e1", "start": 8, "end": 11, "text": "Bob", "label": "PERSON"}]
    assert (await decide(made.pool, number, "edit", "ann", body={"entities": right})).state == "edited"


async def test_entities_that_relations_were_made_of_are_reviewed_with_them(made: Made) -> None:
    chunk = await made.add(CHUNK)
    spans = (entity(1, 0, 3, "PERSON"), entity(2, 8, 11, "PERSON"))
    entities = await made.add(Entities(subject=HASH, annotator="m", entities=spans), [chunk])
    relation = Relation(head="e1", tail="e2", label="met")
    body = Relations(subject=HASH, annotator="m", entities=spans, relations=(relation,))
    number = await made.add(body, [entities])
    assert [piece.record_id for piece in await made.review.claim("ann", 9)] == [number]
    error = await refused(decide(made.pool, number, "edit", "ann", changes={"entities": []}))
    assert (error.code, "is none of the entities" in error.message) == ("V120", True)


async def test_boxes_come_with_their_picture(made: Made) -> None:
    image = Image(blob="ab" * 32, media_type="image/png", width=200, height=100, name="a.png")
    picture = await made.add(image)
    box = {"id": "b1", "label": "cat", "x": 0.1, "y": 0.2, "width": 0.3, "height": 0.4}
    body = Boxes.model_validate(
        {"subject": content_hash(image).hex(), "annotator": "m", "width": 200, "height": 100, "boxes": [box]}
    )
    number = await made.add(body, [picture])
    (piece,) = await made.review.claim("ann")
    assert (piece.source.what, piece.source.image, piece.source.width) == ("image", "ab" * 32, 200)
    assert piece.source.boxes[0]["label"] == "cat"
    outside = await refused(decide(made.pool, number, "edit", "ann", body={"boxes": [{**box, "x": 0.9}]}))
    assert "sticks out" in outside.message
    assert (await decide(made.pool, number, "edit", "ann", body={"boxes": [{**box, "label": "dog"}]})).changed


async def test_an_edit_may_only_use_the_labels_of_its_step(made: Made) -> None:
    chunk = await made.add(CHUNK)
    number = await made.add(Classes(subject=HASH, annotator="m", labels=("good",)), [chunk])
    allowed = LabelSet("classes", (Named(name="good"), Named(name="bad")), least=1, most=1)
    review = Review(made.pool, made.run_id, OUTPUTS, {2: allowed})
    (piece,) = await review.claim("ann")
    assert piece.labels is not None
    assert [one["name"] for one in piece.labels["labels"]] == ["good", "bad"]
    error = await refused(review.decide(number, "edit", "ann", changes={"labels": ["ugly"]}, token=piece.token))
    assert (error.code, "'ugly' is not one of the labels" in error.message) == ("V120", True)
    assert (await review.decide(number, "edit", "ann", changes={"labels": ["bad"]}, token=piece.token)).changed


async def test_two_people_who_draw_the_same_spans_agree_although_their_names_differ(made: Made) -> None:
    chunk = await made.add(CHUNK)
    number = await made.add(Classes(subject=HASH, annotator="m", labels=("good",)), [chunk])
    await made.review.assign([], overlap=1.0)
    for name in ("ann", "bob"):
        piece = await made.review.take(name, number)
        told = await decide(made.pool, number, "edit", name, changes={"labels": ["bad"]}, token=piece.token)
    assert (told.state, told.disputed) == ("edited", False)
