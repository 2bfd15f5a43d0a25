"""Tasks out of a file that Label Studio exported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

from gristmill.errors import UsageError
from gristmill.review.label_studio.client import Task

LARGEST = 1_000_000_000  # bytes


async def read_tasks(path: Path) -> AsyncIterator[Task]:
    """The tasks of a JSON export: an array of them, or one a line. Raises `UsageError` L161 for anything else."""
    for task in await asyncio.to_thread(_read, path):
        yield task


def _read(path: Path) -> list[Task]:
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{path} is larger than {LARGEST:,} bytes", code="L161", hint="export it in parts")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", code="L161") from None
    try:
        found = json.loads(text)
    except ValueError:
        found = _lines(text)
    tasks = [found] if isinstance(found, dict) else found
    if not isinstance(tasks, list) or not all(isinstance(one, dict) and "data" in one for one in tasks):
        raise UsageError(
            f"{path} is no JSON export of Label Studio", code="L161", hint="export it there as JSON, not as JSON-MIN"
        )
    return tasks


def _lines(text: str) -> object:
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        return None
