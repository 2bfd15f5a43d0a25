"""Programs that mean harm: a clear failure, and nothing of them left."""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gristmill.errors import InputError, TaskError, TransientError
from gristmill.packs.capture import Capture, Redaction
from gristmill.packs.output import LONGEST_TEXT, Unparsable, parse
from gristmill.packs.relatives import Process, memory_of
from gristmill.testing import MemoryBlobs
from tests.packs.conftest import Load, run
from tests.packs.test_actions import kept
from tests.packs.test_yaml_text import BILLION


def living(mark: str) -> list[int]:
    """Pids of the processes whose command line holds a mark."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in command:
                found.append(int(name))
    return found


async def fails(load: Load, program: str, kind: type[TaskError], code: str, **told: Any) -> TaskError:
    with pytest.raises(kind) as caught:
        await run(load(program, **told))
    assert caught.value.code == code
    return caught.value


# They double every 30 ms or so; what they could come to is bounded, so that a fault of ours does not stop the machine.
BOMBS = {
    "shell": "bomb() { sleep 0.03; test $1 -lt 8 || sleep 30; bomb $(($1 + 1)) & bomb $(($1 + 1)) & wait; }; bomb 0",
    "sessions": "import os, time\nfor n in range(8):\n    os.fork() or os.setsid()\n    time.sleep(0.03)\n"
    "time.sleep(30)",
}


@pytest.mark.parametrize("kind", list(BOMBS))
async def test_a_fork_bomb_ends_at_its_limit_of_processes(load: Load, kind: str) -> None:
    mark = f"bomb-{secrets.token_hex(4)}"
    told: dict[str, Any] = {"runner": "python", "entry": "do.py"} if kind == "sessions" else {}
    error = await fails(
        load, BOMBS[kind], InputError, "K206", limits={"processes": 24}, ref=mark.replace("-", "_"), **told
    )
    assert "24 processes" in error.message
    assert living(mark.replace("-", "_")) == []


async def test_what_flees_its_session_and_its_parent_is_ended_too(load: Load) -> None:
    mark = f"fled_{secrets.token_hex(4)}"
    program = f"(setsid sh -c 'exec sleep 61.{int(mark[5:], 16)}' > /dev/null 2>&1 &) ; echo started"
    found = await run(load(program, ref=mark))
    assert found.stdout == "started\n"
    assert living(f"61.{int(mark[5:], 16)}") == []


@pytest.mark.parametrize("size", [30_000_000, pytest.param(1_000_000_000, marks=pytest.mark.thorough)])
async def test_a_gigabyte_of_text_is_cut_with_a_mark_and_the_ends_are_kept(load: Load, size: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    blobs = MemoryBlobs()
    found = await run(load(f"echo first; head -c {size} /dev/zero; echo last", timeout=100), blobs)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 64 * 2**20
    assert found.truncated == ("stdout",)
    assert found.stdout.startswith("first\n")
    assert "[truncated: " in found.stdout
    assert len(found.model_dump_json()) < 2**20
    raw = await blobs.read(found.stdout_blob)
    assert raw.startswith(b"first\n")
    assert raw.endswith(b"last\n")
    assert f"[truncated: {size - 1_048_565:,} bytes are left out here]".encode() in raw
    assert len(raw) < 2**20 + 100


async def test_structured_output_over_the_limit_fails_and_its_ends_are_kept(load: Load) -> None:
    blobs = MemoryBlobs()
    with pytest.raises(TransientError, match="3,000,002 bytes") as caught:
        await run(load("printf '\"'; head -c 3000000 /dev/zero | tr '\\0' x; printf '\"'", output="json"), blobs)
    assert caught.value.code == "K205"
    assert b"[truncated: " in await kept(caught.value, blobs)
    with pytest.raises(InputError) as large:  # under the limit of output, over that of a record
        await run(
            load(
                "printf '\"'; head -c 1100000 /dev/zero | tr '\\0' x; printf '\"'", output="json", limits={"output": 2}
            )
        )
    assert large.value.code == "T601"


async def test_binary_output_is_text_that_can_be_stored(load: Load) -> None:
    blobs = MemoryBlobs()
    found = await run(load("head -c 400000 /dev/urandom; head -c 400000 /dev/urandom >&2"), blobs)
    assert "\0" not in found.stdout
    assert len(found.model_dump_json()) < 2**20
    assert "stderr" in found.truncated
    assert len(await blobs.read(found.stderr_blob)) == 400_000


async def test_output_after_the_end_is_not_waited_for(load: Load) -> None:
    program = "(sleep 0.05; echo soon; sleep 30; echo never) & echo now"
    began = asyncio.get_running_loop().time()
    found = await run(load(program, timeout=25))
    assert found.stdout == "now\nsoon\n"
    assert asyncio.get_running_loop().time() - began < 15


@pytest.mark.parametrize(
    ("program", "limits", "kind", "code"),
    [
        ("exec tail /dev/zero", {"memory": 256}, TransientError, "K201"),  # refused by the kernel: no address space
        ("for i in 1 2 3; do head -c 150000000 /dev/zero | tail -c 150000000 | sleep 30 & done; wait",
         {"memory": 256}, InputError, "K207"),
        ("while :; do :; done", {"cpu": 1}, TransientError, "K202"),
        ("head -c 5000000 /dev/zero > large; echo $?", {"file_size": 1}, None, ""),
    ],
    ids=["memory", "memory together", "cpu", "file"],
)  # fmt: skip
async def test_memory_time_and_files_are_bounded(
    load: Load, program: str, limits: dict[str, int], kind: type[TaskError] | None, code: str
) -> None:
    made = load(program, limits=limits)
    if kind is None:
        assert (await run(made)).stdout.strip() != "0"
        return
    with pytest.raises(kind) as caught:
        await run(made)
    assert caught.value.code == code


async def test_memory_that_processes_share_counts_once(load: Load) -> None:
    program = """
import os, time
held = bytearray(100 * 2**20)
for n in range(6):
    if os.fork() == 0:
        time.sleep(0.6)
        os._exit(0)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
print(len(held))
"""
    found = await run(load(program, runner="python", entry="do.py", limits={"memory": 300}))
    assert found.stdout == f"{100 * 2**20}\n"


def test_memory_of_a_process_that_has_just_ended_does_not_count() -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table
    listed = Process(ended.pid, os.getpid(), ended.pid, zombie=False, memory=400 * 2**20)
    assert memory_of([listed], 300 * 2**20) == 0
    ended.wait()
    assert memory_of([listed], 300 * 2**20) == 0


async def test_a_program_that_ignores_sigterm_is_killed(load: Load) -> None:
    mark = f"deaf_{secrets.token_hex(4)}"
    program = f"trap '' TERM; while :; do sleep 0.{int(mark[5:], 16)}; done"
    await fails(load, program, TransientError, "K203", timeout=0.2, ref=mark)
    assert living(mark) == []


async def test_a_cancelled_attempt_leaves_nothing_behind(load: Load) -> None:
    mark = f"gone_{secrets.token_hex(4)}"
    attempt = asyncio.create_task(run(load("sleep 60 & sleep 60", ref=mark)))
    while not living(mark):
        await asyncio.sleep(0.01)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    assert living(mark) == []


async def test_a_program_cannot_gain_rights_nor_leave_a_core_file(load: Load) -> None:
    found = await run(load("grep NoNewPrivs /proc/self/status; ulimit -c; ulimit -H -c; umask"))
    assert found.stdout.split() == ["NoNewPrivs:", "1", "0", "0", "0077"]


async def test_it_inherits_no_open_file_of_ours(load: Load, tmp_path: Path) -> None:
    with (tmp_path / "ours").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        found = await run(load("ls /proc/self/fd"))
    assert len(found.stdout.split()) == 4  # the three, and the folder that `ls` reads


def test_nine_lines_do_not_become_a_billion() -> None:
    with pytest.raises(Unparsable, match="aliases"):
        parse("yaml", BILLION.encode())


@pytest.mark.parametrize("size", [0, 10, 99, 100, 101, 1000, 5000])
def test_a_capture_keeps_the_beginning_and_the_end_in_bounded_memory(size: int) -> None:
    data = bytes(n % 251 for n in range(size))
    for step in (1, 7, 64, 4096):
        capture = Capture(100)
        for start in range(0, size, step):
            capture.feed(data[start : start + step])
        text = capture.read(Redaction())
        assert capture.seen == size
        assert capture.truncated == (size > 100)
        assert len(text) <= 100 + 60
        assert text == data if size <= 100 else text.startswith(data[:75]) and text.endswith(data[-25:])


def test_a_secret_is_hidden_where_the_cut_goes_through_it() -> None:
    hide = Redaction(["correct horse battery"])
    for before in range(60, 90):
        capture = Capture(100, hide.edge)
        capture.feed(
            b"-" * before + b"correct horse battery" + b"+" * 300 + b"correct horse battery" + b"=" * (90 - before)
        )
        text = capture.read(hide)
        assert b"horse" not in text
        assert not any(text[n : n + 6] in (b"correc", b"attery") for n in range(len(text)))


def test_the_text_of_a_record_always_fits_into_it() -> None:
    from gristmill.packs.output import fitting

    for text in ("\x01" * 700_000, "ü" * 700_000, '"' * 700_000, "x" * 700_000):
        cut, was_cut = fitting(text)
        assert was_cut
        assert "[truncated: " in cut
        assert len(repr(cut)) > 1000
        assert len(cut.encode()) <= LONGEST_TEXT
