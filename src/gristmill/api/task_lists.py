"""Lists of tasks, state after state, each in the order of the index that knows it: no table of tasks is scanned."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import asyncpg

from gristmill.api.listing import MOST
from gristmill.api.run_shapes import TaskRow
from gristmill.api.run_views import PAGES
from gristmill.api.shapes import cursor
from gristmill.data.filter import Kind
from gristmill.errors import UsageError

MOST_IDS = 2**63 - 1
EVERY = 1_000
STATES = ("running", "failed", "available", "waiting", "completed")
PLACES: dict[str, list[type]] = {"available": [str, bool, int, int], "completed": [int, int, int]}
COLUMNS: dict[str, Kind] = {
    "id": "number", "stage": "text", "state": "text", "item": "text", "attempt": "number", "failures": "number",
    "crashes": "number", "held": "text", "worker": "text", "error": "text", "message": "text", "code": "text",
    "cause": "text",
}  # fmt: skip


class TaskList:
    """The tasks of a run at some of its steps; `steps` names all of them by place."""

    def __init__(self, pool: asyncpg.Pool[Any], run_id: int, steps: Mapping[int, str], chosen: Sequence[int]) -> None:
        self.pool = pool
        self.run_id = run_id
        self.steps = steps
        self.chosen = sorted(chosen)

    async def page(
        self, states: Sequence[str], after: tuple[Any, ...] | None, limit: int,
        keep: Callable[[Mapping[str, Any]], bool] | None,
    ) -> tuple[list[TaskRow], str | None]:  # fmt: skip
        """At most `limit` tasks behind a place (a state, and a place in that state's order), and the next cursor."""
        state, behind = after if after is not None else (states[0], [])
        if state not in states:
            raise UsageError('"after" is no place in this list', code="A420", hint="take it from the page before")
        found: list[TaskRow] = []
        looked = 0
        while True:
            size = limit + 1 if keep is None else max(limit + 1, EVERY)
            rows = await self._read(state, behind, size)
            for row, following in rows:
                if keep is None or keep(row.__dict__):
                    if len(found) == limit:
                        return found, cursor(state, behind)
                    found.append(row)
                behind = following
            looked += len(rows)
            if len(rows) < size:
                place = states.index(state) + 1
                if place == len(states):
                    return found, None
                state, behind = states[place], []
            if looked >= MOST:
                return found, cursor(state, behind)

    async def every(self, states: Sequence[str]) -> AsyncIterator[TaskRow]:
        """All tasks in these states, a thousand at a time."""
        for state in states:
            behind: list[Any] = []
            while rows := await self._read(state, behind, EVERY):
                for row, behind in rows:  # noqa: B007 - the place of the last one is where the next thousand begins
                    yield row
                if len(rows) < EVERY:
                    break

    async def _read(self, state: str, behind: list[Any], size: int) -> list[tuple[TaskRow, list[Any]]]:
        """The next tasks in a state behind a place, each with its own place. Fewer than `size`: that was all."""
        if behind and [type(value) for value in behind] != PLACES.get(state, [int, int]):
            raise UsageError('"after" is no place in this list', code="A420", hint="take it from the page before")
        if state == "completed":
            return await self._completed(behind, size)
        if state == "available":
            return await self._named(await self._available(behind or [None] * 4, size))
        step = self.chosen[0] if len(self.chosen) == 1 else None
        rows = await self.pool.fetch(PAGES[f"tasks_{state}"], self.run_id, step, *(behind or [None, None]), size)
        chosen = [(row, [row["step"], row["id"]]) for row in rows]
        return await self._named(chosen)

    async def _available(self, behind: list[Any], size: int) -> list[tuple[Any, list[Any]]]:
        """In the order of claiming; those of other steps are passed over."""
        found: list[tuple[Any, list[Any]]] = []
        looked = 0
        while len(found) < size and looked < MOST:
            rows = await self.pool.fetch(PAGES["tasks_available"], self.run_id, *behind, max(size, 200))
            for row in rows:
                behind = [row["pool"], row["locked"], row["priority"], row["seq"]]
                if row["step"] in self.chosen and len(found) < size:
                    found.append((row, behind))
            looked += len(rows)
            if len(rows) < max(size, 200):
                break
        return found

    async def _completed(self, behind: list[Any], size: int) -> list[tuple[TaskRow, list[Any]]]:
        """From the last step to the first, the newest records first; a task with several records comes once."""
        step, record, last = behind or [self.chosen[-1], MOST_IDS, 0]
        found: list[tuple[Any, list[Any]]] = []
        while len(found) < size:
            rows = await self.pool.fetch(PAGES["tasks_completed"], self.run_id, step, record, size)
            for row in rows:
                record = row["record_id"]
                if row["id"] != last and row["state"] == "completed" and len(found) < size:
                    last = row["id"]
                    found.append((row, [step, record, last]))
            if len(rows) < size:
                before = [number for number in self.chosen if number < step]
                if not before:
                    break
                step, record, last = before[-1], MOST_IDS, 0
        return await self._named(found)

    async def _named(self, rows: Sequence[tuple[Any, list[Any]]]) -> list[tuple[TaskRow, list[Any]]]:
        """Rows with the names of their inputs and workers, and the last error of what failed."""
        if not rows:
            return []
        items = {row["item_id"] for row, _ in rows if row["item_id"]}
        workers = {row["worker_id"] for row, _ in rows if row["worker_id"]}
        broken = [row["id"] for row, _ in rows if row["state"] in ("failed", "quarantined") or row["failures"]]
        told = await self.pool.fetch(PAGES["names_of"], list(items), list(workers), broken)
        names = {(one["what"], one["id"]): one for one in told}
        return [(self._row(row, names), place) for row, place in rows]

    def _row(self, row: Any, names: Mapping[tuple[str, int], Any]) -> TaskRow:
        item, worker = names.get(("item", row["item_id"])), names.get(("worker", row["worker_id"]))
        error = names.get(("error", row["id"]))
        same = ("id", "state", "attempt", "failures", "crashes", "held", "run_at", "claimed_at", "ended_at")
        return TaskRow(
            **{name: row[name] for name in same}, run=self.run_id,
            stage=self.steps.get(row["step"], str(row["step"])),
            item=item["name"] if item else None, worker=worker["name"] if worker else None,
            error=error["name"] if error else None, message=error["message"] if error else None,
            code=error["code"] if error else None,
            cause=error["cause"].hex() if error and error["cause"] else None,
        )  # fmt: skip
