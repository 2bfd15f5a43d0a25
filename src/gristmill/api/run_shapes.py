"""Answers about runs: how they stand, and the series that their pictures are drawn from."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from gristmill.api.shapes import Answer


class Money(Answer):
    """An exact amount as text."""

    amount: str
    currency: str


class Counts(Answer):
    """Pieces, from the folded counters. `total` grows while steps find out how much there is for the next one;
    `reused` of the done ones were known from earlier work, `empty` came to nothing, `skipped` were cancelled."""

    done: int = 0
    total: int = 0
    running: int = 0
    waiting: int = 0
    failed: int = 0
    empty: int = 0
    reused: int = 0
    skipped: int = 0


class RunSummary(Answer):
    """`state`: waiting, running, paused, completed, partial, failed or cancelled. `ready_at` is a guess from the pace
    of the last minutes; null where nobody can say. `held_by`: what most of what waits is waiting for."""

    id: int
    name: str
    workflow: str
    project: str
    state: str
    epoch: int
    created_at: datetime
    started_at: datetime
    ended_at: datetime | None = None
    seconds: float = Field(description="of this epoch, so far")
    progress: Counts
    ready_at: datetime | None = None
    cost: list[Money] = Field([])
    budget: Money | None = None
    held_by: str | None = None


class Held(Answer):
    """Exactly one reason for each waiting task; a barrier that is not due yet counts none."""

    stage: str
    reason: str
    tasks: int


class Stage(Answer):
    """One step. `rate` is pieces a second over the last minutes that it worked; times are seconds of an attempt,
    of the latest that made something."""

    name: str
    operator: str
    pool: str
    barrier: bool
    model: str | None = None
    after: list[str] = Field([])
    done: int = 0
    running: int = 0
    waiting: int = 0
    failed: int = 0
    empty: int = 0
    reused: int = 0
    skipped: int = 0
    total: int = 0
    rate: float = 0.0
    median: float | None = None
    p95: float | None = None


class RunDetail(RunSummary):
    """`waits_for`: runs that have to be completed first. `unreadable`: inputs that cannot be read, which are in no
    other count. `inputs` are places as they were given."""

    stages: list[Stage]
    inputs: list[str] = Field([])
    waits_for: list[str] = Field([])
    unreadable: int = 0
    makes_rows: bool = True
    reviewable: bool = True
    command: str = Field("", description="how the command line asks for the same")


class FlowStage(Answer):
    """How many tasks were in each state, one number for each time."""

    name: str
    waiting: list[int]
    running: list[int]
    done: list[int]
    failed: list[int]


class Flow(Answer):
    """The cumulative flow of a run: at most 500 times, the last of them now, or its end."""

    times: list[datetime]
    stages: list[FlowStage]


class Cause(Answer):
    """Failures with the same cause at the same step. `cause` is null for inputs that cannot be read."""

    cause: str | None
    stage: str | None
    code: str | None
    error: str | None
    message: str | None
    state: str
    count: int
    sample_task: int | None = None
    sample_item: str | None = None


class Failures(Answer):
    """`failed` is the exact number of all; the groups are of the first 10,000; `complete`: that is all."""

    failed: int
    unreadable: int
    complete: bool
    causes: list[Cause]


class Change(Answer):
    """One thing that two runs have set differently. `what`: option, model, operator, version, prompt or step. Of a
    prompt, before and now are the hashes of its text, and `diff` says line by line what was changed."""

    stage: str
    what: str
    name: str
    before: Any = None
    now: Any = None
    diff: str | None = None


class Difference(Answer):
    """What was changed since the run of the same workflow before this one; `previous` is null where there was none."""

    previous: int | None
    previous_name: str | None = None
    changes: list[Change] = Field([])
    inputs_added: list[str] = Field([])
    inputs_removed: list[str] = Field([])


class Series(Answer):
    """Pieces a minute of one stage, a number for each of the minutes."""

    stage: str
    completed: list[int]
    failed: list[int]


class Mark(Answer):
    """Something that happened: its event, a line for people, and what the line was made of, for one in another
    language."""

    seq: int
    at: datetime
    event: str
    run: int | None = None
    text: str
    facts: dict[str, str | int | None] = Field({})


class Throughput(Answer):
    """Every minute of the span, its beginning in `minutes`; the last one is not over yet."""

    minutes: list[datetime]
    series: list[Series]
    marks: list[Mark]


class Item(Answer):
    """An input of a run. `state`: active, unreadable, superseded or removed; `outcome`: completed, failed or cancelled,
    null while it is under way."""

    id: int
    run: int
    name: str
    uri: str
    state: str
    outcome: str | None = None
    paused: bool = False
    code: str | None = None
    reason: str | None = None
    created_at: datetime
    ended_at: datetime | None = None
    run_name: str | None = None


class TaskRow(Answer):
    """A task in a list. `held`: why it was put back the last time; why it waits now is in its story."""

    id: int
    run: int
    stage: str
    state: str
    item: str | None = None
    attempt: int
    failures: int
    crashes: int
    held: str | None = None
    worker: str | None = None
    run_at: datetime
    claimed_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    message: str | None = None
    code: str | None = None
    cause: str | None = None
