"""The formats that rows can be written in, as a table: name, suffixes, description and writer.

A writer gets batches of rows and a binary stream and keeps nothing but the batch. The same rows give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, BinaryIO, Protocol

from gristmill.errors import UsageError


@dataclass(frozen=True, slots=True)
class Row:
    """One example with its lineage. Offsets are code points in the document's text, ends are exclusive."""

    question: str
    answer: str
    quote: str | None = None  # the document's words that support the answer, where they were found
    record_id: str = ""
    source: str = ""  # file name below the input that was given
    title: str | None = None  # of the document
    chunk: str | None = None  # the text that the question was asked about
    page_start: int | None = None  # from 1; None where the format has no pages
    page_end: int | None = None
    start: int | None = None  # of the chunk
    end: int | None = None
    evidence_start: int | None = None  # of the quote
    evidence_end: int | None = None
    heading_path: tuple[str, ...] = ()
    run: str = ""  # name of the run
    model: str = ""
    work: str = ""  # key of the piece of work that made it, in hexadecimal


COLUMNS = tuple(field.name for field in fields(Row))
LINEAGE = tuple(name for name in COLUMNS if name not in ("question", "answer", "chunk"))  # what `metadata` holds


class Writer(Protocol):
    """Writes to one stream: `write` any number of times, then `finish` once. The stream stays open."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def finish(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is laid out, beyond its format."""

    array: bool = False  # one JSON array in place of a line per row
    bom: bool = False  # CSV: start with a byte order mark


@dataclass(frozen=True, slots=True)
class Format:
    """One entry of the table. `suffixes` are those the format may be guessed from or is written to, the usual first."""

    name: str
    suffixes: tuple[str, ...]
    description: str
    open: Callable[[BinaryIO, Layout], Writer]
    inferred: bool = False  # a path with one of the suffixes is enough to choose it
    array_suffix: str = ""  # with this suffix the file is one JSON array


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def json_line(value: Mapping[str, Any]) -> bytes:
    """One object as JSON in UTF-8 without any character that a reader might take for the end of a line."""
    text = _ENCODER.encode(value)
    # JSON allows these three inside of strings; str.splitlines and others break a line there.
    for character, escape in (("\u2028", "\\u2028"), ("\u2029", "\\u2029"), ("\x85", "\\u0085")):
        text = text.replace(character, escape)
    return text.encode("utf-8", "backslashreplace")  # half a surrogate pair becomes \ud800, which JSON allows


class JsonWriter:
    def __init__(self, stream: BinaryIO, layout: Layout, shape: Callable[[Row], Mapping[str, Any]]) -> None:
        self._stream = stream
        self._array = layout.array
        self._shape = shape
        self._rows = 0

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            line = json_line(self._shape(row))
            if self._array:
                self._stream.write((b",\n" if self._rows else b"[\n") + line)
            else:
                self._stream.write(line + b"\n")
            self._rows += 1

    def finish(self) -> None:
        if self._array:
            self._stream.write(b"\n]\n" if self._rows else b"[]\n")


def all_columns(row: Row) -> Mapping[str, Any]:
    return {name: getattr(row, name) for name in COLUMNS}


def alpaca(row: Row) -> Mapping[str, Any]:
    return {"instruction": row.question, "input": "", "output": row.answer, "system": "", "metadata": lineage(row)}


def sharegpt(row: Row) -> Mapping[str, Any]:
    turns = [{"from": "human", "value": row.question}, {"from": "gpt", "value": row.answer}]
    return {"conversations": turns, "metadata": lineage(row)}


def messages(row: Row) -> Mapping[str, Any]:
    turns = [{"role": "user", "content": row.question}, {"role": "assistant", "content": row.answer}]
    return {"messages": turns, "metadata": lineage(row)}


def lineage(row: Row) -> dict[str, Any]:
    """Where the row came from. Every key is always there, so that readers that infer a schema see one schema."""
    return {name: getattr(row, name) for name in LINEAGE}


class CsvWriter:
    """Comma, double quotes, CRLF (RFC 4180); a heading path is joined by " > ", None is an empty cell."""

    def __init__(self, stream: BinaryIO, layout: Layout) -> None:
        self._stream = stream
        if layout.bom:
            stream.write(b"\xef\xbb\xbf")
        self._put([COLUMNS])

    def write(self, rows: Sequence[Row]) -> None:
        self._put([[self._cell(getattr(row, name)) for name in COLUMNS] for row in rows])

    def finish(self) -> None:
        pass

    def _put(self, lines: Sequence[Sequence[Any]]) -> None:
        text = io.StringIO(newline="")
        # With a bare LF, Python before 3.13 leaves a cell with a CR in it unquoted.
        csv.writer(text, lineterminator="\r\n").writerows(lines)
        self._stream.write(text.getvalue().encode("utf-8", "backslashreplace"))

    @staticmethod
    def _cell(value: Any) -> Any:
        if isinstance(value, tuple):
            value = " > ".join(value)
        # A spreadsheet would run such a cell as a formula.
        if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
            return "'" + value
        return value


class ParquetWriter:
    """One row group for each batch, compressed with Zstandard. Raises `UsageError` when pyarrow is not installed."""

    def __init__(self, stream: BinaryIO, layout: Layout) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise UsageError(
                "the format parquet needs the package pyarrow", hint='pip install "gristmill[parquet]"', code="U410"
            ) from None
        self._pyarrow = pyarrow
        kinds = {"int": pyarrow.int64(), "tuple": pyarrow.list_(pyarrow.string()), "str": pyarrow.string()}
        self._schema = pyarrow.schema(
            [(field.name, kinds[str(field.type).partition(" ")[0].partition("[")[0]]) for field in fields(Row)]
        )
        self._writer = pyarrow.parquet.ParquetWriter(stream, self._schema, compression="zstd")

    def write(self, rows: Sequence[Row]) -> None:
        columns = {name: [self._cell(getattr(row, name)) for row in rows] for name in COLUMNS}
        self._writer.write_table(self._pyarrow.table(columns, schema=self._schema), row_group_size=max(1, len(rows)))

    def finish(self) -> None:
        self._writer.close()

    def _cell(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.encode("utf-8", "replace").decode()  # Arrow refuses half a surrogate pair
        return [self._cell(part) for part in value] if isinstance(value, tuple) else value


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            "jsonl", (".jsonl", ".ndjson"), "JSON Lines with every column; the default",
            lambda stream, layout: JsonWriter(stream, layout, all_columns), inferred=True,
        ),
        Format(
            "alpaca", (".jsonl", ".json"), "instruction, input, output, system",
            lambda stream, layout: JsonWriter(stream, layout, alpaca), array_suffix=".json",
        ),
        Format(
            "sharegpt", (".jsonl", ".json"), "conversations of from and value",
            lambda stream, layout: JsonWriter(stream, layout, sharegpt), array_suffix=".json",
        ),
        Format(
            "messages", (".jsonl", ".json"), "messages of role and content",
            lambda stream, layout: JsonWriter(stream, layout, messages), array_suffix=".json",
        ),
        Format("csv", (".csv",), "comma-separated values for spreadsheets", CsvWriter, inferred=True),
        Format("parquet", (".parquet",), "Apache Parquet, typed columns; needs pyarrow", ParquetWriter, inferred=True),
    )
}  # fmt: skip
