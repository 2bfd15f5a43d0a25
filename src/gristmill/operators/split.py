"""The operator `split`: a document becomes chunks.

    blocks -> units (a heading with what follows it, a table, a paragraph, a piece of a long one)
           -> chunks (units of one section, as many as fit) -> small ones merged -> overlap

Nothing that is not white space is lost: the chunks' ranges cover the text.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo
from typing_extensions import TypeAliasType

from gristmill.data.kinds import Chunk, Document, Heading, Page
from gristmill.data.media import MARKDOWN
from gristmill.errors import InputError
from gristmill.operators.operator import Context, operator
from gristmill.operators.split_units import Span, overlapping, pack, units_of_markdown, units_of_text

SIZE_LIMIT = 200_000  # characters; a chunk is a row in the database, and a row holds at most 1 MiB


def _smaller_than_size(value: int, info: ValidationInfo) -> int:
    size = info.data.get("size")
    if size is not None and value >= size:
        raise ValueError(f"the overlap ({value}) must be smaller than the size ({size})")
    return value


# Under names of their own, so that the bounds survive typing.get_type_hints, which drops a bare Annotated.
Size = TypeAliasType("Size", Annotated[int, Field(ge=1, le=SIZE_LIMIT)])
Minimum = TypeAliasType("Minimum", Annotated[int, Field(ge=0)])
Overlap = TypeAliasType("Overlap", Annotated[int, Field(ge=0), AfterValidator(_smaller_than_size)])


@operator("split", version=1, pool="parse", isolate=True, timeout=600)
async def split(
    document: Document, ctx: Context,
    size: Size = 1500, minimum: Minimum = 200, overlap: Overlap = 0,
    strategy: Literal["auto", "markdown", "text"] = "auto",
) -> list[Chunk]:  # fmt: skip
    """Cuts a document's text into chunks of at most `size` characters.

    `minimum`: a chunk below it is merged with its neighbour when both fit into `size` (default 200; at most half of
    `size` counts). `overlap`: so many characters of the chunk before are repeated at the start, never across a
    heading and never a part of a table (default 0). `strategy`: "markdown" follows headings, tables and code, "text"
    follows paragraphs, sentences and words, "auto" takes "markdown" for everything that is Markdown.

    A table or a piece of code longer than `size` stays whole and is marked `oversize`, up to four times `size`; beyond
    that it is cut at line ends. An empty document gives no chunks. Raises `WorkflowError` when the options are set, or
    `InputError` when it is called with options that contradict each other.
    """
    if not 1 <= size <= SIZE_LIMIT or minimum < 0 or not 0 <= overlap < size:
        raise InputError(
            f"split cannot use size={size}, minimum={minimum}, overlap={overlap}",
            hint=f"1 <= size <= {SIZE_LIMIT}, minimum >= 0, 0 <= overlap < size",
        )
    text = (await ctx.blobs.read(document.text_blob)).decode()
    # In a thread: a book takes a second, and a process that splits has other things to answer meanwhile
    return await asyncio.to_thread(split_text, text, document, size, minimum, overlap, strategy)


def split_text(
    text: str, document: Document, size: int, minimum: int, overlap: int, strategy: str = "auto"
) -> list[Chunk]:
    """`split` on a text that is at hand; `document` gives the pages, the headings and the kind of text."""
    is_markdown = strategy == "markdown" or (
        strategy == "auto" and (document.media_type == MARKDOWN or document.backend != "text")
    )
    capacity = size - overlap  # what is repeated counts towards the size of the chunk that repeats it
    minimum = min(minimum, capacity // 2)
    headings = document.headings if is_markdown else ()
    if is_markdown:
        units = units_of_markdown(text, [heading.start for heading in headings], size, capacity)
    else:
        units = units_of_text(text, capacity)
    spans = pack(text, units, capacity, minimum)
    if overlap:
        spans = overlapping(text, spans, units, overlap)
    return _chunks(text, spans, size, headings, document.pages)


def _chunks(
    text: str, spans: Sequence[Span], size: int, headings: Sequence[Heading], pages: Sequence[Page]
) -> list[Chunk]:
    starts = [heading.start for heading in headings]
    paths = _paths(headings)
    made: list[Chunk] = []
    for ordinal, span in enumerate(spans):
        in_force = bisect_right(starts, span.start)
        first, last = _pages(pages, span)
        made.append(
            Chunk(
                text=text[span.start : span.end], ordinal=ordinal, start=span.start, end=span.end,
                page_start=first, page_end=last, heading_path=paths[in_force - 1] if in_force else (),
                oversize=span.end - span.start > size,
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
