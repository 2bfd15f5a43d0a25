"""gristmill pause, resume, cancel and why, as commands in processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gristmill.app import App
from tests.scenarios.conftest import Home, make_home, model_server, scripted_server

__all__ = ["make_home", "model_server", "scripted_server"]


@pytest.fixture
def home(make_home: Callable[..., Home], database_url: str) -> Home:
    return make_home(GRISTMILL_DATABASE_URL=database_url)


async def test_a_run_and_its_inputs_are_paused_resumed_and_cancelled(
    home: Home, database_url: str, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.md").write_text(f"# {name}\n\nA text about {name}.\n")
    async with App(database_url, home=tmp_path / "app", workers=0) as app:
        paths = [tmp_path / "one.md", tmp_path / "two.md"]
        run = await app.start("qa", paths, model="extractive")
        code, paused = await home.json("pause", run.name)
        assert (code, paused["schema"], paused["state"], paused["changed"]) == (0, "gristmill.pause/1", "paused", 1)
        code, out, _ = await home.call("pause", run.name)
        assert (code, out.strip()) == (0, f"{run.name} was not under way")
        code, resumed = await home.json("resume")
        assert (code, resumed["state"]) == (0, "running")
        code, out, _ = await home.call("pause", "--item", "one.md")
        assert (code, out.strip()) == (0, f'"one.md" of {run.name} is paused: gristmill resume')
        code, out, _ = await home.call("why")
        assert "the item is paused" in out
        task = await app.pool.fetchval("select min(id) from task")
        _, story = await home.json("why", "--task", str(task))
        assert story["held_by"] == "the item is paused"
        code, out, _ = await home.call("why", "--task", str(task))
        assert "one.md" in out
        code, _, err = await home.call("cancel", "--item", "ono.md")
        assert (code, "one.md" in err, "U316" in err) == (2, True, True)
        code, cancelled = await home.json("cancel", "--item", "one.md")
        assert (code, cancelled["changed"], cancelled["state"]) == (0, 1, "running")
        code, out, _ = await home.call("cancel")
        assert (code, out.strip()) == (0, f"{run.name} is cancelled; what was finished is kept")
        code, out, _ = await home.call("why", "--task", str(task))
        assert "cancelled" in out
        code, _, err = await home.call("why", "--task", "4711")
        assert (code, "U318" in err) == (2, True)
