"""The real command line on real folders, against the scripted model, with real kills."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.llm.conftest import ScriptedServer, model_server, scripted_server

__all__ = ["model_server", "scripted_server"]
ROOT = Path(__file__).parents[2]


class Home:
    """One project folder and the commands that run in it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.home = folder / ".gristmill"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("GRISTMILL_", "OPENAI_"))},
            "GRISTMILL_DATABASE_LINGER": "5", "NO_COLOR": "1", **environment,
        }  # fmt: skip
        self.python = sys.executable
        self.user: str | None = None  # an ordinary one, where root's rights would hide what is tested
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [self.python, "-m", "gristmill", *arguments], user=self.user, extra_groups=[] if self.user else None,
            cwd=self.folder, env={**self.environment, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        self._started.append(process)
        return process

    async def call(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a command."""
        process = self.start(*arguments, **environment)
        out, err = await asyncio.to_thread(process.communicate, timeout=100)
        return process.returncode, out, err

    async def json(self, *arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
        """Exit code and the one document that `--json` prints."""
        code, out, err = await self.call(*arguments, "--json", **environment)
        assert out.count("\n") == 1, f"{out}\n{err}"
        return code, json.loads(out)

    def logs(self) -> str:
        return "\n".join(file.read_text() for file in sorted((self.home / "logs").glob("*.log")))

    def kill_everything(self, process: subprocess.Popen[str], *, server: bool = True) -> list[int]:
        """SIGKILL for the process, all that descends from it, and the database server; returns the pids."""
        victims = descendants(process.pid)
        pid_file = self.home / "postgres" / "data" / "postmaster.pid"
        if server and pid_file.exists():
            victims += descendants(int(pid_file.read_text().split()[0]))
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()
        return victims

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                self.kill_everything(process, server=False)
        pid_file = self.home / "postgres" / "data" / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)


def descendants(pid: int) -> list[int]:
    """The process and everything below it, parents first."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(word) for word in task.read_text().split()]
    return found


@pytest.fixture
def make_home(tmp_path: Path, model_server: ScriptedServer) -> Iterator[Callable[..., Home]]:
    """`make_home("name")` gives a project folder whose model is the scripted one."""
    made: list[Home] = []

    def make(name: str = "project", **environment: str) -> Home:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made.append(Home(folder, {"OPENAI_BASE_URL": model_server.base_url, "OPENAI_API_KEY": "none"} | environment))
        return made[-1]

    yield make
    for home in made:
        home.end()


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Forty Markdown files with sentences that differ from file to file."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(40):
        parts = [f"# Chapter {number}\n"]
        for section in range(3):
            parts.append(f"\n## Section {section} of chapter {number}\n\n")
            parts += [
                f"The component numbered {number}-{section}-{line} is a part that holds {line + 3} units of grain and "
                f"turns {number + line} times a minute. "
                for line in range(8)
            ]
        (folder / f"chapter-{number:02}.md").write_text("".join(parts))
    return folder


@pytest.fixture
def few_documents(documents: Path) -> Path:
    """Sixteen of them."""
    for file in sorted(documents.iterdir())[16:]:
        file.unlink()
    return documents


def essence(file: Path) -> list[tuple[Any, ...]]:
    """What a dataset says, without ids."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    keys = ("question", "answer", "quote", "source", "start", "end", "page_start", "heading_path")
    return [tuple(json.dumps(row[key]) for key in keys) for row in rows]
