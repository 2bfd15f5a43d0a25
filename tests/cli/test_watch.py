"""gristmill watch --list, as a command in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gristmill.app import App
from tests.scenarios.conftest import Home, make_home, model_server, scripted_server

__all__ = ["make_home", "model_server", "scripted_server"]


async def test_runs_are_listed_by_state_and_workflow(
    make_home: Callable[..., Home], database_url: str, tmp_path: Path
) -> None:
    home = make_home(GRISTMILL_DATABASE_URL=database_url)
    (tmp_path / "one.md").write_text("# One\n\nA text.\n")
    async with App(database_url, home=tmp_path / "app", workers=0) as app:
        first = await app.start("qa", [tmp_path / "one.md"], model="extractive")
        await first.cancel()
        second = await app.start("qa", [tmp_path / "one.md"], model="extractive")
    _, both = await home.json("watch", "--list", "--workflow", "qa")
    assert [(run["name"], run["state"]) for run in both["runs"]] == [
        (second.name, "running"), (first.name, "cancelled"),
    ]  # fmt: skip
    _, nothing = await home.json("watch", "--list", "--workflow", "another")
    assert nothing["runs"] == []
    code, out, _ = await home.call("watch", "--list", "--state", "cancelled", "--limit", "1")
    assert (code, out.split()[:2]) == (0, [first.name, "cancelled"])
    code, _, err = await home.call("watch", "--list", "--state", "asleep")
    assert (code, "cancelled" in err) == (2, True)
