"""A run: the thing with one progress bar, one pause button and one end. Its verbs live on the object."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import asyncpg

from gristmill.bindings import ModelSource
from gristmill.config import Settings
from gristmill.data import dataset, exports
from gristmill.data.blobs import Blobs
from gristmill.data.export_select import filtered
from gristmill.data.results import Results
from gristmill.data.selection import Inputs
from gristmill.db.database import RECONNECT, REPEAT, reconnecting, repeating, transaction
from gristmill.db.statements import statements
from gristmill.degraded import ask_again
from gristmill.engine import events, items, queue, upkeep, workflow
from gristmill.engine.events import Event
from gristmill.errors import DatabaseProblem, UsageError
from gristmill.workflow import Workflow

SQL = statements("workflow")
WHY = statements("why")
T = TypeVar("T")
log = logging.getLogger("gristmill.run")


class Host(Protocol):
    """What a run needs of the App that it belongs to."""

    settings: Settings
    models: ModelSource
    blobs: Blobs

    @property
    def pool(self) -> asyncpg.Pool[Any]: ...

    async def revive(self) -> None: ...

    def check_crew(self) -> None: ...

    async def add_inputs(self, run: Run, inputs: Inputs) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class StepProgress:
    """Counts of one step, summed from committed deltas. `waiting` includes what waits for a later time."""

    name: str
    barrier: bool
    completed: int
    running: int
    waiting: int
    failed: int
    empty: int
    reused: int
    degraded: int = 0  # completed with something that stands in for the answer

    @property
    def total(self) -> int:
        return self.completed + self.running + self.waiting + self.failed


@dataclass(frozen=True, slots=True)
class Progress:
    """`state` is waiting (for other runs), running, paused, completed, partial, failed or cancelled; `seconds` is the
    time of this epoch."""

    run_id: int
    name: str
    state: str
    epoch: int
    seconds: float
    steps: tuple[StepProgress, ...]
    unreadable: int

    @property
    def ended(self) -> bool:
        return self.state in workflow.ENDED

    @property
    def failed(self) -> int:
        return self.unreadable + sum(step.failed for step in self.steps)


@dataclass(frozen=True, slots=True)
class FailedPiece:
    """One thing that failed: an input that cannot be read, or a task, with the reason of its last attempt."""

    item: str
    step: str | None
    state: str
    code: str
    message: str
    cause: str | None
    task_id: int | None


class Run:
    """A handle on a run in the database; any process may hold one. Made by `App.start`, `App.find` and `App.last`."""

    def __init__(self, app: Host, run_id: int, definition: Workflow, name: str) -> None:
        self.app = app
        self.id = run_id
        self.workflow = definition
        self.name = name

    def __repr__(self) -> str:
        return f"<Run {self.name}>"

    async def progress(self) -> Progress:
        """Where everything is, from the folded counters: no table of tasks is counted. Waits while the database is
        away, and starts the embedded one again if it was killed."""
        return await self._patiently(self._progress)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks until the database has answered. Only for what may be asked twice."""
        async for _ in reconnecting():
            try:
                return await ask()
            except (*RECONNECT, *REPEAT, DatabaseProblem):
                await self._revive()
        raise AssertionError

    async def _fold(self) -> None:
        """Sums and numbers everything that was committed until now; waits for another process that is at it."""
        async with self.app.pool.acquire() as connection:
            async for _ in reconnecting(0.02, 0.2):
                if await upkeep.fold(connection):
                    return

    async def _events_after(self, last: int) -> tuple[list[Event], int]:
        await self._fold()
        return await events.after(self.app.pool, last, run_id=self.id)

    async def _revive(self) -> None:
        try:
            await self.app.revive()
        except DatabaseProblem as problem:
            log.warning("the database is away: %s", problem)

    async def _progress(self) -> Progress:
        async with transaction(self.app.pool) as connection:
            row = await connection.fetchrow(SQL["run_row"], self.id)
            steps = await connection.fetch(SQL["progress"], self.id)
            unreadable = await connection.fetchval(SQL["count_unreadable"], self.id)
        return Progress(
            self.id, row["name"], row["state"], row["epoch"], row["seconds"], tuple(_step(s) for s in steps), unreadable
        )

    async def events(self, after: int | None = None, *, poll: float = 0.2) -> AsyncIterator[Event]:
        """The run's events in order, live, until it has ended. `after` is the `seq` of the last one already seen."""
        last = after if after is not None else 0
        while True:
            ended = (await self.progress()).ended
            found, last = await self._patiently(lambda after=last: self._events_after(after))  # type: ignore[misc]
            for event in found:
                yield event
            if ended and not found:
                return
            if not found:
                await asyncio.sleep(poll)

    async def wait(self, *, poll: float = 0.2) -> Progress:
        """Until the run has ended; returns its last progress. Raises `EnvironmentProblem` when no worker is left."""
        while True:
            progress = await self.progress()
            if progress.ended:
                await self._patiently(self._fold)
                return await self.progress()
            self.app.check_crew()
            await asyncio.sleep(poll)

    async def _change(self, change: Callable[[Any], Awaitable[T]]) -> T:
        """A person's order in a transaction of its own, sent again when it ran into somebody else's."""
        return await repeating(self.app.pool, change)

    async def _items(self, name: str) -> list[int]:
        rows = await self.app.pool.fetch(items.SQL["items_named"], self.id, name)
        if not rows:
            known = [row["name"] for row in await self.app.pool.fetch(items.SQL["item_names"], self.id)]
            near = difflib.get_close_matches(name, known, 1)
            raise UsageError(
                f'{self.name} has no input "{name}"', code="U316", safe="nothing was changed",
                hint=f'did you mean "{near[0]}"?' if near else "inputs go by their name or path",
            )  # fmt: skip
        return [row["id"] for row in rows]

    async def pause(self, item: str | None = None) -> bool:
        """Nothing more is claimed; what is under way finishes. `item` (name, path or id) pauses one input only. False
        when there was nothing to pause. Raises `UsageError` U316 for an input that the run does not have."""
        if item is not None:
            ids = await self._items(item)
            return bool(await self._change(lambda connection: items.pause_items(connection, ids)))
        return await self.app.pool.fetchval(SQL["pause"], self.id) is not None

    async def resume(self, item: str | None = None) -> bool:
        """Goes on after `pause`. False when it was not paused. Raises `UsageError` U316."""
        if item is not None:
            ids = await self._items(item)
            resumed = bool(await self._change(lambda connection: items.resume_items(connection, ids)))
        else:
            resumed = await self.app.pool.fetchval(SQL["resume"], self.id) is not None
        await queue.hint(self.app.pool)
        return resumed

    async def cancel(self, item: str | None = None) -> int:
        """Ends the run, or one input of it, now; results that are on their way are refused, what was recorded stays.
        Returns the number of tasks (or of inputs) that were cancelled. Raises `UsageError` U316."""
        if item is not None:
            ids = await self._items(item)
            cancelled = len(await self._change(lambda connection: items.cancel_items(connection, ids)))
        else:
            cancelled = await self._change(lambda connection: workflow.cancel(connection, self.id))
        await queue.hint(self.app.pool, "cancel")
        return cancelled

    async def retry(
        self, cause: str | None = None, *, item: str | None = None, degraded: bool = False, look: bool = True
    ) -> int:
        """Looks at the inputs again (`look`; for one `item` always) and tries everything that failed once more (or what
        failed of one `cause`, in hex, as `failures` gives it). Returns how many tasks begin anew, without new inputs.

        With `degraded` also what came to something that stands in for an answer: its stand-in, and what was made from
        it, leave the run. Left alone is what somebody has decided about, and what has left the history.

        With `item` one failed or cancelled input begins anew, using all of it that was finished; returns how many
        inputs that are. Raises `UsageError` U315 for a run that was cancelled: it is over for good; U316 for an input
        that the run does not have.
        """
        row = await self.app.pool.fetchrow(SQL["run_row"], self.id)
        if row["state"] == "cancelled":
            raise UsageError(
                f"{self.name} was cancelled", code="U315",
                hint="the same `gristmill run` begins another one, which uses all that was finished",
            )  # fmt: skip
        released = 0
        if item is not None:
            ids = await self._items(item)
            released = len(await self._change(lambda connection: items.release_items(connection, ids)))
        if look or item is not None:
            await self.app.add_inputs(self, Inputs.from_plain(json.loads(row["inputs"])))
        if item is not None:
            return released
        again = ask_again if degraded else workflow.retry
        begun = await self._change(lambda connection: again(connection, self.id, bytes.fromhex(cause or "") or None))
        await queue.hint(self.app.pool)
        return begun

    async def failures(self, limit: int = 1000) -> list[FailedPiece]:
        """What failed, with the reason of the last attempt."""
        broken = [
            FailedPiece(row["name"], None, "unreadable", row["code"], row["reason"], None, None)
            for row in await self.app.pool.fetch(SQL["unreadable"], self.id, limit)
        ]
        broken += [
            FailedPiece(
                row["item"] or "(whole run)", row["step_name"], row["state"], row["code"] or "", row["message"] or "",
                row["cause"].hex() if row["cause"] else None, row["task_id"],
            )
            for row in await self.app.pool.fetch(SQL["failures"], self.id, limit)
        ]  # fmt: skip
        return broken

    async def held_by(self, task_id: int | None = None) -> list[tuple[str, str, int]]:
        """Why waiting tasks wait: (step, reason, tasks), the largest group first; exactly one reason for each task. A
        barrier that is not due yet counts no tasks. `task_id` asks for one task: empty when that does not wait."""
        return [tuple(row) for row in await self.app.pool.fetch(WHY["held_by"], self.id, task_id)]

    async def waits_for(self) -> list[str]:
        """Runs that have to be completed before this one begins, each with its state: "qa-3 (partial)"."""
        rows = await self.app.pool.fetch(WHY["waits_for"], self.id)
        return [f"{row['name'] or row['id']} ({row['state'] or 'gone'})" for row in rows]

    async def rows(self, where: str | None = None, *, left_out: bool = False) -> AsyncIterator[exports.Row]:
        """The dataset in the order of the inputs, each row with where it came from; only those of which the filter
        `where` is true (docs/guides/export.md). What duplicates and rejections mark comes only with `left_out`.

        Raises `UsageError` U310 for a workflow that makes no rows, U420 for a filter that cannot be read."""
        steps = dataset.Steps.of([spec.operator.output_types for spec in self.workflow.steps])
        if not steps.making:
            raise UsageError(
                f'workflow "{self.workflow.name}" makes no examples', code="U310",
                hint="annotations go by: gristmill label-studio export",
            )  # fmt: skip
        rows = dataset.rows_of_run(self.app.pool, self.id, self.name, steps, left_out=left_out)
        async with contextlib.aclosing(rows):
            async for row in filtered(rows, where):
                yield row

    def results(self, where: str | None = None, *, left_out: bool = False) -> Results:
        """The dataset for `async for`, or as a table: `await run.results().arrow()`, `.pandas()`, `.polars()`."""
        return Results(lambda: self.rows(where, left_out=left_out))

    async def export(
        self, path: Path | str, format: str | None = None, options: exports.Options | None = None
    ) -> exports.Manifest:
        """Writes the dataset to a file or a folder. Formats: docs/reference/formats.md; without one the suffix decides.
        `options` choose, split and shape the rows. Errors as in `exports.export`."""
        target = Path(path)
        wanted = options or exports.Options()
        wanted = replace(wanted, language=wanted.language or self.app.settings.language)
        about = {"run": self.name, "workflow": self.workflow.name, "fingerprint": self.workflow.fingerprint().hex()}
        return await exports.export(
            self.rows(left_out=wanted.left_out), target, exports.infer_format(target, format), wanted,
            read_image=self.app.blobs.read, about=about,
        )  # fmt: skip


def _step(row: Any) -> StepProgress:
    counts: dict[str, int] = json.loads(row["counts"])
    return StepProgress(
        name=row["name"], barrier=row["barrier"], completed=counts.get("completed", 0),
        running=counts.get("running", 0),
        waiting=counts.get("available", 0) + counts.get("waiting", 0),
        failed=counts.get("failed", 0) + counts.get("quarantined", 0), empty=counts.get("empty", 0),
        reused=counts.get("reused", 0), degraded=counts.get("degraded", 0),
    )  # fmt: skip


def by_cause(pieces: Sequence[FailedPiece]) -> list[tuple[FailedPiece, int]]:
    """Failures grouped: one sample a cause, and how many there are, the largest group first."""
    groups: dict[str, list[FailedPiece]] = {}
    for piece in pieces:
        groups.setdefault(piece.cause or f"{piece.code}:{piece.message}", []).append(piece)
    return sorted(((group[0], len(group)) for group in groups.values()), key=lambda entry: -entry[1])
