"""Files of rows, read: each row as a plain object, with its place in the file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from gristmill.data.export_writers import GUARDED, import_pyarrow
from gristmill.data.rows import TYPES, parted
from gristmill.errors import InputError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that cannot be read."""

    reason: str


def records_in(name: str, data: bytes) -> Iterator[tuple[str, dict[str, Any] | Problem]]:
    """("line 3", the row) for each row. Raises `InputError` P250 for another type of file, P251 for a broken file."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(name, data)
        return
    if suffix not in SUFFIXES:
        raise InputError(
            f"{name}: rows are read from {', '.join(SUFFIXES)}",
            code="P250",
            hint="a workflow with parse reads documents",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8: {error.reason} at byte {error.start}", code="P251") from None
    if suffix == ".csv":
        yield from _csv(name, text)
    elif suffix == ".json":
        yield from _array(name, text)
    else:
        yield from _lines(text)


def _lines(text: str) -> Iterator[tuple[str, dict[str, Any] | Problem]]:
    for number, line in enumerate(io.StringIO(text, newline="\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", _object(json.loads(line))
            except (ValueError, RecursionError) as error:
                yield f"line {number}", Problem(f"not JSON: {error}")


def _array(name: str, text: str) -> Iterator[tuple[str, dict[str, Any] | Problem]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON: {error}", code="P251") from None
    if not isinstance(rows, list):
        raise InputError(f"{name} holds no array of rows", code="P251", hint="one object a line is .jsonl")
    for number, row in enumerate(rows, 1):
        yield f"row {number}", _object(row)


def _object(row: Any) -> dict[str, Any] | Problem:
    return row if isinstance(row, dict) else Problem(f"not an object, but {type(row).__name__}")


def _csv(name: str, text: str) -> Iterator[tuple[str, dict[str, Any] | Problem]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        for cells in reader:
            place = f"line {reader.line_num}"
            if len(cells) == len(header):
                yield place, {key: _cell(key, value) for key, value in zip(header, cells, strict=True)}
            elif cells:
                yield place, Problem(f"{len(cells)} cells, and the header has {len(header)}")
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: {error}", code="P251") from None


def _cell(name: str, text: str) -> Any:
    """A cell as the writer had it: without its guard, empty as nothing, lists as lists."""
    if text == "":
        return None
    if text.startswith("'") and GUARDED.match(text):
        text = text[1:]
    kind = TYPES.get(name, "str")
    if name == "label":
        return parted(text)
    if kind == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind.startswith("tuple") and name != "heading_path":
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _parquet(name: str, data: bytes) -> Iterator[tuple[str, dict[str, Any] | Problem]]:
    pyarrow = import_pyarrow("a Parquet file")
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(pyarrow.BufferReader(data))
        number = 0
        for batch in file.iter_batches(batch_size=5_000):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{name} cannot be read as Parquet: {error}", code="P251") from None
