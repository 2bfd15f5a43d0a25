"""What people see of a review: a piece with its source, a decision, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from gristmill.data.annotations import ANNOTATIONS
from gristmill.data.dataset import MAKING

REVIEWABLE = (*(kind.kind for kind in MAKING), *ANNOTATIONS)  # kinds of records that people review


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the source that the candidate points at: code points of its text, the end exclusive."""

    start: int
    end: int
    what: str  # a label, or "evidence"


@dataclass(frozen=True, slots=True)
class Source:
    """What a candidate was made from, to be shown beside it.

    `start` and `end` say where `text` stands in its document, in code points; None where it was rewritten, or is in
    none. `image` is the sha256 of a picture of `width` x `height` pixels, upright; `boxes` as in `Boxes`.
    """

    what: Literal["text", "image", "none"] = "none"
    name: str = ""  # of the file
    title: str | None = None  # of the document
    document: int | None = None  # its record
    record_id: int | None = None  # of the chunk, example or picture that is shown
    text: str | None = None
    start: int | None = None
    end: int | None = None
    page: int | None = None
    marks: tuple[Mark, ...] = ()
    image: str | None = None
    width: int | None = None
    height: int | None = None
    boxes: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """One record in the queue of a run. `original` is what was proposed, `body` what stands: a person's revision, or
    the proposal. Who is asked for a second opinion (`second`) sees the proposal only.

    `token` and `lease_until` are there for the one who has claimed it. `disagreement` is that of scorers (in their
    scale) or of votes (0 to 1). `since` is the record that was reviewed once, and was made anew since then as this one.
    """

    record_id: int
    run_id: int
    kind: str
    state: str
    body: Mapping[str, Any]
    original: Mapping[str, Any]
    revision_id: int | None = None
    score: float | None = None
    scores: tuple[Mapping[str, Any], ...] = ()
    disagreement: float | None = None
    since: int | None = None
    disputed: bool = False
    second: bool = False
    assignee: str = ""
    holder: str | None = None  # who has it before him
    token: str | None = None
    lease_until: datetime | None = None
    reviewer: str | None = None  # who decided
    note: str | None = None
    decided_at: datetime | None = None
    labels: Mapping[str, Any] | None = None  # of an annotation: what it may say (`annotation_labels.described`)
    source: Source = field(default_factory=Source)

    def as_document(self) -> dict[str, Any]:
        """For JSON."""
        return _plain(asdict(self))


@dataclass(frozen=True, slots=True)
class Decided:
    """What came of a decision or an undo. `changed` is False where all of it was so before."""

    record_id: int
    state: str
    before: str
    revision_id: int | None
    decision_id: int | None
    disputed: bool
    changed: bool = True
    run_id: int | None = None

    def as_document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of a record's story. `said_id` is the record that the person wanted in its place; `seconds` from claim
    to decision; `opinion`: somebody else had decided before."""

    id: int
    record_id: int
    run_id: int | None
    reviewer: str
    decision: str
    opinion: bool
    said_id: int | None
    note: str | None
    seconds: float | None
    before_state: str
    after_state: str
    at: datetime
    undone_at: datetime | None

    def as_document(self) -> dict[str, Any]:
        """For JSON."""
        return _plain(asdict(self))


@dataclass(frozen=True, slots=True)
class Reviewed:
    """How a record stands. `revision_id` is the record that stands in its place after an edit."""

    state: str
    revision_id: int | None = None
    reviewer: str | None = None
    decided_at: datetime | None = None
    disputed: bool = False
    note: str | None = None


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in document.items()}
