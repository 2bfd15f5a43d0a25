"""Workflows as files: what is read, what is refused and how, and that a file and Python make the same workflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gristmill.cli import gristmill
from gristmill.errors import UsageError, WorkflowError
from gristmill.operators import answer, ask, dedup, parse, split
from gristmill.workflow import Workflow
from gristmill.workflow_files import configured, find_workflow, read_workflow, shipped, workflow_text, write_workflow

NOTES = """
name: notes
version: 3
steps:
  - parse
  - split: {size: 800}
  - operator: ask
    name: questions
    options: {count: 3}
    model: openai:scripted
    attempts: 2
  - answer
parameters:
  dense: {split.size: 400, questions.count: 6}
"""


def test_a_file_and_python_make_the_same_workflow() -> None:
    flow, _ = read_workflow(NOTES)
    asking = ask.using(count=3, name="questions", model="openai:scripted", attempts=2)
    assert flow.fingerprint() == Workflow("notes", [parse, split.using(size=800), asking, answer], 3).fingerprint()


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_workflow_is_read_and_survives_a_round_trip(name: str) -> None:
    flow = find_workflow(name)
    assert flow.name == name
    assert read_workflow(write_workflow(flow))[0].fingerprint() == flow.fingerprint()
    for chosen in read_workflow(workflow_text(name))[1]:
        assert configured(name, (), chosen).fingerprint() != flow.fingerprint()


def test_branches_and_barriers_survive_a_round_trip() -> None:
    flow = Workflow("graph", [parse, split, ask, answer, dedup.after("answer"), ask.using(name="more").after("split")])
    assert read_workflow(write_workflow(flow))[0].fingerprint() == flow.fingerprint()


def test_a_set_of_parameters_comes_before_single_options(tmp_path: Path) -> None:
    path = tmp_path / "notes.yaml"
    path.write_text(NOTES)
    flow = configured(str(path), ["questions.count=9"], "dense")
    chosen = {spec.name: dict(spec.options) for spec in flow.steps}
    assert chosen["split"]["size"] == 400
    assert chosen["questions"]["count"] == 9


def test_a_workflow_in_a_python_file_is_found_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from gristmill.operators import parse, split\nfrom gristmill.workflow import Workflow\n"
        'short = Workflow("short", [parse, split])\ndef made(): return short\nother = 7\n'
    )
    assert find_workflow(f"{path}:short").name == find_workflow(f"{path}:made").name == "short"
    with pytest.raises(UsageError, match="is no workflow"):
        find_workflow(f"{path}:other")
    with pytest.raises(UsageError, match="there is no missing"):
        find_workflow(f"{path}:missing")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "line 1"),
        ("just words", "has no names with values"),
        ("name: a\nstepz: [parse]", 'says "stepz"'),
        ("name: a\nsteps: []", "at least one step"),
        ("name: a\nversion: soon\nsteps: [parse]", "version a whole number"),
        ("name: a\nsteps: [prase]", 'step 1: there is no operator "prase"'),
        ("name: a\nsteps:\n  - parse\n  - operator: split\n    option: {size: 1}", 'says "option"'),
        ("name: a\nsteps:\n  - parse\n  - split: {siez: 1}", "option siez"),
        ("name: a\nsteps:\n  - parse\n  - split: {model: x}", '"model" is no option'),
        ("name: a\nsteps: [parse]\nparameters: {small: {split.size: 1}}", "there is no such step"),
        ("name: a\nsteps: [parse, 7]", "names no operator"),
        ("!!python/object/apply:os.system ['true']", "line 1"),
    ],
)
def test_what_cannot_be_a_workflow_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises((UsageError, WorkflowError)) as caught:
        read_workflow(text, "mine.yaml")
    assert said in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        find_workflow(str(tmp_path / "none.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        find_workflow(str(tmp_path / "binary.yaml"))
    (tmp_path / "huge.yaml").write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(UsageError, match="larger than"):
        find_workflow(str(tmp_path / "huge.yaml"))
    with pytest.raises(UsageError, match="there is no workflow") as caught:
        find_workflow("qaa")
    assert 'did you mean "qa"?' in (caught.value.hint or "")


def test_the_command_copies_a_workflow_that_passes_its_check_and_overwrites_nothing(tmp_path: Path) -> None:
    runner, target = CliRunner(), str(tmp_path / "mine.yaml")
    assert "qa" in runner.invoke(gristmill, ["workflow", "list"]).output
    assert runner.invoke(gristmill, ["workflow", "copy", "qa", target]).exit_code == 0
    assert Path(target).read_text() == workflow_text("qa")
    assert "is fine" in runner.invoke(gristmill, ["workflow", "check", target]).output
    again = runner.invoke(gristmill, ["workflow", "copy", "qa", target])
    assert isinstance(again.exception, UsageError)
    assert Path(target).read_text() == workflow_text("qa")
