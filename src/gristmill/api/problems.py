"""Errors in one shape (RFC 9457): what is wrong, where, what to do, and what is safe."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import asyncpg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gristmill.db.database import RECONNECT, REPEAT
from gristmill.db.moving import moved_away
from gristmill.errors import (
    BudgetSpent,
    EnvironmentProblem,
    GristmillError,
    InputError,
    LimitReached,
    LockHeld,
    LockLost,
    ModelError,
    NoResult,
    UsageError,
)  # fmt: skip

log = logging.getLogger("gristmill.api")
MEDIA_TYPE = "application/problem+json"
LONGEST = 2000  # characters of a detail or a hint
TITLES = {
    400: "Bad request", 401: "Not logged in", 403: "Not allowed", 404: "Not found", 405: "No such method here",
    409: "In conflict with what is", 413: "Too large", 415: "Wrong content type", 416: "Not in the file",
    421: "Not this server", 422: "Cannot be used", 429: "Too many", 500: "A fault of ours", 503: "Not available now",
    507: "No space left",
}  # fmt: skip
# Codes of "there is no such thing"; an error of another class says by its class what it is.
MISSING = {
    "U311", "U312", "U313", "U316", "U318", "U336", "U341", "U342", "U361", "U362", "U382", "U391", "F201",
}  # fmt: skip
FULL = {"F203"}
# A model that the caller named, and which no waiting mends; one that waits for the server's key (M101) is 503.
MISNAMED = {"M102", "M103", "M104", "M108", "M110"}


class Problem(BaseModel):
    """An error. `code` is stable; `where` names the field that is wrong; `hint` says what to do, `safe` what is."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    hint: str = ""
    safe: str = ""
    where: str | None = None


class NotFound(UsageError):
    """404: the thing that the address names does not exist."""

    code = "A404"


class Refused(GristmillError):
    """An answer with a status of its own. `headers` go with it."""

    code = "A400"

    def __init__(
        self, status: int, message: str, *, code: str, hint: str = "", safe: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message, hint=hint, safe=safe, code=code)
        self.status, self.headers = status, headers or {}


def status_of(error: GristmillError) -> int:
    """The HTTP status of an error of ours."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, NotFound) or error.code in MISSING:
        return 404
    if error.code in FULL:
        return 507
    if isinstance(error, (LockHeld, LockLost, BudgetSpent, NoResult)):
        return 409
    if isinstance(error, LimitReached):
        return 429
    if isinstance(error, (UsageError, InputError, ModelError)) or error.code in MISNAMED:
        return 422
    return 503 if isinstance(error, EnvironmentProblem) else 500


def problem(
    status: int, code: str, detail: str, *, hint: str = "", safe: str = "", where: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:  # fmt: skip
    """The answer for an error."""
    body = Problem(
        title=TITLES.get(status, "Error"), status=status, code=code, detail=_shown(detail), hint=_shown(hint),
        safe=safe, where=where,
    )  # fmt: skip
    return JSONResponse(body.model_dump(exclude_none=True), status, headers, media_type=MEDIA_TYPE)


def _shown(text: str) -> str:
    """What was given is repeated in part only, and a file's name may have bytes that are no text."""
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return cut.encode("utf-8", "replace").decode()


def answer(error: Exception) -> JSONResponse:
    """What a caller is told about an exception; what nobody expected goes to the log, with a number for him."""
    if isinstance(error, GristmillError):
        headers = error.headers if isinstance(error, Refused) else None
        return problem(
            status_of(error), error.code, error.message, hint=getattr(error, "hint", ""),
            safe=getattr(error, "safe", ""), headers=headers,
        )  # fmt: skip
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        hint = {404: "the addresses there are: /api/openapi.json", 405: "the methods there are: /api/openapi.json"}
        return problem(
            error.status_code, f"A{error.status_code}", str(error.detail), hint=hint.get(error.status_code, ""),
            headers=dict(error.headers or {}),
        )  # fmt: skip
    if isinstance(error, ClientDisconnect):  # nobody hears this
        return problem(400, "A400", "the connection ended in the middle of the body", safe="nothing was kept")
    if moved := moved_away(error):
        return answer(moved)
    if isinstance(error, asyncpg.DataError):
        return problem(
            422, "A422", "a value cannot be stored or looked for: it is out of range, or has a character that is none",
            safe="nothing was changed",
        )  # fmt: skip
    if isinstance(error, asyncpg.DiskFullError):
        return problem(507, "D150", "the disk of the database is full", hint="make room, then ask again")
    if isinstance(error, (*REPEAT, *RECONNECT)) and getattr(error, "filename", None) is None:  # no file of ours
        return problem(
            503, "A503", "the database does not answer now", hint="ask again in a moment; gristmill doctor says more",
            safe="what was committed stays; a POST with an Idempotency-Key can be sent again as it is",
            headers={"Retry-After": "1"},
        )  # fmt: skip
    number = uuid.uuid4().hex[:12]
    log.error("fault %s: %s", number, type(error).__name__, exc_info=error)
    return problem(
        500, "A500", f"something went wrong that nobody expected (fault {number})",
        hint=f"look for {number} in the log of the server, and report it",
    )  # fmt: skip


def _invalid(error: RequestValidationError) -> JSONResponse:
    first: dict[str, Any] = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    where = ".".join(place[1:]) or place[0]
    said = str(first["msg"]).removeprefix("Value error, ")
    return problem(
        422, "A422", f"{where}: {said}"[:500], where=where[:200], hint="what is asked for: /api/openapi.json",
        safe="nothing was changed",
    )  # fmt: skip


def install(app: FastAPI) -> None:
    """All exceptions of all routes end here."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        from gristmill.api.routing import allowed, below

        if isinstance(error, HTTPException) and error.status_code in (404, 405):
            methods = allowed(app.state.guarded, below(request.scope))
            return answer(HTTPException(405, headers={"Allow": ", ".join(methods)}) if methods else error)
        return answer(error)

    for kind in (GristmillError, RequestValidationError, HTTPException, asyncpg.PostgresError, OSError, TimeoutError):
        app.add_exception_handler(kind, handle)
