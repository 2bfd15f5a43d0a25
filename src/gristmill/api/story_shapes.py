"""Answers about one task and one record: what happened to it, and where it came from."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from gristmill.api.shapes import Answer


class CallRow(Answer):
    """A paid answer of the ledger. `id` is its key; the whole of it is at /api/calls/{id}."""

    id: str
    state: str
    model: str
    prompt: str | None = None
    status: int | None = None
    finish_reason: str | None = None
    tokens_in: int
    tokens_out: int
    tokens_cached: int = 0
    latency_ms: int | None = None
    cost: str | None = None
    currency: str | None = None
    tries: int
    note: str | None = None
    made_at: datetime | None = None


class KnownCall(CallRow):
    """An answer that was taken from the ledger: `made_at` is when it was paid, `run` and `task` say by whom; null where
    that is not on record, as for what another database has paid."""

    task: int | None = None
    run: int | None = None
    run_name: str | None = None


class AttemptRow(Answer):
    """One try. `outcome`: completed, failed, crashed, stalled, cancelled, or running. `handed_on`: the worker died or
    lost its lease, and who took the task over comes next. `beat_at`: the last beat of the worker that has it now, or
    that died of it."""

    n: int
    worker: str | None = None
    worker_id: int | None = None
    host: str | None = None
    pid: int | None = None
    worker_state: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: str
    code: str | None = None
    error: str | None = None
    message: str | None = None
    cause: str | None = None
    handed_on: bool = False
    beat_at: datetime | None = None
    lease_until: datetime | None = None
    calls: list[CallRow] = Field([])


class Wait(Answer):
    """A claim (`n`) that was given back uncharged at `since`, not to be claimed again before `until`. `reason`: "quota:
    ..." for a quota, else a lock, the same call elsewhere, a batch, a worker that was stopped."""

    n: int
    worker: str | None = None
    worker_id: int | None = None
    began_at: datetime | None = None
    since: datetime
    until: datetime
    reason: str


class Made(Answer):
    """A record in short."""

    record: int
    kind: str


class TaskDetail(Answer):
    """A task. `held_by` is the one reason for which it waits now; null when it does not wait."""

    id: int
    run: int
    run_name: str
    stage: str
    operator: str
    pool: str
    state: str
    item: str | None = None
    attempt: int
    failures: int
    crashes: int
    max_attempts: int
    max_crashes: int
    run_at: datetime
    claimed_at: datetime | None = None
    ended_at: datetime | None = None
    held: str | None = None
    held_by: str | None = None
    inputs: list[int] = Field([])
    barrier: bool = False
    model: str | None = None
    history: bool = False
    command: str = ""


class Span(Answer):
    """A place in the text of a document: code points, the end exclusive."""

    document: int | None = None
    start: int | None = None
    end: int | None = None
    page_start: int | None = None
    page_end: int | None = None


class Thread(Answer):
    """One knot of the thread from a file to a reviewer. `distance` is 0 for the record that was asked about, more for
    what it came from, less for what was made of it. `text` is its content in short."""

    record: int
    kind: str
    distance: int
    title: str
    text: str
    place: Span | None = None
    parents: list[int]
    operator: str | None = None
    task: int | None = None
    run: int | None = None
    run_name: str | None = None
    stage: str | None = None
    made_at: datetime
    score: float | None = None
    image: str | None = None


class Verdict(Answer):
    """What a person decided about a record."""

    record: int
    decision: str
    reviewer: str
    at: datetime
    note: str | None = None
    undone_at: datetime | None = None
    revision: int | None = None


class Lineage(Answer):
    """The thread of a record: what it came from (the file first), itself, and what was made of it and said of it."""

    record: int
    thread: list[Thread]
    verdicts: list[Verdict] = Field([])
    complete: bool = True


class Story(Answer):
    """Everything about a task: its attempts in order, how often it was sent away meanwhile (of the last three days),
    what it worked on, what it made. `known`: the calls behind what it made that were paid before, so that nobody was
    asked again."""

    task: TaskDetail
    attempts: list[AttemptRow]
    known: list[KnownCall] = Field([])
    waits: list[Wait] = Field([])
    attempts_more: bool = False
    lineage: list[Thread]
    records: list[Made]
    calls_more: bool = False


class AttemptDifference(Answer):
    """What attempt `to` got back otherwise than attempt `of`: answers, raw output, the end. `diff` as `diff -u` writes
    it, empty when it is the `same`; `cut`: it was too long to be compared whole."""

    of: int
    to: int
    same: bool
    diff: str
    cut: bool = False


class RecordDetail(Answer):
    """A record. `state` is what review says: proposed, accepted, edited, rejected, skipped; `revision` stands in for
    it where a person has edited it. `children`: the first 200 that were made of it."""

    id: int
    kind: str
    hash: str
    body: Any
    made_at: datetime
    operator: str | None = None
    outcome: str | None = None
    task: int | None = None
    work: str
    parents: list[int]
    children: list[int]
    state: str = "proposed"
    revision: int | None = None
    reviewer: str | None = None
    decided_at: datetime | None = None
    note: str | None = None
