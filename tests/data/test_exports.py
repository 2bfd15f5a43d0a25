from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.export_formats import FORMATS, Options
from gristmill.data.export_shapes import Layout, columns
from gristmill.data.export_writers import JsonWriter
from gristmill.data.exports import Manifest, Row, Written, export, find_format, infer_format
from gristmill.data.rows import COLUMNS, LINEAGE
from gristmill.errors import EnvironmentProblem, UsageError

ROW = Row(
    question="What opens first?",
    answer='The "inlet", always.\nThen the rest; see 水泵 👍.',
    quote="the inlet valve opens",
    record_id="0198f",
    source="manuals/pump.pdf",
    title="Pump, a manual",
    chunk="First,\r\nthe inlet valve opens.",
    page_start=3,
    page_end=4,
    start=100,
    end=130,
    evidence_start=108,
    evidence_end=129,
    heading_path=("Pumps", "Starting"),
    run="handbook",
    model="openai:gpt-4.1-mini",
    work="ab12",
)
BARE = Row(question="Why?", answer="Because.")
FILES = sorted(name for name, format in FORMATS.items() if not format.bundle)
LISTS = {"heading_path": ["Pumps", "Starting"], "turns": [], "label": [], "options": []}
LINE_BREAKERS = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh\ni"


async def rows_of(rows: Iterable[Row]) -> AsyncIterator[Row]:
    for row in rows:
        yield row


async def written(path: Path, format: str, *rows: Row, **options: Any) -> tuple[Manifest, bytes]:
    manifest = await export(rows_of(rows), path, format, Options(**options))
    return manifest, await asyncio.to_thread(path.read_bytes)


def read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def files_in(folder: Path) -> list[str]:
    """But for the manifests, which stand beside each file."""
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".manifest.json"))


@pytest.mark.parametrize("format", FILES)
async def test_the_manifest_tells_what_is_in_the_file(tmp_path: Path, format: str) -> None:
    path = tmp_path / "new" / "folder" / f"data{FORMATS[format].suffixes[0]}"
    manifest, data = await written(path, format, replace(ROW, score=4.0), replace(ROW, score=2.0, answer="No."))
    rows, digest = 1 if FORMATS[format].pairs else 2, hashlib.sha256(data).hexdigest()
    file = Written(path.name, rows, len(data), digest)
    assert manifest == Manifest(path, format, rows, len(data), digest, (file,))
    assert files_in(path.parent) == [path.name]
    stored = json.loads((path.parent / f"{path.name}.manifest.json").read_text("utf-8"))
    assert (stored["rows"], stored["files"][0]["sha256"]) == (rows, digest)


@pytest.mark.parametrize("format", FILES)
async def test_the_same_rows_give_the_same_bytes(tmp_path: Path, format: str) -> None:
    one, _ = await written(tmp_path / "one", format, ROW, BARE)
    two, _ = await written(tmp_path / "two", format, ROW, BARE)
    assert one.sha256 == two.sha256


async def test_jsonl_holds_every_column_of_every_row(tmp_path: Path) -> None:
    _, data = await written(tmp_path / "data.jsonl", "jsonl", ROW, BARE)
    objects = [json.loads(line) for line in data.decode().splitlines()]
    assert [list(entry) for entry in objects] == [list(COLUMNS)] * 2
    assert objects[0] == {**asdict(ROW), **LISTS}
    assert objects[1]["page_start"] is None
    assert "水泵 👍" in data.decode()


async def test_alpaca_has_its_four_fields_and_the_lineage(tmp_path: Path) -> None:
    _, data = await written(tmp_path / "data.jsonl", "alpaca", ROW)
    entry = json.loads(data)
    metadata = entry.pop("metadata")
    assert entry == {"instruction": ROW.question, "input": "", "output": ROW.answer, "system": ""}
    assert list(metadata) == list(LINEAGE)
    assert (metadata["source"], metadata["page_start"], metadata["start"]) == ("manuals/pump.pdf", 3, 100)
    assert (metadata["heading_path"], metadata["record_id"]) == (["Pumps", "Starting"], "0198f")


async def test_sharegpt_has_from_and_value(tmp_path: Path) -> None:
    _, data = await written(tmp_path / "data.jsonl", "sharegpt", ROW)
    entry = json.loads(data)
    assert entry["conversations"] == [
        {"from": "human", "value": ROW.question},
        {"from": "gpt", "value": ROW.answer},
    ]
    assert entry["metadata"]["model"] == ROW.model
    assert set(entry) == {"conversations", "metadata"}


async def test_messages_has_role_and_content(tmp_path: Path) -> None:
    _, data = await written(tmp_path / "data.jsonl", "messages", ROW)
    entry = json.loads(data)
    assert entry["messages"] == [
        {"role": "user", "content": ROW.question},
        {"role": "assistant", "content": ROW.answer},
    ]
    assert entry["metadata"]["evidence_end"] == 129


@pytest.mark.parametrize("format", ["alpaca", "sharegpt", "messages"])
@pytest.mark.parametrize("rows", [(), (ROW,), (ROW, BARE)])
async def test_a_path_that_ends_in_json_is_one_array(tmp_path: Path, format: str, rows: tuple[Row, ...]) -> None:
    _, data = await written(tmp_path / "data.JSON", format, *rows)
    assert len(json.loads(data)) == len(rows)
    _, lines = await written(tmp_path / "data.jsonl", format, *rows)
    assert [json.loads(line) for line in lines.splitlines()] == json.loads(data)


@pytest.mark.parametrize("format", ["jsonl", "alpaca", "sharegpt", "messages"])
async def test_no_character_in_a_row_breaks_a_line(tmp_path: Path, format: str) -> None:
    _, data = await written(tmp_path / "d.jsonl", format, replace(ROW, question=LINE_BREAKERS), BARE)
    lines = data.decode().splitlines()
    assert len(lines) == 2
    assert LINE_BREAKERS in _strings(json.loads(lines[0]))


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for part in inner for text in _strings(part)]


@settings(max_examples=200)
@given(st.lists(st.text(st.characters(), max_size=20), max_size=5))
def test_every_line_parses_whatever_the_text(texts: list[str]) -> None:
    stream = io.BytesIO()
    writer = JsonWriter(stream, Layout(), columns)
    writer.write([Row(question=text, answer=text) for text in texts])
    writer.finish()
    lines = stream.getvalue().decode().splitlines()
    assert [json.loads(line)["question"] for line in lines] == texts


async def test_csv_reads_back_as_it_was(tmp_path: Path) -> None:
    row = replace(ROW, answer="a, \"b\"\nc\r\nd; 'e' " + LINE_BREAKERS)
    _, data = await written(tmp_path / "data.csv", "csv", row, BARE)
    header, first, second = list(csv.reader(io.StringIO(data.decode(), newline="")))
    assert header == list(COLUMNS)
    read = dict(zip(header, first, strict=True))
    assert read["answer"] == row.answer
    assert read["chunk"] == row.chunk
    assert read["heading_path"] == "Pumps > Starting"
    assert read["page_start"] == "3"
    assert dict(zip(header, second, strict=True))["quote"] == ""


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
async def test_csv_guards_cells_that_a_spreadsheet_would_run(tmp_path: Path, cell: str) -> None:
    row = replace(BARE, answer=cell, heading_path=(cell, "x"))
    _, data = await written(tmp_path / "data.csv", "csv", row)
    header, line = list(csv.reader(io.StringIO(data.decode(), newline="")))
    read = dict(zip(header, line, strict=True))
    assert read["answer"] == "'" + cell
    assert read["heading_path"] == f"'{cell} > x"


async def test_csv_starts_with_a_byte_order_mark_only_when_asked(tmp_path: Path) -> None:
    _, with_mark = await written(tmp_path / "one.csv", "csv", ROW, bom=True)
    _, without = await written(tmp_path / "two.csv", "csv", ROW)
    assert with_mark == b"\xef\xbb\xbf" + without
    with pytest.raises(UsageError, match="csv"):
        await export(rows_of([ROW]), tmp_path / "x.jsonl", "jsonl", Options(bom=True))


async def test_parquet_has_typed_columns_and_a_row_group_for_each_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet

    monkeypatch.setattr("gristmill.data.exports.BATCH_ROWS", 2)
    path = tmp_path / "data.parquet"
    await export(rows_of([ROW, BARE, ROW, BARE, ROW]), path, "parquet")
    read = read_parquet(path)
    assert read[0] == {**asdict(ROW), **LISTS}
    assert read[1] == {**asdict(BARE), **LISTS, "heading_path": []}
    assert len(read) == 5
    file = pyarrow.parquet.ParquetFile(path)
    assert file.num_row_groups == 3
    types = {name: str(kind) for name, kind in zip(file.schema_arrow.names, file.schema_arrow.types, strict=True)}
    assert list(types) == list(COLUMNS)
    assert (types["question"], types["page_end"], types["evidence_start"]) == ("string", "int64", "int64")
    assert types["heading_path"].startswith("list<")


async def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError) as caught:
        await export(rows_of([ROW]), tmp_path / "data.parquet", "parquet")
    assert 'pip install "gristmill[parquet]"' in caught.value.hint
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("format", FILES)
async def test_no_rows_make_a_file_that_can_be_read(tmp_path: Path, format: str) -> None:
    manifest, data = await written(tmp_path / "data", format)
    assert manifest.rows == 0
    if format == "parquet":
        assert read_parquet(tmp_path / "data") == []
    else:
        assert data.decode() == (",".join(COLUMNS) + "\r\n" if format == "csv" else "")


async def test_half_of_a_surrogate_pair_stops_no_export(tmp_path: Path) -> None:
    row = replace(BARE, answer="a\ud83dz")
    _, data = await written(tmp_path / "a.jsonl", "jsonl", row)
    assert json.loads(data)["answer"] == "a\ud83dz"
    for format in ("csv", "parquet"):
        assert (await written(tmp_path / format, format, row))[0].rows == 1


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        find_format("sharegtp")
    assert 'did you mean "sharegpt"?' in caught.value.hint
    with pytest.raises(UsageError) as caught:
        find_format("xyzzy")
    assert all(name in caught.value.hint for name in FORMATS)


@pytest.mark.parametrize(
    ("path", "format", "expected"),
    [
        ("a.jsonl", None, "jsonl"),
        ("a.NDJSON", None, "jsonl"),
        ("a.csv", None, "csv"),
        ("b/a.Parquet", None, "parquet"),
        ("a", None, "jsonl"),
        ("a.json", "alpaca", "alpaca"),
        ("a.txt", "CSV", "csv"),
    ],
)
def test_the_format_follows_the_suffix_unless_it_is_named(path: str, format: str | None, expected: str) -> None:
    assert infer_format(path, format) == expected


def test_a_suffix_that_fits_several_formats_or_none_must_be_named() -> None:
    with pytest.raises(UsageError) as caught:
        infer_format("a.json")
    assert (
        caught.value.hint == "name one of: alpaca, sharegpt, messages, thinking-messages, prompt-completion, preference"
    )
    with pytest.raises(UsageError):
        infer_format("a.xlsx")
    with pytest.raises(UsageError):
        infer_format("a.jsonl", "nonsense")


async def test_a_folder_or_something_below_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        await export(rows_of([ROW]), tmp_path)
    (tmp_path / "file").write_text("good")
    with pytest.raises(UsageError, match="not a folder"):
        await export(rows_of([ROW]), tmp_path / "file" / "data.jsonl")
    with pytest.raises(UsageError, match="regular file"):
        await export(rows_of([ROW]), "/dev/null")
    for odd in ("a\0b", str(tmp_path / ("x" * 300))):
        with pytest.raises(UsageError):
            await export(rows_of([ROW]), odd)
    assert files_in(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "good"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EnvironmentProblem, match="may not be written to"):
        asyncio.run(export(rows_of([ROW]), tmp_path / "data.jsonl"))


@pytest.mark.parametrize("format", FILES)
async def test_rows_that_break_off_leave_the_earlier_file_as_it_was(tmp_path: Path, format: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"good")

    async def broken() -> AsyncIterator[Row]:
        for _ in range(20_000):
            yield ROW
        raise ConnectionResetError("the database went away")

    with pytest.raises(ConnectionResetError, match="the database went away"):
        await export(broken(), path, format)
    assert path.read_bytes() == b"good"
    assert files_in(tmp_path) == ["data"]


@pytest.mark.parametrize("format", FILES)
async def test_a_cancelled_export_leaves_nothing_behind(tmp_path: Path, format: str) -> None:
    started = asyncio.Event()

    async def endless() -> AsyncIterator[Row]:
        while True:
            yield ROW
            started.set()
            await asyncio.sleep(0)

    running = asyncio.create_task(export(endless(), tmp_path / "data", format))
    await started.wait()
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert files_in(tmp_path) == []


FULL_DISK = """
import asyncio, os, resource, sys
from gristmill.data.exports import Row, export
from gristmill.errors import EnvironmentProblem

async def rows():
    for number in range(200_000):
        yield Row(question=f"{number // 2}", answer=os.urandom(500).hex(), score=number)

resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    asyncio.run(export(rows(), sys.argv[1], sys.argv[2]))
except EnvironmentProblem as error:
    assert "could not be written" in error.message and "unchanged" in error.safe, error
    sys.exit(3)
"""


@pytest.mark.parametrize("format", ["jsonl", "preference", "csv", "parquet", "huggingface"])
def test_a_full_disk_is_reported_and_the_earlier_file_is_as_it_was(tmp_path: Path, format: str) -> None:
    path = tmp_path / "data"
    if format == "huggingface":
        path = tmp_path / "data" / "data"
        path.parent.mkdir()
    else:
        path.write_bytes(b"good")
    ended = subprocess.run([sys.executable, "-c", FULL_DISK, path, format], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (3, "")
    if format == "huggingface":
        assert files_in(path.parent) == []
        return
    assert path.read_bytes() == b"good"
    assert files_in(tmp_path) == ["data"]


async def test_an_export_replaces_the_file_behind_a_link_and_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link.jsonl").symlink_to("real")
    manifest = await export(rows_of([ROW]), tmp_path / "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "real").stat().st_size == manifest.bytes


async def test_a_new_file_has_the_usual_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        await export(rows_of([ROW]), tmp_path / "data.jsonl")
    finally:
        os.umask(before)
    assert (tmp_path / "data.jsonl").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("format", ["jsonl", "alpaca", "csv"])
async def test_memory_does_not_grow_with_the_rows(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gristmill.data.exports.BATCH_ROWS", 100)

    async def many(count: int) -> AsyncIterator[Row]:
        for number in range(count):
            yield replace(ROW, chunk=f"{number:04d}" * 250)

    peaks = []
    for count in (300, 1_500):
        tracemalloc.start()
        await export(many(count), tmp_path / "data", format)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5


async def test_an_export_does_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    delays: list[float] = []

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.005)
            delays.append(loop.time() - before)

    async def many() -> AsyncIterator[Row]:
        for _ in range(30_000):
            yield ROW
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    await export(many(), tmp_path / "data.jsonl")
    watching.cancel()
    assert max(delays) < 1.0


def test_the_reference_lists_exactly_the_registered_formats() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "formats.md"
    table = [line.split("|") for line in page.read_text("utf-8").splitlines() if line.startswith("| `")]
    listed = {cells[1].strip().strip("`"): cells for cells in table if len(cells) == 6}
    assert list(listed) == list(FORMATS)
    for name, cells in listed.items():
        suffixes = ", ".join(f"`{suffix}`" for suffix in FORMATS[name].suffixes)
        reasoning = "as its rows" if FORMATS[name].rows else FORMATS[name].reasoning
        assert [cell.strip() for cell in cells[2:5]] == [suffixes, FORMATS[name].description, reasoning]


def test_the_reference_lists_exactly_the_columns() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "formats.md"
    table = [line.split("|") for line in page.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert [cells[1].strip().strip("`") for cells in table if len(cells) == 4] == list(COLUMNS)
