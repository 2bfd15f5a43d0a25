"""Models under names of the user's own: from settings and from the database, with keys by reference."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gristmill import bindings
from gristmill.bindings import ModelSource
from gristmill.config import Settings, load_settings
from gristmill.errors import ConfigurationError, ModelRefused, ModelSetupError, UsageError
from gristmill.llm import stored_bindings
from gristmill.llm.model import Message, Request
from gristmill.llm.model_settings import ModelSettings, key_place, read_key
from tests.llm.conftest import ScriptedServer, model_server, scripted_server

__all__ = ["model_server", "scripted_server"]  # fixtures
KEY = "sk-canary-0123456789abcdefWXYZ"
Open = Callable[..., ModelSource]


@pytest.fixture
async def source(pool: Any, tmp_path: Path) -> AsyncIterator[Open]:
    opened: list[ModelSource] = []

    def make(**settings: Any) -> ModelSource:
        opened.append(ModelSource(Settings.model_validate(settings), pool, tmp_path / "spool"))
        return opened[-1]

    yield make
    for one in opened:
        await one.close()


def written(folder: Path, text: str) -> Settings:
    (folder / "gristmill.toml").write_text(text)
    return load_settings(folder, {"HOME": str(folder)}).values


async def test_a_model_of_the_settings_is_opened_by_its_name(
    source: Open, model_server: ScriptedServer, tmp_path: Path
) -> None:
    await model_server.control(key=KEY)
    (tmp_path / "key").write_text(f"{KEY}\n")
    settings = written(
        tmp_path,
        f'[models.fast]\nprovider = "anthropic"\nmodel = "scripted"\nbase_url = "{model_server.base_url}"\n'
        f'key = "file:{tmp_path}/key"\nparameters = {{temperature = 0, stop = ""}}\nlimit = "shared"\n',
    )
    models = source(**settings.model_dump())
    model = await models.open("fast")
    answer = await model.complete(Request((Message("user", "Hello"),)))
    assert answer.text == "You said: Hello"
    bound = model.binding
    assert (bound.spec, bound.provider, bound.model, bound.limit) == ("fast", "anthropic", "scripted", "shared")
    sent = (await model_server.last())["body"]
    assert (sent["temperature"], sent["stop_sequences"], sent["max_tokens"]) == (0, [""], 4096)
    assert await models.open("fast") is model


@pytest.mark.parametrize(
    ("line", "place"),
    [
        (f'key = "{KEY}"', "models.mine.key"), (f'key = "env:{KEY}"', "models.mine.key"),
        (f'api_key = "{KEY}"', "models.mine"), (f'parameters = {{api_key = "{KEY}"}}', "models.mine"),
        ('provider = "opnai"', "did you mean openai"), ("timeout = 0", "models.mine.timeout"),
        ("parameters = {temperature = nan}", "have to be JSON"), ('colour = "red"', "models.mine.colour"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_by_its_place_and_a_key_is_never_shown(line: str, place: str, tmp_path: Path) -> None:
    given = {"provider": '"openai"', "model": '"m"'} | {line.split(" = ")[0]: line.split(" = ", 1)[1]}
    with pytest.raises(ConfigurationError) as caught:
        written(tmp_path, "[models.mine]\n" + "\n".join(f"{name} = {value}" for name, value in given.items()))
    told = f"{caught.value} {caught.value.hint} {caught.value!r}"
    assert place in told
    assert KEY not in told
    if "key" in line:
        assert "by reference" in told


def test_models_of_several_files_are_put_together(tmp_path: Path) -> None:
    own = tmp_path / ".config" / "gristmill"
    own.mkdir(parents=True)
    (own / "config.toml").write_text('[models.mine]\nprovider = "ollama"\nmodel = "a"\n')
    settings = written(tmp_path, '[models.ours]\nprovider = "ollama"\nmodel = "b"\n')
    assert sorted(settings.models) == ["mine", "ours"]
    assert Settings.model_validate_json(settings.model_dump_json()) == settings  # as workers get them


def test_a_key_is_read_from_the_environment_a_file_or_the_secrets_of_the_container(tmp_path: Path) -> None:
    (tmp_path / "openai").write_text(f" {KEY}\n")
    environment = {"MY_KEY": KEY, "EMPTY": "", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    for reference, place in (
        ("env:MY_KEY", "MY_KEY"),
        (f"file:{tmp_path}/openai", "openai"),
        ("secret:openai", "openai"),
    ):
        assert read_key(reference, environment) == KEY
        assert key_place(reference) == place
    assert read_key("env:EMPTY", environment) is None
    (tmp_path / "nothing").write_text("\n")
    for name in ("absent", "nothing"):
        with pytest.raises(ModelSetupError) as caught:
            read_key(f"secret:{name}", environment)
        assert caught.value.code == "M105"
        assert name in caught.value.message


def test_a_key_goes_to_no_other_server_than_the_one_it_was_given_for() -> None:
    assert ModelSettings(provider="groq", model="m").reference == "env:GROQ_API_KEY"
    assert ModelSettings(provider="groq", model="m", base_url="https://api.groq.com/openai/v1/").reference
    assert ModelSettings(provider="groq", model="m", base_url="https://elsewhere.example/v1").reference is None
    assert (
        ModelSettings(provider="groq", model="m", base_url="https://else.example/v1", key="env:X").reference == "env:X"
    )
    assert ModelSettings(provider="ollama", model="m").reference is None


async def test_a_key_that_is_not_set_is_found_when_the_model_is_opened(
    source: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "NO_SUCH_KEY"):
        monkeypatch.delenv(name, raising=False)
    models = source(models={"mine": {"provider": "ollama", "model": "m", "key": "env:NO_SUCH_KEY"}})
    for spec, place in (("mine", "NO_SUCH_KEY"), ("anthropic:m", "ANTHROPIC_API_KEY"), ("openai:m", "OPENAI_API_KEY")):
        with pytest.raises(ModelSetupError) as caught:
            await models.open(spec)
        assert caught.value.code == "M101"
        assert place in f"{caught.value.message} {caught.value.hint}"


async def test_a_model_of_the_database_is_read_when_it_is_first_used_and_followed_when_it_changes(
    source: Open, pool: Any, model_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = source()
    with pytest.raises(ModelSetupError) as caught:
        await models.open("stored")
    assert caught.value.code == "M102"
    first = ModelSettings(provider="openai", model="scripted", base_url=model_server.base_url)
    await stored_bindings.add(pool, "stored", first)
    model = await models.open("stored")
    assert (await model.complete(Request((Message("user", "Hello"),)))).text == "You said: Hello"
    with pytest.raises(ModelSetupError) as caught:
        await models.open("stord")
    assert caught.value.hint == "did you mean stored?"
    with pytest.raises(UsageError) as taken:
        await stored_bindings.add(pool, "stored", first)
    assert taken.value.code == "U381"
    await stored_bindings.add(pool, "stored", first.model_copy(update={"model": "other"}), replace=True)
    monkeypatch.setattr(bindings, "_FRESH", 0.0)
    changed = await models.open("stored")
    assert changed.binding.model == "other"
    assert changed.binding.fingerprint() != model.binding.fingerprint()
    assert (await model.complete(Request((Message("user", "Still here"),)))).text == "You said: Still here"
    await stored_bindings.remove(pool, "stored")
    with pytest.raises(ModelSetupError):
        await models.open("stored")
    with pytest.raises(UsageError) as gone:
        await stored_bindings.remove(pool, "stored")
    assert gone.value.code == "U382"


async def test_the_settings_go_before_the_database_and_both_are_listed(source: Open, pool: Any) -> None:
    await stored_bindings.add(pool, "both", ModelSettings(provider="ollama", model="stored"))
    await stored_bindings.add(pool, "both", ModelSettings(provider="ollama", model="elsewhere"), "another project")
    models = source(models={"both": {"provider": "ollama", "model": "written"}})
    assert (await models.open("both")).binding.model == "written"
    assert [(one.name, one.origin, one.settings.model) for one in await models.named()] == [
        ("both", "settings", "written"), ("both", "database", "stored"),
    ]  # fmt: skip


async def test_the_table_takes_no_key_and_shows_none(pool: Any) -> None:
    import asyncpg

    settings = ModelSettings(provider="openai", model="m", key="env:MY_KEY", parameters={"seed": 0})
    await stored_bindings.add(pool, "mine", settings)
    assert await stored_bindings.find(pool, "mine") == settings
    with pytest.raises(asyncpg.CheckViolationError):
        await pool.execute("insert into model_binding (project, name, settings) values ('p', 'n', $1::text::jsonb)",
                           json.dumps({"provider": "openai", "model": "m", "key": KEY}))  # fmt: skip
    for name in ("", "a b", "openai", "extractive", "x:y", "x" * 101):
        with pytest.raises(UsageError) as caught:
            await stored_bindings.add(pool, name, settings)
        assert caught.value.code == "U380"
    with pytest.raises(UsageError) as caught:
        stored_bindings.checked({"provider": "openai", "model": "m", "key": KEY})
    assert caught.value.code == "U384"
    assert KEY not in f"{caught.value!r} {caught.value.hint}"


async def test_the_setting_for_openai_s_address_and_key_file_still_hold(
    source: Open, model_server: ScriptedServer, tmp_path: Path
) -> None:
    await model_server.control(key=KEY)
    (tmp_path / "key").write_text(KEY)
    models = source(openai_base_url=model_server.base_url, openai_key_file=tmp_path / "key")
    for provider in ("openai", "openai-responses"):
        model = await models.open(f"{provider}:scripted")
        assert (await model.complete(Request((Message("user", "Hello"),)))).text == "You said: Hello"
        assert model.binding.limit == f"{provider}:key"
    (tmp_path / "key").write_text("sk-wrong-0000000000000")
    with pytest.raises(ModelRefused) as caught:
        await (await models.open("openai:scripted", ledger=False)).complete(Request((Message("user", "Hi"),)))
    assert "the key in key ends in ...0000" in caught.value.hint
