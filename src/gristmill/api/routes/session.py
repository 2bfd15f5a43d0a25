"""Logging in: a token is changed for a session whose cookie no script can read."""

from __future__ import annotations

import secrets
from typing import Literal

from fastapi import Request, Response
from pydantic import Field

from gristmill.api.access import COOKIE, SQL, Access, Role, csrf_of, hashed, unknown
from gristmill.api.listing import newest_first
from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import After, Answer, Asking, Body, Limit, OpenApp, Page

router = new_router("access")
LIFE = 30 * 86_400.0  # seconds


class Login(Body):
    token: str = Field(min_length=1, max_length=500)


class Session(Answer):
    """Who one is. `csrf`: what a page with a session sends in X-CSRF-Token with every call that changes something."""

    name: str
    role: Role
    how: Literal["open", "token", "session", "proxy"]
    csrf: str | None


class AuditEntry(Answer):
    """A call that may have changed something, or a login that failed (`caller` is "(unknown)"). `status` null: it is
    under way, or its process died."""

    id: int
    at: str
    caller: str
    role: Role
    address: str
    method: str
    path: str
    status: int | None
    code: str | None


@router.post("/session")
@role(None)
async def log_in(login: Login, request: Request, response: Response, app: OpenApp) -> Session:
    """Begins a session and sets its cookie. Wrong tokens are counted: 20 a minute for each address, then 429."""
    access: Access = request.app.state.access
    secret = secrets.token_urlsafe(32)
    row = await app.pool.fetchrow(SQL["open_session"], hashed(login.token), hashed(secret), LIFE)
    if row is None:
        await access.count_login(access.address(request))
        raise unknown("that token is not in force")
    proxied = access.trusted(request) and request.headers.get("x-forwarded-proto") == "https"
    response.set_cookie(
        COOKIE, secret, max_age=int(LIFE), path="/", httponly=True, samesite="strict",
        secure=proxied or request.url.scheme == "https",
    )  # fmt: skip
    return Session(name=row["name"], role=row["role"], how="session", csrf=csrf_of(secret))


@router.delete("/session", status_code=204)
@role("viewer")
async def log_out(request: Request, response: Response, app: OpenApp, caller: Asking) -> None:
    """Ends the session that the cookie names."""
    if caller.secret:
        await app.pool.fetch(SQL["close_session"], hashed(caller.secret))
    response.delete_cookie(COOKIE, path="/")


@router.get("/session")
async def who_am_i(caller: Asking) -> Session:
    """Who asks, with which role, and the CSRF token of the session, if it is one."""
    csrf = csrf_of(caller.secret) if caller.secret else None
    return Session(name=caller.name, role=caller.role, how=caller.how, csrf=csrf)


@router.get("/audit")
@role("admin")
async def audit(app: OpenApp, after: After = None, limit: Limit = 50) -> Page[AuditEntry]:
    """Every call that could change something, the newest first."""

    async def read(before: int | None, size: int) -> list[AuditEntry]:
        rows = await app.pool.fetch(SQL["audit"], before, size)
        return [AuditEntry(**{**dict(row), "at": row["at"].isoformat()}) for row in rows]

    return await newest_first(read, after, limit)
