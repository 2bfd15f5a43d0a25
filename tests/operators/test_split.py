from itertools import pairwise

import pytest

from gristmill.data.blobs import Blobs
from gristmill.data.kinds import Chunk, Document, Page
from gristmill.errors import InputError, WorkflowError
from gristmill.operators.calling import run_operator
from gristmill.operators.documents_outline import outline
from gristmill.operators.operator import Context
from gristmill.operators.split import split, split_text


def chunks_of(text: str, size: int = 1500, minimum: int = 200, overlap: int = 0, **document) -> list[Chunk]:
    document = {"media_type": "text/markdown", "headings": outline(text), **document}
    return split_text(text, Document(text_blob="0" * 64, characters=len(text), **document), size, minimum, overlap)


async def test_the_operator_reads_the_text_and_gives_chunks(tmp_path):
    blobs = Blobs(tmp_path, reserve=0)
    text = "# Mill\n\n" + "The stone turns. " * 200
    document = Document(
        text_blob=await blobs.write(text.encode()), characters=len(text), media_type="text/markdown",
        headings=outline(text),
    )  # fmt: skip
    produced = await run_operator(split, [document], {}, {"size": 500}, Context(blobs=blobs))
    assert len(produced) > 5
    for ordinal, entry in enumerate(produced):
        assert isinstance(entry.body, Chunk)
        assert entry.body.ordinal == ordinal
        assert entry.body.text == text[entry.body.start : entry.body.end]
        assert entry.body.heading_path == ("Mill",)


async def test_an_empty_document_gives_nothing(tmp_path):
    assert chunks_of("") == []
    assert chunks_of(" \n\n\t\n") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, "size"),
        ({"minimum": -1}, "minimum"),
        ({"size": 100, "overlap": 100}, "must be smaller than the size"),
        ({"overlap": -1}, "overlap"),
        ({"strategy": "tokens"}, "strategy"),
        ({"length": 3}, "length"),
    ],
)
async def test_options_that_cannot_work_are_refused_when_they_are_set(options, words):
    with pytest.raises(WorkflowError, match=words):
        split.using(**options)


async def test_a_direct_call_with_contradicting_options_is_refused(tmp_path):
    document = Document(text_blob="0" * 64, characters=0, media_type="text/plain")
    with pytest.raises(InputError, match="overlap=10"):
        await split(document, Context(blobs=Blobs(tmp_path)), size=10, overlap=10)


def test_a_heading_stays_with_its_text_and_gives_the_path():
    text = "# Book\n\n## One\n\n" + "word " * 150 + "\n\n### Deep\n\n" + "deep " * 100 + "\n\n## Two\n\n" + "two " * 150
    chunks = chunks_of(text, size=800)
    assert [chunk.heading_path for chunk in chunks] == [("Book",), ("Book", "One", "Deep"), ("Book", "Two")]
    assert chunks[0].text.startswith("# Book\n\n## One\n\nword")
    assert chunks[1].text.startswith("### Deep\n\ndeep")


def test_a_heading_stays_with_the_first_piece_of_a_long_paragraph():
    text = "# A heading of some length\n\n" + "A sentence that goes on. " * 40
    chunks = chunks_of(text, size=300)
    assert chunks[0].text.startswith("# A heading of some length\n\nA sentence")
    assert all(len(chunk.text) <= 300 for chunk in chunks)


def test_tables_and_code_stay_whole_up_to_four_times_the_size():
    rows = "| a | b |\n|---|---|\n" + "| cell | cell |\n" * 40
    code = "```py\n" + "x = 1\n\n" * 60 + "```\n"
    text = f"Before.\n\n{rows}\nBetween.\n\n{code}\nAfter.\n"
    chunks = chunks_of(text, size=300)
    assert [chunk.oversize for chunk in chunks] == [False, True, False, True, False]
    assert chunks[1].text == rows.strip()
    assert chunks[3].text == code.strip()


def test_a_table_beyond_that_is_cut_at_line_ends():
    text = "| a | b |\n|---|---|\n" + "| some cell | other cell |\n" * 200
    chunks = chunks_of(text, size=300)
    assert len(chunks) > 10
    assert not any(chunk.oversize for chunk in chunks)
    assert all(line.startswith("|") and line.endswith("|") for chunk in chunks for line in chunk.text.split("\n"))


@pytest.mark.parametrize(
    ("begin", "end"),
    [("$$", "$$"), ("\\[", "\\]"), ("\\begin{equation}", "\\end{equation}"), ("  \\begin{align*}", "\\end{align*}")],
)
def test_formulas_stay_whole_up_to_four_times_the_size(begin, end):
    formula = f"{begin}\n" + "# x_i = y \\\\[2pt]\n- z = 1\n=\n" * 20 + end
    text = f"# One\n\nBefore it.\n{formula}\nAfter it. " + "More of it. " * 40
    chunks = chunks_of(text, size=300, minimum=0, overlap=60)
    assert [chunk.oversize for chunk in chunks[:3]] == [False, True, False]
    assert chunks[1].text == formula.strip()
    assert not any(chunk.oversize for chunk in chunks_of(text, size=100, minimum=0))  # beyond that it is cut


def test_a_formula_within_a_line_is_not_cut_and_not_repeated_in_part():
    formula = "$$ a + b = c . d + e $$"
    text = f"Some words before. {formula} and then, " * 40
    for overlap in (0, 30):
        chunks = chunks_of(text, size=80, minimum=0, overlap=overlap)
        assert sum(chunk.text.count(formula) for chunk in chunks) >= 40
        assert all(chunk.text.count("$$") == 2 * chunk.text.count(formula) for chunk in chunks)
        assert all(len(chunk.text) <= 80 for chunk in chunks)


def test_what_is_no_formula_is_cut_like_prose():
    for text in ("It costs $$ or more. " * 7 + "\n\n" + "$$ " + "A sentence. " * 60, "`$$` or \\$$ and " * 60):
        assert not any(chunk.oversize for chunk in chunks_of(text, size=60, minimum=0)[5:])


def test_code_in_a_list_is_not_torn_apart():
    code = "   ```\n" + "   line of code\n" * 20 + "   ```"
    chunks = chunks_of(f"1. {'one ' * 60}\n\n{code}\n\n2. {'two ' * 60}\n", size=400)
    assert any(code in chunk.text for chunk in chunks)


def test_small_sections_are_merged_where_there_is_room():
    text = "".join(f"## Part {number}\n\nshort text\n\n" for number in range(40))
    chunks = chunks_of(text, size=1000, minimum=200)
    assert len(chunks) <= 6
    assert all(len(chunk.text) >= 200 for chunk in chunks[:-1])


def test_pages_come_from_the_map():
    text = "a" * 100 + "\n\n" + "b" * 100 + "\n\n" + "c" * 100
    pages = (
        Page(number=7, start=0, end=100), Page(number=8, start=102, end=102), Page(number=9, start=102, end=202),
        Page(number=10, start=204, end=304),
    )  # fmt: skip
    chunks = chunks_of(text, size=210, minimum=0, media_type="application/pdf", pages=pages, backend="kreuzberg")
    assert [(chunk.page_start, chunk.page_end) for chunk in chunks] == [(7, 9), (10, 10)]
    assert chunks_of(text)[0].page_start is None


def test_overlap_repeats_whole_sentences_within_a_section_only():
    text = "# One\n\n" + "".join(f"Sentence number {n} is here. " for n in range(60)) + "\n\n# Two\n\nOther text. " * 30
    chunks = chunks_of(text, size=400, minimum=0, overlap=100)
    assert all(len(chunk.text) <= 400 for chunk in chunks)
    repeated = [(one, two) for one, two in pairwise(chunks) if two.start < one.end]
    assert len(repeated) > 3
    for _, chunk in repeated:
        assert chunk.text.startswith("Sentence number")
    assert not any(two.text.startswith("# Two") and two.start < one.end for one, two in repeated)


def test_plain_text_is_cut_at_paragraphs_then_sentences_then_words():
    text = ("First sentence here. Second sentence here.\n\n" * 30).strip()
    for chunk in chunks_of(text, size=100, minimum=0, media_type="text/plain"):
        assert chunk.text.startswith("First")
        assert chunk.text.endswith("here.")
    chunks = chunks_of("word " * 1000, size=103, minimum=0, media_type="text/plain")
    assert {word for chunk in chunks for word in chunk.text.split()} == {"word"}


def test_what_a_reader_sees_as_one_character_is_not_cut():
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    for chunk in chunks_of(family * 50 + "e\u0301" * 50, size=17, minimum=0, overlap=8, media_type="text/plain"):
        assert chunk.text[0] not in "\u200d\u0301"
        assert chunk.text[-1] != "\u200d"


def test_a_line_of_a_hundred_thousand_characters_is_cut_in_good_time():
    chunks = chunks_of("x" * 100_000, size=1500, media_type="text/plain")
    assert sum(len(chunk.text) for chunk in chunks) == 100_000
    assert max(len(chunk.text) for chunk in chunks) == 1500


@pytest.mark.parametrize("piece", ["x", "a" * 4000 + " ", "mill ", "\U0001f469\u200d\U0001f467"])
def test_a_text_without_an_end_of_word_or_line_is_cut_in_parts_and_nothing_of_it_is_lost(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    found = chunks_of(text, media_type="text/plain")
    assert max(len(chunk.text) for chunk in found) <= 1500
    assert "".join(chunk.text for chunk in found).replace(" ", "") == text.replace(" ", "")
    assert not any(chunk.text.startswith("\u200d") for chunk in found)
