"""The accounts of promises and pitfalls are complete, and whatever they name exists."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from gristmill import operators
from gristmill.cli import COMMANDS
from gristmill.config import Settings
from gristmill.engine.events import CATALOGUE

ROOT = Path(__file__).parents[2]
CONCEPTS = ROOT / "docs" / "concepts"
PAGES = sorted([*CONCEPTS.glob("promises*.md"), CONCEPTS / "pitfalls.md"])
ANNOTATIONS = CONCEPTS / "annotations.md"  # its last part is an account too
EXCUSE = re.compile(r"^(not yet: .+|nothing to test: .+)$")
WISHED_FOR = [  # the operators that were wished for when the data side began
    "ingest", "validate", "parse", "chunk", "chunk_quality", "embed", "index", "vacuum", "label_tree",
    "assign_labels", "ga_pairs", "questions", "questions_from_template", "answers", "polish_reasoning",
    "conversation", "clean_text", "clean_llm", "anonymize", "filter", "dedup", "evaluate", "evaluate_rules",
    "classify", "ner", "relations", "detect_boxes", "rate", "agreement", "image_import", "image_questions",
    "image_answers", "distill_tags", "distill_questions", "eval_questions", "judge", "labelstudio_export",
    "labelstudio_import", "export", "import_examples",
]  # fmt: skip


def numbered(system: str, first: int, last: int, *more: str) -> list[str]:
    """ids of one system; "13a-d" stands for four that take the place of 13, "+20b" for one beside 20."""
    ids = {f"{system}-{n:02}" for n in range(first, last + 1)}
    for text in more:
        number, letters = text.lstrip("+")[:2], text.lstrip("+")[2:]
        if not text.startswith("+"):
            ids.discard(f"{system}-{number}")
        ids |= {f"{system}-{number}{letter}" for letter in _letters(letters)}
    return sorted(ids)


def _letters(text: str) -> Iterator[str]:
    first, last = text[0], text[-1]
    yield from map(chr, range(ord(first), ord(last) + 1))


WANTED = [
    *numbered("000", 1, 33),
    *numbered("001", 1, 37, "13a-d", "14a-h"),
    *numbered("002", 1, 87, "15a-f", "+20b", "28a-e", "31a-e", "33a-b", "36a-d", "42a-h", "+68b-c", "+81b-p"),
    *numbered("003", 1, 65, "05a-c", "09a-d", "17a-b", "24a-f", "33a-c"),
    *numbered("004", 1, 25, "+24b-c", "25a-h"),
    *(f"W{n}" for n in range(1, 29)),
    *(f"A{n}" for n in range(1, 13)),
    *(f"{letter}{n}" for letter in "DT" for n in range(1, 5)),
    *(f"M{n}" for n in range(1, 6)),
    *(f"B{n:02}" for n in range(1, 43)),
    *(f"C{n:02}" for n in range(1, 17)),
    *("A29", "A30", "E01", "E02"),
    *(f"X{n:02}" for n in range(1, 26)),
    *WISHED_FOR,
]
ANNOTATED = {*(f"A{n:02}" for n in range(1, 29)), *(f"D{n:02}" for n in range(1, 14))}


def rows() -> Iterator[tuple[str, list[str]]]:
    """(id, cells) of every numbered row; "13a..d" and "14g..h" are several."""
    for page in PAGES:
        for line in page.read_text().splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            found = re.fullmatch(r"(\d{3}-\d\d|[WADTMBCEX]\d+)(?:([a-z])(?:\.\.([a-z]))?)?", cells[0])
            if page.name == "promises-data.md" and cells[0] in WISHED_FOR:
                yield cells[0], cells
            elif line.startswith("| ") and found:
                base, first, last = found.groups()
                letters = _letters(f"{first}-{last or first}") if first else [""]
                for letter in letters:
                    yield f"{base}{letter}", cells


ROWS = list(rows())
TEXTS = [*(page.read_text() for page in PAGES), ANNOTATIONS.read_text()]
WORDS = sorted({word for text in TEXTS for word in re.findall(r"`([^`]+)`", text)})


@pytest.fixture(scope="module")
def tests() -> set[str]:
    """The names of all tests."""
    return {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_row_has_its_place_and_is_there_once() -> None:
    assert sorted(name for name, _ in ROWS) == sorted(WANTED)


def test_every_row_of_the_annotations_is_there_and_names_a_test() -> None:
    there = set()
    for line in ANNOTATIONS.read_text().splitlines():
        if found := re.match(r"\| ([AD]\d\d(?:, [AD]\d\d)*) ", line):
            there |= set(found[1].split(", "))
            assert re.search(r"\| [^|]*`test_\w+`[^|]* \|$", line), line
    assert there == ANNOTATED


def test_every_built_in_operator_is_in_the_table() -> None:
    named = {name for wish, cells in ROWS if wish in WISHED_FOR for name in re.findall(r"`(\w+)`", cells[1])}
    assert named == set(operators.__all__)


def test_every_row_names_a_test_or_says_why_it_has_none(tests: set[str]) -> None:
    for name, cells in ROWS:
        assert len(cells) == 4, name
        shown = re.findall(r"`(test_\w+)`", cells[3])
        assert shown or EXCUSE.match(cells[3]), (name, cells[3])
        assert set(shown) <= tests, (name, set(shown) - tests)


def test_every_test_that_is_named_anywhere_on_these_pages_exists(tests: set[str]) -> None:
    named = {word for word in WORDS if word.startswith("test_")} - set(operators.__all__)
    assert named - tests == set()


@pytest.mark.parametrize("name", [word for word in WORDS if word.startswith("gristmill.")])
def test_every_function_and_class_that_is_named_exists(name: str) -> None:
    parts = name.split(".")
    for at in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:at]))
        except ModuleNotFoundError:
            continue
        for part in parts[at:]:
            found = getattr(found, part)
        return
    raise AssertionError(name)


@pytest.mark.parametrize("line", [word for word in WORDS if word.startswith("gristmill ")])
def test_every_command_and_option_that_is_named_exists(line: str) -> None:
    _, name, *words = line.split()
    place, _, attribute = COMMANDS[name][0].partition(":")
    command: click.Command = getattr(importlib.import_module(f"gristmill.cli.{place}"), attribute or "command")
    if isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words[0]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_every_setting_event_and_metric_that_is_named_exists() -> None:
    text = "\n".join(TEXTS)
    metrics = (ROOT / "docs/reference/metrics.md").read_text()
    assert set(re.findall(r"setting `(\w+)`", text)) <= set(Settings.model_fields)
    assert set(re.findall(r"event `([\w.]+)`", text)) <= set(CATALOGUE)
    assert all(f"`{name}`" in metrics for name in re.findall(r"metric `(\w+)`", text))
