"""The scripted model as a process of its own, documents made of numbered sentences, and the command line over them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pyreqwest.client import Client, ClientBuilder

from benchmarks.measure import Processes, descendants, line_of


class ModelServer:
    """tests/model_server.py in its own process: its address, what it is told, and what it was asked."""

    def __init__(self, port: int, pid: int, client: Client) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.base_url = f"{self.address}/v1"
        self.pid = pid
        self._client = client

    @classmethod
    @asynccontextmanager
    async def running(cls, *, latency: float) -> AsyncIterator[ModelServer]:
        processes = Processes()
        try:
            process = processes.start("-m", "tests.model_server", "--latency", str(latency))
            port = json.loads(await line_of(process))["port"]
            async with ClientBuilder().no_proxy().build() as client:
                yield cls(port, process.pid, client)
        finally:
            processes.end()

    async def control(self, **change: Any) -> None:
        await self._client.post(f"{self.address}/control").body_json(change).build().send()

    async def stats(self) -> dict[str, Any]:
        response = await self._client.get(f"{self.address}/stats").build().send()
        found: dict[str, Any] = await response.json()
        return found


def make_documents(folder: Path, *, files: int, sections: int = 3, seed: int = 0) -> None:
    """Markdown files whose sentences differ from file to file and from seed to seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        parts = [f"# Chapter {number} of book {seed}\n"]
        for section in range(sections):
            parts.append(f"\n## Section {section} of chapter {number}\n\n")
            parts += [
                f"The component numbered {seed}-{number}-{section}-{line} is a part that holds {line + 3} units of "
                f"grain and turns {number + line} times a minute. "
                for line in range(8)
            ]
        (folder / f"chapter-{number:04}.md").write_text("".join(parts))


def project_environment(model: ModelServer, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRISTMILL_", "OPENAI_"))}
    return {
        **kept, "OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "none", "GRISTMILL_DATABASE_LINGER": "2",
        "NO_COLOR": "1", **more,
    }  # fmt: skip


def command_line(documents: Path, *more: str) -> list[str]:
    model = ("--model", "openai:scripted", "--set", "split.size=600")
    return ["-m", "gristmill", "run", str(documents), *model, *more]


def kill_project(project: Path, pid: int | None) -> int:
    """SIGKILL for the command, all that descends from it, and the project's database server; returns how many."""
    victims = descendants(pid) if pid is not None else []
    with contextlib.suppress(OSError, ValueError):
        file = project / ".gristmill" / "postgres" / "data" / "postmaster.pid"
        victims += descendants(int(file.read_text().split()[0]))
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    return len(victims)
