"""A real server on the loopback address, over a real database, and a client that talks to it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import uvicorn

from gristmill.api.access import Access
from gristmill.api.server import Server, serving
from gristmill.app import App
from gristmill.config import Settings
from tests.conftest import at, own

_numbers = itertools.count(1)


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


@pytest.fixture(scope="module")
async def shared(
    server_url: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Api]:
    """One server for the tests of a module that leave nothing behind which another one looks at."""
    name = own(f"shared_{next(_numbers)}")
    connection = await asyncpg.connect(server_url)
    await connection.execute(f"create database {name} template {template_database}")
    async with open_api(at(server_url, name), tmp_path_factory.mktemp("shared")) as opened:
        yield opened
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    async with open_api(database_url, tmp_path / "home") as opened:
        yield opened
