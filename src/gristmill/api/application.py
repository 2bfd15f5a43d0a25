"""The API as one ASGI application: `asgi(app)` mounts into any other, or is served by `gristmill api`."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.routing import APIRoute

from gristmill.api import page, problems
from gristmill.api import routes as rooms
from gristmill.api.access import Access
from gristmill.api.headers import Headers
from gristmill.api.live import Live
from gristmill.api.routing import Route, role, router
from gristmill.app import App
from gristmill.version import __version__

PREFIX = "/api"
DESCRIPTION = (
    "Everything the page and the command line show. Errors are RFC 9457 problems with `code`, `hint` and `safe`. Lists"
    " come in pages: give `next` as `after`. A POST with an `Idempotency-Key` is done once."
)


def asgi(
    app: App, *, hosts: Sequence[str] = (), open_locally: bool = True, proxies: Sequence[str] | None = None
) -> FastAPI:  # fmt: skip
    """The API over an App, which has to be open while requests come in: `outer.mount("/gristmill", asgi(app))`.

    `hosts` are names that this server is called by, besides addresses and those of the setting `api_hosts`. Without a
    token only programs on this machine are let in; `open_locally` False: nobody. `proxies`: as the setting
    `api_proxies`.
    """
    settings = app.settings
    api = FastAPI(
        title="Gristmill", version=__version__, description=DESCRIPTION, openapi_url=None, docs_url=None,
        redoc_url=None, redirect_slashes=False, generate_unique_id_function=_operation,
    )  # fmt: skip
    api.state.gristmill = app
    api.state.access = Access(
        hosts=[*hosts, *settings.api_hosts], proxies=settings.api_proxies if proxies is None else proxies,
        open_locally=open_locally,
    )  # fmt: skip
    api.state.live = Live(app)
    modules = [importlib.import_module(f"{rooms.__name__}.{one.name}") for one in pkgutil.iter_modules(rooms.__path__)]
    api.state.rooms = [*(module.router for module in modules), _documented(api)]
    for router_ in api.state.rooms:
        api.include_router(router_, prefix=PREFIX)
    for module in modules:
        if hasattr(module, "outside"):
            api.include_router(module.outside)
    api.state.guarded = guarded(api)
    api.state.literals = frozenset(route.path for route in api.state.guarded if "{" not in route.path)
    problems.install(api)
    page.install(api)
    api.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=5)  # streams of events are left alone
    api.add_middleware(Headers)
    return api


def _operation(route: APIRoute) -> str:
    return route.name


def _documented(api: FastAPI) -> Any:
    documents = router("about")

    @documents.get("/openapi.json", include_in_schema=False)
    @role(None)
    async def openapi(request: Request) -> Response:
        return Response(_document(api), media_type="application/json")

    return documents


def _document(api: FastAPI) -> bytes:
    """The OpenAPI document, with the role that each route takes, as it is sent; made once."""
    if not hasattr(api.state, "document"):
        document = api.openapi()
        for route in guarded(api):
            for method in (route.methods or set()) & {"GET", "POST", "PUT", "PATCH", "DELETE"}:
                operation = document["paths"].get(PREFIX + route.path, {}).get(method.lower())
                if operation is not None:
                    operation["x-role"] = route.needs
        api.state.document = json.dumps(document, ensure_ascii=False).encode()
    kept: bytes = api.state.document
    return kept


def guarded(api: FastAPI) -> list[Route]:
    """All routes below /api, their paths without it. Raises `TypeError` for a router that is not of ours."""
    routes = [route for one in api.state.rooms for route in one.routes]
    for route in routes:
        if not isinstance(route, Route):
            raise TypeError(f"{route} is not guarded: make its router with gristmill.api.routing.router")
    return routes
