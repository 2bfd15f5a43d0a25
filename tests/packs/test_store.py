"""Installed packs: in the database, on this machine, and in the hands of somebody who means harm."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.app import App
from gristmill.errors import ConfigurationError, UsageError
from gristmill.operators.operator import registered
from gristmill.packs import actions, store
from gristmill.packs.files import digest_of
from gristmill.workflow import Workflow
from tests.packs.conftest import Write


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


async def test_a_pack_is_installed_as_a_copy_that_later_changes_do_not_touch(
    pool: asyncpg.Pool[Any], home: Path, write: Write
) -> None:
    folder = write("echo one", ref="copied")
    pack = await store.install(pool, home, folder, "me")
    (folder / "actions/do.sh").write_text("echo two")
    assert (pack.folder / "actions/do.sh").read_text() == "echo one"
    assert not os.access(pack.folder / "actions/do.sh", os.X_OK)
    with pytest.raises(UsageError) as caught:
        await store.install(pool, home, folder, "me")
    assert caught.value.code == "K302"
    (folder / "actions/do.sh").write_text("echo one")
    assert (await store.install(pool, home, folder, "me")).digest == pack.digest
    (folder / "actions/do.sh").write_text("echo two")
    again = await store.install(pool, home, folder, "you", replace=True)
    assert again.digest != pack.digest
    listed = await store.listed(pool, home)
    assert [(one.ref, one.version, one.digest, one.installed_by, one.here) for one in listed] == [
        ("copied", "1.0.0", again.digest, "you", True)
    ]


async def test_a_pack_that_cannot_be_used_and_one_that_comes_with_us_are_not_installed(
    pool: asyncpg.Pool[Any], home: Path, write: Write
) -> None:
    bad = write("echo", ref="bad_one", timeout=-1)
    with pytest.raises(UsageError) as caught:
        await store.install(pool, home, bad, "me")
    assert caught.value.code == "K100"
    for call in (store.install(pool, home, write("echo", ref="core"), "me"), store.remove(pool, home, "core")):
        with pytest.raises(UsageError) as refused:
            await call
        assert refused.value.code == "K305"
    assert await pool.fetchval("select count(*) from pack") == 0


async def test_a_worker_runs_only_what_lies_on_its_machine_with_the_digest_of_the_list(
    pool: asyncpg.Pool[Any], home: Path, write: Write, tmp_path: Path
) -> None:
    pack = await store.install(pool, home, write("echo one", ref="trusted"), "me")
    # Somebody writes another program into the database.
    await pool.execute("update pack_file set content = 'touch /tmp/evil'::bytea where path = 'actions/do.sh'")
    await store.take_packs(pool, home, {})
    assert (actions.known_packs()["trusted"].folder / "actions/do.sh").read_text() == "echo one"
    elsewhere = tmp_path / "elsewhere"
    actions._KNOWN.pop("trusted")
    await store.take_packs(pool, elsewhere, {})
    assert "trusted" not in actions.known_packs()
    await store.take_packs(pool, elsewhere, {}, fetch=True)  # the content is not what the list says
    assert "trusted" not in actions.known_packs()
    await pool.execute("update pack_file set content = 'echo one'::bytea where path = 'actions/do.sh'")
    await store.take_packs(pool, elsewhere, {}, fetch=True)
    assert actions.known_packs()["trusted"].digest == pack.digest
    # Somebody changes the files on the machine.
    place = actions.known_packs()["trusted"].folder / "actions/do.sh"
    place.chmod(0o644)
    place.write_text("echo evil")
    actions._KNOWN.pop("trusted")
    await store.take_packs(pool, elsewhere, {}, fetch=True)
    assert "trusted" not in actions.known_packs()


async def test_paths_of_the_database_that_lead_outside_are_not_written(
    pool: asyncpg.Pool[Any], home: Path, tmp_path: Path
) -> None:
    files = {"../../evil": (False, b"x"), "pack.yaml": (False, b"ref: evil\nversion: 1\n")}
    digest = digest_of(files)
    await pool.execute(
        "insert into pack (ref, version, digest, label, installed_by) values ('evil','1',$1,'','')", digest
    )
    await pool.executemany(
        "insert into pack_file values ('evil', $1, false, $2)", [(path, one[1]) for path, one in files.items()]
    )
    await store.take_packs(pool, home, {}, fetch=True)
    assert not (tmp_path / "evil").exists()
    assert "evil" not in actions.known_packs()


async def test_a_pack_that_runs_still_need_stays_unless_it_is_forced(
    database_url: str, home: Path, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("text")
    async with App(database_url, home=home, workers=0) as app:
        pack = await store.install(app.pool, home, write("echo", ref="needed"), "me")
        await store.take_packs(app.pool, home, {})
        await app.start(Workflow("needs", [actions.find_action("needed.do")]), [tmp_path / "a.txt"])
        with pytest.raises(UsageError) as caught:
            await store.remove(app.pool, home, "needed")
        assert caught.value.code == "K304"
        assert pack.folder.is_dir()
        await store.remove(app.pool, home, "needed", force=True)
        assert not pack.folder.exists()
        with pytest.raises(UsageError) as gone:
            await store.remove(app.pool, home, "needed")
        assert gone.value.code == "K303"
    store.take_local(home, {})
    assert store._index(home) == {}


async def test_commands_know_the_packs_of_this_machine_without_a_database(
    pool: asyncpg.Pool[Any], home: Path, write: Write
) -> None:
    settings = {"type": "object", "properties": {"size": {"type": "integer"}}}
    await store.install(pool, home, write("echo", ref="looked", settings=settings), "me")
    store.take_local(home, {"looked": {"size": 2}})
    assert "looked.do" in registered()
    first = registered()["looked.do"].version
    actions.use_settings({"looked": {"size": 3}})
    assert registered()["looked.do"].version != first
    with pytest.raises(ConfigurationError):
        actions.use_settings({"looked": {"size": "large"}})
    actions.forget_pack("looked")
    store.take_local(home, {"looked": {"size": "large"}})
    assert "looked.do" in registered()  # to be looked at
    with pytest.raises(ConfigurationError) as caught:
        await store.take_packs(pool, home, {"looked": {"size": "large"}})
    assert caught.value.code == "K307"
    actions.use_settings({})


async def test_the_database_refuses_a_result_with_both_outputs(pool: asyncpg.Pool[Any]) -> None:
    async def insert(body: str, kind: str = "action_result") -> None:
        await pool.execute(
            """insert into record (kind, hash, work_key, ordinal, body)
            values ($1, '\\x00', gen_random_uuid()::text::bytea, 0, $2)""",
            kind, body,
        )  # fmt: skip

    await insert('{"stdout": "text", "result": null}')
    await insert('{"stdout": "", "result": {"a": 1}}')
    await insert('{"stdout": "text", "result": {"a": 1}}', kind="note")
    for body in ('{"stdout": "text", "result": {"a": 1}}', '{"stdout": "text", "result": []}'):
        with pytest.raises(asyncpg.CheckViolationError, match="action_output_is_text_or_result"):
            await insert(body)


def test_yaml_of_a_declaration_says_what_the_reference_says(write: Write) -> None:
    from gristmill.packs.pack import About, Action, Bounds

    text = (Path(__file__).parents[2] / "docs/reference/packs.md").read_text()
    for model in (About, Action, Bounds):
        for name in model.model_fields:
            assert f"`{name}`" in text, name
