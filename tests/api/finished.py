"""Runs to look at through the API: worked off by hand in the test's own loop, without worker processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gristmill.run import Run
from tests.api.conftest import Api
from tests.by_hand import hand_of

PLACES = {
    "mills.md": "# Mills\n\nA grist mill grinds grain into flour. The mill in Oak Hollow was built in 1851 by"
    " Ada Stone. It has two pairs of stones, and each pair grinds 200 kilograms an hour.\n",
    "water.md": "# Water\n\nThe river Ash drives the wheel. In dry summers the wheel stands still for 40 days."
    " A sluice of oak keeps 900 cubic metres of water for the morning.\n",
}


def write_places(folder: Path, texts: dict[str, str] | None = None) -> Path:
    """A folder of small documents below the project's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (texts or PLACES).items():
        (folder / name).write_text(text)
    return folder


async def finished(api: Api, workflow: Any = "qa", texts: dict[str, str] | None = None, **more: Any) -> Run:
    """A run over small documents, worked off to its end and folded."""
    folder = write_places(api.app.settings.home.parent / "docs", texts)
    more = {"model": "extractive"} | more
    run = await api.app.start(workflow, [folder], **more)
    await worked_off(api, run)
    return run


async def worked_off(api: Api, run: Run) -> None:
    async with hand_of(api.app) as hand:
        await hand.drain(run)
    await run._fold()
