"""Routes that are closed unless they say otherwise: reading takes a viewer, changing an operator.

    routes = router("runs")

    @routes.post("/runs/{id}/pause")
    @role("operator")                      # "viewer" | "reviewer" | "operator" | "admin" | None: everybody
    async def pause(id: Id, app: OpenApp, caller: Asking) -> Answer: ...

Before the body is read: host, origin, caller, role, rate. Then a POST with an Idempotency-Key that was answered before
is answered with the same again, and every call that may change something is written down.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from gristmill.api import idempotency, problems
from gristmill.api.access import SQL, Access, Caller, Role, csrf_of
from gristmill.api.problems import Problem, Refused

F = TypeVar("F", bound=Callable[..., Any])
SAFE = ("GET", "HEAD", "OPTIONS")
DEEPEST = 64  # levels of a body
LARGEST_BODY = 10 * 2**20  # bytes; uploads are streamed and have a limit of their own
ROLE, STREAMED = "__gristmill_role__", "__gristmill_streamed__"


def role(needed: Role | None) -> Callable[[F], F]:
    """Who may call the route: this role or a higher one; None: everybody, also without logging in."""

    def mark(function: F) -> F:
        setattr(function, ROLE, needed)
        return function

    return mark


def streamed(function: F) -> F:
    """The route reads its body itself, piece by piece: it is neither JSON nor kept in memory."""
    setattr(function, STREAMED, True)
    return function


class Asked(Request):
    """A request whose body is plain JSON: no NaN, not deeper than 64, not longer than 10 MiB."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            pieces, size = [], 0
            async for piece in self.stream():
                size += len(piece)
                if size > LARGEST_BODY:
                    raise Refused(413, f"a body has at most {LARGEST_BODY:,} bytes", code="A413")
                pieces.append(piece)
            self._body = b"".join(pieces)
        return self._body

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = _read(await self.body())
        return self._json


class Route(APIRoute):
    """A route of the API; see the module."""

    @property
    def needs(self) -> Role | None:
        default: Role = "viewer" if (self.methods or set()) <= set(SAFE) else "operator"
        found: Role | None = getattr(self.endpoint, ROLE, default)
        return found

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Not what has a route of its own: /runs/plan is no run, whatever the method."""
        match, child = super().matches(scope)
        if match == Match.FULL and "{" in self.path_format and below(scope) in scope["app"].state.literals:
            return Match.PARTIAL, child
        return match, child

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await self._answer(inner, Asked(request.scope, request.receive))
            except Exception as error:
                return problems.answer(error)

        return handle

    async def _answer(self, inner: Callable[[Request], Coroutine[Any, Any, Response]], request: Asked) -> Response:
        access: Access = request.app.state.access
        changing = request.method not in SAFE
        if changing:
            access.check_origin(request)
        if self.needs is None:
            if changing:
                await _take_body(request)
            return await inner(request)
        caller = await access.identify(request)
        access.check_rate(caller)
        request.state.caller = caller
        if not changing:
            _check(caller, self.needs)
            return await inner(request)
        return await self._change(inner, request, caller, access)

    async def _change(
        self, inner: Callable[[Request], Coroutine[Any, Any, Response]], request: Asked, caller: Caller, access: Access
    ) -> Response:  # fmt: skip
        pool = access.pool
        assert pool is not None and self.needs is not None  # noqa: S101
        own_body = getattr(self.endpoint, STREAMED, False)
        digest = None if own_body else hashlib.sha256(await _take_body(request)).digest()
        path = request.url.path[:500]
        number = await pool.fetchval(
            SQL["audit_begin"], caller.name, caller.role, caller.address, request.method, path, digest
        )
        request.state.audit = number

        async def perform() -> Response:
            try:
                if caller.how == "session":
                    _check_csrf(request, caller)
                _check(caller, self.needs)  # type: ignore[arg-type]
                return await inner(request)
            except Exception as error:
                return problems.answer(error)

        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        try:
            if key is None:
                response = await perform()
            else:
                asked = hashlib.sha256(f"{path}?{request.url.query}\0".encode() + (digest or b"")).digest()
                response = await idempotency.once(pool, caller.name, key, asked, perform)
        except Exception as error:
            response = problems.answer(error)
        await pool.execute(SQL["audit_end"], number, response.status_code, _code(response))
        return response


def router(*tags: str) -> APIRouter:
    """A router of guarded routes; `tags` group them in the OpenAPI document."""
    return APIRouter(
        route_class=Route, tags=list(tags),
        responses={"default": {"model": Problem, "description": "an error", "content": {problems.MEDIA_TYPE: {}}}},
    )  # fmt: skip


def allowed(routes: Iterable[Route], path: str) -> list[str]:
    """The methods that a path below /api takes, sorted; none: there is no such path."""
    found = [route for route in routes if route.path_regex.match(path)]
    own = [route for route in found if route.path == path]
    return sorted({method for route in own or found for method in route.methods or ()})


def below(scope: Scope) -> str:
    """The path without what the application is mounted below, and without /api."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).removeprefix("/api")


def _check(caller: Caller, needed: Role) -> None:
    if not caller.may(needed):
        raise Refused(
            403, f"{caller.role} may not do this: it takes {needed}", code="A403", safe="nothing was changed",
            hint=f"use a token with the role {needed}: gristmill token add NAME --role {needed}",
        )  # fmt: skip


def _check_csrf(request: Request, caller: Caller) -> None:
    import secrets

    if not secrets.compare_digest(request.headers.get("x-csrf-token", "").encode(), csrf_of(caller.secret).encode()):
        raise Refused(
            403, "the session's CSRF token is missing or wrong", code="A403", safe="nothing was changed",
            hint="send what GET /api/session gives as `csrf` in the header X-CSRF-Token",
        )  # fmt: skip


async def _take_body(request: Asked) -> bytes:
    body = await request.body()
    _check_type(request, body)
    if body:
        await request.json()  # here, and not in FastAPI, which forgets what was wrong with it
    return body


def _check_type(request: Request, body: bytes) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().casefold()
    if body and kind != "application/json":
        raise Refused(415, "the body has to be JSON", code="A415", hint="Content-Type: application/json")


def _read(body: bytes) -> Any:
    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=constant)
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise Refused(422, f"the body is not JSON: {said}", code="A422", safe="nothing was changed") from None
    if _deeper(value, DEEPEST):
        raise Refused(422, f"the body is nested deeper than {DEEPEST} levels", code="A422", safe="nothing was changed")
    if b"\\ud" in body.lower() and _has_half_a_character(value):  # no answer could repeat it, no table keep it
        raise Refused(422, "the body has half a character: a lone surrogate", code="A422", safe="nothing was changed")
    return value


def _has_half_a_character(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most + 1):
        level = [
            inner for one in level if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one) if isinstance(inner, (dict, list))
        ]  # fmt: skip
        if not level:
            return False
    return True


def _code(response: Response) -> str | None:
    if response.status_code < 400 or not response.body:
        return None
    try:
        return str(json.loads(bytes(response.body))["code"])
    except (ValueError, KeyError, TypeError):
        return None
