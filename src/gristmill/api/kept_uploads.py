"""Uploads that are there, and taking them away: never one that a run which has not ended may read again."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gristmill.api.problems import Refused
from gristmill.api.run_views import PAGES
from gristmill.api.uploads import NAME, PARTIAL, upload_folder
from gristmill.app import App

NAMED = 3  # files of an upload that a list names


@dataclass(frozen=True, slots=True)
class Kept:
    """An upload: its folder's name, files, the first names, bytes, when it was complete, and the runs that were started
    over it by name, with whether any of them has not ended."""

    upload: str
    files: int
    names: tuple[str, ...]
    bytes: int
    made_at: datetime
    runs: tuple[str, ...]
    in_use: bool


async def every(app: App) -> list[Kept]:
    """All uploads of this home, the newest first."""
    root = app.settings.home / "uploads"
    found = await asyncio.to_thread(_look, root)
    runs: dict[str, list[str]] = defaultdict(list)
    used: set[str] = set()
    for row in await app.pool.fetch(PAGES["uploads_of"], app.settings.project):
        runs[row["upload"]].append(row["name"])
        if row["unfinished"]:
            used.add(row["upload"])
    return [
        Kept(name, len(files), files[:NAMED], size, datetime.fromtimestamp(at, UTC), tuple(runs[name]), name in used)
        for name, files, size, at in found
    ]


def _look(root: Path) -> list[tuple[str, tuple[str, ...], int, float]]:
    found = []
    for folder in root.iterdir() if root.is_dir() else ():
        if not NAME.fullmatch(folder.name):
            continue
        try:
            sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
            found.append((folder.name, tuple(sorted(sizes)), sum(sizes.values()), folder.stat().st_mtime))
        except FileNotFoundError:  # somebody takes it away at this moment
            continue
    return sorted(found, key=lambda one: (-one[3], one[0]))


async def remove(app: App, upload: str) -> None:
    """Takes an upload away; what runs have read of it stays with their records. Raises `NotFound`, and `Refused` 409
    while a run that has not ended was started over it."""
    folder = await upload_folder(app, upload)
    using = [row["name"] for row in await app.pool.fetch(PAGES["uploads_of"], app.settings.project)
             if row["upload"] == upload and row["unfinished"]]  # fmt: skip
    if using:
        raise Refused(
            409, f"{using[0]} has not ended and may read it again", code="A409", safe="nothing was removed",
            hint=f"wait for it, or cancel it: POST /api/runs/{using[0]}/cancel",
        )  # fmt: skip
    await asyncio.to_thread(_drop, folder)


async def prune(app: App, days: float) -> list[Kept]:
    """Takes uploads away that are older than so many days and that no unfinished run was started over; returns them."""
    old = [one for one in await every(app) if not one.in_use and time.time() - one.made_at.timestamp() > days * 86_400]
    for one in old:
        await asyncio.to_thread(_drop, app.settings.home / "uploads" / one.upload)
    return old


def _drop(folder: Path) -> None:
    """First out of sight in one step, so that nobody starts a run over half of it."""
    gone = folder.with_name(PARTIAL + folder.name)
    try:
        folder.rename(gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)
