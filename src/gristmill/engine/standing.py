"""Standing runs: never sealed, so they never end; they hold tasks that belong to no workflow (of schedules, hooks)."""

from __future__ import annotations

from typing import Any

import asyncpg

from gristmill.db.statements import statements

SQL = statements("standing")
STANDING = "standing"  # workflow names of standing runs
HOOKS = "(hooks)"  # no workflow is called so: of the runs of hooks no hook is told anything, it would go on for ever


async def standing_run(
    connection: asyncpg.Connection[Any], name: str, project: str = "default", *, workflow_name: str = STANDING
) -> int:
    """The id of the project's standing run of that name, made if there is none. Call it inside a transaction.

    One that was cancelled is over for good: the next call makes another. One that is paused stays it.
    """
    which = (project, workflow_name, name)
    run_id: int | None = await connection.fetchval(SQL["find"], *which)
    if run_id is None:
        await connection.execute(SQL["hold"], "/".join(("standing", *which)))
        run_id = await connection.fetchval(SQL["find"], *which)  # a new snapshot: another process may have made it
    if run_id is None:
        run_id = await connection.fetchval(SQL["create"], *which)
    assert run_id is not None  # noqa: S101 - an insert without a conflict returns its row
    return run_id
