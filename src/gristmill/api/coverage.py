"""The coverage map: every document of a run, every part of it, and what became of that part."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from gristmill.api.record_shapes import Cell, CoverageRow, Fate
from gristmill.api.shapes import cursor
from gristmill.data.annotations import ANNOTATIONS
from gristmill.data.kinds import kind_of
from gristmill.db.statements import statements
from gristmill.engine.workflow import INPUTS
from gristmill.workflow import Workflow

SQL = statements("coverage")
MOST = 20_000  # records below the documents of one page
TASKS = 10_000  # open and broken tasks of a page
UNREAD = 500
RESULTS = frozenset({"example", "conversation", "test_item", "indexed", *ANNOTATIONS})
MARKS = frozenset({"duplicate", "rejection"})
BROKEN = ("failed", "quarantined")


@dataclass(slots=True)
class Below:
    """What is known below the documents of a page: of each record its cell, its facts, and the marks on it."""

    top: dict[int, int] = field(default_factory=dict)
    cell: dict[int, int] = field(default_factory=dict)
    facts: dict[int, Any] = field(default_factory=dict)
    marked: set[int] = field(default_factory=set)
    later: set[int] = field(default_factory=set)  # records that a later revision stands in for


class Coverage:
    """The documents of a run, a page at a time."""

    def __init__(self, pool: asyncpg.Pool[Any], run_id: int, flow: Workflow) -> None:
        self.pool = pool
        self.run_id = run_id
        self.every = list(range(len(flow.steps)))
        self.first = [at for at, edges in enumerate(flow.edges) if INPUTS in edges or not edges]
        made = {kind_of(cls) for spec in flow.steps for cls in spec.operator.output_types}
        self.results = RESULTS & made or made

    async def page(self, behind: tuple[int, int] | None, limit: int) -> tuple[list[CoverageRow], str | None]:
        """At most `limit` documents; with the last of them what has come to no document."""
        found: list[CoverageRow] = []
        step, after = behind if behind is not None else (self.first[0], 0)
        for number in [one for one in self.first if one >= step]:
            begin, room = after if number == step else 0, limit - len(found)
            rows = await self.pool.fetch(SQL["roots"], self.run_id, number, begin, room + 1)
            found += await self._rows(rows[:room])
            if len(rows) > room:
                return found, cursor(number, rows[room - 1]["id"] if room else begin)
        return [*found, *await self._unread()], None

    async def _rows(self, roots: Sequence[Any]) -> list[CoverageRow]:
        if not roots:
            return []
        tops = [row["id"] for row in roots]
        links = await self.pool.fetch(SQL["below"], self.run_id, self.every, tops, MOST)
        below = await self._facts(tops, links)
        counts = self._counts(below)
        await self._add_tasks(counts, {row["item_id"]: row["id"] for row in roots if row["item_id"]}, below)
        parts: dict[int, dict[int, None]] = defaultdict(dict)
        for row in links:
            parts[row["top"]][row["cell"]] = None
        return [
            CoverageRow(
                record=row["id"], kind=row["kind"], item=row["item"],
                name=row["item"] or row["title"] or f"{row['kind']} {row['id']}", complete=len(links) < MOST,
                cells=[_cell(below.facts[one], counts[one]) for one in self._parts(row["id"], parts, below)],
            )
            for row in roots
        ]  # fmt: skip

    def _parts(self, top: int, children: Mapping[int, Iterable[int]], below: Below) -> list[int]:
        """The parts of a document; itself, where it has none or is a result."""
        if below.facts[top]["kind"] in self.results:
            return [top]
        parts = [number for number in children.get(top, ()) if below.facts[number]["kind"] not in MARKS]
        return sorted(parts) or [top]

    async def _facts(self, tops: Sequence[int], links: Sequence[Any]) -> Below:
        below = Below()
        for row in links:
            below.top[row["id"]] = row["top"]
            below.cell.setdefault(row["id"], row["cell"])
        for top in tops:
            below.cell.setdefault(top, top)
        rows = await self.pool.fetch(SQL["facts"], [*tops, *below.top])
        below.facts = {row["id"]: row for row in rows}
        for row in rows:
            parent = below.facts.get(row["parent"])
            if row["kind"] in MARKS:
                below.marked.add(row["parent"])
            elif parent is not None and parent["kind"] == row["kind"]:
                below.later.add(row["parent"])
        return below

    def _counts(self, below: Below) -> dict[int, Counter[str]]:
        """What became of the results of each part."""
        counts: dict[int, Counter[str]] = defaultdict(Counter)
        for number, fact in below.facts.items():
            if fact["kind"] in self.results and number not in below.later:
                top = below.top.get(number, number)
                part = top if below.facts[top]["kind"] in self.results else below.cell[number]
                counts[part][_fate(fact, below.marked)] += 1
        return counts

    async def _add_tasks(self, counts: dict[int, Counter[str]], items: Mapping[int, int], below: Below) -> None:
        """How many tasks wait and have failed, by the part that they work on."""
        for task in await self.pool.fetch(SQL["open_of_items"], list(items), TASKS):
            inputs = json.loads(task["payload"]).get("inputs") or []
            part = next((below.cell[number] for number in inputs if number in below.cell), items[task["item_id"]])
            counts[part]["failed" if task["state"] in BROKEN else "waiting"] += 1

    async def _unread(self) -> list[CoverageRow]:
        rows = await self.pool.fetch(SQL["unread"], self.run_id, self.first, UNREAD)
        return [
            CoverageRow(
                record=None, kind="source", name=row["name"], item=row["name"], task=row["task"], why=row["why"],
                cells=[Cell(record=None, kind="source", fate="failed", failed=1)],
            )
            for row in rows
        ]  # fmt: skip


def _cell(fact: Any, counts: Mapping[str, int]) -> Cell:
    known = {name: counts.get(name, 0) for name in ("reviewed", "accepted", "rejected", "failed", "waiting")}
    return Cell(
        record=fact["id"], kind=fact["kind"], fate=best(counts), page=fact["page"],
        n=known["reviewed"] + known["accepted"] + known["rejected"], **known,
    )  # fmt: skip


def _fate(fact: Any, marked: set[int]) -> str:
    """What became of one result: what a person said goes before what a rule did."""
    if fact["state"] in ("accepted", "edited"):
        return "reviewed"
    return "rejected" if fact["state"] == "rejected" or fact["id"] in marked else "accepted"


def best(counts: Mapping[str, int]) -> Fate:
    """The fate of a part: the best of what became of it. What waits comes before what was rejected or failed: it may
    still come to something."""
    order: tuple[Fate, ...] = ("reviewed", "accepted", "waiting", "failed", "rejected")
    return next((fate for fate in order if counts.get(fate)), "empty")
