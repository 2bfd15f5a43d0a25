"""Every strategy of `split`: what it cuts at, and what holds for all of them (trap 3 of the data side)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gristmill.data.kinds import Chunk, Document
from gristmill.errors import InputError, WorkflowError
from gristmill.operators.documents_outline import outline
from gristmill.operators.split import split, split_text
from gristmill.operators.split_marks import CODE
from gristmill.operators.split_ruler import Ruler, ruler_of
from tests.operators.test_split_properties import TEXTS


def chunks_of(
    text: str, size: int = 1500, minimum: int = 0, overlap: int = 0, media_type: str = "text/plain", **options
) -> list[Chunk]:
    headings = outline(text) if media_type == "text/markdown" else ()
    document = Document(text_blob="0" * 64, characters=len(text), media_type=media_type, headings=headings)
    return split_text(text, document, size, minimum, overlap, **options)


def check(text: str, chunks: list[Chunk], limit: int, ruler: Ruler, delimiter: str | None = None) -> None:
    """The chunks cover the text, offsets slice back, and none is above the maximum but a flagged protected block."""
    covered = bytearray(len(text))
    last_start = last_end = -1
    for ordinal, chunk in enumerate(chunks):
        assert chunk.ordinal == ordinal
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip()
        assert chunk.start > last_start
        assert chunk.end > last_end
        last_start, last_end = chunk.start, chunk.end
        assert chunk.oversize == (ruler.length(chunk.start, chunk.end) > limit * ruler.scale)
        covered[chunk.start : chunk.end] = b"\1" * len(chunk.text)
    if delimiter is not None:
        place = text.find(delimiter)
        while place >= 0:
            covered[place : place + len(delimiter)] = b"\1" * len(delimiter)
            place = text.find(delimiter, place + len(delimiter))
    assert all(mark.isspace() or covered[position] for position, mark in enumerate(text))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    TEXTS, st.sampled_from(["markdown", "text", "delimiter", "recursive", "token", "code"]),
    st.sampled_from(["char", "token"]), st.integers(1, 300), st.integers(0, 300), st.booleans(),
    st.sampled_from(["\n\n", "-", "---", "漢"]), st.sampled_from(["", *CODE]), st.data(),
)  # fmt: skip
def test_every_strategy_covers_the_text_and_keeps_to_its_size(
    text, strategy, unit, size, minimum, markdown, delimiter, language, data
):
    overlap = data.draw(st.one_of(st.just(0), st.integers(0, size - 1)))
    media_type = "text/markdown" if markdown else "text/plain"
    options = {"strategy": strategy, "unit": unit, "delimiter": delimiter, "language": language}
    chunks = chunks_of(text, size, minimum, overlap, media_type, **options)
    ruler = ruler_of(text, "token" if strategy == "token" else unit)
    check(text, chunks, size, ruler, delimiter if strategy == "delimiter" else None)
    if strategy != "markdown":
        assert not any(chunk.oversize for chunk in chunks)
    assert all(ruler.length(chunk.start, chunk.end) <= 4 * size * ruler.scale for chunk in chunks)
    if not overlap:
        assert all(one.end <= two.start for one, two in pairwise(chunks))
    assert chunks == chunks_of(text, size, minimum, overlap, media_type, **options)


def test_a_delimiter_is_in_no_chunk_and_nothing_is_merged_or_repeated_across_it():
    text = "one\n---\ntwo two.\n\nThree.\n---\n---\n" + "long words. " * 30 + "---"
    chunks = chunks_of(text, 100, 50, 20, strategy="delimiter", delimiter="---")
    assert [chunk.text for chunk in chunks[:2]] == ["one", "two two.\n\nThree."]
    assert not any("---" in chunk.text for chunk in chunks)
    assert all(chunk.text.startswith("long") for chunk in chunks[2:])
    assert all(len(chunk.text) <= 100 for chunk in chunks)


def test_separators_are_tried_in_their_order():
    text = "Intro text\n## One\n- first item\n- second item\n## Two\n- third " + "word " * 12
    chunks = chunks_of(text, 36, strategy="recursive", separators=("## ", "- ", " "))
    assert [chunk.text.split("\n")[0] for chunk in chunks[:3]] == ["Intro text", "## One", "## Two"]
    assert all(len(chunk.text) <= 36 for chunk in chunks)


def test_code_is_cut_before_functions_and_auto_knows_code_by_its_type():
    function = "def name{}(a):\n    total = 0\n    for part in a:\n        total += part\n    return total\n\n\n"
    text = "import os\n\n\n" + "".join(function.format(n) for n in range(12))
    chunks = chunks_of(text, 200, media_type="text/x-python")
    assert len(chunks) > 4
    assert all(chunk.text.startswith("def name") for chunk in chunks[1:])
    assert chunks == chunks_of(text, 200, strategy="code", language="python")
    braces = "int add(int a, int b) {\n  return a + b;\n}\n\n" * 10
    assert all(chunk.text.startswith("int add") for chunk in chunks_of(braces, 100, strategy="code", language="c"))


def test_tokens_are_estimated_by_script():
    assert ruler_of("abcd", "token").length(0, 4) == 4  # quarters: one token
    assert ruler_of("漢字", "token").length(0, 2) == 8
    english = chunks_of("word " * 2000, 100, strategy="token")
    chinese = chunks_of("磨坊把谷物磨成面粉。" * 200, 100, strategy="token")
    assert 350 < len(english[0].text) <= 400
    assert 80 < len(chinese[0].text) <= 100
    assert english == chunks_of("word " * 2000, 100, strategy="text", unit="token")


def test_a_tokenizer_file_counts_exactly(tmp_path: Path):
    tokenizers = pytest.importorskip("tokenizers")
    tool = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tool.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tool.enable_truncation(5)
    tool.save(str(tmp_path / "tokenizer.json"))
    text = "one two three four. " * 50
    chunks = chunks_of(text, 22, overlap=5, strategy="token", tokenizer=str(tmp_path / "tokenizer.json"))
    counts = [len(chunk.text.replace(".", " .").split()) for chunk in chunks]
    assert max(counts) <= 22
    assert counts[0] == 15  # whole sentences in 22 - 5 tokens
    assert counts[1] == 20
    with pytest.raises(InputError) as error:
        chunks_of(text, 22, strategy="token", tokenizer=str(tmp_path / "none.json"))
    assert error.value.code == "P301"


def test_a_heading_path_is_known_under_every_strategy():
    text = "# Book\n\n" + "A sentence of words. " * 60 + "\n\n## Part\n\n" + "Another one. " * 80
    for strategy in ("markdown", "text", "recursive", "token", "delimiter"):
        chunks = chunks_of(text, 100, media_type="text/markdown", strategy=strategy)
        assert chunks[1].heading_path[:1] == ("Book",)
        assert chunks[-1].heading_path == ("Book", "Part")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overlap": 1500}, "must be smaller"),
        ({"size": 10, "overlap": 11, "strategy": "recursive"}, "must be smaller"),
        ({"strategy": "delimiter", "delimiter": ""}, "delimiter"),
        ({"separators": []}, "separators"),
        ({"separators": ["a", ""]}, "separators"),
        ({"language": "klingon"}, "is not known; one of: python"),
        ({"unit": "words"}, "unit"),
        ({"size": 60_000, "strategy": "token"}, "at most 50000 tokens"),
        ({"size": 60_000, "unit": "token"}, "at most 50000 tokens"),
    ],
)
def test_options_that_contradict_each_other_are_refused_at_the_door(options, words):
    with pytest.raises(WorkflowError, match=words):
        split.using(**options)


@pytest.mark.parametrize("strategy", ["text", "recursive", "code", "token", "delimiter", "markdown"])
def test_a_hundred_thousand_characters_without_a_break_are_cut_in_good_time(strategy):
    for text in ("x" * 100_000, "e\u0301" * 50_000, "\n" * 50_000 + "x" * 3000, "_a " * 30_000):
        chunks = chunks_of(text, 1000, strategy=strategy, language="c")
        assert max(len(chunk.text) for chunk in chunks) <= 4000
