from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gristmill.data.kinds import Document
from gristmill.operators.documents_extract import storable
from gristmill.operators.documents_outline import blocks, outline
from gristmill.operators.split import split_text

WORDS = st.text(
    st.sampled_from("abc defg. ,!? \n\t-#*`|>_1é́€漢字仮名。ก็ \U0001f600\u200d\U0001f469\ufe0f\r\u00a0\u2028\x1c"),
    max_size=60,
)
FORMULA = st.text(st.sampled_from("xy+=- \n\\^_{}&#`|"), max_size=120)
SIGNS = [("$$", "$$"), ("\\[\n", "\n\\]"), ("\\begin{align*}\n", "\n\\end{align*}"), ("   $$\n", "\n$$ "), ("$$", "")]
BLOCKS = st.one_of(
    WORDS,
    st.builds(lambda level, title: f"{'#' * level} {title}", st.integers(1, 6), WORDS),
    st.builds(lambda body: f"```\n{body}\n```", WORDS),
    st.builds(lambda rows: "| a | b |\n|---|---|\n" + "| x | y |\n" * rows, st.integers(0, 12)),
    st.builds(lambda items: "\n".join(f"- {item}" for item in items), st.lists(WORDS, max_size=5)),
    st.builds(lambda count: "x" * count, st.integers(1, 400)),
    st.builds(lambda count: "漢字と仮名。" * count, st.integers(1, 40)),
    st.builds(lambda count: "e\u0301\U0001f469\u200d\U0001f4bb" * count, st.integers(1, 40)),
    st.just("Title\n====="),
    st.builds(lambda body, signs: f"{signs[0]}{body}{signs[1]}", FORMULA, st.sampled_from(SIGNS)),
    st.builds(lambda before, body, after: f"{before}$${body}$${after}", WORDS, FORMULA, WORDS),
    st.just("    indented code\n    more"),
    st.just("1. one\n\n   ```\n   code in a list\n   ```\n2. two"),
)
TEXTS = st.lists(BLOCKS, max_size=14).map(lambda parts: storable("\n\n".join(parts)))


def make_document(text: str, markdown: bool) -> Document:
    return Document(
        text_blob="0" * 64, characters=len(text), media_type="text/markdown" if markdown else "text/plain",
        headings=outline(text) if markdown else (),
    )  # fmt: skip


def whole_formulas(text: str, size: int) -> list[tuple[int, int]]:
    """Those outside of code that are short enough to stay whole, and do not begin in the middle of a heading."""
    titles = [(heading.start, text.find("\n", heading.start)) for heading in outline(text)]
    return [
        (start, end) for start, end in blocks(text)[1]
        if end - start <= 4 * size and not any(at < start < stop < end for at, stop in titles)
    ]  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS, st.booleans(), st.integers(1, 300), st.integers(0, 300), st.data())
def test_chunks_cover_the_text_and_keep_to_their_size(text, markdown, size, minimum, data):
    overlap = data.draw(st.one_of(st.just(0), st.integers(0, size - 1)))
    document = make_document(text, markdown)
    chunks = split_text(text, document, size, minimum, overlap)
    covered = bytearray(len(text))
    last_start = last_end = -1
    for ordinal, chunk in enumerate(chunks):
        assert chunk.ordinal == ordinal
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip()
        assert chunk.start > last_start
        assert chunk.end > last_end
        assert chunk.oversize == (len(chunk.text) > size)
        assert len(chunk.text) <= 4 * size
        if not overlap:
            assert chunk.start >= last_end
        last_start, last_end = chunk.start, chunk.end
        covered[chunk.start : chunk.end] = b"\1" * len(chunk.text)
    assert all(character.isspace() or covered[position] for position, character in enumerate(text))
    assert chunks == split_text(text, document, size, minimum, overlap)
    if not markdown:
        assert not any(chunk.oversize for chunk in chunks)
        return
    edges = {edge for chunk in chunks for edge in (chunk.start, chunk.end)}
    for start, end in whole_formulas(text, size):
        assert not edges & set(range(start + 1, end)), text[start:end]
