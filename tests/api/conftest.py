"""A real server on the loopback address, over a real database, and a client that talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from gristmill.api.access import Access
from gristmill.api.server import Server, serving
from gristmill.app import App
from gristmill.config import Settings


class Api(httpx.AsyncClient):
    """The client; `app` is the App behind the server, `url` the server's address without a slash at its end."""

    app: App
    url: str
    server: Server

    def app_access(self) -> Access:
        """The rules of the server."""
        access: Access = self.server.config.app.state.access  # type: ignore[union-attr]
        return access

    async def json(self, path: str, **arguments: Any) -> Any:
        """What GET gives, which has to be a success."""
        found = await self.get(path, **arguments)
        assert found.status_code == 200, found.text
        return found.json()


@asynccontextmanager
async def open_api(url: str, home: Path, **settings: Any) -> AsyncIterator[Api]:
    """Serves an App over that database; `settings` are its settings."""
    arguments = Settings(database_url=url, home=home, workers=0, **settings)
    async with App(settings=arguments) as app:
        with serving(app, "127.0.0.1", 0) as (server, sockets, place):
            task = asyncio.create_task(uvicorn.Server._serve(server, sockets))  # without its handlers of signals
            base = place.url.rstrip("/")
            async with Api(base_url=base, timeout=30) as client:
                client.app, client.url, client.server = app, base, server
                yield client
            server.should_exit = True
            await task


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with open_api(database_url, tmp_path / "home") as opened:
        yield opened
