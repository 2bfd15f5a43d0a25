"""Answers on disk: whole records are replayed, half ones are kept aside."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gristmill.llm.entries import Entry
from gristmill.llm.ledger import Ledger
from gristmill.llm.spool import Spool


def entry(number: int) -> Entry:
    return Entry(bytes([number]) * 32, uuid.uuid4(), uuid.uuid4(), "openai", "m", run=1, tokens_in=number)


def write(folder: Path, *numbers: int) -> Path:
    """A spool file of a process that is gone."""
    spool = Spool(folder)
    for number in numbers:
        spool.append(entry(number).to_json(), f"body {number}".encode())
    spool.close()
    (path,) = folder.glob("*.calls")
    return path


def test_an_entry_survives_the_way_to_disk_and_back() -> None:
    assert Entry.from_json(entry(3).to_json()).key == b"\x03" * 32
    first = entry(4)
    assert Entry.from_json(first.to_json()) == first


async def test_what_others_left_is_replayed_and_then_removed(
    pool: Any, tmp_path: Path, open_ledger: Callable[..., Ledger]
) -> None:
    write(tmp_path, 1, 2)
    await open_ledger(spool=tmp_path).start()
    rows = await pool.fetch("SELECT response, tokens_in, state FROM call ORDER BY key")
    assert [tuple(row) for row in rows] == [(b"body 1", 1, "ok"), (b"body 2", 2, "ok")]
    assert list(os.scandir(tmp_path)) == []


async def test_a_record_cut_by_a_crash_is_kept_aside_and_the_ones_before_it_are_replayed(
    pool: Any, tmp_path: Path, open_ledger: Callable[..., Ledger]
) -> None:
    path = write(tmp_path, 1, 2)
    os.truncate(path, path.stat().st_size - 3)
    await open_ledger(spool=tmp_path).start()
    assert await pool.fetchval("SELECT array_agg(response) FROM call") == [b"body 1"]
    assert [one.name for one in os.scandir(tmp_path)] == [path.with_suffix(".damaged").name]


async def test_the_file_of_a_living_process_is_left_alone(
    pool: Any, tmp_path: Path, open_ledger: Callable[..., Ledger]
) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom gristmill.llm.spool import Spool\n"
        "from tests.llm.test_spool import entry\n"
        "spool = Spool(Path(sys.argv[1]))\nspool.append(entry(1).to_json(), b'theirs')\nprint('ready', flush=True)\n"
        "sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    await open_ledger(spool=tmp_path).start()
    assert await pool.fetchval("SELECT count(*) FROM call") == 0
    other.kill()
    other.wait()
    other.stdin.close()
    other.stdout.close()
    await open_ledger(spool=tmp_path).start()
    assert await pool.fetchval("SELECT response FROM call") == b"theirs"
