"""The linter: what it finds, under which code, and where."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gristmill.errors import UsageError
from gristmill.packs.actions import SHIPPED, shipped
from gristmill.packs.check import check_pack, load_pack
from gristmill.packs.new import new_pack
from tests.packs.conftest import write_pack

REFERENCE = (Path(__file__).parents[2] / "docs/reference/packs.md").read_text()
PROGRAM = {"actions/do.sh": "echo done\n"}
GOOD: dict[str, Any] = {
    "ref": "mine.do", "description": "Does it.", "runner": "shell", "entry": "actions/do.sh",
}  # fmt: skip


def pack(folder: Path, action: dict[str, Any] | str | bytes | None = None, **about: Any) -> Path:
    text = action if isinstance(action, str | bytes) else yaml.safe_dump(GOOD | (action or {}), sort_keys=False)
    return write_pack(folder / "mine", {"actions/do.yaml": text, **PROGRAM}, **about)


def found(folder: Path) -> list[tuple[str, str, int]]:
    return [(one.code, one.file, one.line) for one in check_pack(folder)[1]]


def test_a_good_pack_has_no_findings(tmp_path: Path) -> None:
    assert found(pack(tmp_path)) == []
    assert load_pack(tmp_path / "mine").ref == "mine"


@pytest.mark.parametrize(
    ("code", "line", "action"),
    [
        ("K102", 2, "ref: mine.do\n\trunner: shell\n"),
        ("K102", 0, b"ref: \xff\n"),
        ("K102", 2, "a: &x 1\nb: *x\n"),
        ("K103", 0, "- a list\n"),
        ("K103", 5, {"runer": "shell"}),
        ("K103", 6, {"limits": {"memory": 1}}),
        ("K103", 5, {"timeout": "soon"}),
        ("K104", 1, {"ref": "Mine.do"}),
        ("K104", 1, {"ref": "other.do"}),
        ("K106", 4, {"entry": "../outside.sh"}),
        ("K106", 4, {"entry": "/bin/sh"}),
        ("K106", 4, {"entry": "actions/none.sh"}),
        ("K108", 4, {"runner": "native"}),
        ("K109", 5, {"parameters": {"type": "array"}}),
        ("K109", 5, {"parameters": {"type": "object", "properties": {"a": {"type": "txt"}}}}),
        ("K109", 5, {"parameters": {"type": "object", "properties": {"a": {"$ref": "http://example.org/a"}}}}),
        ("K110", 5, {"parameters": {"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}}),
        ("K111", 6, {"locks": {"not a key": 1}}),
        ("K111", 5, {"locks": {"device:a": 1, "device:b": 1}}),
        ("K113", 5, {"environment": {"LD_PRELOAD": "/tmp/x.so"}}),
        ("K113", 5, {"inherit": ["PYTHONPATH"]}),
        ("K114", 5, {"requirements": ["rich==13.0"]}),
        ("K115", 5, {"takes": ["nonsense"]}),
        ("K115", 5, {"makes": "chunk"}),
        ("K116", 8, {"parameters": {"type": "object", "properties": {"key": {
            "type": "string", "secret": True, "default": "env:KEY"}}}}),
        ("K118", 8, {"parameters": {"type": "object", "properties": {"timeout": {"type": "integer"}}}}),
        ("K118", 8, {"delivery": "env", "parameters": {"properties": {"a b": {}}, "type": "object"}}),
    ],
)  # fmt: skip
def test_each_mistake_has_a_code_and_a_line(tmp_path: Path, code: str, line: int, action: Any) -> None:
    assert (code, "actions/do.yaml", line) in found(pack(tmp_path, action))
    with pytest.raises(UsageError, match=code) as caught:
        load_pack(tmp_path / "mine")
    assert caught.value.code == "K100"
    assert f"| `{code}` |" in REFERENCE


def test_a_folder_without_a_pack_is_told_at_once(tmp_path: Path) -> None:
    assert found(tmp_path / "nowhere") == [("K101", "pack.yaml", 0)]
    assert found(Path("/")) == [("K101", "pack.yaml", 0)]


def test_two_actions_of_one_name_and_a_pack_without_any_are_told(tmp_path: Path) -> None:
    twice = pack(tmp_path)
    (twice / "actions/again.yml").write_text((twice / "actions/do.yaml").read_text())
    assert ("K105", "actions/do.yaml", 1) in found(twice)
    empty = write_pack(tmp_path / "empty", {})
    assert ("K120", "pack.yaml", 0) in found(empty)
    (empty / "pack.yaml").write_text("ref: empty\nversion: new\n")
    assert ("K104", "pack.yaml", 2) in found(empty)


@pytest.mark.parametrize("what", ["link to a file", "link to a folder", "pipe", "dangling", "the pack file"])
def test_links_and_what_is_no_file_are_refused(tmp_path: Path, what: str) -> None:
    folder = pack(tmp_path)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("hidden")
    match what:
        case "link to a file":
            (folder / "data").symlink_to(secret / "key")
        case "link to a folder":
            (folder / "data").symlink_to(secret)
        case "pipe":
            os.mkfifo(folder / "data")
        case "dangling":
            (folder / "data").symlink_to("/nowhere/at/all")
        case _:
            (folder / "pack.yaml").rename(folder / "other.yaml")
            (folder / "pack.yaml").symlink_to(folder / "other.yaml")
    place = "pack.yaml" if what == "the pack file" else "data"
    assert ("K107", place, 0) in found(folder)
    assert "K107" in REFERENCE


def test_a_name_that_cannot_be_printed_and_a_pack_that_is_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pack(tmp_path)
    (folder / "a\nb").write_text("")
    assert ("K117", "a\\nb", 0) in found(folder)
    (folder / "a\nb").unlink()
    with (folder / "large").open("wb") as file:
        file.truncate(33 * 2**20)
    assert ("K112", "large", 0) in found(folder)
    (folder / "large").unlink()
    for number in range(1001):
        (folder / f"f{number}").touch()
    assert "K112" in [code for code, _, _ in found(folder)]


def test_what_may_be_wrong_is_a_warning_and_the_pack_can_be_used(tmp_path: Path) -> None:
    action = {"runner": "python", "requirements": ["rich", "attrs==23.1.0"], "description": ""}
    folder = pack(tmp_path, action, label="")
    usable, findings = check_pack(folder)
    assert usable is not None
    assert {(one.code, one.level) for one in findings} == {("K151", "warning"), ("K152", "warning")}
    for bad in ("rich @ file:///etc", "--index-url=x", "../local", "rich; import os", "-r other.txt"):
        action["requirements"] = [bad]
        (folder / "actions/do.yaml").write_text(yaml.safe_dump(GOOD | action))
        assert ("K114" in [one.code for one in check_pack(folder)[1]]) == (";" not in bad), bad


@pytest.mark.parametrize("ref", shipped())
def test_the_packs_that_come_with_it_have_no_findings(ref: str) -> None:
    pack_, findings = check_pack(SHIPPED / ref)
    assert pack_ is not None
    assert findings == []


@pytest.mark.parametrize("runner", ["shell", "python", "native"])
def test_a_new_pack_has_no_findings_and_is_never_written_over(tmp_path: Path, runner: str) -> None:
    new_pack(tmp_path / "fresh", runner)
    assert found(tmp_path / "fresh") == []
    for place in (tmp_path / "fresh", tmp_path / "Not A Name"):
        with pytest.raises(UsageError) as caught:
            new_pack(place, runner)
        assert caught.value.code == "K306"


def test_every_code_of_the_source_is_documented_and_the_other_way_round() -> None:
    source = Path(SHIPPED).parent
    written = {
        code for file in [*source.rglob("*.py"), source.parent / "cli/packs.py"]
        for code in re.findall(r'"(K\d{3})"', file.read_text())
    }  # fmt: skip
    assert written == set(re.findall(r"^\| `(K\d{3})` \|", REFERENCE, re.MULTILINE))
