"""The annotations of a run as tables: rows for programs, and a workbook with a sheet for each kind and scale."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg

from gristmill.data import records
from gristmill.data.annotated import TEXTS, text_of
from gristmill.data.annotations import ANNOTATIONS, Annotation, Boxes, Classes, Entities, Rating, Relations
from gristmill.data.export_writers import GUARDED, json_line
from gristmill.data.kinds import KINDS, Image
from gristmill.errors import UsageError
from gristmill.operators.operator import StepSpec
from gristmill.review.annotators import SQL, about_of, annotating

PAGE = 500  # annotations that are read at once, with what they came from
SUFFIXES = (".jsonl", ".json", ".csv", ".xlsx")
CELL = 32_767  # characters that a cell of a workbook holds
SHEET = 1_048_575  # rows of a sheet below its head


@dataclass(frozen=True, slots=True)
class AnnotationRow:
    """One annotation in words. `said` and `reviewed` tell it in one text; `subject` is a content hash."""

    record_id: int
    step: str
    about: str
    annotator: str
    by: str
    model: str | None
    item: str | None
    subject: str
    text: str | None
    said: str
    outcome: str
    score: float | None
    reason: str | None
    comment: str | None
    review: str
    reviewer: str | None
    reviewed: str | None


async def annotation_rows(
    pool: asyncpg.Pool[Any], run_id: int, steps: Sequence[StepSpec]
) -> AsyncIterator[AnnotationRow]:
    """The annotations of a run, by step, in the order in which they were made. `steps` are those of its workflow."""
    for place in annotating(steps):
        after = 0
        while found := await pool.fetch(SQL["rows"], run_id, place, after, PAGE):
            texts = await _texts(pool, [row["id"] for row in found])
            for row in found:
                yield _row(row, steps[place].name, texts)
            after = found[-1]["id"]


async def write_annotations(pool: asyncpg.Pool[Any], run_id: int, steps: Sequence[StepSpec], path: Path) -> int:
    """Writes the annotations to a file and returns how many there are; its end says what it is: .jsonl, .json, .csv, or
    .xlsx with a summary and a sheet for each kind and scale, a column for each annotator.

    The file appears when it is whole. Raises `UsageError` U309 for another end, a folder that is not there, more rows
    than a sheet holds, and a missing package for workbooks.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{path.name}: it is not clear what it is to be", code="U309", hint=f"end it with {', '.join(SUFFIXES)}"
        )
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", code="U309", safe="nothing was written")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        rows = annotation_rows(pool, run_id, steps)
        count = await (
            _workbook(part, rows) if path.suffix.lower() == ".xlsx" else _lines(part, rows, path.suffix.lower())
        )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def told(said: Annotation) -> str:
    """What an annotation says, in one text for people."""
    if isinstance(said, Classes):
        return "; ".join(said.labels)
    if isinstance(said, Rating):
        return "; ".join(said.values)
    if isinstance(said, Relations):
        words = {one.id: one.text for one in said.entities}
        return "; ".join(f"{words[one.head]} {one.label} {words[one.tail]}" for one in said.relations)
    if isinstance(said, Entities):
        return "; ".join(f"{one.text} ({one.label} {one.start}-{one.end})" for one in said.entities)
    boxes = said.boxes if isinstance(said, Boxes) else ()
    return "; ".join(f"{one.label} ({one.x:.4f}, {one.y:.4f}, {one.width:.4f}, {one.height:.4f})" for one in boxes)


def _row(row: Any, step: str, texts: dict[str, str]) -> AnnotationRow:
    said = ANNOTATIONS[row["kind"]].model_validate_json(row["body"])
    reviewed = None
    if row["state"] in ("accepted", "edited"):
        reviewed = told(ANNOTATIONS[row["kind"]].model_validate_json(row["revised"] or row["body"]))
    return AnnotationRow(
        record_id=row["id"], step=step, about=about_of(said), annotator=said.annotator, by=said.by, model=said.model,
        item=row["item"], subject=said.subject, text=texts.get(said.subject), said=told(said), outcome=said.outcome,
        score=said.score, reason=said.reason, comment=said.comment, review=row["state"] or "proposed",
        reviewer=row["reviewer"], reviewed=reviewed,
    )  # fmt: skip


async def _texts(pool: asyncpg.Pool[Any], ids: Sequence[int]) -> dict[str, str]:
    """What can be annotated above these records, by content hash: the text, or the name of the picture."""
    found: dict[str, str] = {}
    kinds = {cls.kind: cls for cls in (*TEXTS, Image)}
    for one in await records.load_family(pool, ids):
        if one.kind in kinds:
            body = KINDS[one.kind].model_validate_json(one.body)
            found[one.hash.hex()] = body.name if isinstance(body, Image) else text_of(body) or ""
    return found


async def _lines(part: Path, rows: AsyncIterator[AnnotationRow], suffix: str) -> int:
    count = 0
    with part.open("wb") as file:
        if suffix == ".csv":
            file.write(_csv_line(AnnotationRow.__dataclass_fields__))
        async for row in rows:
            plain = asdict(row)
            if suffix == ".csv":
                file.write(_csv_line(plain.values()))
            else:
                before = b"" if suffix == ".jsonl" else b",\n" if count else b"[\n"
                file.write(before + json_line(plain) + (b"\n" if suffix == ".jsonl" else b""))
            count += 1
        if suffix == ".json":
            file.write(b"\n]\n" if count else b"[]\n")
    return count


def _csv_line(values: Any) -> bytes:
    text = io.StringIO()
    cells = ["" if value is None else str(value) for value in values]
    csv.writer(text, lineterminator="\r\n").writerow([f"'{cell}" if GUARDED.match(cell) else cell for cell in cells])
    return text.getvalue().encode("utf-8", "replace")


@dataclass(slots=True)
class _Sheet:
    """What was annotated, in order, and what each annotator said about it."""

    annotators: dict[str, None]
    subjects: dict[str, dict[str, Any]]
    outcomes: Counter[tuple[str, str]]


async def _workbook(part: Path, rows: AsyncIterator[AnnotationRow]) -> int:
    try:
        import xlsxwriter
    except ImportError:
        raise UsageError(
            "workbooks need the package XlsxWriter", code="U309", hint='pip install "gristmill[excel]", or write a .csv'
        ) from None
    sheets: dict[str, _Sheet] = {}
    count = 0
    async for row in rows:
        count += 1
        sheet = sheets.setdefault(row.about, _Sheet({}, {}, Counter()))
        sheet.annotators.setdefault(row.annotator)
        sheet.outcomes[row.annotator, row.outcome] += 1
        line = sheet.subjects.setdefault(row.subject, {"item": row.item, "text": row.text, "said": {}})
        line["said"].setdefault(row.annotator, row.said or row.outcome)
        if row.reviewed is not None:
            line |= {"reviewed": row.reviewed, "reviewer": row.reviewer}
    with xlsxwriter.Workbook(
        part, {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    ) as book:
        _write(book.add_worksheet("summary"), ["about", "annotator", "outcome", "annotations"], [
            [about, *key, number] for about, sheet in sheets.items() for key, number in sorted(sheet.outcomes.items())
        ])  # fmt: skip
        for number, (about, sheet) in enumerate(sheets.items(), 1):
            head = ["item", "text", *sheet.annotators, "reviewed", "reviewer", "subject"]
            lines = [
                [line["item"], line["text"], *(line["said"].get(name) for name in sheet.annotators),
                 line.get("reviewed"), line.get("reviewer"), subject]
                for subject, line in sheet.subjects.items()
            ]  # fmt: skip
            _write(book.add_worksheet(_sheet_name(about, number)), head, lines)
    return count


def _write(sheet: Any, head: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    if len(lines) > SHEET:
        raise UsageError(
            f"a sheet holds {SHEET:,} rows, and there are {len(lines):,}", code="U309", hint="write a .csv or a .jsonl"
        )
    for at, line in enumerate([head, *lines]):
        for column, value in enumerate(line):
            if isinstance(value, int):
                sheet.write_number(at, column, value)
            elif value is not None:
                text = str(value)
                sheet.write_string(at, column, text if len(text) <= CELL else text[: CELL - 2] + " …")


def _sheet_name(about: str, number: int) -> str:
    """At most 31 characters, without those that a workbook forbids; the number keeps two of one name apart."""
    plain = "".join("_" if character in "[]:*?/\\'" else character for character in about)
    return f"{number} {plain}"[:31]
