"""An operator that can do with less: what stands in for an answer is an outcome of its own, with its reason."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from gristmill.app import App
from gristmill.config import Settings
from gristmill.data.kinds import Source
from gristmill.operators.operator import Context, operator
from gristmill.workflow import Workflow
from tests.by_hand import hand_of
from tests.llm.conftest import ScriptedServer, model_server, scripted_server

__all__ = ["model_server", "scripted_server"]


class Label(BaseModel):
    text: str


@operator("t_label", model=True)
async def label(source: Source, ctx: Context) -> list[Label]:
    fallback: list[Label] = []
    given: list[Label] = await ctx.model.generate(f"Labels for {source.name}.", list[Label], otherwise=fallback)
    return given


async def test_a_stand_in_is_never_an_empty_success(
    database_url: str, model_server: ScriptedServer, tmp_path: Path
) -> None:
    await model_server.control(faults=[{"kind": "refusal"}])
    (tmp_path / "a.txt").write_text("one")
    mine = {"mine": {"provider": "vllm", "model": "scripted", "base_url": model_server.base_url}}
    settings = Settings.model_validate({"database_url": database_url, "home": tmp_path / "home", "models": mine})
    async with App(database_url, settings=settings.model_copy(update={"workers": 0})) as app, hand_of(app) as hand:
        flow = Workflow("labels", [label])
        progress, seen = await hand.drain(await app.start(flow, [tmp_path / "a.txt"], model="mine"))
        assert progress.state == "completed"
        assert [outcome.name for _, outcome in seen] == ["degraded"]
        row = await app.pool.fetchrow("select outcome, notes from work where kind = 't_label'")
    assert row["outcome"] == "degraded"
    assert json.loads(row["notes"])["degraded"].startswith("refused: ")
