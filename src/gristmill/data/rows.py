"""A row of the dataset: one example, conversation or test item, with where it came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gristmill.data.filter import Kind
from gristmill.data.kinds import Turn


@dataclass(frozen=True, slots=True)
class Row:
    """One example with its lineage. Offsets are code points in the document's text, ends are exclusive.

    A conversation has its `turns`; its question is what the user said first, its answer what the assistant said last.
    """

    question: str
    answer: str
    quote: str | None = None  # the document's words that support the answer, where they were found
    record_id: str = ""
    source: str = ""  # file name below the input that was given
    title: str | None = None  # of the document
    chunk: str | None = None  # the text that the question was asked about
    page_start: int | None = None  # from 1; None where the format has no pages
    page_end: int | None = None
    start: int | None = None  # of the chunk
    end: int | None = None
    evidence_start: int | None = None  # of the quote
    evidence_end: int | None = None
    heading_path: tuple[str, ...] = ()
    run: str = ""  # name of the run
    model: str = ""
    work: str = ""  # key of the piece of work that made it, in hexadecimal
    kind: str = "example"  # or conversation, test_item
    reasoning: str | None = None  # the chain of thought that led to the answer
    reasoning_origin: str | None = None
    system: str | None = None
    turns: tuple[Turn, ...] = ()
    rounds: int | None = None  # exchanges that were planned
    scenario: str | None = None
    image: str | None = None  # sha256 of the picture that is asked about
    label: tuple[str, ...] = ()  # its place in the label tree
    answer_type: str | None = None  # label or json; of a test item its type; None: free text
    options: tuple[str, ...] = ()  # of a test item
    grounded: bool | None = None
    score: float | None = None  # of the newest evaluation, or of the newest judgement of a test item
    document: str = ""  # sha256 of the document's text; no split of a dataset tears one apart
    question_id: str | None = None  # record of the question that it answers
    left_out: str | None = None  # why an export leaves it out, unless it is asked not to
    review: str = "proposed"  # or accepted, edited, rejected, skipped: what a person said last
    reviewer: str | None = None  # who said so


REVIEWED = frozenset({"accepted", "edited"})  # what counts as reviewed: it may go out as it stands
COLUMNS = tuple(field.name for field in fields(Row))
_IN_SHAPES = ("question", "answer", "chunk", "reasoning", "turns")
LINEAGE = tuple(name for name in COLUMNS if name not in _IN_SHAPES)  # what `metadata` holds
TYPES = {field.name: str(field.type).removesuffix(" | None") for field in fields(Row)}  # "str", "tuple[str, ...]", ...
_FILTER_KINDS: Mapping[str, Kind] = {"int": "number", "float": "number", "bool": "truth", "tuple[Turn, ...]": "number"}
FILTER_COLUMNS: Mapping[str, Kind] = {name: _FILTER_KINDS.get(TYPES[name], "text") for name in COLUMNS}


def filter_value(row: Row, name: str) -> Any:
    """What a filter compares: a label as "subject/part", turns by their number, and nothing (None) where there is none.

    Raises `AttributeError` for a name that is no column."""
    value = getattr(row, name)
    if isinstance(value, tuple):
        if name == "turns":
            return len(value)
        return joined(name, value) or None
    return None if value == "" else value


def joined(name: str, parts: tuple[str, ...]) -> str:
    """A path as one text: headings as "A > B", everything else as "a/b", with a backslash before a slash of its own."""
    if name == "heading_path":
        return " > ".join(parts)
    return "/".join(part.replace("\\", "\\\\").replace("/", "\\/") for part in parts)


def parted(text: str) -> tuple[str, ...]:
    """What `joined` joined by slashes."""
    parts = [""]
    for piece in re.findall(r"\\.|/|[^\\/]+|\\", text, re.DOTALL):
        if piece == "/":
            parts.append("")
        else:
            parts[-1] += piece.removeprefix("\\") if len(piece) > 1 else piece
    return tuple(parts) if text else ()


def plain(value: Any) -> Any:
    """Turns as objects of role, content and reasoning; everything else as it is."""
    if isinstance(value, tuple) and value and isinstance(value[0], Turn):
        return [{"role": turn.role, "content": turn.content, "reasoning": turn.reasoning} for turn in value]
    return value


def lineage(row: Row) -> dict[str, Any]:
    """Where the row came from. Every key is always there, so that readers that infer a schema see one schema."""
    return {name: getattr(row, name) for name in LINEAGE}


def turns_of(row: Row) -> tuple[Turn, ...]:
    """The row as a talk: its own turns, or the system's word, the question and the answer with its reasoning."""
    if row.turns:
        return row.turns
    opening = (Turn(role="system", content=row.system),) if row.system else ()
    return (
        *opening,
        Turn(role="user", content=row.question),
        Turn(role="assistant", content=row.answer, reasoning=row.reasoning),
    )
