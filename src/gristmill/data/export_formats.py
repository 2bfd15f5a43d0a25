"""The formats that rows can be written in, as a table: name, suffixes, description and writer; and what may be asked of
an export."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from gristmill.data import export_shapes as shapes
from gristmill.data.export_shapes import Layout, Reasoning
from gristmill.data.export_writers import CsvWriter, JsonWriter, ParquetWriter, Writer
from gristmill.data.filter import parse_filter
from gristmill.data.rows import COLUMNS, FILTER_COLUMNS
from gristmill.errors import UsageError

_SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Format:
    """One entry of the table. `suffixes` are those the format may be guessed from or is written to, the usual first."""

    name: str
    suffixes: tuple[str, ...]  # empty: a folder
    description: str
    open: Callable[[BinaryIO, Layout], Writer]
    inferred: bool = False  # a path with one of the suffixes is enough to choose it
    array_suffix: str = ""  # with this suffix the file is one JSON array
    reasoning: Reasoning = "inline"  # where the chain of thought goes unless somebody says
    pairs: bool = False  # an entry is a pair of rows
    columned: bool = False  # it has columns, which may be chosen and renamed
    bundle: bool = False  # a folder
    rows: tuple[str, ...] = ()  # of a bundle: the formats that its rows may have, the usual first
    file: str = ""  # of a bundle: name of its data file


@dataclass(frozen=True, slots=True)
class Options:
    """What may be asked of an export, beyond path and format."""

    where: str | None = None  # a filter, as in filter.py
    columns: Mapping[str, str] | None = None  # column -> name in the file: only those are written
    reasoning: Reasoning | None = None  # None: as the format has it
    split: Mapping[str, float] | None = None  # name -> share; shares are made to sum up to 1
    seed: int = 0  # decides which document goes to which split
    balance: int | None = None  # rows of one label at most: the first ones
    lineage: bool = True  # with `metadata`, where the format has it
    left_out: bool = False  # with what duplicates and rejections leave out; the column left_out says why
    reviewed: bool = False  # only what a person has accepted or edited
    rows: str | None = None  # of a bundle: the format of its rows
    bom: bool = False  # CSV: a byte order mark, which Excel needs to read UTF-8
    language: str = ""  # that the reasoning is in; only thinking-messages says so. Of a run: the settings'

    def check(self, format: Format) -> None:
        """Raises `UsageError` U412 for what does not go together, U420 for a filter that cannot be read."""
        if self.where is not None:
            parse_filter(self.where, FILTER_COLUMNS)
        inner = row_format(format, self)
        if self.bom and inner.name != "csv":
            raise _wrong(f"a byte order mark is for csv; the format is {inner.name}")
        if self.rows and not format.bundle:
            raise _wrong(f"{format.name} is a file: only a bundle has rows of another format")
        if self.columns is not None:
            _check_columns(self.columns, inner)
        if self.reasoning not in (None, "field", "inline", "drop"):
            raise _wrong(f"reasoning={self.reasoning!r} is not known", "field, inline or drop")
        if self.reasoning == "field" and inner.pairs:
            raise _wrong(f"{inner.name} has no field for reasoning", "inline or drop")
        if self.reasoning == "inline" and inner.name == "thinking-messages":
            raise _wrong("thinking-messages has a field for reasoning", "field or drop")
        if self.balance is not None and self.balance < 1:
            raise _wrong(f"balance={self.balance}: at least 1 row a label")
        for name, share in (self.split or {}).items():
            if not _SPLIT_NAME.fullmatch(name):
                raise _wrong(f'"{name}" cannot be the name of a split', "letters, digits and _; a letter first")
            if not (math.isfinite(share) and share > 0):
                raise _wrong(f"the share of {name} is {share}; it has to be more than 0")


def _check_columns(columns: Mapping[str, str], format: Format) -> None:
    if not format.columned:
        raise _wrong(f"{format.name} has names of its own; columns are chosen in jsonl, csv and parquet")
    for name in columns:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"columns: {', '.join(COLUMNS)}"
            raise _wrong(f'there is no column "{name}"', hint)
    names = list(columns.values())
    if not names or not all(names) or len(set(names)) < len(names):
        raise _wrong("each column needs a name of its own")


def _wrong(message: str, hint: str = "") -> UsageError:
    return UsageError(message, code="U412", hint=hint, safe="nothing was written")


def layout_of(format: Format, options: Options, *, array: bool = False) -> Layout:
    """How the files of an export are laid out."""
    inner = row_format(format, options)
    return Layout(
        array=array, bom=options.bom, reasoning=options.reasoning or inner.reasoning, lineage=options.lineage,
        columns=options.columns, pictures=format.bundle, language=options.language,
    )  # fmt: skip


def row_format(format: Format, options: Options) -> Format:
    """The format of the rows in its files. Raises `UsageError` for one that the bundle cannot hold."""
    if not format.rows:
        return format
    name = options.rows or format.rows[0]
    if name not in format.rows:
        raise _wrong(f"{format.name} cannot hold rows of the format {name}", f"one of: {', '.join(format.rows)}")
    return FORMATS[name]


def find_format(name: str) -> Format:
    """The format of that name. Raises `UsageError`, with the nearest name."""
    found = FORMATS.get(name.lower().replace("_", "-"))
    if found is None:
        near = difflib.get_close_matches(name.lower(), FORMATS, 1)
        known = f"known: {', '.join(FORMATS)}"
        hint = f'did you mean "{near[0]}"? {known}' if near else known
        raise UsageError(f'there is no export format "{name}"', hint=hint, code="U401")
    return found


def infer_format(path: Path | str, format: str | None = None) -> str:
    """The name of the format: the given one when it exists, else the one the path's suffix means.

    A path without a suffix means jsonl. Raises `UsageError` for an unknown format or suffix.
    """
    if format:
        return find_format(format).name
    suffix = Path(path).suffix.lower()
    if not suffix:
        return "jsonl"
    for entry in FORMATS.values():
        if entry.inferred and suffix in entry.suffixes:
            return entry.name
    fitting = [entry.name for entry in FORMATS.values() if suffix in entry.suffixes] or list(FORMATS)
    raise UsageError(
        f'the name "{Path(path).name}" does not say which format is meant',
        hint=f"name one of: {', '.join(fitting)}",
        code="U402",
    )


def _json(shape: Callable[[Any, Layout], Mapping[str, Any]]) -> Callable[[BinaryIO, Layout], Writer]:
    return partial(JsonWriter, shape=shape)


_LINES = (".jsonl", ".json")
FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            "jsonl", (".jsonl", ".ndjson"), "JSON Lines with every column; the default", _json(shapes.columns),
            inferred=True, reasoning="field", columned=True,
        ),
        Format(
            "alpaca", _LINES, "instruction, input, output, system", _json(shapes.alpaca), array_suffix=".json",
        ),
        Format(
            "sharegpt", _LINES, "conversations of from and value", _json(shapes.sharegpt), array_suffix=".json",
        ),
        Format("messages", _LINES, "messages of role and content", _json(shapes.messages), array_suffix=".json"),
        Format(
            "thinking-messages", _LINES, "messages of role, content and thinking; analysis and final beside them",
            _json(shapes.thinking_messages), array_suffix=".json", reasoning="field",
        ),
        Format(
            "prompt-completion", _LINES, "prompt and completion", _json(shapes.prompt_completion),
            array_suffix=".json",
        ),
        Format(
            "preference", _LINES, "prompt, chosen and rejected: two answers to a question, by score",
            _json(shapes.preference), array_suffix=".json", pairs=True,
        ),
        Format(
            "csv", (".csv",), "comma-separated values for spreadsheets", CsvWriter, inferred=True, reasoning="field",
            columned=True,
        ),
        Format(
            "parquet", (".parquet",), "Apache Parquet, typed columns; needs pyarrow", ParquetWriter, inferred=True,
            reasoning="field", columned=True,
        ),
        Format(
            "llava", (), "a folder: data.json of image and conversations, and the pictures", _json(shapes.llava),
            bundle=True, file="data.json",
        ),
        Format(
            "image-messages", (), "a folder: data.jsonl of messages with image parts, and the pictures",
            _json(shapes.image_messages), bundle=True, file="data.jsonl",
        ),
        Format(
            "llama-factory", (), "a folder: data, pictures and dataset_info.json, as LLaMA-Factory reads it",
            _json(shapes.sharegpt), bundle=True, file="data.jsonl",
            rows=("sharegpt", "alpaca", "messages", "preference"),
        ),
        Format(
            "huggingface", (), "a folder: a data card (README.md), and one Parquet or JSONL file a split",
            ParquetWriter, bundle=True, rows=(
                "parquet", "jsonl", "messages", "sharegpt", "alpaca", "prompt-completion", "preference",
                "thinking-messages",
            ),
        ),
    )
}  # fmt: skip
