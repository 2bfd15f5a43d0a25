"""Review through the API: pieces to decide, what was decided, how it goes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from gristmill.api.shapes import Answer, Body
from gristmill.review.pieces import Source

By = Literal["score", "disagreement", "random", "changed"]
Person = Annotated[str, Field(min_length=1, max_length=200)]
RunRef = Annotated[str, Field(min_length=1, max_length=200)]


class Editor(Answer):
    """What the editor of Label Studio needs to show an annotation: its configuration (XML) and the task."""

    config: str
    task: dict[str, Any]


class ScoreShown(Answer):
    rubric: str | None = None
    judge: str | None = None
    name: str
    value: float
    comment: str | None = None


class ReviewPiece(Answer):
    """A record to decide. `original` is what was proposed, `body` what stands. `token` and `lease_until` are there for
    who has claimed it; nobody else gets it until then. `labels`: what an annotation may say. `editor` is there for
    annotations when it was asked for."""

    record_id: int
    run_id: int
    kind: str
    state: str
    body: dict[str, Any]
    original: dict[str, Any]
    revision_id: int | None = None
    score: float | None = None
    scores: list[ScoreShown] = Field([])
    disagreement: float | None = None
    since: int | None = None
    disputed: bool = False
    second: bool = False
    assignee: str = ""
    holder: str | None = None
    token: str | None = None
    lease_until: datetime | None = None
    reviewer: str | None = None
    note: str | None = None
    decided_at: datetime | None = None
    labels: dict[str, Any] | None = None
    source: Source
    editor: Editor | None = None


class Claim(Body):
    """Asks for pieces: first those that the person has already (their lease is renewed), then new ones up to `limit`.
    A page that loads ahead asks again with the same limit after every decision. `reviewer`: who decides; by default
    who is logged in. `sample`: the share of the run that is looked at at all. `editor`: with what the editor needs."""

    run: RunRef
    by: By = "score"
    reviewer: Person | None = None
    limit: Annotated[int, Field(ge=1, le=50)] = 6
    kind: Annotated[str | None, Field(min_length=1, max_length=100)] = None
    sample: Annotated[float, Field(gt=0, le=1)] = 1.0
    skipped: bool = False
    lease: Annotated[float, Field(ge=5, le=86_400)] = 600.0
    editor: bool = False


class Decision(Body):
    """What a person decides. An edit has the whole `body`, some fields of it (`changes`), or the `result` of the
    editor. `label` sets the label alone. `token` is that of the claim; `seen` the record that the person looked at:
    when something else stands by now, nothing is changed."""

    decision: Literal["accept", "edit", "reject", "skip", "label"]
    reviewer: Person | None = None
    body: dict[str, Any] | None = None
    changes: dict[str, Any] | None = None
    result: list[dict[str, Any]] | None = None
    label: Annotated[list[Annotated[str, Field(max_length=1_000)]] | None, Field(max_length=100)] = None
    note: Annotated[str | None, Field(max_length=10_000)] = None
    token: Annotated[str | None, Field(max_length=100)] = None
    seen: Annotated[int | None, Field(ge=1, le=2**63 - 1)] = None
    run: RunRef | None = None


class Undo(Body):
    """Takes back that person's last decision on the record; again: the one before."""

    reviewer: Person | None = None


class UndoLast(Undo):
    """Takes back that person's last decision in the queue of the run."""

    run: RunRef


class Decided(Answer):
    """How the record stands now. `changed` is false where all of it was so before."""

    record_id: int
    state: str
    before: str
    revision_id: int | None = None
    decision_id: int | None = None
    disputed: bool = False
    changed: bool = True
    run_id: int | None = None


class Release(Body):
    run: RunRef
    reviewer: Person | None = None
    records: Annotated[list[Annotated[int, Field(ge=1, le=2**63 - 1)]] | None, Field(max_length=1_000)] = None


class Released(Answer):
    released: int


class WaitingPieces(Answer):
    """Pieces of a run that wait for people. `more`: there are more than `pieces`, which is where counting ends; null:
    the run is over and made something to review, and nobody has opened its review yet."""

    run: int
    name: str
    pieces: int | None
    more: bool = False


class ReviewerFigures(Answer):
    reviewer: str
    decided: int
    accepted: int
    edited: int
    rejected: int
    skipped: int
    undone: int
    seconds_median: float | None = None
    per_hour: float | None = None
    last_hour: int
    last_at: datetime


class PairFigures(Answer):
    first: str
    second: str
    pieces: int
    percent: float | None = None
    cohen: float | None = None


class AgreementFigures(Answer):
    """Over all pieces that several people have decided. `same`: the share that wants the very same content."""

    pieces: int
    percent: float | None = None
    same: float | None = None
    krippendorff: float | None = None
    pairs: list[PairFigures] = Field([])


class ReviewFigures(Answer):
    """How a review goes: pieces by state, pace of each person, agreement."""

    states: dict[str, int]
    total: int
    open: int
    held: int
    disputed: int
    reviewers: list[ReviewerFigures]
    agreement: AgreementFigures


class Assign(Body):
    """Shares undecided pieces out among people in turn. `overlap`: the share that `people` of them decide, each."""

    run: RunRef
    reviewers: Annotated[list[Person], Field(min_length=1, max_length=100)]
    count: Annotated[int | None, Field(ge=0, le=10**9)] = None
    by: By = "score"
    sample: Annotated[float, Field(gt=0, le=1)] = 1.0
    overlap: Annotated[float, Field(ge=0, le=1)] = 0.0
    people: Annotated[int, Field(ge=2, le=100)] = 2


class Assigned(Answer):
    """How many pieces each was given."""

    given: dict[str, int]


class AssignmentRow(Answer):
    assignee: str
    open: int
    decided: int
