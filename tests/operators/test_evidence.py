from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz import fuzz

from gristmill.operators.evidence import FUZZY_SCORE, locate
from gristmill.operators.wording import fold, fold_with_offsets, numbers, question_key, words


def found(quote: str, text: str) -> str | None:
    span = locate(quote, text)
    return None if span is None else text[span[0] : span[1]]


@pytest.mark.parametrize(
    ("quote", "text", "expected"),
    [
        ("the valve", "Open the valve now.", "the valve"),
        ("THE  Valve\n is", "Open the valve is", "the valve is"),
        ('"open" - it\'s', "He said “open” — it’s fine", "“open” — it’s"),
        ("café", "the cafe\u0301 opens", "cafe\u0301"),
        ("cafe\u0301", "the café opens", "café"),
        ("office file", "The o\ufb03ce \ufb01le.", "o\ufb03ce \ufb01le"),
        ("cooperate fully", "They co\u00adoper\u200bate fully.", "co\u00adoper\u200bate fully"),
        ("straße", "Die STRASSE ist lang", "STRASSE"),
        ("水泵 必须关闭", "启动前，水泵\n必须关闭。", "水泵\n必须关闭"),
        ("必须关闭", "启动前，水泵必须关闭。", "必须关闭"),
        ("ＡＢＣ１２３", "code ABC123.", "ABC123"),
        ("👍🏽 done", "all 👍🏽   done", "👍🏽   done"),
        ("ﾊﾟｲﾌﾟ", "太いパイプです", "パイプ"),
        ("“the valve is open”", "Then the valve is open.", "the valve is open"),
        ("the valve is open...", "Then the valve is open, and more.", "the valve is open"),
    ],
)
def test_a_quote_is_found_whatever_copying_did_to_it(quote: str, text: str, expected: str) -> None:
    assert found(quote, text) == expected


@pytest.mark.parametrize(
    ("quote", "text"),
    [
        ("", "text"),
        ("   ", "a   b"),
        ("valve", ""),
        ("no", "you know it"),
        ("5 bar", "at 15 bar"),
        ("40 bar", "at 40 barrels"),
        ("cafe", "the cafe\u0301 opens"),
        ("cafe", "the café opens"),
        ("가", "각"),
        ("The pump is red and made of steel.", "Nothing of the kind is said in this long text about valves."),
        ("the whole text is only a part of this long quote", "the"),
    ],
)
def test_what_is_not_there_is_not_found(quote: str, text: str) -> None:
    assert locate(quote, text) is None


def test_a_whole_word_is_preferred_to_the_same_letters_in_an_earlier_one() -> None:
    assert locate("art", "a party of art") == (11, 14)


def test_the_exact_spelling_is_preferred_to_an_earlier_folded_one() -> None:
    assert locate("Valve", "valve Valve") == (6, 11)


def test_a_long_quote_with_small_changes_is_found_as_whole_words() -> None:
    text = "Note: the inlet valve must always be opend before starting the feed pump. Then wait."
    quote = "the inlet valve must always be opened before starting the feed-pump"
    assert found(quote, text) == "the inlet valve must always be opend before starting the feed pump"


@pytest.mark.parametrize(
    "quote",
    [
        "the revenue of the company grew by 16 percent in the year 2021",
        "the revenue of the company grew by 15 percent in the year 2020",
        "the revenue of the company never grew by 15 percent in the year 2021",
    ],
)
def test_a_resembling_quote_with_another_number_or_a_negation_is_no_evidence(quote: str) -> None:
    text = "In short, the revenue of the company grew by 15 percent in the year 2021, as planned."
    assert locate(quote, text) is None
    assert found("the revenue of the company grew by 15 per cent in the year 2021", text) is not None


def test_a_short_quote_is_never_found_by_resemblance() -> None:
    assert locate("the inlet valv", "open the inlet valve") is None


alphabet = st.sampled_from("aAbBé\u0301ßﬁ 水泵，が\u3099가\n\t\u00a0‘’“”'\"—-–.…12\u00ad\u200d👍🏽👩ΣςİıǅΩ")
texts = st.text(alphabet, max_size=60) | st.text(max_size=60)


@given(texts, st.data())
def test_whatever_is_returned_really_matches(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    piece = text[start:end]
    quote = data.draw(
        st.sampled_from([piece, piece.upper(), f"“{piece}”", unicodedata.normalize("NFD", piece)]) | texts
    )
    span = locate(quote, text)
    if span is None:
        return
    assert 0 <= span[0] < span[1] <= len(text)
    got, wanted = fold_with_offsets(text[span[0] : span[1]]).text, fold_with_offsets(quote.strip()).text.strip()
    stripped = fold_with_offsets(quote.strip(" \t\r\n\"'“”„‟«»‘’‚‛`.…[]()")).text.strip()
    assert (
        text[span[0] : span[1]] == quote.strip()
        or got in (wanted, stripped)
        or fuzz.ratio(stripped, got) >= FUZZY_SCORE
    )


@given(st.text(st.sampled_from("abcdé水泵 👍"), min_size=1, max_size=60), st.data())
def test_every_run_of_whole_words_is_found(text: str, data: st.DataObject) -> None:
    pieces = text.split(" ")
    first = data.draw(st.integers(0, len(pieces) - 1))
    last = data.draw(st.integers(first, len(pieces) - 1))
    quote = " ".join(pieces[first : last + 1])
    if quote.strip():
        assert found(quote, text) == quote.strip()


@given(texts)
def test_offsets_of_a_folded_text_cover_it_in_order(text: str) -> None:
    folded = fold_with_offsets(text)
    assert len(folded.text) == len(folded.starts) == len(folded.ends)
    assert folded.starts == sorted(folded.starts)
    assert all(0 <= start < end <= len(text) for start, end in zip(folded.starts, folded.ends, strict=True))


@given(texts)
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)


def test_words_keep_numbers_signs_and_negations_apart() -> None:
    assert words("Isn't 1,000 + 2.5 > x?") == ["is", "not", "1000", "+", "2.5", ">", "x"]
    assert words("the pump's 3–5 bar at -4 °C") == ["the", "pump", "3", "-", "5", "bar", "at", "-4", "°", "c"]
    assert words("水泵B12 in COVID-19") == ["水", "泵", "b12", "in", "covid", "19"]
    assert numbers(words("B12 is 3-5")) == ("b12", "3", "-", "5")


def test_questions_that_differ_in_closing_punctuation_only_have_one_key() -> None:
    assert question_key(" What  is it ? ") == question_key("what is it") == question_key("WHAT IS IT！")
    assert question_key("???") != ""
