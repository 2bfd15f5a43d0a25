"""The questions side, operator by operator, against a scripted model: pairs, trees, labels, templates, topics."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from gristmill.data.kinds import Chunk, Document, GaPair, Heading, Image, LabelTree, Question, Source, Topic
from gristmill.errors import InputError, InvalidOutput, ModelUnavailable, UsageError, WorkflowError
from gristmill.llm.model import Message, Request
from gristmill.llm.structured import Asker
from gristmill.operators import (
    ask,
    assign_labels,
    distill_questions,
    ga_pairs,
    label_tree,
    pair_chunks,
    questions_from_template,
    read_topics,
    topics,
)
from gristmill.operators.ask import without_mark
from gristmill.operators.assign_labels import batches
from gristmill.operators.calling import Produced, run_operator
from gristmill.operators.label_tree import tidy
from gristmill.operators.operator import Context, Operator, operator
from gristmill.testing import MemoryBlobs, ScriptedModel, perform

TEXT = "The feed pump runs at 40 bar. Before it is started, the inlet valve must be open, or the pump runs dry."
CHUNK = Chunk(text=TEXT, end=len(TEXT))
PAIRS = [
    GaPair(genre="manual", genre_description="dry", audience="fitters", audience_description="busy", ordinal=0),
    GaPair(genre="primer", genre_description="{kind}", audience="pupils", audience_description="new", ordinal=1),
]
PAIR = {"genre": "manual", "genre_description": "d", "audience": "fitters", "audience_description": "e"}


def sent(request: Request) -> str:
    return "\n".join(message.text for message in request.messages)


async def made(
    op: Operator, inputs: list[Any], answers: list[Any], blobs: MemoryBlobs | None = None,
    ancestors: dict[str, list[BaseModel]] | None = None, language: str = "en", **options: Any,
) -> tuple[list[Produced], dict[str, Any], ScriptedModel]:  # fmt: skip
    model = ScriptedModel(answers)
    notes: dict[str, Any] = {}
    ctx = Context(blobs=blobs or MemoryBlobs(), model=Asker(model, notes=notes), language=language, notes=notes)
    found = await run_operator(op, inputs, ancestors or {}, op.check_options(options), ctx)
    return found, notes, model


async def document(text: str, *titles: str, title: str | None = None) -> tuple[Document, MemoryBlobs]:
    blobs = MemoryBlobs()
    headings = tuple(Heading(level=level, title=name, start=0) for level, name in enumerate(titles, 1))
    digest = await blobs.write(text.encode())
    body = Document(
        text_blob=digest, characters=len(text), media_type="text/markdown", headings=headings, title=title
    )  # fmt: skip
    return body, blobs


# Genre-audience pairs


async def test_pairs_are_at_most_as_many_as_asked_for_and_fewer_are_not_filled_up() -> None:
    body, blobs = await document("词" * 30_000 + TEXT)
    given = [PAIR, {**PAIR, "audience": " "}, {**PAIR, "genre": "MANUAL "}, {**PAIR, "audience": "pupils"}]
    found, notes, model = await made(ga_pairs, [body], [given], blobs, n=3, max_chars=100)
    assert [(p.body.genre, p.body.audience, p.body.ordinal) for p in found] == [  # type: ignore[attr-defined]
        ("manual", "fitters", 0), ("manual", "pupils", 1),
    ]  # fmt: skip
    assert notes["dropped"] == 2
    assert "词" * 100 in sent(model.requests[0])
    assert "词" * 101 not in sent(model.requests[0])
    found, _, _ = await made(ga_pairs, [body], [[PAIR, {**PAIR, "genre": "b"}, {**PAIR, "genre": "c"}]], blobs, n=2)
    assert len(found) == 2


async def test_no_pair_stands_in_where_the_model_gave_none_that_can_be_read() -> None:
    body, blobs = await document(TEXT)
    with pytest.raises(InvalidOutput):
        await perform(ga_pairs, body, model=ScriptedModel(["genre_1: manual", "sorry"]), blobs=blobs)
    found, notes, _ = await made(ga_pairs, [body], [[]], blobs)
    assert found == []
    assert notes["empty"]


async def test_chunks_meet_the_pairs_of_their_document_or_go_on_without() -> None:
    second = CHUNK.model_copy(update={"ordinal": 1})
    found, notes, _ = await made(pair_chunks, [CHUNK, PAIRS[0], PAIRS[1], second], [])
    assert [(p.body, p.parents) for p in found] == [(CHUNK, (0, 1, 2)), (second, (3, 1, 2))]
    found, _, _ = await made(pair_chunks, [CHUNK, *PAIRS], [], numbers=[1])
    assert found[0].parents == (0, 2)
    found, notes, _ = await made(pair_chunks, [CHUNK], [])
    assert found[0].parents == (0,)
    assert "without" in notes["degraded"]


async def test_each_pair_is_asked_about_and_shown_what_was_asked_before() -> None:
    first = [{"question": "What opens before the start of the pump?"}, {"question": "At which pressure does it run?"}]
    second = [{"question": "what opens before start of the pump ?"}, {"question": "What harms it?"}, {"question": "A?"}]
    found, notes, model = await made(ask, [CHUNK], [first, second], ancestors={"pairs": PAIRS[::-1]}, count=2)
    questions = [p.body for p in found]
    assert [(q.text, q.audience, q.genre, q.ordinal) for q in questions] == [  # type: ignore[attr-defined]
        ("What opens before the start of the pump?", "fitters", "manual", 0),
        ("At which pressure does it run?", "fitters", "manual", 1),
        ("What harms it?", "pupils", "primer", 2), ("A?", "pupils", "primer", 3),
    ]  # fmt: skip
    assert notes["dropped"] == {"repeated": 1}
    assert [request.prompt for request in model.requests] == ["ask_audience", "ask_audience"]
    assert "- At which pressure" not in sent(model.requests[0])
    assert "- At which pressure" in sent(model.requests[1])
    assert "{kind}" in sent(model.requests[1])  # braces of a description are text


async def test_pairs_can_be_left_aside_and_repetitions_allowed() -> None:
    question = [{"question": "Why is it so?"}]
    found, _, model = await made(ask, [CHUNK], [question], ancestors={"pairs": PAIRS}, ga="none")
    assert len(found) == 1
    assert model.requests[0].prompt == "ask"
    found, _, _ = await made(ask, [CHUNK], [question] * 2, ancestors={"pairs": PAIRS}, avoid_existing=False)
    assert len(found) == 2


def test_question_marks_fall_for_a_share_that_the_words_decide() -> None:
    questions = [Question(text=f"What is part {n}?") for n in range(1000)]
    bare = [without_mark(question, 0.6) for question in questions]
    assert 550 < sum(not question.text.endswith("?") for question in bare) < 650
    assert bare == [without_mark(question, 0.6) for question in questions]
    assert [without_mark(question, 0.0) for question in questions] == questions
    assert without_mark(Question(text="为什么？"), 1.0).text == "为什么"


# The label tree


async def test_a_tree_is_cut_to_its_limits_and_every_path_has_its_parents() -> None:
    paths = [["1. Pumps", "1.1 Starting"], ["pumps", "Stopping"], ["Pumps", "Cleaning"], ["Valves", " "], ["Doors"], []]
    assert tidy(paths, 2, 2, 2) == (("Pumps",), ("Pumps", "Starting"), ("Pumps", "Stopping"), ("Valves",))
    assert tidy([["5 Whys", "2024 plan"]]) == (("5 Whys",), ("5 Whys", "2024 plan"))
    body, blobs = await document(TEXT, "Pumps", "Starting {them}")
    answer = [{"path": path} for path in paths]
    found, notes, model = await made(label_tree, [body], [answer], blobs, max_primary=2, max_secondary=1)
    assert found[0].body == LabelTree(paths=(("Pumps",), ("Pumps", "Starting"), ("Valves",)))
    assert "- Pumps\n  - Starting {them}" in sent(model.requests[0])
    assert notes["labels"] == 3


async def test_documents_without_headings_give_their_title_or_first_words() -> None:
    plain, blobs = await document(TEXT)
    titled = plain.model_copy(update={"title": "On pumps"})
    _, _, model = await made(label_tree, [plain, titled], [[{"path": ["A"]}]], blobs)
    assert f"- {TEXT}\n- On pumps\n" in sent(model.requests[0])


async def test_a_tree_is_imported_kept_and_revised() -> None:
    body, blobs = await document(TEXT, "Pumps")
    own = ["Pumps > Starting", ["A > B", "C"]]
    for action, origin in (("import", "import"), ("keep", "kept")):
        found, _, model = await made(label_tree, [body], [], blobs, action=action, paths=own)
        assert found[0].body == LabelTree(
            paths=(("Pumps",), ("Pumps", "Starting"), ("A > B",), ("A > B", "C")), origin=origin,
        )  # fmt: skip
        assert model.requests == []
    found, _, model = await made(label_tree, [body], [[{"path": ["Pumps"]}]], blobs, action="revise", paths=own)
    assert model.requests[0].prompt == "label_tree_revise"
    assert "Pumps > Starting" in sent(model.requests[0])
    for action in ("import", "keep", "revise"):
        with pytest.raises(WorkflowError, match="needs paths"):
            label_tree.using(action=action)


# Labels

TREE = LabelTree(paths=(("Pumps",), ("Pumps", "Starting"), ("Valves",), ("Valves", "Care"), ("Pumps", "Care")))


async def test_a_question_gets_a_path_of_the_tree_or_the_fallback() -> None:
    texts = ["a", "b", "c", "d", "e"]
    answer = [
        {"number": 1, "label": "Pumps > Starting"}, {"number": 2, "label": " STARTING"}, {"number": 3, "label": "Care"},
        {"number": 4, "label": "Motors"}, {"number": 9, "label": "Pumps"}, {"number": 1, "label": "Valves"},
    ]  # fmt: skip
    parts: list[Any] = [*(Question(text=text) for text in texts), TREE]
    found, notes, _ = await made(assign_labels, parts, [answer], batch=100)
    labels = [p.body.label for p in found]  # type: ignore[attr-defined]
    assert labels == [("Pumps", "Starting"), ("Pumps", "Starting"), ("Other",), ("Other",), ("Other",)]
    assert [p.parents for p in found] == [(n,) for n in range(5)]
    assert notes["labels"] == {"labelled": 2, "fallback": 3}


async def test_no_question_is_lost_when_labels_cannot_be_had() -> None:
    questions = [Question(text=f"q {n}") for n in range(4)]
    found, notes, _ = await made(assign_labels, [*questions, TREE], ["no", "still no"], batch=100)
    assert [p.body for p in found] == questions
    assert notes["degraded"]
    found, notes, _ = await made(assign_labels, [*questions], [])
    assert [p.body for p in found] == questions
    assert "no label tree" in notes["degraded"]


async def test_a_model_that_is_away_is_an_error_of_its_own_and_no_group_of_them() -> None:
    questions = [Question(text=f"q {n}") for n in range(4)]
    with pytest.raises(ModelUnavailable):
        await made(assign_labels, [*questions, TREE], [ModelUnavailable("away")] * 4, batch=1)


def test_a_question_more_leaves_most_batches_as_they_were() -> None:
    questions = [(n, Question(text=f"What about part {n}?")) for n in range(1000)]
    before = {tuple(q.text for _, q in group) for group in batches(questions, 20)}
    after = {tuple(q.text for _, q in group) for group in batches([(0, Question(text="New?")), *questions], 20)}
    assert sum(map(len, before)) == 1000
    assert max(map(len, before)) <= 20
    assert len(before - after) <= 5


# Templates


async def test_templates_ask_the_same_of_every_chunk_and_every_picture() -> None:
    chosen = questions_from_template.using(
        templates=[
            {"name": "kind", "question": "Which kind {x}?", "answer_type": "label", "labels": ["manual", "law"]},
            {"name": "facts", "question": "Which facts?", "answer_type": "json", "json_schema": '{"type": "object"}'},
            {"name": "seen", "question": "What is seen?", "source": "image"},
        ]
    )
    kind, facts = [body for body in await perform(chosen, CHUNK) if isinstance(body, Question)]
    assert (kind.text, kind.answer_type, kind.labels) == ("Which kind {x}?", "label", ("manual", "law"))
    assert (facts.template, facts.json_schema, facts.labels) == ("facts", '{"type": "object"}', None)
    image = Image(blob="0" * 64, media_type="image/png", width=1, height=1, name="a.png")
    (seen,) = await perform(chosen, image)
    assert seen == Question(text="What is seen?", template="seen", image="0" * 64)


@pytest.mark.parametrize(
    "template",
    [{"name": "a"}, {"name": "a", "question": ""}, {"name": "a", "question": "b", "labels": ["c"]},
     {"name": "a", "question": "b", "answer_type": "label"}, {"name": "a", "question": "b", "colour": "red"},
     {"name": "a", "question": "b", "answer_type": "json", "json_schema": "{"},
     {"name": "a", "question": "b", "answer_type": "json", "json_schema": "[]"}],
)  # fmt: skip
def test_a_template_that_makes_no_sense_is_refused_before_anything_runs(template: dict[str, Any]) -> None:
    with pytest.raises(WorkflowError, match="templates"):
        questions_from_template.using(templates=[template])
    good = {"name": "a", "question": "b"}
    with pytest.raises(WorkflowError, match="two templates"):
        questions_from_template.using(templates=[good, good])


# Topics


async def topics_in(name: str, text: str) -> list[Topic]:
    blobs = MemoryBlobs()
    data = text.encode()
    source = Source(name=name, blob=await blobs.write(data), size=len(data), media_type="text/plain")
    return [body for body in await perform(read_topics, source, blobs=blobs) if isinstance(body, Topic)]


async def test_topics_are_read_from_lines_and_from_trees() -> None:
    known = (("Physics", "Optics"), ("Physics", "Optics", "Lenses"), ("Physics", "Heat"))
    expected = [Topic(path=("Physics",), known=known), Topic(path=("Art",), ordinal=1)]
    lines = "# mine\n\nPhysics > Optics > Lenses\nphysics>optics\nPhysics > Heat\nArt\n"
    assert await topics_in("topics.txt", lines) == expected
    assert await topics_in("t.yaml", "Physics:\n  Optics: [Lenses]\n  Heat:\nArt:\n") == expected
    assert await topics_in("t.json", json.dumps([{"Physics": {"Optics": "Lenses", "Heat": None}}, "Art"])) == expected


BOMB = "a: &a [x1, x2, x3, x4, x5, x6, x7, x8, x9]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("name", "text"),
    [("t.txt", " \n# only this\n"), ("t.yaml", "a: ["), ("t.yaml", ""), ("t.yml", BOMB), ("t.yaml", "&a [*a]"),
     ("t.txt", " > ".join("abcdefghijk"))],
)  # fmt: skip
async def test_a_file_of_topics_that_cannot_be_used_says_why(name: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        await topics_in(name, text)
    assert caught.value.code == "T240"


async def test_only_the_topics_that_are_missing_are_asked_for() -> None:
    topic = Topic(path=("Physics",), known=(("Physics", "Optics"), ("Physics", "Optics", "Lenses")))
    answers = [
        [{"topic": "Heat"}, {"topic": "optics"}],  # one of the two that were missing
        [{"topic": "Sound"}],
        [{"topic": "Mirrors"}, {"topic": "Prisms"}, {"topic": "Too many"}],
        "nothing of use", "still nothing",  # Heat ends there
        [{"topic": "Pitch"}], [],
    ]  # fmt: skip
    found, notes, model = await made(topics, [topic], answers, levels=2, per_level=3)
    paths = [p.body.path[1:] for p in found]  # type: ignore[attr-defined]
    assert paths == [("Optics", "Lenses"), ("Optics", "Mirrors"), ("Optics", "Prisms"), ("Heat",), ("Sound", "Pitch")]
    assert "Name 2 topics" in sent(model.requests[0])
    assert "Name 1 topics" in sent(model.requests[1])
    assert "- Optics\n- Heat" in sent(model.requests[1])
    assert "invalid_output" in notes["degraded"]
    found, _, _ = await made(topics, [topic], [], levels=0)
    assert [p.body for p in found] == [Topic(path=("Physics",))]


async def test_a_topic_gives_as_many_questions_as_asked_for_and_none_twice() -> None:
    topic = Topic(path=("Physics", "Optics"))
    first = [{"question": f"What is law {n}?"} for n in range(9)]
    second = [{"question": "what is law 3"}, {"question": ""}, {"question": "Why is glass clear?"}]
    found, _, model = await made(distill_questions, [topic], [first, second, []], count=7)
    questions: list[Any] = [p.body for p in found]
    assert [q.text for q in questions] == [*(f"What is law {n}?" for n in range(5)), "Why is glass clear?"]
    assert {q.label for q in questions} == {("Physics", "Optics")}
    assert [f"Write {n} questions" in sent(r) for n, r in zip((5, 2, 1), model.requests, strict=True)] == [True] * 3


async def test_a_higher_number_begins_with_the_calls_of_the_lower_one() -> None:
    topic = Topic(path=("Optics",))
    answers = [[{"question": f"What is law {n + 5 * call}?"} for n in range(5)] for call in range(2)]
    _, _, low = await made(distill_questions, [topic], answers, count=5)
    _, _, high = await made(distill_questions, [topic], answers, count=10)
    assert [r.messages for r in high.requests][:1] == [r.messages for r in low.requests]


# Kinds that operators take


class Made(BaseModel):
    text: str


@operator("t_questions_kinds")
async def several(subject: Chunk | Image, tree: LabelTree | None, pairs: list[GaPair], own: list[str] = []) -> Made:  # noqa: B006
    return Made(text=f"{subject.kind} {tree and len(tree.paths)} {len(pairs)} {own}")


async def test_an_operator_takes_several_kinds_and_what_may_be_missing_above() -> None:
    assert several.input_kinds == ("chunk", "image")
    assert await perform(several, CHUNK) == [Made(text="chunk None 0 []")]
    assert await perform(several, CHUNK, TREE, *PAIRS) == [Made(text="chunk 5 2 []")]
    with pytest.raises(UsageError):
        await perform(several, TREE)


@pytest.mark.parametrize(
    ("op", "inputs", "answer"),
    [(ask, [CHUNK], [{"question": "为什么？"}]),
     (distill_questions, [Topic(path=("光学",))], [{"question": "为什么？"}]),
     (topics, [Topic(path=("光学",))], [{"topic": "透镜"}]),
     (assign_labels, [Question(text="为什么？"), TREE], [{"number": 1, "label": "Pumps"}])],
)  # fmt: skip
@pytest.mark.parametrize(("language", "word"), [("zh-CN", "用户|问题|主题"), ("tr", "soru|konu"), ("en", "You ")])
async def test_prompts_come_in_three_languages(
    op: Operator, inputs: list[Any], answer: Any, language: str, word: str
) -> None:
    _, _, model = await made(op, inputs, [answer, [], [], []], language=language)
    message: Message = model.requests[0].messages[0]
    assert any(part in message.text for part in word.split("|"))
