from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gristmill.data.kinds import Chunk, Conversation, Example, Turn
from gristmill.errors import WorkflowError
from gristmill.llm.structured import Asker
from gristmill.operators.calling import run_operator
from gristmill.operators.clean import clean, clean_with_model
from gristmill.operators.clean_rules import DEFAULT_RULES, Rule, clean_text
from gristmill.operators.clean_spans import protected_spans
from gristmill.operators.operator import Context
from gristmill.testing import MemoryBlobs, ScriptedModel, perform

ALL: tuple[Rule, ...] = get_args(Rule)
WITHOUT_HTML: tuple[Rule, ...] = tuple(rule for rule in ALL if rule not in ("html", "full_width"))
CODE = "```python\nx  ==  1 !!\n\n\n\ny ,  z\n```"


@pytest.mark.parametrize(
    "text",
    [
        "3.14", "1,000.50", "10\u00a0000 people", "-40 °C", "10:30", "2024-01-15", "v1..v2", "1.. 5", "50 %",
        "e = 2.7e-3",
        "https://a.b/c?d=e", "see http://x.y/z(1)?q=a,,b;;c!!", "www.example.org/a..b", "ann@example.org",
        "std::vector", "a->b", "x += 1", "a ? b : c", "foo()  ;", "key=value", "C:\\dir\\x", "__init__", "--flag",
        "xs !! n", "docker build .", "find . -name x", "git checkout -- .", "if x  == y:", "for i in  a :",
        '{"a" : 1 ,  "b": [1,  2]}', '"key" : "a ,, b" ,', "[\"a\" ,  \"b\"]", CODE, "~~~\na  b\n~~~",
        "`a  b!!`", "``a ` b  c``",
        "$x  =  2 ,  y$", "$$\na  \\\\  b\n$$", "wait... what", "well... yes", "and so on ...", "……",
        "| a  |  b |\n|---|---|\n| x ,  | y |", "a | b | c  d", "line  \nbreak", "- item\n    code  x",
        "-   wide marker",
        "1.  first\n2.  second", "# Title #", "> quote", "**bold**", "* * *", "---", "Term\n:   what it means",
        "[a link](http://x.y/z(1)?q=1,,2)", "\tindented  code", "C'est vrai", "List<int>  x = y;",
    ],
)  # fmt: skip
def test_what_is_no_dirt_survives_letter_for_letter(text: str) -> None:
    assert clean_text(text) == text
    assert clean_text(f"Before it.\n\n{text}\n\nAfter it.") == f"Before it.\n\n{text}\n\nAfter it."


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Hello   world !!!", "Hello world!"),
        ("What is  it ?", "What is it?"),
        ("Hi , there", "Hi, there"),
        ("The pump runs at 3.14 bar .  Next  one", "The pump runs at 3.14 bar. Next one"),
        ("see https://a.b/c?d=e!!  for   more", "see https://a.b/c?d=e!! for more"),
        ("你好 ，世界。。。。它是 40 巴 。", "你好，世界。它是 40 巴。"),
        ("\ufeffhid\u200bden\u00ad word", "hidden word"),
        ("a\u202eb", "ab"),
        ("one\x07two\r\nthree\x0cfour", "onetwo\nthree\nfour"),
        ("cafe\u0301", "café"),
        ("  one \n\n\n\n two  ", "one\n\n two"),
        ("a\u00a0\u00a0b\u3000c", "a b c"),
    ],
)
def test_dirt_goes(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@pytest.mark.parametrize(
    ("rule", "text", "cleaned"),
    [
        ("html", '<p class="x1">Hi <b>you</b></p>', "Hi you"),
        ("html", 'See <a class="b" href="https://x.y/1">this</a>', "See [this](https://x.y/1)"),
        ("html", "`<b>` and std::vector<int> and a < b > c", "`<b>` and std::vector<int> and a < b > c"),
        ("full_width", "ＡＢＣ１２３，好", "ABC123，好"),
        ("emoji", "Hi 😀👍🏽 there 🇩🇪 ❤️ 1️⃣ ➕ ♔", "Hi there 1️⃣ ➕ ♔"),
        ("mojibake", "schÃ¶n", "schön"),
    ],
)
def test_a_rule_of_choice_does_its_work(rule: Rule, text: str, cleaned: str) -> None:
    assert clean_text(text, (rule, "whitespace")) == cleaned


def test_joiners_and_directions_stay_where_a_script_needs_them() -> None:
    for text in ("می\u200cخواهم", "שלום\u200f!", "👨\u200d👩\u200d👧", "क्\u200dष"):
        assert clean_text(text) == text


def test_french_keeps_its_spaces_before_signs() -> None:
    assert clean_text("Vraiment ?", language="fr") == "Vraiment ?"
    assert clean_text("Really ?", language="en") == "Really?"


DIRT = st.sampled_from(
    ["  ", " ", "\n", "\n\n\n", "!!", "??", " ,", " .", ",,", "。。", " ，", "\u200b", "\u00a0", "\ufeff",
    "\r\n", "\x07", "`", "```",
     "\n```\n", "$", "|", "{", "}", "[", "]", "\"", ":", "~~~", "<b>", "</p>", "<!--", "-->", "\t", "    ",
     "> ", "- ", "😀", "1", ".5",
     "3.14", "10:30", "https://a.b/c?d=e", "std::vector", "...", "v1..v2", "a  b", "Word", "word", "水", "é",
     "e\u0301", "Ａ", "Ã¶"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(DIRT, st.text(max_size=4)), max_size=14).map("".join)


def survive(text: str, cleaned: str) -> bool:
    position = 0
    for start, end in protected_spans(text):
        position = cleaned.find(text[start:end], position)
        if position < 0:
            return False
        position += end - start
    return True


@given(TEXTS, st.sampled_from([DEFAULT_RULES, ALL, WITHOUT_HTML, ("whitespace",), ("html", "emoji")]))
@example("`\u200b`` a  b`", DEFAULT_RULES)
@settings(max_examples=250, deadline=None)
def test_cleaning_twice_is_cleaning_once_and_protected_parts_survive(text: str, rules: tuple[Rule, ...]) -> None:
    cleaned = clean_text(text, rules)
    assert clean_text(cleaned, rules) == cleaned
    if not {"html", "full_width"} & set(rules):
        assert survive(text, cleaned)


@given(st.text(alphabet="aB .,!?;:\n水。，", max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_letter_of_plain_words_is_lost(text: str) -> None:
    assert [c for c in clean_text(text) if c.isalpha()] == [c for c in text if c.isalpha()]


async def test_a_cleaned_example_is_a_new_one_with_its_evidence_untouched() -> None:
    old = Example(question="What  is it ?", answer="A  pump !!", quote="a  pump", evidence_start=3, reasoning="a  b")
    [new] = await perform(clean, old)
    assert isinstance(new, Example)
    assert new == old.model_copy(update={"question": "What is it?", "answer": "A pump!"})
    [thought] = await perform(clean.using(fields=["reasoning"]), old)
    assert thought == old.model_copy(update={"reasoning": "a b"})


async def test_answers_that_are_labels_or_json_are_left_alone_and_nothing_becomes_blank() -> None:
    [label] = await perform(clean, Example(question="Q", answer="a  b !!", answer_type="label"))
    assert isinstance(label, Example)
    assert label.answer == "a  b !!"
    [blank] = await perform(clean.using(rules=["emoji"]), Example(question="Q", answer="😀"))
    assert isinstance(blank, Example)
    assert blank.answer == "😀"


async def test_every_turn_of_a_conversation_is_cleaned() -> None:
    turns = (Turn(role="user", content="Hi  there !!"), Turn(role="assistant", content="Yes ,  hi", reasoning="a  b"))
    [new] = await perform(clean, Conversation(turns=turns, rounds=1))
    assert isinstance(new, Conversation)
    assert [(turn.content, turn.reasoning) for turn in new.turns] == [("Hi there!", None), ("Yes, hi", "a  b")]


def test_a_rule_that_does_not_exist_is_refused_before_anything_runs() -> None:
    with pytest.raises(WorkflowError, match="rules"):
        clean.using(rules=["spelling"])


CHUNK = Chunk(text="Page 3 of 9\nThe feed pump runs at 40 bar and must never run dry.\nPage 3 of 9", start=10, end=90)


async def cleaned_by(*answers: Any, **options: Any) -> tuple[Chunk, dict[str, Any]]:
    notes: dict[str, Any] = {}
    ctx = Context(blobs=MemoryBlobs(), model=Asker(ScriptedModel(answers), notes=notes), notes=notes)
    [made] = await run_operator(clean_with_model, [CHUNK], {}, options, ctx)
    assert isinstance(made.body, Chunk)
    return made.body, notes


async def test_a_model_cleans_a_chunk_into_a_new_one() -> None:
    made, notes = await cleaned_by("The feed pump runs at 40 bar and must never run dry.")
    assert made.text == "The feed pump runs at 40 bar and must never run dry."
    assert (notes["words_before"], notes["words_after"]) == (20, 12)
    assert "degraded" not in notes
    assert made.place(0, 3) == (None, None)  # it is no longer the text of the document


async def test_a_text_that_shrank_too_much_is_rejected_with_its_sizes_and_the_old_one_stays() -> None:
    made, notes = await cleaned_by("The pump runs.")
    assert made == CHUNK
    assert notes["degraded"] == "rejected: 3 of 20 words are left, max_shrink is 0.5"
    made, notes = await cleaned_by("The pump runs.", max_shrink=0.9)
    assert made.text == "The pump runs."


async def test_a_model_that_says_nothing_leaves_the_chunk_as_it_was() -> None:
    made, notes = await cleaned_by("", "")
    assert made == CHUNK
    assert notes["degraded"].startswith("invalid_output")
