"""Bulk actions and exports: what is asked for, and how it stands."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from gristmill.api.shapes import Answer, Body

Verb = Literal["retry", "cancel", "pause", "resume", "drop", "accept", "reject", "skip"]
ExportOption = str | int | float | bool | None | dict[str, str] | dict[str, float]


class WantedAction(Body):
    """The same done to all that match. `retry` and `cancel` are about tasks of the run (the failed, or the open ones);
    `pause`, `resume` and `drop` (cancel) about its inputs; `accept`, `reject` and `skip` about proposed records.

    The first call says how many match, and what it would take. The second gives that number as `confirm`: when as
    many match still, a durable run begins; else it is refused, and nothing is done.
    """

    action: Verb
    run: Annotated[str, Field(min_length=1, max_length=200)]
    filter: Annotated[str | None, Field(max_length=10_000)] = None
    stage: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    cause: Annotated[str | None, Field(pattern=r"^[0-9a-f]{64}$")] = None
    kind: Annotated[str | None, Field(min_length=1, max_length=100)] = None
    note: Annotated[str | None, Field(max_length=2_000)] = None
    confirm: Annotated[int | None, Field(ge=0, le=10**9)] = None


class Forecast(Answer):
    """What an action would take, from the latest of the same stages. Null where nobody can say; `basis` says why."""

    calls: float | None = None
    tokens: float | None = None
    cost: dict[str, str] = Field({}, description="by currency")
    seconds: float | None = None
    basis: str


class ActionState(Answer):
    """A bulk action. `id` is null while it is only foreseen; `done` and `failed` count its parts of 200."""

    id: int | None
    name: str
    action: str
    run: int
    count: int
    state: str
    parts: int = 0
    done: int = 0
    failed: int = 0
    forecast: Forecast | None = None
    by: str | None = None
    created_at: datetime | None = None
    ended_at: datetime | None = None


class FormatInfo(Answer):
    """A format that rows can be written in, or `annotations`. `suffixes` is empty for a folder; `columned`: columns may
    be chosen; `kinds`: annotations that it can hold."""

    name: str
    description: str
    suffixes: list[str]
    bundle: bool
    columned: bool
    pairs: bool
    rows: list[str] = Field(description="of a bundle: the formats that its rows may have")
    reasoning: str
    annotations: bool = False
    kinds: list[str] = Field([])


class ExportOptions(Body):
    """What may be asked of an export: docs/guides/export.md. Of annotations: `reviewed`, `kind`, `offsets`."""

    where: Annotated[str | None, Field(max_length=10_000)] = None
    columns: Annotated[dict[str, str] | None, Field(max_length=200)] = None
    reasoning: Literal["field", "inline", "drop"] | None = None
    split: Annotated[dict[str, float] | None, Field(max_length=20)] = None
    seed: Annotated[int, Field(ge=-(2**62), le=2**62)] = 0
    balance: Annotated[int | None, Field(ge=1, le=10**9)] = None
    lineage: bool = True
    left_out: bool = False
    reviewed: bool = False
    rows: Annotated[str | None, Field(max_length=100)] = None
    bom: bool = False
    language: Annotated[str, Field(max_length=10)] = ""
    kind: Annotated[str | None, Field(min_length=1, max_length=100, description="of annotations")] = None
    offsets: Annotated[Literal["codepoint", "utf16"], Field(description="of places in annotated texts")] = "codepoint"


class WantedExport(Body):
    """An export of the dataset of a run, or of its annotations."""

    run: Annotated[str, Field(min_length=1, max_length=200)]
    format: Annotated[str, Field(min_length=1, max_length=100)] = "jsonl"
    options: ExportOptions = ExportOptions()


class WantedPreview(WantedExport):
    """The first `count` entries of that export."""

    count: Annotated[int, Field(ge=1, le=50)] = 3


class Preview(Answer):
    """The beginning of an export as it would be written; of what is no text, as JSON Lines."""

    format: str
    text: str
    entries: int
    suffix: str
    binary: bool = False


class ExportedFile(Answer):
    name: str
    rows: int
    bytes: int


class ExportState(Answer):
    """An export. `state`: waiting, running, completed or failed. `file` is where it can be fetched, once it is there;
    `held_by` is why it waits."""

    id: int
    run: int | None
    run_name: str | None = None
    format: str
    options: dict[str, Any] = Field({})
    state: str
    created_at: datetime
    ended_at: datetime | None = None
    rows: int | None = None
    bytes: int | None = None
    name: str | None = None
    sha256: str | None = None
    splits: dict[str, int] = Field({})
    files: list[ExportedFile] = Field([])
    images: int = 0
    file: str | None = None
    error: str | None = None
    held_by: str | None = None
    by: str | None = None
