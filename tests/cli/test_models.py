"""gristmill models, as a command in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gristmill.cli import models
from gristmill.errors import GristmillError
from gristmill.llm.models import open_model
from tests.scenarios.conftest import Home, ScriptedServer, make_home, model_server, scripted_server

__all__ = ["make_home", "model_server", "scripted_server"]
KEY = "sk-canary-0123456789abcdefWXYZ"


@pytest.fixture
def home(make_home: Callable[..., Home], database_url: str) -> Home:
    return make_home(GRISTMILL_DATABASE_URL=database_url, MY_KEY=KEY)


async def test_a_model_is_added_listed_tried_used_and_removed(
    home: Home, model_server: ScriptedServer, tmp_path: Path
) -> None:
    await model_server.control(key=KEY, echo_key=True)
    told = []
    add = ("models", "add", "fast", "--provider", "anthropic", "--model", "scripted", "--key", "env:MY_KEY")
    more = ("--base-url", model_server.base_url, "--parameter", "temperature=0", "--parameter", "stop=END", "--stream")
    code, added = await home.json(*add, *more)
    assert (code, added["schema"], added["parameters"]) == (0, "gristmill.model/1", {"temperature": 0, "stop": "END"})
    code, tried = await home.json("models", "test", "fast")
    assert (code, tried["ok"], tried["answer"]) == (0, True, "You said: Say OK.")
    assert tried["tokens"]["input"] > 3
    code, listed = await home.json("models")
    assert [(one["name"], one["origin"], one["key"]) for one in listed["models"]] == [
        ("fast", "database", "env:MY_KEY")
    ]
    told += [json.dumps([added, tried, listed])]
    (tmp_path / "text.md").write_text(
        "A lease is the right to finish a task. Nobody else may finish it meanwhile. " * 3
    )
    code, out, err = await home.call("run", str(tmp_path / "text.md"), "--model", "fast", "--workers", "1")
    assert code == 0, err
    assert not any(KEY in text for text in (*told, out, err))
    code, _ = await home.json("models", "remove", "fast")
    assert code == 0


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"key": KEY}, "U384"), ({"provider": "opnai"}, "U384"), ({"parameters": ("stream=1",)}, "M104"),
        ({"parameters": ("x",)}, "U385"), ({"headers": ("Authorization=x",)}, "M104"),
        ({"base_url": "https://u:p@host/v1"}, "M103"), ({"provider": "gemini", "structured": "tool"}, "M104"),
    ],
)  # fmt: skip
async def test_what_cannot_work_is_refused_at_the_door(given: dict[str, Any], code: str, tmp_path: Path) -> None:
    whole = {"provider": "openai", "model": "m", "parameters": (), "headers": ()} | given
    with pytest.raises(GristmillError) as caught:
        await models._add("mine", False, tmp_path, False, whole)
    assert caught.value.code == code
    assert KEY not in f"{caught.value!r} {caught.value.hint}"
    assert not list(tmp_path.iterdir())  # before anything was opened


def test_the_providers_are_listed_without_a_database(capsys: pytest.CaptureFixture[str]) -> None:
    models._providers(as_json=False)
    out = capsys.readouterr().out
    assert "anthropic" in out
    assert "ANTHROPIC_API_KEY" in out


async def test_models_of_every_kind_can_be_tried(model_server: ScriptedServer) -> None:
    told = await models.try_model(open_model("extractive"))
    assert (told["answer"], told["tokens"]["input"]) == ("it needs no server", 0)
    told = await models.try_model(open_model("openai-embeddings:scripted", base_url=model_server.base_url))
    assert told["answer"] == "a vector of 8 numbers"
