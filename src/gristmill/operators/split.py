"""The operator `split`: a document becomes chunks.

    blocks -> units (a heading with what follows it, a table, a paragraph, a piece of a long one)
           -> chunks (units of one section, as many as fit) -> small ones merged -> overlap

Nothing that is not white space is lost: the chunks' ranges cover the text.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo
from typing_extensions import TypeAliasType

from gristmill.data.kinds import Chunk, Document, Heading, Page
from gristmill.data.media import CODE_TYPES, MARKDOWN
from gristmill.errors import InputError
from gristmill.operators.operator import Context, operator
from gristmill.operators.split_marks import CODE, PLAIN_CODE, Mark, marks_of
from gristmill.operators.split_ruler import ruler_of
from gristmill.operators.split_units import (
    Measure,
    Span,
    overlapping,
    pack,
    seen,
    units_at_marks,
    units_of_markdown,
    units_of_text,
)

SIZE_LIMIT = 200_000  # characters; a chunk is a row in the database, and a row holds at most 1 MiB
TOKEN_LIMIT = 50_000
SEPARATORS = ("\n\n", "\n", ". ", "! ", "? ", "。", "！", "？", " ")
Strategy = Literal["auto", "markdown", "text", "delimiter", "recursive", "token", "code"]


def _smaller_than_size(value: int, info: ValidationInfo) -> int:
    size = info.data.get("size")
    if size is not None and value >= size:
        raise ValueError(f"the overlap ({value}) must be smaller than the size ({size})")
    return value


def _fits_a_row(value: str, info: ValidationInfo) -> str:
    size = info.data.get("size")
    if size is not None and value == "token" and size > TOKEN_LIMIT:
        raise ValueError(f"a chunk has at most {TOKEN_LIMIT} tokens, not {size}")
    return value


def _known(language: str) -> str:
    if language and language not in CODE:
        raise ValueError(f'"{language}" is not known; one of: {", ".join(CODE)}')
    return language


# Under names of their own, so that the bounds survive typing.get_type_hints, which drops a bare Annotated.
Size = TypeAliasType("Size", Annotated[int, Field(ge=1, le=SIZE_LIMIT)])
Minimum = TypeAliasType("Minimum", Annotated[int, Field(ge=0)])
Overlap = TypeAliasType("Overlap", Annotated[int, Field(ge=0), AfterValidator(_smaller_than_size)])
How = TypeAliasType("How", Annotated[Strategy, AfterValidator(_fits_a_row)])
Unit = TypeAliasType("Unit", Annotated[Literal["char", "token"], AfterValidator(_fits_a_row)])
Delimiter = TypeAliasType("Delimiter", Annotated[str, Field(min_length=1)])
Separators = TypeAliasType(
    "Separators", Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, max_length=20)]
)
Language = TypeAliasType("Language", Annotated[str, AfterValidator(_known)])


@operator("split", version=2, pool="parse", isolate=True, timeout=600)
async def split(
    document: Document, ctx: Context,
    size: Size = 1500, minimum: Minimum = 200, overlap: Overlap = 0, strategy: How = "auto", unit: Unit = "char",
    delimiter: Delimiter = "\n\n", separators: Separators = SEPARATORS, language: Language = "",
    tokenizer: str | None = None,
) -> list[Chunk]:  # fmt: skip
    """Cuts a document's text into chunks of at most `size` characters, or tokens where `unit` says so.

    `minimum`: a chunk below it is merged with its neighbour when both fit into `size` (default 200; at most half of
    `size` counts). `overlap`: so much of the chunk before is repeated at the start, never across a heading or a
    delimiter and never a part of a table (default 0).

    `strategy`: "markdown" follows headings, tables, code and formulas; "text" follows paragraphs, sentences and
    words; "token" is "text" with `unit` "token"; "delimiter" cuts at each `delimiter`, which goes into no chunk, and
    merges nothing across it; "recursive" tries `separators` in their order; "code" follows functions and types of the
    programming `language` ("" takes that of the file). "auto" takes "markdown" for all that is Markdown, "code" for
    source code, "text" for the rest.

    `tokenizer`: path of a tokenizer.json that every worker can read; without it tokens are estimated from characters.

    A table, a piece of code or a displayed formula longer than `size` stays whole under "markdown" and is marked
    `oversize`, up to four times `size`; beyond that it is cut, at line ends where it has its lines to itself. An empty
    document gives no chunks. Raises `WorkflowError` when the options are set, or `InputError` when it is called with
    options that contradict each other; P301 and P302 for a tokenizer that cannot be used.
    """
    if not 1 <= size <= SIZE_LIMIT or minimum < 0 or not 0 <= overlap < size:
        raise InputError(
            f"split cannot use size={size}, minimum={minimum}, overlap={overlap}",
            hint=f"1 <= size <= {SIZE_LIMIT}, minimum >= 0, 0 <= overlap < size",
        )
    text = (await ctx.blobs.read(document.text_blob)).decode()
    # In a thread: a book takes a second, and a process that splits has other things to answer meanwhile
    return await asyncio.to_thread(
        split_text, text, document, size, minimum, overlap, strategy, unit, delimiter=delimiter,
        separators=separators, language=language, tokenizer=tokenizer,
    )  # fmt: skip


def split_text(
    text: str, document: Document, size: int, minimum: int, overlap: int, strategy: Strategy = "auto",
    unit: Literal["char", "token"] = "char", *, delimiter: str = "\n\n", separators: Sequence[str] = SEPARATORS,
    language: str = "", tokenizer: str | None = None,
) -> list[Chunk]:  # fmt: skip
    """`split` on a text that is at hand; `document` gives the pages, the headings and the kind of text."""
    if strategy == "token":
        strategy, unit = "text", "token"
    elif strategy == "auto":
        strategy = _strategy_for(document)
    ruler = ruler_of(text, unit, tokenizer)
    size, overlap, minimum = size * ruler.scale, overlap * ruler.scale, minimum * ruler.scale
    of = Measure(text, ruler, size, size - overlap)  # what is repeated counts towards the chunk that repeats it
    minimum = min(minimum, of.capacity // 2)
    if strategy == "delimiter":
        units, spans = _delimited(of, delimiter, minimum)
    else:
        if strategy == "markdown":
            starts = [heading.start for heading in document.headings]
            of, parts = seen(of, starts)
            units = units_of_markdown(of, parts, starts)
        else:
            units = _units(of, document, strategy, separators, language)
        spans = pack(of, units, minimum)
    if overlap:
        spans = overlapping(of, spans, units, overlap)
    return _chunks(of, spans, document.headings, document.pages)


def _strategy_for(document: Document) -> Strategy:
    if document.media_type in CODE_TYPES:
        return "code"
    return "markdown" if document.media_type == MARKDOWN or document.backend != "text" else "text"


def _units(
    of: Measure, document: Document, strategy: Strategy, separators: Sequence[str], language: str
) -> list[Span]:  # fmt: skip
    if strategy == "recursive":
        return units_at_marks(of, marks_of(separators))
    if strategy == "code":
        marks: Sequence[Mark] = CODE.get(language or CODE_TYPES.get(document.media_type, ""), PLAIN_CODE)
        return units_at_marks(of, marks)
    return units_of_text(of)


def _delimited(of: Measure, delimiter: str, minimum: int) -> tuple[list[Span], list[Span]]:
    """Units and spans of each part between two delimiters."""
    all_units: list[Span] = []
    spans: list[Span] = []
    start = 0
    while start <= len(of.text):
        end = of.text.find(delimiter, start)
        end = len(of.text) if end < 0 else end
        units = units_of_text(of, start, end)
        if units:
            units[0] = replace(units[0], heads=True)  # nothing is repeated across a delimiter
            all_units += units
            spans += pack(of, units, minimum)
        start = end + len(delimiter)
    return all_units, spans


def _chunks(
    of: Measure, spans: Sequence[Span], headings: Sequence[Heading], pages: Sequence[Page]
) -> list[Chunk]:  # fmt: skip
    starts = [heading.start for heading in headings]
    paths = _paths(headings)
    made: list[Chunk] = []
    for ordinal, span in enumerate(spans):
        in_force = bisect_right(starts, span.start)
        first, last = _pages(pages, span)
        made.append(
            Chunk(
                text=of.text[span.start : span.end], ordinal=ordinal, start=span.start, end=span.end,
                page_start=first, page_end=last, heading_path=paths[in_force - 1] if in_force else (),
                oversize=of.length(span.start, span.end) > of.size,
            )
        )  # fmt: skip
    return made


def _paths(headings: Sequence[Heading]) -> list[tuple[str, ...]]:
    """For each heading the titles above it and its own, outermost first."""
    stack: list[Heading] = []
    paths: list[tuple[str, ...]] = []
    for heading in headings:
        while stack and stack[-1].level >= heading.level:
            stack.pop()
        stack.append(heading)
        paths.append(tuple(entry.title for entry in stack))
    return paths


def _pages(pages: Sequence[Page], span: Span) -> tuple[int | None, int | None]:
    """The first and the last page that the span touches. Pages are in order and do not overlap."""
    first = bisect_right(pages, span.start, key=lambda page: page.end)
    last = bisect_left(pages, span.end, key=lambda page: page.start) - 1
    if first > last or not pages:
        return None, None
    return pages[first].number, pages[last].number
