"""Annotations go to Label Studio's form and come back the same, whatever stands in texts and labels."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.annotations import Box, Boxes, Classes, Entities, Entity, Relation, Relations, problems_of
from gristmill.errors import UsageError
from gristmill.review.label_studio.check import check_result, check_task
from gristmill.review.label_studio.labeling import Control, Labeling, configuration, labeling_for, parse_configuration
from gristmill.review.label_studio.offsets import Shown, Unit
from gristmill.review.label_studio.results import from_result, region_id, to_result, unit_of
from gristmill.review.label_studio.same import digest_of, same
from tests.review.label_studio_samples import HOSTILE, Case, boxes, cases, labels, picture_of, subject_of, texts

UNITS: tuple[Unit, ...] = ("codepoint", "utf16")


@settings(max_examples=150, deadline=None)
@given(cases, st.sampled_from(UNITS))
def test_an_annotation_goes_there_and_comes_back_the_same(case: Case, unit: Unit) -> None:
    annotation, subject, labeling = case
    result = json.loads(json.dumps(to_result(annotation, subject, labeling, unit)))
    xml = configuration(labeling)
    assert parse_configuration(xml) == labeling
    scale = getattr(annotation, "scale", None)
    known = from_result(annotation.kind, result, subject, labeling, "ann", original=annotation, unit=unit)
    alone = from_result(annotation.kind, result, subject, labeling, "ann", unit=unit, scale=scale)
    assert same(known, annotation)
    assert same(alone, annotation)
    who = {"annotator": "ann", "by": "person", "outcome": known.outcome, "score": None}
    assert known == annotation.model_copy(update=who)  # ids, order, scores of parts: everything
    assert (known.subject, known.annotator, known.by) == (subject.hash, "ann", "person")
    assert to_result(annotation, subject, labeling, unit) == result  # the same every time
    assert unit_of(result, subject, labeling, unit) == unit
    written = [
        {**item, **{name: f"{item[name]}!" for name in ("id", "from_id", "to_id") if name in item}, "origin": "m"}
        for item in reversed(result)
    ]  # as an editor may write the same down
    assert digest_of(written) == digest_of(result)
    assert not result or digest_of(result[1:]) != digest_of(result)


@settings(max_examples=100, deadline=None)
@given(texts)
def test_every_place_of_a_text_goes_over_and_back(text: str) -> None:
    shown = Shown.of(text)
    assert "\r" not in shown.text
    raw = shown.text.encode("utf-16-le")
    for place in range(len(text) + 1):
        if text[place - 1 : place + 1] == "\r\n" and place:
            continue  # no place of the shown text
        for unit in UNITS:
            assert shown.back(shown.out(place, unit), unit) == place
        wanted = text[:place].replace("\r\n", "\n").replace("\r", "\n")
        assert shown.text[: shown.out(place)] == wanted
        assert raw[: 2 * shown.out(place, "utf16")].decode("utf-16-le") == wanted


@settings(max_examples=100, deadline=None)
@given(boxes())
def test_pixels_become_percent_and_the_same_pixels(case: Case) -> None:
    annotation, subject, labeling = case
    assert isinstance(annotation, Boxes)
    for one, item in zip(annotation.boxes, to_result(annotation, subject, labeling), strict=True):
        value, width, height = item["value"], annotation.width, annotation.height
        left, top, right, bottom = one.pixels(width, height)
        assert round(value["x"] / 100 * width) == round(left)
        assert round((value["x"] + value["width"]) / 100 * width) == round(right)
        assert round((value["y"] + value["height"]) / 100 * height) == round(bottom)
        assert abs(value["y"] / 100 * height - top) < 1e-3
        assert one.rotation or value["x"] + value["width"] <= 100 + 1e-6


def test_a_relation_leads_to_the_regions_of_its_ends() -> None:
    subject = subject_of("Ada wrote to Bob.")
    found = (
        Entity(id="e1", start=0, end=3, text="Ada", label="PER"),
        Entity(id="e2", start=13, end=16, text="Bob", label="PER"),
    )
    wrote = Relation(head="e1", tail="e2", label="wrote to")
    knows = Relation(head="e1", tail="e2", label="knows", symmetric=True)
    made = Relations(subject=subject.hash, annotator="m", entities=found, relations=(wrote, knows))
    labeling = labeling_for("relations", ["PER"], relations=["wrote to", "knows"])
    result = to_result(made, subject, labeling)
    ids = [region_id(subject.hash, "labels", one.id) for one in found]
    assert [item["id"] for item in result[:2]] == ids
    assert result[2] == {
        "type": "relation", "from_id": ids[0], "to_id": ids[1], "direction": "right", "labels": ["wrote to"],
    }  # fmt: skip
    assert result[3]["direction"] == "bi"
    turned = [*result[:2], {**result[2], "direction": "left"}]
    back = from_result("relations", turned, subject, labeling, "ann", original=made)
    assert isinstance(back, Relations)
    assert back.relations == (Relation(head="e2", tail="e1", label="wrote to"),)


def test_what_a_person_changed_is_new_and_the_rest_keeps_ids_and_scores() -> None:
    subject = subject_of("Ada\r\nmet Bob 🙂 in Rome.")
    ada = Entity(id="e1", start=0, end=3, text="Ada", label="PER", score=0.5, match="exact")
    bob = Entity(id="e2", start=9, end=12, text="Bob", label="PER", score=0.25, match="fuzzy")
    made = Entities(subject=subject.hash, annotator="m", entities=(ada, bob))
    labeling = labeling_for("entities", ["PER", "LOC"])
    result = to_result(made, subject, labeling)
    result[1]["value"]["labels"] = ["LOC"]
    rome = {**result[1], "id": "Xy_1234567", "value": {"start": 17, "end": 21, "text": "Rome", "labels": ["LOC"]}}
    back = from_result("entities", [*result, rome], subject, labeling, "ann", original=made)
    assert isinstance(back, Entities)
    assert back.entities == (
        ada, Entity(id="e2", start=9, end=12, text="Bob", label="LOC"),
        Entity(id="Xy_1234567", start=18, end=22, text="Rome", label="LOC"),
    )  # fmt: skip
    assert not same(back, made)


def test_what_is_undecided_says_nothing_and_what_is_empty_says_so() -> None:
    subject, labeling = subject_of("text"), labeling_for("classes", ["a", "b"])
    degraded = Classes(subject=subject.hash, annotator="m", outcome="degraded", reason="no answer")
    assert to_result(degraded, subject, labeling) == []
    back = from_result("classes", [], subject, labeling, "ann")
    assert back == Classes(subject=subject.hash, annotator="ann", by="person", outcome="empty")


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["classes", "entities", "boxes", "relations", "rating"]), labels, labels)
def test_a_configuration_is_parsed_back_to_the_same_labels(kind: str, names: list[str], words: list[str]) -> None:
    labeling = labeling_for(kind, names, medium="image" if kind == "boxes" else "text", relations=words)
    assert parse_configuration(configuration(labeling)) == labeling


def test_a_project_without_any_label_is_refused() -> None:
    with pytest.raises(UsageError, match="there are no labels for boxes yet"):
        labeling_for("boxes", [], medium="image")


def test_a_label_that_begins_with_a_dollar_is_not_looked_up_in_the_task() -> None:
    xml = configuration(labeling_for("classes", ["$text"]))
    assert 'value="\N{FULLWIDTH DOLLAR SIGN}text"' in xml
    assert 'alias="$text"' in xml


@pytest.mark.parametrize("bad", ["", " \t", "a\nb", "a\x00", "\ud800", "\ufffe"])
def test_a_label_that_no_xml_can_hold_is_refused(bad: str) -> None:
    with pytest.raises(UsageError, match="cannot be a label") as caught:
        labeling_for("classes", ["good", bad])
    assert caught.value.code == "L101"


@pytest.mark.parametrize(
    ("xml", "code"),
    [
        ("<View", "L102"),
        ("x" * (2**20 + 1), "L102"),
        ('<!DOCTYPE l [<!ENTITY a "b"><!ENTITY c "&a;&a;">]><View>&c;</View>', "L102"),
        ('<!DOCTYPE l SYSTEM "file:///etc/passwd"><View/>', "L102"),
        ("<View/>", "L103"),
        ('<View><Text name="a" value="$a"/><Image name="b" value="$b"/></View>', "L103"),
        ('<View><Text name="a" value="$a"/><Choices name="c"/></View>', "L104"),
        ('<View><Text name="a" value="$a"/><Labels name="c" toName="a"><Label/></Labels></View>', "L104"),
        (
            '<View><Text name="a" value="$a"/><Labels name="c" toName="a"><Label value="x"/><Label value="x"/></Labels>'
            "</View>",
            "L104",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(xml: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_configuration(xml)
    assert caught.value.code == code


def test_a_configuration_that_people_made_is_understood() -> None:
    found = parse_configuration(
        """<View><Header value="What is it?"/><View style="display: flex">
        <Choices name="topic" toName="doc" choice="multiple"><View><Choice value="a" hotkey="x"/></View>
        <Choice value="b" alias="B"/></Choices></View><Text name="doc" value="$content"/><Number name="n" toName="doc"/>
        </View>"""
    )
    topic = Control("Choices", "topic", "doc", ("a", "B"), multiple=True)
    assert found == Labeling("text", (topic,), name="doc", field="content")


def _set(path: str, value: Any) -> Any:
    return (path, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("value.end", 99), "value.end: 99, and the text has 17 characters"),
        (_set("value.start", -1), "value.start: -1 is no place in a text"),
        (_set("value.start", True), "is no place in a text"),
        (_set("value.end", 3.0), "is no place in a text"),
        (_set("value.start", 3), "starts at 3 and ends at 3"),
        (_set("value.text", "Adi"), "'Adi', and the text has 'Ada' there"),
        (_set("value.labels", ["NOBODY"]), "'NOBODY' is none of its labels"),
        (_set("value.labels", ["PER", "LOC"]), "2 labels where one is wanted"),
        (_set("value.labels", []), "no list of labels"),
        (_set("value", None), "value: missing"),
        (_set("from_name", "other"), "'other' is none of the configuration's tags"),
        (_set("to_name", "other"), "what is shown is 'text'"),
        (_set("type", "choices"), "label gives 'labels'"),
        (_set("id", None), "a region needs one"),
        (_set("score", 1.5), "1.5 is not between 0 and 1"),
        (_set("score", float("nan")), "nan is not between 0 and 1"),
    ],
)
def test_what_is_wrong_with_a_span_is_refused(change: tuple[str, Any], words: str) -> None:
    subject, labeling = subject_of("Ada wrote to Bob."), labeling_for("entities", ["PER", "LOC"])
    one = Entity(id="e1", start=0, end=3, text="Ada", label="PER")
    item = to_result(Entities(subject=subject.hash, annotator="m", entities=(one,)), subject, labeling)[0]
    path, value = change
    target = item
    for name in path.split(".")[:-1]:
        target = target[name]
    target[path.split(".")[-1]] = value
    with pytest.raises(UsageError) as caught:
        from_result("entities", [item], subject, labeling, "ann")
    assert caught.value.code == "L108"
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("value", "more", "words"),
    [
        ({"x": 60, "width": 40.1}, {}, "it sticks out of the picture"),
        ({"x": -0.1}, {}, "-0.1 is not between 0 and 100 percent"),
        ({"height": 0}, {}, "it has no area"),
        ({"width": "10"}, {}, "'10' is not between"),
        ({"rotation": 720}, {}, "720 is no angle"),
        ({"rectanglelabels": ["dog"]}, {}, "'dog' is none of its labels"),
        ({}, {"image_rotation": 90}, "the picture was turned"),
        ({}, {"original_width": 5}, "5, and the picture has 200 pixels"),
    ],
)
def test_what_is_wrong_with_a_box_is_refused(value: dict[str, Any], more: dict[str, Any], words: str) -> None:
    subject, labeling = picture_of(200, 100), labeling_for("boxes", ["cat"], medium="image")
    one = Box(id="b1", label="cat", x=0.1, y=0.1, width=0.5, height=0.5)
    made = Boxes(subject=subject.hash, annotator="m", width=200, height=100, boxes=(one,))
    item = to_result(made, subject, labeling)[0]
    bad = {**item, **more, "value": {**item["value"], **value}}
    with pytest.raises(UsageError) as caught:
        from_result("boxes", [bad], subject, labeling, "ann")
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"to_id": "nobody"}, "'nobody' is none of the regions"),
        ({"direction": "up"}, "'up' is none of right, left, bi"),
        ({"labels": ["hates"]}, "'hates' is none of its labels"),
        ({"labels": []}, "a relation without a label says nothing"),
    ],
)
def test_what_is_wrong_with_a_relation_is_refused(change: dict[str, Any], words: str) -> None:
    subject, labeling = subject_of("Ada"), labeling_for("relations", ["PER"], relations=["knows"])
    ada = Entity(id="e1", start=0, end=3, text="Ada", label="PER")
    knows = Relation(head="e1", tail="e1", label="knows")
    made = Relations(subject=subject.hash, annotator="m", entities=(ada,), relations=(knows,))
    span, relation = to_result(made, subject, labeling)
    with pytest.raises(UsageError) as caught:
        from_result("relations", [span, {**relation, **change}], subject, labeling, "ann")
    assert words in caught.value.message


def test_two_regions_of_one_id_two_answers_and_two_labels_where_one_is_wanted_are_refused() -> None:
    subject, labeling = subject_of("Ada"), labeling_for("classes", ["a", "b"])
    one = to_result(Classes(subject=subject.hash, annotator="m", labels=("a",)), subject, labeling)[0]
    with pytest.raises(UsageError, match=r"a second answer.*stands 2 times"):
        from_result("classes", [one, one], subject, labeling, "ann")
    with pytest.raises(UsageError, match="2 labels where one is wanted"):
        from_result("classes", [{**one, "value": {"choices": ["a", "b"]}}], subject, labeling, "ann")


def test_places_in_utf16_are_noticed() -> None:
    subject, labeling = subject_of("🙂🙂 Ada"), labeling_for("entities", ["PER"])
    ada = Entity(id="e1", start=3, end=6, text="Ada", label="PER")
    made = Entities(subject=subject.hash, annotator="m", entities=(ada,))
    result = to_result(made, subject, labeling, "utf16")
    assert result[0]["value"]["start"] == 5
    assert unit_of(result, subject, labeling) == "utf16"
    with pytest.raises(UsageError, match=r"count in utf16|has 6 characters"):
        from_result("entities", result, subject, labeling, "ann")


WORDS = ("type", "value", "labels", "choices", "start", "end", "x", "from_name", "label", "id", "relation", "from_id")
odd = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(WORDS)
garbage = st.recursive(
    odd, lambda part: st.lists(part, max_size=4) | st.dictionaries(st.sampled_from(WORDS), part, max_size=5)
)


@settings(max_examples=150, deadline=None)
@given(cases, garbage, st.data())
def test_whatever_comes_back_is_understood_or_refused_with_all_that_is_wrong(
    case: Case, strange: Any, data: st.DataObject
) -> None:
    annotation, subject, labeling = case
    result: Any = to_result(annotation, subject, labeling)
    places = [(result, at) for at in range(len(result))]
    places += [(item, name) for item in result for name in item]
    places += [(item["value"], name) for item in result for name in item.get("value", ())]
    if places:
        part, name = data.draw(st.sampled_from(places))
        part[name] = strange
    for given_ in (result, strange, [strange], [{"type": "relation", "from_id": strange}]):
        assert len(digest_of(given_)) == 32
        assert all(str(problem) for problem in check_task({"data": strange, "predictions": given_}, labeling))
        if check_result(given_, labeling, subject):
            with pytest.raises(UsageError, match="cannot be used"):
                from_result(annotation.kind, given_, subject, labeling, "ann", original=annotation)
            continue
        with contextlib.suppress(UsageError):
            made = from_result(annotation.kind, given_, subject, labeling, "ann", original=annotation)
            assert problems_of(made, subject.text or "") == []


def test_hostile_labels_are_many() -> None:
    assert {"<b>", "A & B", '"quoted"', "人物"} <= set(HOSTILE)
