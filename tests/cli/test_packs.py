"""`gristmill packs` as people and programs use it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gristmill.cli import gristmill
from gristmill.errors import InputError, TransientError, UsageError


@pytest.fixture
def folder(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRISTMILL_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(gristmill, arguments)


def packs(*arguments: str) -> Result:
    return call("packs", *arguments)


def test_a_pack_is_made_tried_checked_installed_used_shown_and_removed(folder: Path) -> None:
    assert packs("new", "my_pack", "--runner", "python").exit_code == 0
    tried = packs("try", "my_pack.hello", "--folder", "my_pack", "--text", "abc", "--set", "who=1", "--set", "who=you")
    assert json.loads(tried.stdout)["result"] == {"hello": "you", "characters": 3}
    assert json.loads(packs("check", "my_pack", "--json").stdout)["usable"]
    made = json.loads(packs("install", "my_pack", "--json").stdout)
    assert (made["ref"], made["version"], made["actions"]) == ("my_pack", "0.1.0", ["my_pack.hello"])
    listed = {one["ref"]: one for one in json.loads(packs("list", "--json").stdout)["packs"]}
    assert [one["ref"] for one in listed["my_pack"]["actions"]] == ["my_pack.hello"]
    assert {one: listed[one]["origin"] for one in listed} == {
        "core": "shipped", "examples": "shipped", "my_pack": "installed",
    }  # fmt: skip
    assert "my_pack.hello" in packs("list").stdout
    assert "characters" not in packs("show", "my_pack.hello").stdout
    assert json.loads(packs("show", "my_pack", "--json").stdout)["actions"][0]["runner"] == "python"
    (folder / "flow.yaml").write_text("name: mine\nsteps: [parse, split, {my_pack.hello: {who: you}}]\n")
    assert call("workflow", "check", "flow.yaml").exit_code == 0
    assert packs("remove", "my_pack", "--json").exit_code == 0
    assert isinstance(packs("remove", "my_pack").exception, UsageError)
    (tmp := folder / ".gristmill/packs/index.json").write_text("{broken")
    assert packs("list", "--json").exit_code == 0
    assert tmp.exists()


def test_the_doctor_names_packs_that_are_needed_and_cannot_be_used_here(folder: Path) -> None:
    def told() -> list[dict[str, str]]:
        return [one for one in json.loads(call("doctor", "--json").stdout)["findings"] if one["name"] == "packs"]

    assert [(one["level"], one["text"]) for one in told()] == [("ok", "2 can be used here, none is missing")]
    packs("new", "mine")
    packs("install", "mine")
    (folder / "flow.yaml").write_text(
        "name: flow\nsteps: [parse, {mine.hello: {who: me}}, core.file_read, yours.mill]\n"
    )
    (folder / "broken.yaml").write_text("steps: [")
    (folder / "gristmill.toml").write_text("[packs.ours]\nsieve = 3\n")
    shutil.rmtree(next((folder / ".gristmill/packs").glob("mine-*")))
    assert [(one["level"], one["text"].partition(":")[0]) for one in told()] == [
        ("warn", 'the pack "mine" is installed, but not on this machine, named by flow.yaml'),
        ("warn", 'the pack "ours" is not installed, named by [packs.ours]'),
        ("warn", 'the pack "yours" is not installed, named by flow.yaml'),
    ]


def test_what_is_wrong_with_a_pack_is_listed_with_file_line_and_remedy(folder: Path) -> None:
    packs("new", "wrong")
    text = (folder / "wrong/actions/hello.yaml").read_text()
    (folder / "wrong/actions/hello.yaml").write_text(text.replace("runner: python", "runner: perl"))
    (folder / "wrong/link").symlink_to("/etc/passwd")
    told = packs("check", "wrong")
    assert told.exit_code == 1
    assert "actions/hello.yaml:4: K103 runner:" in told.stdout
    assert "link: K107 it is a link" in told.stdout
    assert "copy what it points to" in told.stderr
    found = json.loads(packs("check", "wrong", "--json").stdout)
    assert [(one["code"], one["line"]) for one in found["findings"]] == [("K103", 4), ("K107", 0)]
    assert getattr(packs("install", "wrong").exception, "code", "") == "K100"


def test_a_failed_try_keeps_its_output_for_reading(folder: Path) -> None:
    packs("new", "loud", "--runner", "shell")
    (folder / "loud/actions/hello.sh").write_text("echo the whole story; exit 3")
    failed = packs("try", "loud.hello", "--folder", "loud").exception
    assert isinstance(failed, TransientError)
    digest = failed.message.split('stdout "')[1][:64]
    assert packs("output", digest).stdout == "the whole story\n"
    assert getattr(packs("output", "nonsense").exception, "code", "") == "K309"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["core.file_read", "--set", "path"], "K310"),
        (["core.file_read", "--set", "path=x", "--kind", "nonsense"], "K310"),
        (["core.file_read", "--set", "path=x", "--body", '{"text": 1}'], "K310"),
        (["core.file_read"], "U300"),
        (["core.nothing"], "U100"),
    ],
)
def test_a_try_that_makes_no_sense_is_told(folder: Path, arguments: list[str], code: str) -> None:
    failed = packs("try", *arguments).exception
    assert isinstance(failed, UsageError)
    assert failed.code == code


def test_a_record_of_any_kind_may_be_tried(folder: Path) -> None:
    body = json.dumps({"question": "What?", "answer": "That."})
    made = packs("try", "examples.greet", "--set", "who=${input.answer}", "--kind", "example", "--body", body, "--json")
    assert json.loads(made.stdout)["records"][0]["body"]["stdout"] == "Hello, That.!\n"
    refused = packs("try", "examples.greet", "--set", "who=${input.quote.x}", "--kind", "example", "--body", body)
    assert isinstance(refused.exception, InputError)
