"""Durable tasks that a caller asked for, each a run of its own: an export, a push or a pull. Any worker may do them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gristmill.api.bulk_runs import SQL
from gristmill.app import App
from gristmill.bulk import begin_run
from gristmill.db.database import transaction
from gristmill.engine import queue
from gristmill.run import WHY

KEY = b"single".ljust(32, b"\0")  # of the one task of such a run: it is found by having one


@dataclass(frozen=True, slots=True)
class SingleTask:
    """How such a task stands. `said`: what it was begun with; `state`: waiting, running, completed or failed; `value`:
    what it returned; `held_by`: why it waits; `error`: code and message of its latest attempt, until it has a value."""

    id: int
    said: Mapping[str, Any]
    state: str
    created_at: datetime
    ended_at: datetime | None
    value: dict[str, Any] | None
    held_by: str | None
    error: str | None


async def begin(
    app: App, family: str, name: str, kind: str, said: Mapping[str, Any], payload: Mapping[str, Any]
) -> int:
    """Asks for a task of `kind` with its payload, as `bulk.begin_run` does, and wakes or starts a crew; returns the id
    of its run."""
    async with transaction(app.pool) as connection:
        number = await begin_run(connection, app.settings.project, family, name, kind, said, [payload], KEY)
    await queue.hint(app.pool)
    await app.start_crew()
    return number


async def find(app: App, family: str, number: int) -> SingleTask | None:
    """How the task of a run stands; None where the family has no such run."""
    row = await app.pool.fetchrow(SQL["single"], app.settings.project, number, family)
    if row is None:
        return None
    value: dict[str, Any] | None = json.loads(row["value"]) if row["value"] else None
    state = {"available": "waiting", "quarantined": "failed"}.get(row["state"], row["state"]) or row["run_state"]
    held = await app.pool.fetch(WHY["held_by"], number, row["task_id"]) if state == "waiting" else []
    return SingleTask(
        number, json.loads(row["definition"]).get("said", {}), state, row["created_at"], row["ended_at"], value,
        held[0]["reason"] if held else None,
        f"{row['code']}: {row['message']}" if row["message"] and not value else None,
    )  # fmt: skip


async def listed(app: App, family: str, before: int | None, limit: int) -> list[SingleTask]:
    """Those of a family, the newest first."""
    rows = await app.pool.fetch(SQL["runs"], app.settings.project, family, before, limit, None)
    return [one for row in rows if (one := await find(app, family, row["id"]))]
