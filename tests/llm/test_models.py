"""From a spec to a model, and what importing costs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gristmill.errors import ModelSetupError
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Message, Request
from gristmill.llm.models import open_model
from tests.llm.conftest import ScriptedServer


def test_a_spec_opens_its_model() -> None:
    assert open_model("extractive").binding.spec == "extractive"
    model = open_model("openai:meta/llama-3:8b", base_url="http://127.0.0.1:1/v1/", parameters={"temperature": 0})
    assert (model.binding.model, model.binding.base_url) == ("meta/llama-3:8b", "http://127.0.0.1:1/v1")
    assert model.binding.parameters == {"temperature": 0}


@pytest.mark.parametrize(
    ("spec", "hint"),
    [("opnai:gpt", "openai:NAME"), ("openai", "openai:NAME"), ("openai:", "openai:NAME"), ("extractiv", "no key"),
     ("extractive:x", "no key"), ("", "openai:NAME"), ("claude", "extractive")],
)  # fmt: skip
def test_a_spec_that_does_not_exist_is_an_error_with_the_nearest_one(spec: str, hint: str) -> None:
    with pytest.raises(ModelSetupError) as caught:
        open_model(spec)
    assert caught.value.code == "M102"
    assert hint in caught.value.hint


@pytest.mark.parametrize("base_url", [None, "https://api.openai.com/v1", "https://api.openai.com/v1/"])
def test_openai_itself_needs_a_key_and_another_server_need_not(base_url: str | None) -> None:
    with pytest.raises(ModelSetupError) as caught:
        open_model("openai:gpt-4.1-mini", base_url=base_url)
    assert caught.value.code == "M101"
    assert "OPENAI_API_KEY" in caught.value.hint
    assert open_model("openai:gpt-4.1-mini", base_url=base_url, api_key="sk-x")
    assert open_model("openai:local", base_url="http://127.0.0.1:8000/v1")


async def test_a_paid_model_with_a_pool_goes_through_the_ledger(
    pool: Any, model_server: ScriptedServer, tmp_path: Path, open_ledger: Callable[..., Ledger]
) -> None:
    for settings in ({"pool": pool, "spool": tmp_path}, {"ledger": open_ledger()}):
        model = open_model("openai:scripted", base_url=model_server.base_url, **settings)
        assert isinstance(model, LedgeredModel)
        await model.complete(Request((Message("user", "hello"),)))
        await model.close()
    assert (await model_server.stats())["requests"] == 1


def test_importing_and_opening_a_model_loads_nothing_that_it_does_not_need() -> None:
    program = (
        "import sys\n"
        "from gristmill.llm.models import open_model\n"
        "from gristmill.llm.structured import Asker\n"
        "Asker(open_model('openai:x', base_url='http://127.0.0.1:1/v1'))\n"
        "heavy = {'json_repair', 'pyreqwest', 'asyncpg', 'gristmill.llm.extractive', 'gristmill.data'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.thorough
async def test_a_script_that_ends_right_after_its_last_answer_ends_well(model_server: ScriptedServer) -> None:
    script = (
        "import asyncio, gristmill\n"
        "from pyreqwest.client import ClientBuilder\n"
        "async def main():\n"
        "    async with ClientBuilder().no_proxy().build() as client:\n"
        f"        await (await client.get('{model_server.address}/stats').build().send()).json()\n"
        "asyncio.run(main())\n"
    )
    for _ in range(20):  # without the wait one in five aborts
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
        assert await process.wait() == 0
