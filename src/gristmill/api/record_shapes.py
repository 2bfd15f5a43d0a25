"""Answers about records: lists, documents with their coverage, how results are spread, texts."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from gristmill.api.shapes import Answer

Fate = Literal["reviewed", "accepted", "rejected", "failed", "waiting", "empty"]


class RecordRow(Answer):
    """A record in a list. `body` is null where it is longer than 32 KiB; `state` is what review says."""

    id: int
    kind: str
    stage: str
    item: str | None = None
    task: int | None = None
    hash: str
    made_at: datetime
    title: str
    body: Any = None
    state: str = "proposed"
    revision: int | None = None


class Cell(Answer):
    """A part of a document: a chunk, a page, a picture. `n` results came of it; `fate` is the best of what became of
    them, and the counts say the rest. Empty: nothing came of it, and nothing is under way."""

    record: int | None
    kind: str
    fate: Fate
    n: int = 0
    reviewed: int = 0
    accepted: int = 0
    rejected: int = 0
    failed: int = 0
    waiting: int = 0
    page: int | None = None


class CoverageRow(Answer):
    """A document of a run. `record` is null for an input that has come to none; `why` says the reason. `complete` is
    false where a document has so much below it that only a part was looked at."""

    record: int | None
    kind: str
    name: str
    item: str | None = None
    task: int | None = None
    why: str | None = None
    cells: list[Cell]
    complete: bool = True


class Bin(Answer):
    """Values from `low` up to `high` (the last bin: including it)."""

    low: float
    high: float
    n: int


class LabelCount(Answer):
    label: str
    n: int


class Histogram(Answer):
    """How the results of a run are spread: bins for numbers, counts for labels; `sampled`: of the newest 20,000."""

    field: str
    n: int
    without: int = Field(description="results that have no such value")
    bins: list[Bin] = Field([])
    labels: list[LabelCount] = Field([])
    mean: float | None = None
    median: float | None = None
    sampled: bool = False


class TextMark(Answer):
    """A heading or a page of a document: code points of its text."""

    kind: Literal["page", "heading"]
    title: str
    start: int
    end: int | None = None
    level: int | None = None


class DocumentText(Answer):
    """A part of a document's text, from `start` up to `end`; `characters` is the length of all of it."""

    record: int
    title: str | None
    media_type: str
    characters: int
    start: int
    end: int
    text: str
    marks: list[TextMark]
