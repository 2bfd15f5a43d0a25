"""Writers of files: JSON, CSV and Parquet. A writer gets batches and a binary stream and keeps nothing but the batch.

The same rows give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

from gristmill.data.export_shapes import Entry, Layout, columns
from gristmill.data.rows import COLUMNS, TYPES, joined
from gristmill.errors import UsageError

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
# What a spreadsheet would run as a formula. Quotes count too, so that reading takes away exactly what was added.
GUARDED = re.compile(r"'*[=+\-@\t\r]")


class Writer(Protocol):
    """Writes to one stream: `write` any number of times, then `finish` once. The stream stays open."""

    def write(self, rows: Sequence[Any]) -> None: ...

    def finish(self) -> None: ...


def json_line(value: Mapping[str, Any]) -> bytes:
    """One object as JSON in UTF-8 without any character that a reader might take for the end of a line."""
    text = _ENCODER.encode(value)
    # JSON allows these three inside of strings; str.splitlines and others break a line there.
    for character, escape in (("\u2028", "\\u2028"), ("\u2029", "\\u2029"), ("\x85", "\\u0085")):
        text = text.replace(character, escape)
    return text.encode("utf-8", "backslashreplace")  # half a surrogate pair becomes \ud800, which JSON allows


class JsonWriter:
    """One object a line, or one array."""

    def __init__(self, stream: BinaryIO, layout: Layout, shape: Callable[[Any, Layout], Mapping[str, Any]]) -> None:
        self._stream = stream
        self._layout = layout
        self._shape = shape
        self._rows = 0

    def write(self, rows: Sequence[Entry]) -> None:
        for row in rows:
            line = json_line(self._shape(row, self._layout))
            if self._layout.array:
                self._stream.write((b",\n" if self._rows else b"[\n") + line)
            else:
                self._stream.write(line + b"\n")
            self._rows += 1

    def finish(self) -> None:
        if self._layout.array:
            self._stream.write(b"\n]\n" if self._rows else b"[]\n")


class CsvWriter:
    """Comma, double quotes, CRLF (RFC 4180); headings are joined by " > ", labels by "/", turns and options are JSON,
    None is an empty cell."""

    def __init__(self, stream: BinaryIO, layout: Layout) -> None:
        self._stream = stream
        self._layout = layout
        if layout.bom:
            stream.write(b"\xef\xbb\xbf")
        names = layout.columns or {name: name for name in COLUMNS}
        self._names = {name: field for field, name in names.items()}  # in the file -> ours
        self._put([list(self._names)])

    def write(self, rows: Sequence[Any]) -> None:
        shaped = (columns(row, self._layout) for row in rows)
        self._put([[self._cell(self._names[name], value) for name, value in row.items()] for row in shaped])

    def finish(self) -> None:
        pass

    def _put(self, lines: Sequence[Sequence[Any]]) -> None:
        text = io.StringIO(newline="")
        # With a bare LF, Python before 3.13 leaves a cell with a CR in it unquoted.
        csv.writer(text, lineterminator="\r\n").writerows(lines)
        self._stream.write(text.getvalue().encode("utf-8", "backslashreplace"))

    @staticmethod
    def _cell(name: str, value: Any) -> Any:
        if isinstance(value, tuple | list):
            value = joined(name, tuple(value)) if name in ("heading_path", "label") else _listed(value)
        if isinstance(value, bool):
            value = "true" if value else "false"
        if isinstance(value, str) and GUARDED.match(value):
            return "'" + value
        return value


def _listed(value: Sequence[Any]) -> str:
    return _ENCODER.encode(value) if value else ""


class ParquetWriter:
    """One row group for each batch, compressed with Zstandard. Raises `UsageError` when pyarrow is not installed."""

    def __init__(self, stream: BinaryIO, layout: Layout) -> None:
        import_pyarrow("the format parquet")
        from pyarrow.parquet import ParquetWriter as Parquet

        self._layout = layout
        self._schema = arrow_schema(layout.columns)
        self._writer = Parquet(stream, self._schema, compression="zstd")

    def write(self, rows: Sequence[Any]) -> None:
        self._writer.write_table(arrow_table(rows, self._layout, self._schema), row_group_size=max(1, len(rows)))

    def finish(self) -> None:
        self._writer.close()


def import_pyarrow(what: str) -> Any:
    """The module. Raises `UsageError` U410 when it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise UsageError(
            f"{what} needs the package pyarrow", hint='pip install "gristmill[parquet]"', code="U410"
        ) from None
    return pyarrow


def arrow_schema(names: Mapping[str, str] | None) -> Any:
    """The typed columns, under the names that are wanted."""
    pyarrow = import_pyarrow("this")
    text = pyarrow.string()
    turn = pyarrow.struct([("role", text), ("content", text), ("reasoning", text)])
    kinds = {
        "str": text, "int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_(),
        "tuple[str, ...]": pyarrow.list_(text), "tuple[Turn, ...]": pyarrow.list_(turn),
    }  # fmt: skip
    return pyarrow.schema([((names or {}).get(name, name), kinds[TYPES[name]]) for name in names or COLUMNS])


def arrow_table(rows: Sequence[Any], layout: Layout, schema: Any) -> Any:
    """Rows as one Arrow table."""
    shaped = [columns(row, layout) for row in rows]
    cells = {name: [_sound(row[name]) for row in shaped] for name in schema.names}
    return import_pyarrow("this").table(cells, schema=schema)


def _sound(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # Arrow refuses half a surrogate pair
    if isinstance(value, dict):
        return {name: _sound(part) for name, part in value.items()}
    return [_sound(part) for part in value] if isinstance(value, tuple | list) else value
