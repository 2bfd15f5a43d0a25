"""What the server really did for each statement that the product sends: plans with counts, from auto_explain."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from gristmill.db.database import SESSION
from gristmill.db.statements import statement_files, statements

LARGE = {"task", "attempt", "event"}
WATCH = {
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_triggers": "off",
    "auto_explain.log_format": "json",
    "client_min_messages": "log",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A statement that ran: its name, the nodes of its plan, and how many pages it has looked at."""

    name: str
    nodes: list[dict[str, Any]]
    pages: int

    @property
    def visited(self) -> int:
        """Rows that the busiest node has produced or thrown away, over all its loops."""
        return max(map(_rows, self.nodes))

    @property
    def read_whole(self) -> set[str]:
        """Large tables that were read from one end to the other."""
        return {n["Relation Name"] for n in self.nodes if n["Node Type"] == "Seq Scan" and _rows(n)} & LARGE

    def __str__(self) -> str:
        busy = max(self.nodes, key=_rows)
        where = busy.get("Index Name") or busy.get("Relation Name") or ""
        return f"{self.name}: {self.visited} rows in {busy['Node Type']} {where}, {self.pages} pages"


def _rows(node: dict[str, Any]) -> int:
    if node["Actual Loops"] == 0:
        return 0
    thrown = sum(count for key, count in node.items() if key.startswith("Rows Removed by"))
    return round((node["Actual Rows"] + thrown) * node["Actual Loops"])


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


class Watched:
    """A connection whose plans are kept in `seen`, statement by statement."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self.connection = connection
        self.names = {text: f"{file}.{name}" for file in statement_files() for name, text in statements(file).items()}
        self.seen: list[Seen] = []
        connection.add_log_listener(self._heard)

    def _heard(self, _connection: Any, message: Any) -> None:
        _, found, text = message.message.partition(" plan:\n")
        if not found:
            return
        plan = json.loads(text)
        name = self.names.get(plan["Query Text"].strip())
        if name is not None:
            root = plan["Plan"]
            pages = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
            self.seen.append(Seen(name, list(_nodes(root)), pages))

    async def take(self) -> list[Seen]:
        """What was seen since the last call."""
        await self.connection.fetchval("select 1")
        await asyncio.sleep(0.01)  # listeners are called from the loop
        seen, self.seen = self.seen, []
        return seen


@asynccontextmanager
async def watched(url: str, plan_cache_mode: str = "auto") -> AsyncIterator[Watched]:
    """A connection of the product's kind to `url` that tells its plans."""
    connection = await asyncpg.connect(url, server_settings=SESSION | {"plan_cache_mode": plan_cache_mode})
    try:
        await connection.execute("load 'auto_explain'")
        for name, value in WATCH.items():
            await connection.execute(f"set {name} = '{value}'")
        yield Watched(connection)
    finally:
        await connection.close()
