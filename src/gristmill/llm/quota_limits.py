"""Limits as people see them: set, removed, reported. Whoever waits notices a change within a beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from gristmill.db.database import transaction
from gristmill.db.statements import statements
from gristmill.errors import UsageError
from gristmill.llm.quota_settings import LimitSettings

SQL = statements("quota")


@dataclass(frozen=True, slots=True)
class LimitReport:
    """How one limit stands; None where nothing of the kind is limited. Rates are per minute, waits in seconds.

    `tokens_available` are requests that may leave at once (of the bucket, not of a model), `model_tokens_available` the
    model's tokens. `requests_per_minute_now` and `tokens_per_minute_now` are the rates in force: below the limit for
    the sake of any 60 seconds, and by `pace` after answers 429. `learned_*` are the guesses where nobody set a limit.
    """

    name: str
    requests_today: int
    quota_limit: int | None
    percentage_used: float | None
    tokens_available: float | None
    can_make_request: bool
    wait_time_seconds: float
    requests_per_minute: float | None
    tokens_per_minute: float | None
    zone: str
    burst: int | None
    concurrency: int | None
    in_flight: int
    requests_per_minute_now: float | None
    tokens_per_minute_now: float | None
    model_tokens_available: float | None
    blocked_until: datetime | None
    blocked_why: str | None
    pace: float
    learned_requests: float | None
    learned_tokens: float | None
    changed_by: str
    changed_at: datetime


async def report(database: asyncpg.Pool[Any] | asyncpg.Connection[Any], name: str | None = None) -> list[LimitReport]:
    """Every limit, or the one of that name; by name."""
    return [LimitReport(**dict(row)) for row in await database.fetch(SQL["report"], name)]


async def set_limit(pool: asyncpg.Pool[Any], name: str, limit: LimitSettings, *, by: str) -> None:
    """What holds from now on, for all processes within a beat; kept as an event with the name of who did it.

    A pause and what was learned are forgotten, and tasks that wait for the limit look again.
    Raises `UsageError` U460 for a name that is none.
    """
    _check(name)
    async with transaction(pool) as connection:
        await connection.fetch(SQL["change"], name, *limit.columns(), by, None)
        await connection.execute(SQL["fill"], name)
        await _wake(connection, name)


async def change_limit(pool: asyncpg.Pool[Any], name: str, changes: Mapping[str, Any], *, by: str) -> LimitSettings:
    """The same for some fields; the others stay. Returns what holds. Raises `pydantic.ValidationError` too."""
    row = await pool.fetchrow(SQL["one"], name)
    now = {} if row is None else {("timezone" if key == "zone" else key): value for key, value in row.items()}
    limit = LimitSettings.model_validate({**now, **changes})
    await set_limit(pool, name, limit, by=by)
    return limit


async def remove_limit(pool: asyncpg.Pool[Any], name: str, *, by: str) -> bool:
    """Nothing is limited any more, nor known of what was; False when there is no such limit."""
    async with transaction(pool) as connection:
        gone = await connection.fetch(SQL["remove"], name, by)
        if gone:
            await _wake(connection, name)
    return bool(gone)


async def take_settings(pool: asyncpg.Pool[Any], limits: Mapping[str, LimitSettings]) -> None:
    """Takes over what a settings file says where that has changed; what was set by hand since then stays."""
    for name, limit in sorted(limits.items()):
        _check(name)
        async with transaction(pool) as connection:
            if await connection.fetch(SQL["change"], name, *limit.columns(), "settings", limit.model_dump_json()):
                await connection.execute(SQL["fill"], name)
                await _wake(connection, name)


async def _wake(connection: Any, name: str) -> None:
    await connection.fetch(SQL["wake"], f"quota: {name},")


def _check(name: str) -> None:
    if not 1 <= len(name) <= 200 or not name.isprintable() or "," in name:
        raise UsageError(
            f"{name[:60]!r} cannot be the name of a limit", code="U460", safe="nothing was changed",
            hint="1 to 200 characters without a comma; `gristmill limits` lists those that exist",
        )  # fmt: skip
