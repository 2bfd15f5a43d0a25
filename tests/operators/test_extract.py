"""Entities and relations: the model names words, code finds where they stand."""

from __future__ import annotations

import unicodedata
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gristmill.data.annotated import text_of
from gristmill.data.annotations import Entities, Relations, problems_of
from gristmill.data.kinds import Chunk, Example, content_hash
from gristmill.errors import InputError, InvalidOutput, ModelRefused, UsageError, WorkflowError
from gristmill.operators import extract, relate
from gristmill.operators.annotation_spans import Finder, Mention, place_mentions
from gristmill.testing.operators import ScriptedModel, perform

LABELS = ["PERSON", "PLACE"]
HOSTILE = ["a < b & c", 'say "hi"', "it's", "公司/机构", "🧪 lab", "</text>", "{label}", "A\\B"]


def spans(text: str, *mentions: tuple[str, str], **options: Any) -> list[tuple[int, int, str]]:
    found, _ = place_mentions([Mention(*one) for one in mentions], text, **options)
    assert all(text[one.start : one.end] == one.text for one in found)
    return [(one.start, one.end, one.label) for one in found]


@pytest.mark.parametrize(
    ("text", "said", "match", "there"),
    [
        ("Ada met Ada.", "Ada", "exact", "Ada"),
        ("ADA Lovelace\n  of London", "ada lovelace of london", "normalized", "ADA Lovelace\n  of London"),
        ("the “Mill” turns", '"Mill"', "normalized", "“Mill”"),
        ("Cafe\u0301 Noir", "Café Noir", "normalized", "Cafe\u0301 Noir"),
        ("ｆｕｌｌ width", "full width", "normalized", "ｆｕｌｌ width"),
        ("in Müllers Rede", "Müller,", "fuzzy", "Müllers"),
        ("Jonathan Swiftt wrote", "Jonathan Swift", "fuzzy", "Jonathan Swiftt"),
        ("von Zürich nach Genf", "Zurich", "fuzzy", "Zürich"),
        ("in Koln am Rhein", "Köln", "fuzzy", "Koln"),
        ("שָׁלוֹם לך", "שלום", "fuzzy", "שָׁלוֹם"),
        ("北京大学在北京", "北京大学", "exact", "北京大学"),
        ("שלום עולם", "עולם", "exact", "עולם"),
        ("a 👩‍🔬 works", "👩‍🔬", "exact", "👩‍🔬"),
        ("line one\r\nline two", "one line two", "normalized", "one\r\nline two"),
    ],
)
def test_a_mention_is_found_as_it_stands_in_the_text(text: str, said: str, match: str, there: str) -> None:
    (found, *_), dropped = place_mentions([Mention(said, "X")], text)
    assert (found.match, found.text, dropped) == (match, there, [])
    assert text[found.start : found.end] == there


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Adam and Adamant", "Ada"),  # only inside of longer words
        ("Room 1234", "123"),
        ("in the year 1984 it was", "year 1985 it was"),  # resembles, with another number
        ("nothing of the kind", "Charles Babbage"),
        ("e\u0301", "e"),  # an accent would be cut off
        ("", "Ada"),
        ("Ada", " "),
        ("Ada", "."),
    ],
)
def test_what_does_not_stand_in_the_text_is_left_out_and_never_placed_by_guess(text: str, said: str) -> None:
    found, dropped = place_mentions([Mention(said, "X")], text)
    assert (found, [one.reason for one in dropped]) == ([], ["not_found"])


def test_repeated_mentions_get_the_places_that_the_policy_says() -> None:
    text = "Ada met Ada, and Ada left."
    assert spans(text, ("Ada", "P")) == [(0, 3, "P"), (8, 11, "P"), (17, 20, "P")]
    assert spans(text, ("Ada", "P"), ("Ada", "P")) == spans(text, ("Ada", "P"))
    assert spans(text, ("Ada", "P"), repeated="first") == [(0, 3, "P")]
    assert spans(text, ("Ada", "P"), ("Ada", "P"), repeated="listed") == [(0, 3, "P"), (8, 11, "P")]
    found, dropped = place_mentions([Mention("Ada", "P")] * 4, text, repeated="listed")
    assert (len(found), [one.reason for one in dropped]) == (3, ["repeated"])


def test_a_name_that_means_two_things_gets_its_labels_in_the_order_in_which_they_were_named() -> None:
    text = "Washington lived in Washington."
    assert spans(text, ("Washington", "PERSON"), ("Washington", "PLACE")) == [(0, 10, "PERSON"), (20, 30, "PLACE")]


def test_of_overlapping_spans_those_stay_that_the_policy_says() -> None:
    text = "Bank of China Tower"
    mentions = (("Bank", "ORG"), ("Bank of China", "ORG"), ("China Tower", "PLACE"), ("China", "PLACE"))
    assert spans(text, *mentions) == [(0, 13, "ORG")]
    assert spans(text, *mentions, overlapping="first") == [(0, 4, "ORG"), (8, 19, "PLACE")]
    assert len(spans(text, *mentions, overlapping="all")) == 4
    _, dropped = place_mentions([Mention(*one) for one in mentions], text)
    assert sorted((one.what, one.reason) for one in dropped) == [
        ("Bank", "overlaps"), ("China", "overlaps"), ("China Tower", "overlaps"),
    ]  # fmt: skip


ALPHABET = st.sampled_from(
    [*list("ab Ab\r\n\t."), "é", "é", "ß", "ﬁ", "京", "大", "👩\u200d🔬", "😀", "ש", "١", "12", "\u200b"]
)


@given(st.lists(ALPHABET, max_size=30), st.lists(st.lists(ALPHABET, max_size=5), max_size=4), st.data())
@example(["ß"], [["s"]], None)
def test_every_span_is_a_slice_of_the_text_whatever_the_model_says(
    letters: list[str], said: list[list[str]], data: Any
) -> None:
    text = "".join(letters)
    options: dict[str, Any] = {}
    if data is not None:
        options = {"repeated": data.draw(st.sampled_from(["all", "first", "listed"])),
                   "overlapping": data.draw(st.sampled_from(["longest", "first", "all"]))}  # fmt: skip
    found, _ = place_mentions([Mention("".join(one), "X") for one in said], text, **options)
    assert all(text[one.start : one.end] == one.text and one.text.strip() for one in found)
    assert [one.id for one in found] == [f"e{number}" for number in range(1, len(found) + 1)]
    if options.get("overlapping") != "all":
        assert all(one.end <= then.start for one, then in pairwise(found))


@given(st.lists(ALPHABET, min_size=1, max_size=30), st.data())
def test_words_that_stand_alone_in_the_text_are_found_in_every_normal_form(letters: list[str], data: Any) -> None:
    words = "".join(letters).split()
    word = data.draw(st.sampled_from(words)) if words else ""
    if not any(character.isalnum() for character in word):
        return
    text = f"x {unicodedata.normalize('NFC', word)} y"
    said = unicodedata.normalize(data.draw(st.sampled_from(["NFC", "NFD", "NFKC"])), word)
    assert Finder(text).places(said)


async def test_entities_know_their_places_their_annotator_and_what_was_left_out() -> None:
    chunk = Chunk(text="Ada Lovelace lived in London. LONDON was large.")
    model = ScriptedModel([[
        {"text": "Ada Lovelace", "label": "person", "confidence": 0.9}, {"text": "London", "label": "PLACE"},
        {"text": "London", "label": "CITY"}, {"text": "Babbage", "label": "PERSON", "confidence": "high"},
    ]])  # fmt: skip
    (made,) = await perform(extract.using(labels=LABELS), chunk, model=model)
    assert isinstance(made, Entities)
    assert [(one.id, one.text, one.label, one.score) for one in made.entities] == [
        ("e1", "Ada Lovelace", "PERSON", 0.9), ("e2", "London", "PLACE", None),
    ]  # fmt: skip
    assert [(one.what, one.reason) for one in made.dropped] == [("London", "unknown_label"), ("Babbage", "not_found")]
    assert (made.subject, made.annotator, made.by, made.outcome) == (
        content_hash(chunk).hex(), "scripted", "model", "ok",
    )  # fmt: skip
    assert made.score == 0.9
    assert problems_of(made, chunk.text) == []
    asked = model.requests[0].messages[-1].text
    assert "<text>\nAda Lovelace lived in London. LONDON was large.\n</text>" in asked
    assert model.requests[0].schema is not None
    assert '"enum": ["PERSON", "PLACE"]' in str(model.requests[0].schema).replace("'", '"')


async def test_a_label_outside_of_the_list_is_asked_for_again_where_it_is_rejected() -> None:
    wrong, right = [{"text": "Ada", "label": "ROBOT"}], [{"text": "Ada", "label": "PERSON"}]
    step = extract.using(labels=LABELS, unknown="reject")
    (made,) = await perform(step, Chunk(text="Ada"), model=ScriptedModel([wrong, right]))
    assert isinstance(made, Entities)
    assert [one.label for one in made.entities] == ["PERSON"]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (["I cannot see any.", "Sorry."], "invalid_output: "),
        ([[{"words": "Ada"}], [{"words": "Ada"}]], "invalid_output: "),
        ([InvalidOutput("it refused", code="M209")], "refused: "),
        ([InvalidOutput("cut at max_tokens", code="M205")], "too_long: "),
    ],
)
async def test_a_model_that_fails_leaves_a_degraded_annotation_and_never_a_silent_empty_one(
    answers: list[Any], reason: str
) -> None:
    (made,) = await perform(extract.using(labels=LABELS), Chunk(text="Ada"), model=ScriptedModel(answers))
    assert isinstance(made, Entities)
    assert (made.outcome, made.undecided, made.entities) == ("degraded", True, ())
    assert made.reason is not None
    assert made.reason.startswith(reason)
    with pytest.raises(InvalidOutput):
        await perform(extract.using(labels=LABELS, on_failure="fail"), Chunk(text="Ada"), model=ScriptedModel(answers))


async def test_nothing_found_is_a_finding_and_a_lost_server_is_none() -> None:
    (made,) = await perform(extract.using(labels=LABELS), Chunk(text="It rained."), model=ScriptedModel([[]]))
    assert isinstance(made, Entities)
    assert (made.outcome, made.undecided, made.reason) == ("empty", False, None)
    (made,) = await perform(extract.using(labels=LABELS), Chunk(text=" \n "), model=ScriptedModel([]))
    assert isinstance(made, Entities)
    assert (made.outcome, made.reason) == ("empty", "there is no text")
    with pytest.raises(ModelRefused):
        await perform(
            extract.using(labels=LABELS), Chunk(text="Ada"), model=ScriptedModel([ModelRefused("no such model")])
        )


async def test_hostile_labels_and_texts_come_through_as_they_are() -> None:
    text = f"{' '.join(HOSTILE)} <<x>> \u202e"
    said = [{"text": label, "label": label} for label in HOSTILE]
    (made,) = await perform(extract.using(labels=HOSTILE), Chunk(text=text), model=ScriptedModel([said]))
    assert isinstance(made, Entities)
    assert {one.label for one in made.entities} == {one.text for one in made.entities} == set(HOSTILE)


async def test_examples_are_shown_and_must_keep_to_the_labels() -> None:
    model = ScriptedModel([[]])
    shown = [{"text": "Bob left.", "mentions": [["Bob", "PERSON"]]}]
    await perform(extract.using(labels=LABELS, examples=shown), Chunk(text="Ada"), model=model)
    assert '{"text": "Bob", "label": "PERSON"}' in model.requests[0].messages[-1].text
    wrong = [{"text": "Bob left.", "mentions": [["Eve", "PERSON"]]}]
    with pytest.raises(UsageError, match="Eve"):
        await perform(extract.using(labels=LABELS, examples=wrong), Chunk(text="Ada"), model=ScriptedModel([]))


@pytest.mark.parametrize("labels", [[], [""], ["A", "a"], [{"name": "A", "colour": "red"}], "L5..L2"])
def test_labels_that_cannot_be_told_apart_are_refused_before_anything_is_asked(labels: Any) -> None:
    with pytest.raises(WorkflowError):
        extract.using(labels=labels)


TYPES = {
    "works_for": {"heads": ["PERSON"], "tails": ["ORG"]},
    "married": {"heads": ["PERSON"], "tails": ["PERSON"], "symmetric": True},
    "knows": {},
}


async def found_in(text: str) -> tuple[Chunk, Entities]:
    chunk = Chunk(text=text)
    said = [{"text": "Ada", "label": "PERSON"}, {"text": "Bob", "label": "PERSON"}, {"text": "Acme", "label": "ORG"}]
    (made,) = await perform(extract.using(labels=["PERSON", "ORG"]), chunk, model=ScriptedModel([said]))
    assert isinstance(made, Entities)
    return chunk, made


async def test_relations_join_entities_that_their_type_allows_and_the_rest_is_remembered() -> None:
    chunk, entities = await found_in("Ada and Bob work for Acme.")
    model = ScriptedModel([[
        {"head": "e1", "relation": "works_for", "tail": "e3", "confidence": 0.8},
        {"head": "Bob", "relation": "Works_For", "tail": "[e3]"},
        {"head": "e3", "relation": "works_for", "tail": "e1"},
        {"head": "e1", "relation": "married", "tail": "e2"},
        {"head": "e2", "relation": "married", "tail": "e1"},
        {"head": "e1", "relation": "married", "tail": "e3"},
        {"head": "e1", "relation": "owns", "tail": "e3"},
        {"head": "e1", "relation": "knows", "tail": "e9"},
        {"head": "e1", "relation": "knows", "tail": "⟦e1⟧"},
    ]])  # fmt: skip
    (made,) = await perform(relate.using(relations=TYPES), entities, chunk, model=model)
    assert isinstance(made, Relations)
    assert [(one.head, one.label, one.tail, one.symmetric) for one in made.relations] == [
        ("e1", "works_for", "e3", False), ("e2", "works_for", "e3", False), ("e1", "married", "e2", True),
    ]  # fmt: skip
    assert [one.reason for one in made.dropped] == [
        "wrong_ends", "repeated", "wrong_ends", "unknown_label", "unknown_end", "same_end",
    ]  # fmt: skip
    assert (made.entities, made.subject, made.score) == (entities.entities, entities.subject, 0.8)
    asked = model.requests[0].messages[-1].text
    assert "⟦e1⟧Ada and ⟦e2⟧Bob work for ⟦e3⟧Acme." in asked
    assert "- works_for (PERSON -> ORG)" in asked


async def test_relations_are_not_asked_about_where_there_is_nothing_to_join() -> None:
    chunk = Chunk(text="Ada")
    (alone,) = await perform(
        extract.using(labels=LABELS), chunk, model=ScriptedModel([[{"text": "Ada", "label": "PERSON"}]])
    )
    (made,) = await perform(relate.using(relations=TYPES), alone, chunk, model=ScriptedModel([]))
    assert isinstance(made, Relations)
    assert (made.outcome, len(made.entities)) == ("empty", 1)
    (lost,) = await perform(extract.using(labels=LABELS), chunk, model=ScriptedModel(["no", "no"]))
    (made,) = await perform(relate.using(relations=TYPES), lost, chunk, model=ScriptedModel([]))
    assert isinstance(made, Relations)
    assert made.outcome == "degraded"


async def test_relations_need_the_text_that_the_entities_were_found_in() -> None:
    chunk, entities = await found_in("Ada and Bob work for Acme.")
    with pytest.raises(InputError, match="not above"):
        await perform(relate.using(relations=TYPES), entities, Chunk(text="another"), model=ScriptedModel([]))
    pair = Example(question="Who?", answer="Ada and Bob at Acme")
    said = [{"text": "Ada", "label": "PERSON"}, {"text": "Acme", "label": "ORG"}]
    (of_pair,) = await perform(extract.using(labels=["PERSON", "ORG"]), pair, model=ScriptedModel([said]))
    assert problems_of(of_pair, text_of(pair)) == []
    model = ScriptedModel([[{"head": "e1", "relation": "works_for", "tail": "e2"}]])
    (made,) = await perform(relate.using(relations=TYPES), of_pair, chunk, pair, model=model)
    assert isinstance(made, Relations)
    assert len(made.relations) == 1
    assert "Who?" in model.requests[0].messages[-1].text
