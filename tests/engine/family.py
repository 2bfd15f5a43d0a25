"""What the tests of child processes share: a family of children, and looks at what they have started and noted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gristmill.engine.children import Children
from gristmill.engine.kin import family
from tests.engine.conftest import until

HERE = "tests.engine.roughly"
MIB = 2**20
# Results that no child may bring home, and the code that says so.
POISON = [("nan", "T603"), ("infinite", "T603"), ("digits", "T603"), ("deep", "T603"), ("large", "T601"),
          ("object", "T603"), ("set", "T603"), ("bytes", "T603")]  # fmt: skip


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    made = Children()
    yield made
    await made.close()
    assert family(made.mark) == []


async def call(children: Children, name: str, argument: Any = None, **more: Any) -> Any:
    return json.loads(await children.call(f"{HERE}:{name}", json.dumps(argument), **more))


async def pids_in(note: Path, count: int) -> list[int]:
    async def written() -> list[int] | None:
        words = note.read_text().split() if note.exists() else []
        return [int(word) for word in words] if len(words) == count else None

    pids: list[int] = await until(written)
    return pids


async def says(note: Path, text: str) -> None:
    async def said() -> bool:
        return note.exists() and note.read_text() == text

    await until(said)


async def until_true(condition: Callable[[], Any]) -> None:
    async def asked() -> Any:
        return condition()

    await until(asked)
