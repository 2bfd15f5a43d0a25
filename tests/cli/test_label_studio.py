"""`gristmill label-studio` as people and programs use it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gristmill.app import App
from gristmill.cli import gristmill
from gristmill.errors import UsageError
from tests.review.label_studio_runs import SPANS, texts
from tests.review.label_studio_server import TOKEN, LabelStudio, label_studio
from tests.review.test_label_studio_projects import LINES, finished


@pytest.fixture
async def studio(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LabelStudio]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRISTMILL_DATABASE_URL", database_url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    async with App(database_url, workers=0) as app:
        await finished(app, SPANS, texts(tmp_path, *LINES))
    with label_studio() as server:
        monkeypatch.setenv("LABEL_STUDIO_URL", server.url)
        yield server


async def command(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, gristmill, ["label-studio", *arguments])


async def document(*arguments: str) -> Any:
    return json.loads((await command(*arguments, "--json")).stdout)


async def test_from_a_run_to_a_server_and_back_to_a_file(studio: LabelStudio, tmp_path: Path) -> None:
    made = await document("make")
    assert (made["schema"], made["project"], made["tasks"], made["annotated"]) == (
        "gristmill.label-studio.make/1", "spans-1", 5, 3
    )  # fmt: skip
    assert "<Labels" in (await command("config")).stdout
    pushed = await command("push")
    assert pushed.stdout == f"{studio.url}/projects/1\n"
    assert "5 added" in pushed.stderr
    assert (await document("push"))["unchanged"] == 5
    task = next(task for task in studio.tasks.values() if task["data"]["text"] == LINES[0])
    kept = task["annotations"][0]
    studio.annotate(task, kept["result"][:1], number=kept["id"])
    studio.annotate(task, kept["result"][1:2], who=1)
    pulled = await command("pull")
    assert pulled.exit_code == 1
    assert "2 to settle: gristmill label-studio conflicts spans-1" in pulled.stderr
    (one, other) = (await document("conflicts"))["conflicts"]
    assert "ann@example.com says:" in (await command("conflicts")).stdout
    settled = await document("settle", "spans-1", str(one["id"]), "--take", "theirs")
    assert (settled["took"], settled["left"]) == ("theirs", 0)
    (listed,) = (await document("list"))["projects"]
    assert (listed["conflicts"], listed["servers"]) == (0, [studio.url])
    assert "on http://127.0.0.1" in (await command("list")).stdout
    assert other["id"] != one["id"]
    written = await document("export", "--to", "out.json", "--reviewed")
    assert (written["rows"], written["format"]) == (1, "json")
    (task,) = json.loads((tmp_path / "out.json").read_text())
    assert len(task["annotations"][0]["result"]) == 1
    assert (await command("export", "--to", "out.conll", "-f", "conll")).stdout == "out.conll\n"


async def test_a_file_of_label_studio_is_pulled_like_a_server(studio: LabelStudio, tmp_path: Path) -> None:
    await command("make")
    await command("export", "--to", "out.json")
    tasks = json.loads((tmp_path / "out.json").read_text())
    assert (await document("pull", "--file", "out.json"))["unchanged"] == 3  # nobody has touched it
    for task in tasks:
        task["annotations"][0] |= {"completed_by": 4, "lead_time": 2.0}
    tasks[0]["annotations"][0]["result"].pop()
    (tmp_path / "back.json").write_text(json.dumps(tasks))
    pulled = await document("pull", "--file", "back.json", "--who", "ann")
    assert (pulled["taken"], pulled["conflicts"]) == (3, 0)
    again = await document("pull", "--file", "back.json", "--who", "ann")
    assert (again["taken"], again["unchanged"]) == (0, 3)
    (tmp_path / "bad.json").write_text('[{"text": "x"}]')
    refused = await command("pull", "--file", "bad.json")
    assert isinstance(refused.exception, UsageError)
    assert refused.exception.code == "L161"


async def test_what_is_missing_is_said(studio: LabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    async def code(*arguments: str) -> str:
        error = (await command(*arguments)).exception
        assert isinstance(error, UsageError), error
        return error.code

    assert await code("pull") == "L123"
    await command("make")
    assert await code("pull") == "L124"
    assert await code("export", "--to", "x", "-f", "yollo") == "L160"
    assert await code("push", "--token", TOKEN) == "U355"
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    assert await code("push") == "L130"
    assert await code("push", "--token", "env:NOT_SET") == "L130"
    monkeypatch.delenv("LABEL_STUDIO_URL")
    assert await code("push") == "L130"
