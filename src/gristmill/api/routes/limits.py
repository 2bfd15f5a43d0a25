"""What providers allow, how much of it is used, and changing it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Path
from pydantic import Field, ValidationError

from gristmill.api.problems import NotFound
from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import Answer, Asking, Body, OpenApp
from gristmill.app import App
from gristmill.db.statements import statements
from gristmill.errors import UsageError
from gristmill.llm import quota_limits
from gristmill.llm.model_settings import told
from gristmill.llm.quota_settings import LimitSettings

router = new_router("models and limits")
SQL = statements("api_live")
Key = Annotated[str, Path(min_length=1, max_length=200)]
Rate = Annotated[float, Field(gt=0, le=1e12)]
Whole = Annotated[int, Field(gt=0, le=10**12)]


class Limit(Answer):
    """How one limit stands; null where nothing of the kind is limited. Rates are per minute.

    `tokens_available` are requests that may leave at once (of the bucket, not of a model). `resets_at`: when the
    provider's day begins anew.
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
    resets_at: datetime | None = None


class Limits(Answer):
    items: list[Limit]


class LimitChange(Body):
    """What is not named stays as it is; null takes a limit away."""

    requests_per_minute: Rate | None = None
    tokens_per_minute: Rate | None = None
    requests_per_day: Whole | None = None
    timezone: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    burst: Annotated[int, Field(gt=0, le=10**6)] | None = None
    concurrency: Annotated[int, Field(gt=0, le=10**6)] | None = None


@router.get("/limits")
async def limits(app: OpenApp) -> Limits:
    """All limits: what was used today, what may leave now, when it is reset."""
    return await standing(app)


@router.put("/limits/{key}")
@role("operator")
async def change_limit(key: Key, change: LimitChange, app: OpenApp, caller: Asking) -> Limit:
    """Changes a limit, or makes it. Workers notice within a beat; setting it again ends a pause by the provider."""
    changes: dict[str, Any] = change.model_dump(exclude_unset=True)
    if changes.get("timezone", "") is None:
        del changes["timezone"]
    row = await app.pool.fetchrow(quota_limits.SQL["one"], key)
    now = {} if row is None else {("timezone" if name == "zone" else name): value for name, value in row.items()}
    try:
        wanted = LimitSettings.model_validate({**now, **changes})
    except ValidationError as error:
        raise UsageError(told(error), code="U461", safe="nothing was changed") from None
    await quota_limits.set_limit(app.pool, key, wanted, by=caller.name)
    found = await standing(app, key)
    if not found.items:
        raise NotFound(f'there is no limit "{key}" any more')
    return found.items[0]


@router.delete("/limits/{key}", status_code=204)
@role("operator")
async def remove_limit(key: Key, app: OpenApp, caller: Asking) -> None:
    """Forgets a limit and what was learned of it. One that stands in gristmill.toml comes back."""
    if not await quota_limits.remove_limit(app.pool, key, by=caller.name):
        raise NotFound(f'there is no limit "{key}"', hint="those there are: GET /api/limits")


async def standing(app: App, name: str | None = None) -> Limits:
    """All limits, or one, with the time when their day begins anew."""
    resets = {row["name"]: row["resets_at"] for row in await app.pool.fetch(SQL["limit_resets"], name)}
    found = [Limit.model_validate(one) for one in await quota_limits.report(app.pool, name)]
    return Limits(items=[one.model_copy(update={"resets_at": resets.get(one.name)}) for one in found])
