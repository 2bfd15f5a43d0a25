"""What can be seen in the source: the pitfalls of docs/concepts/pitfalls.md that a careless line would bring back."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from gristmill.app import App
from gristmill.config import Settings
from gristmill.engine.worker import WorkerSettings
from gristmill.errors import UsageError
from gristmill.workflow import Workflow
from gristmill.workflow_files import configured, find_workflow

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "gristmill"


@functools.cache
def nodes(file: Path) -> tuple[ast.AST, ...]:
    """Everything that stands in the file, read once for all tests."""
    return tuple(ast.walk(ast.parse(file.read_text())))


def imports(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, module) of every import below the folder, inside of functions too."""
    for file in folder.rglob("*.py"):
        for node in nodes(file):
            if isinstance(node, ast.Import):
                yield from ((str(file.relative_to(ROOT)), name.name) for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield str(file.relative_to(ROOT)), node.module


def test_no_statement_asks_another_clock_than_the_databases_own() -> None:
    """W26: the start of the transaction, or a machine's clock, must not decide who is dead or what has expired."""
    wrong = re.compile(
        r"\b(now\(\)|current_(timestamp|date|time)|local(timestamp|time)|(transaction|statement)_timestamp)"
    )
    for file in [*SOURCE.rglob("*.sql"), *SOURCE.rglob("*.py")]:
        text = re.sub(r"--.*", "", file.read_text())
        text = text.replace("clock_timestamp() - transaction_timestamp()", "")  # how long a step has taken
        assert not wrong.search(text), file
    asked = set()
    for file in SOURCE.rglob("*.py"):
        for node in nodes(file):
            if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today", "time"):
                owner = node.value.id if isinstance(node.value, ast.Name) else ""
                if owner in ("datetime", "date") or (owner == "time" and node.attr == "time"):
                    asked.add(str(file.relative_to(SOURCE)))
    # The timestamps that receivers of a webhook and stores of the kind S3 want; the age of files on this machine's own
    # disk.
    assert asked <= {"webhook.py", "data/blobs.py", "data/s3.py", "api/uploads.py", "api/kept_uploads.py"}


def test_times_that_everybody_has_to_agree_on_are_the_same_everywhere() -> None:
    """A7: a threshold copied into four files. The settings and the engine used alone have the same defaults."""
    app = {name: field.default for name, field in Settings.model_fields.items()}
    engine = {field.name: field.default for field in fields(WorkerSettings)}
    shared = set(app) & set(engine) - {"pools"}
    assert shared >= {"lease", "beat", "probe", "confirm", "stall_after", "poll", "shutdown"}
    assert {name: app[name] for name in shared} == {name: engine[name] for name in shared}


@pytest.mark.parametrize(("lease", "beat"), [(5.0, 2.0), (3.0, 3.0), (3.0, 0.0)])
def test_a_lease_and_a_beat_that_do_not_fit_together_are_refused(lease: float, beat: float) -> None:
    """W26: two settings that depend on each other, and nobody looks."""
    with pytest.raises(UsageError, match="too short for a beat"):
        WorkerSettings(lease=lease, beat=beat)


def test_tests_run_on_postgresql_and_replace_nothing_of_ours() -> None:
    """W28: every line covered, by mocks and on another database."""
    wrong = {"sqlite3", "aiosqlite", "unittest.mock", "mock", "pytest_mock", "fakeredis", "freezegun"}
    assert [entry for entry in imports(ROOT / "tests") if entry[1] in wrong] == []


def test_there_is_one_store_and_nothing_that_blocks_the_loop_to_reach_it() -> None:
    """A3, T3: a queue beside the database, or a session shared by coroutines."""
    wrong = {"sqlite3", "psycopg2", "sqlalchemy", "requests", "redis", "pika", "kombu", "aio_pika", "celery", "nats"}
    used = {(file, module.partition(".")[0]) for file, module in imports(SOURCE)}
    assert [entry for entry in used if entry[1] in wrong] == []
    assert {file for file, module in used if module == "psycopg"} <= {"src/gristmill/engine/foreign.py"}


async def test_a_run_keeps_the_definition_that_it_was_started_with(database_url: str, tmp_path: Path) -> None:
    """W23: a workflow that is read again when it is executed."""
    (tmp_path / "a.txt").write_text("The mill grinds slowly.")
    first, second = configured("qa", ["split.size=700"]), configured("qa", ["split.size=900"])
    async with App(database_url, home=tmp_path / "home", workers=0) as app:
        one = await app.start(first, [tmp_path / "a.txt"], model="extractive")
        two = await app.start(second, [tmp_path / "a.txt"], model="extractive")
        assert one.id != two.id
        kept = (await app.find(one.name)).workflow
        assert kept.fingerprint() == first.with_model("extractive").fingerprint()
        assert kept.fingerprint() != second.with_model("extractive").fingerprint()


def test_a_misspelt_option_is_refused_and_the_nearest_named() -> None:
    """W23: arguments bound by name, so that a wrong name says nothing."""
    with pytest.raises(UsageError) as refused:
        configured("qa", ["split.siez=700"])
    assert "size" in str(refused.value.hint) + refused.value.message


def test_the_fingerprint_of_a_workflow_is_the_same_however_often_it_is_asked_for() -> None:
    """W24: looking something up must not change what it is."""
    workflow = find_workflow("qa").with_model("extractive")
    first = (workflow.fingerprint(), workflow.definition(), workflow.engine_steps())
    stored = Workflow.from_definition(workflow.definition())
    assert (workflow.fingerprint(), workflow.definition(), workflow.engine_steps()) == first
    assert stored.fingerprint() == first[0]
    assert stored.with_model("extractive").fingerprint() == first[0]


def test_modules_and_functions_are_small() -> None:
    """House rule 7: a module around 350 lines, a function around 40 (its docstring not counted)."""
    long = []
    for file in SOURCE.rglob("*.py"):
        if (lines := len(file.read_text().splitlines())) > 360:
            long.append((lines, str(file.relative_to(SOURCE))))
        for node in nodes(file):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                words = first.end_lineno or 0 if ast.get_docstring(node) else first.lineno - 1
                lines = (node.end_lineno or 0) - words + first.lineno - node.lineno
                if lines > 44:
                    long.append((lines, f"{file.relative_to(SOURCE)}: {node.name}"))
    assert sorted(long) == []
