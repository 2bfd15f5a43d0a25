"""Classes and ratings, panels of annotators, and how far they agree."""

from __future__ import annotations

from typing import Any

import pytest

from gristmill.data.annotations import Agreement, Annotation, Box, Boxes, Classes, Entities, Entity, Rating, Relations
from gristmill.data.annotations import Relation as Edge
from gristmill.data.kinds import Chunk, Conversation, Example, Turn, content_hash
from gristmill.errors import InvalidOutput, UsageError, WorkflowError
from gristmill.operators import agreement, classify, panel, rate
from gristmill.operators.annotation_labels import described, label_sets, problems_with, taken_over
from gristmill.operators.annotation_votes import agreed
from gristmill.testing.operators import ScriptedModel, perform
from gristmill.workflow import Workflow
from gristmill.workflow_files import find_workflow, shipped
from tests.operators.test_images import drawn, read, saved

TEXT = Chunk(text="Please send my money back.")
LABELS = {"refund": "asks for money back", "praise": "", "other": "nothing of these"}


async def class_of(*answers: Any, **options: Any) -> Classes:
    (made,) = await perform(classify.using(labels=LABELS, **options), TEXT, model=ScriptedModel(answers))
    assert isinstance(made, Classes)
    return made


@pytest.mark.parametrize(
    "answer",
    [
        {"labels": ["refund"], "confidence": 0.9}, {"labels": ["Refund."], "confidence": "90 %"}, {"label": "refund"},
        {"labels": "refund"}, ["refund"], {"labels": ["refund", "**REFUND**"]},
        'Of course!\n```json\n{"labels": ["- refund"]}\n```',
    ],
)  # fmt: skip
async def test_a_class_is_read_however_the_model_writes_it_down(answer: Any) -> None:
    made = await class_of(answer)
    assert (made.labels, made.outcome, made.annotator) == (("refund",), "ok", "scripted")
    assert made.score in (None, 0.9)
    assert made.subject == content_hash(TEXT).hex()


@pytest.mark.parametrize(
    ("wrong", "options"),
    [
        ({"labels": ["money"]}, {}),
        ({"labels": ["refund", "praise"]}, {}),
        ({"labels": []}, {"multiple": True}),
        ({"labels": None}, {}),
        ("It is a refund.", {}),
    ],
)
async def test_what_is_not_allowed_is_asked_for_again_and_then_recorded_as_degraded(
    wrong: Any, options: dict[str, Any]
) -> None:
    assert (await class_of(wrong, {"labels": ["refund"]}, **options)).labels == ("refund",)
    made = await class_of(wrong, wrong, **options)
    assert (made.labels, made.outcome, made.undecided) == ((), "degraded", True)
    assert (made.reason or "").startswith("invalid_output: ")
    with pytest.raises(InvalidOutput):
        await class_of(wrong, wrong, on_failure="fail", **options)


async def test_several_classes_or_none_only_where_that_is_allowed() -> None:
    made = await class_of({"labels": ["other", "refund"]}, multiple=True)
    assert made.labels == ("refund", "other")  # in the order of the list: the same set is the same annotation
    made = await class_of({"labels": []}, allow_none=True)
    assert (made.labels, made.outcome, made.undecided) == ((), "empty", False)


async def test_a_model_is_told_meanings_examples_and_bounds_and_may_say_why() -> None:
    model = ScriptedModel([{"comment": "It asks for money.", "labels": ["refund"]}])
    step = classify.using(
        labels=LABELS, explain=True, annotator="anna", examples=[{"text": "Fine!", "labels": ["praise"]}]
    )
    (made,) = await perform(step, TEXT, model=model)
    assert isinstance(made, Classes)
    assert (made.comment, made.annotator, made.model) == ("It asks for money.", "anna", "scripted")
    assert list((model.requests[0].schema or {})["properties"]) == ["comment", "labels", "confidence"]
    plain = ScriptedModel([{"labels": ["praise"]}])
    await perform(classify.using(labels=LABELS), TEXT, model=plain)
    assert list((plain.requests[0].schema or {})["properties"]) == ["labels", "confidence"]
    asked = model.requests[0].messages[-1].text
    for words in ("- refund: asks for money back", "- praise\n", "at least 1 and at most 1", '"Fine!"', TEXT.text):
        assert words in asked
    with pytest.raises(UsageError, match="blame"):
        await perform(step.using(examples=[{"text": "x", "labels": ["blame"]}]), TEXT, model=ScriptedModel([]))


async def test_pictures_conversations_and_examples_are_classified_too() -> None:
    image, blobs = await read(saved(drawn((3000, 100)), "PNG"))
    model = ScriptedModel([{"labels": ["other"]}])
    (made,) = await perform(classify.using(labels=LABELS), image, blobs=blobs, model=model)
    assert isinstance(made, Classes)
    assert made.subject == content_hash(image).hex()
    assert len(model.requests[0].messages[-1].parts) == 2
    talk = Conversation(turns=(Turn(role="user", content="Hi"), Turn(role="assistant", content="Ho")), rounds=1)
    for subject, words in ((talk, "user: Hi\n\nassistant: Ho"), (Example(question="Q?", answer="A."), "Q?\n\nA.")):
        model = ScriptedModel([{"labels": ["other"]}])
        await perform(classify.using(labels=LABELS), subject, model=model)
        assert words in model.requests[0].messages[-1].text


async def test_languages_have_prompts_of_their_own() -> None:
    words = {"zh-CN": "至少选 1 个", "tr": "en az 1"}
    for language, there in words.items():
        model = ScriptedModel([{"labels": ["other"]}])
        await perform(classify.using(labels=LABELS), TEXT, model=model, language=language)
        assert there in model.requests[0].messages[-1].text


URGENCY = {"name": "urgency", "about": "How urgent is it?", "codes": "LEVEL_0..LEVEL_4"}
TRAITS = {"name": "traits", "codes": ["TA-1", "TA-2", "TA-3"], "several": True, "none": "NONE", "most": 2}
NOTES = {"name": "notes", "about": "What could help?", "least": 2, "most": 3}


async def rating(scale: Any, *answers: Any, **options: Any) -> Rating:
    (made,) = await perform(rate.using(scale=scale, **options), TEXT, model=ScriptedModel(answers))
    assert isinstance(made, Rating)
    return made


@pytest.mark.parametrize(
    ("scale", "answer", "values"),
    [
        (URGENCY, {"labels": ["LEVEL_3"]}, ("LEVEL_3",)),
        (URGENCY, {"labels": "level_0"}, ("LEVEL_0",)),
        (TRAITS, {"labels": ["TA-3", "TA-1"]}, ("TA-1", "TA-3")),
        (TRAITS, {"labels": "TA-1, TA-2"}, ("TA-1", "TA-2")),
        (TRAITS, {"labels": ["none"]}, ("NONE",)),
        (NOTES, {"labels": ["walk more", " sleep ", "Sleep"]}, ("walk more", "sleep")),
    ],
)
async def test_a_scale_has_one_code_or_several_or_a_list(scale: Any, answer: Any, values: tuple[str, ...]) -> None:
    made = await rating(scale, answer)
    assert (made.scale, made.values, made.outcome) == (scale["name"], values, "ok")


@pytest.mark.parametrize(
    ("scale", "answer"),
    [
        (URGENCY, {"labels": ["LEVEL_5"]}),
        (URGENCY, {"labels": ["LEVEL_1", "LEVEL_2"]}),
        (TRAITS, {"labels": ["TA-1", "TA-2", "TA-3"]}),
        (TRAITS, {"labels": ["NONE", "TA-1"]}),
        (NOTES, {"labels": ["one only"]}),
        (NOTES, {"labels": ["a", "b", "c", "d"]}),
    ],
)
async def test_a_rating_outside_of_its_scale_is_degraded_and_says_that_it_was_not_valid(
    scale: Any, answer: Any
) -> None:
    made = await rating(scale, answer, answer)
    assert (made.values, made.outcome) == ((), "degraded")


@pytest.mark.parametrize(
    ("scale", "said", "values"),
    [
        (URGENCY, "I would say <<LEVEL_2>>.", ("LEVEL_2",)),
        (TRAITS, "My ratings:\n[[TA-2; TA-1]]", ("TA-1", "TA-2")),
        (NOTES, 'Here: <<["walk", "sleep"]>>', ("walk", "sleep")),
        (URGENCY, "<<LEVEL_9>>", ()),
        (URGENCY, "LEVEL_2, and on no account LEVEL_3", ()),
    ],
)
async def test_codes_between_marks_in_prose_count_and_others_do_not(scale: Any, said: str, values: Any) -> None:
    made = await rating(scale, said, said, on_failure="degrade")
    assert (made.values, made.outcome) == (values, "ok" if values else "degraded")


@pytest.mark.parametrize(
    "scale",
    [
        {"name": "s", "codes": ["A", "a"]}, {"name": "s", "several": True}, {"name": "s", "least": 5, "most": 2},
        {"name": "s", "codes": ["A"], "none": "a"}, {"name": "s", "codes": ["A", "B"], "most": 1}, {"codes": ["A"]},
    ],
)  # fmt: skip
def test_a_scale_that_contradicts_itself_is_refused_when_the_options_are_set(scale: Any) -> None:
    with pytest.raises(WorkflowError):
        rate.using(scale=scale)


def vote(name: str, *labels: str, subject: str = "0", **more: Any) -> Classes:
    outcome = more.pop("outcome", "ok" if labels else "empty")
    return Classes(subject=subject * 64, annotator=name, labels=labels, outcome=outcome, **more)


@pytest.mark.parametrize(
    ("votes", "labels", "outcome"),
    [
        (["a", "a", "b"], ("a",), "ok"),
        (["a", "b", "c"], (), "tie"),
        (["a", "b"], (), "tie"),
        (["a", "a", None], ("a",), "ok"),
        (["", "", "a"], (), "empty"),
        (["", "a"], (), "tie"),
        (["a", None, None], (), "degraded"),
        ([None, None, None], (), "degraded"),
    ],
)
def test_a_panel_says_what_most_say_and_a_tie_waits_for_a_person(
    votes: list[str | None], labels: tuple[str, ...], outcome: str
) -> None:
    given = [
        vote(str(n), *([one] if one else []), **({"outcome": "degraded"} if one is None else {}))
        for n, one in enumerate(votes)
    ]
    made = agreed(given, "panel")
    assert isinstance(made, Classes)
    assert (made.labels, made.outcome, made.by) == (labels, outcome, "panel")
    assert made.undecided == (outcome in ("tie", "degraded"))
    assert (made.reason is None) == (outcome in ("ok", "empty"))


def test_a_panel_joins_sets_spans_relations_and_boxes_piece_by_piece() -> None:
    several = agreed([vote("1", "a", "b"), vote("2", "a"), vote("3", "a", "b", "c")], "panel")
    assert isinstance(several, Classes)
    assert (several.labels, several.score) == (("a", "b"), round((1 + 2 / 3 + 2 / 3) / 3, 4))
    assert [(one.what, one.reason) for one in several.dropped] == [("c", "outvoted")]

    def marked(name: str, *spans: tuple[int, int, str], edge: bool = False) -> Annotation:
        made = tuple(
            Entity(id=f"{name}{n}", start=a, end=b, text="x" * (b - a), label=label)
            for n, (a, b, label) in enumerate(spans)
        )
        about: dict[str, Any] = {"subject": "0" * 64, "annotator": name, "entities": made}
        if not edge:
            return Entities(**about)
        return Relations(**about, relations=(Edge(head=made[0].id, tail=made[1].id, label="knows"),))

    first, second = (0, 3, "P"), (5, 8, "P")
    joined = agreed(
        [marked("a", first, second), marked("b", second, (9, 10, "Q")), marked("c", second, first)], "panel"
    )
    assert isinstance(joined, Entities)
    assert [(one.id, one.start, one.score) for one in joined.entities] == [("e1", 0, 0.6667), ("e2", 5, 1.0)]
    related = agreed(
        [
            marked("a", first, second, edge=True),
            marked("b", first, second, edge=True),
            marked("c", second, first, edge=True),
        ],
        "panel",
    )
    assert isinstance(related, Relations)
    assert [(one.head, one.tail) for one in related.relations] == [("e1", "e2")]

    def drew(name: str, *boxes: tuple[float, float]) -> Boxes:
        made = tuple(Box(id=str(n), label="cat", x=x, y=y, width=0.2, height=0.2) for n, (x, y) in enumerate(boxes))
        return Boxes(subject="0" * 64, annotator=name, width=100, height=100, boxes=made)

    boxes = agreed([drew("a", (0.1, 0.1)), drew("b", (0.7, 0.7), (0.12, 0.1)), drew("c", (0.1, 0.12))], "panel")
    assert isinstance(boxes, Boxes)
    assert [(one.id, round(one.x, 3), round(one.y, 3), one.score) for one in boxes.boxes] == [("b1", 0.107, 0.107, 1.0)]
    assert [one.reason for one in boxes.dropped] == ["outvoted"]


async def test_the_report_of_a_panel_counts_each_subject_once_and_missing_votes_as_missing() -> None:
    codes = [("1", "1", "1"), ("2", "2", "3"), ("5", "5", "5"), ("1", None, "1"), ("4", "2", "3")]
    votes = [
        Rating(subject=str(at) * 64, annotator=name, scale="care", values=() if code is None else (f"C-{code}",),
               outcome="degraded" if code is None else "ok")
        for at, row in enumerate(codes) for name, code in zip("abc", row, strict=True)
    ]  # fmt: skip
    (report,) = await perform(agreement, *votes, *votes[:2])
    assert isinstance(report, Agreement)
    assert (report.about, report.annotators, report.subjects, report.ties, report.undecided) == (
        "rating:care", ("a", "b", "c"), 5, 1, 1,
    )  # fmt: skip
    figures = {one.name: one.value for one in report.measures}
    assert figures["percent"] == pytest.approx((1 + 1 / 3 + 1 + 1 + 0) / 5, abs=1e-6)
    assert set(figures) == {
        "percent", "cohen", "fleiss", "krippendorff nominal", "krippendorff ordinal", "krippendorff interval",
        "cohen a | b", "cohen a | c", "cohen b | c",
    }  # fmt: skip
    ordinal, nominal = figures["krippendorff ordinal"], figures["krippendorff nominal"]
    assert ordinal is not None
    assert nominal is not None
    assert 1 > ordinal > nominal > 0
    words = [one.model_copy(update={"values": tuple(f"word{v}x" for v in one.values)}) for one in votes]
    (plain,) = await perform(agreement, *words)
    assert isinstance(plain, Agreement)
    assert "krippendorff ordinal" not in {one.name for one in plain.measures}
    joined = await perform(panel, *votes)
    assert [getattr(one, "outcome", "") for one in joined] == ["ok", "ok", "ok", "ok", "tie"]


def test_every_shipped_workflow_that_annotates_tells_its_labels() -> None:
    told = {}
    for name in shipped():
        flow = find_workflow(name)
        for step, one in label_sets(flow.steps, flow.edges).items():
            told[name, step] = (one.kind, len(one.names), one.multiple)
    assert told["classify", "classify"] == ("classes", 6, False)
    assert told["entities", "extract"] == ("entities", 5, True)
    assert told["relations", "relate"] == ("relations", 5, True)
    assert told["boxes", "detect"] == ("boxes", 4, True)
    assert told["layout", "detect_onnx"] == ("boxes", 10, True)
    assert told["rate-panel", "panel"] == ("rating", 5, False)


def test_people_are_asked_about_the_last_of_annotations_that_say_the_same() -> None:
    for name, over in (("rate-panel", {"first", "second", "third"}), ("relations", {"extract"}), ("classify", set())):
        flow = find_workflow(name)
        assert {flow.steps[place].name for place in taken_over(flow.steps, flow.edges)} == over


def test_an_annotation_that_its_workflow_does_not_allow_is_told_what_is_wrong() -> None:
    flow = find_workflow("relations")
    sets = label_sets(flow.steps, flow.edges)
    spans = tuple(
        Entity(id=f"e{n}", start=n, end=n + 1, text="x", label=label) for n, label in enumerate(("PERSON", "ROBOT"))
    )
    edges = (Edge(head="e0", tail="e1", label="works_for"), Edge(head="e0", tail="e1", label="eats"))
    wrong = Relations(subject="0" * 64, annotator="me", by="person", entities=spans, relations=edges)
    assert problems_with(wrong, sets["relate"]) == [
        "'ROBOT' is not one of the labels", "'works_for' does not join PERSON to ROBOT",
        "'eats' is not one of the relations",
    ]  # fmt: skip
    assert problems_with(vote("me", "x"), sets["relate"]) == ["this step makes relations, and not classes"]
    chosen = Workflow("w", [classify.using(labels=LABELS, name="c")])
    (one,) = label_sets(chosen.steps, chosen.edges).values()
    assert problems_with(vote("me", "refund", "praise"), one) == ["at most 1 may be chosen, and there are 2"]
    assert problems_with(vote("me"), one) == ["at least 1 must be chosen, and there are 0"]
    assert problems_with(vote("me", outcome="tie"), one) == []
    assert described(one)["labels"][0] == {"name": "refund", "meaning": "asks for money back"}
    scale = Workflow("w", [rate.using(scale=TRAITS)])
    (one,) = label_sets(scale.steps, scale.edges).values()
    none = Rating(subject="0" * 64, annotator="me", scale="traits", values=("NONE",))
    assert problems_with(none, one) == []
    assert problems_with(none.model_copy(update={"values": ("NONE", "TA-1")}), one) == ["NONE stands alone"]


async def test_an_empty_text_is_not_paid_for() -> None:
    for step in (classify.using(labels=LABELS), rate.using(scale=URGENCY)):
        (made,) = await perform(step, Chunk(text="\n "), model=ScriptedModel([]))
        assert isinstance(made, Annotation)
        assert (made.outcome, made.reason) == ("empty", "there is no text")
