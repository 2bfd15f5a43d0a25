"""Lines of logs: what they know, how they look, where they go, and what is never in them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gristmill import logs
from gristmill.crew import log_files

KEY = "kq-7Yt2-canary-0451"


def said(code: str, *arguments: str, **environment: str) -> list[str]:
    """What a process of its own logs, for `set_up` is for whole processes."""
    start = "import logging, sys\nfrom pathlib import Path\nfrom gristmill import logs\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{start}{code}", *arguments],
        capture_output=True, text=True, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    return done.stderr.splitlines()


def test_a_line_is_json_with_what_was_bound_where_it_was_logged() -> None:
    lines = said(
        "logs.set_up()\nlog = logging.getLogger('gristmill.worker')\nlogs.bind(worker='w-1')\n"
        "with logs.bound(run=3, item=None, task=5, attempt=1): log.warning('lost %d', 7, extra={'size': 2})\n"
        "log.info('after'); log.debug('never')\n"
        "import structlog; structlog.get_logger('mine').error('direct', a='ü')\n"
    )
    first, second, third = (json.loads(line) for line in lines)
    assert {**first, "timestamp": ""} == {
        "event": "lost 7", "level": "warning", "logger": "gristmill.worker", "timestamp": "", "worker": "w-1", "run": 3,
        "task": 5, "attempt": 1, "size": 2,
    }  # fmt: skip
    assert ("run" in second, second["worker"], "ü" in lines[2], third["event"]) == (False, "w-1", True, "direct")
    assert first["timestamp"].endswith("Z")


async def test_what_is_bound_in_one_task_is_not_in_another() -> None:
    seen: dict[int, object] = {}

    async def work(number: int) -> None:
        logs.bind(task=number)
        await asyncio.sleep(0)
        seen[number] = logs._add_bound(None, "", {})

    await asyncio.gather(*(work(number) for number in range(3)))
    assert seen == {number: {"task": number} for number in range(3)}


def test_no_secret_leaves_by_a_log_whoever_logs_it_and_however(tmp_path: Path) -> None:
    """A key that was read, one of the environment, ones in known forms; in messages, names, values and tracebacks."""
    (tmp_path / "key").write_text(KEY + '"\\x\n')
    code = (
        "from gristmill.llm.model_settings import read_key\nkey = read_key('file:' + sys.argv[1])\n"
        "logs.set_up(as_json=sys.argv[2] == 'json')\nlog = logging.getLogger('x')\n"
        "log.info('the key is %s!', key); log.info('%s', {'api_key': 'abcd-1234', 'b': [key]}, extra={'token': key})\n"
        "log.warning('postgresql://me:pa55-word@db/x Authorization: Bearer abc.def-123456 sk-abcdefghijkl1234')\n"
        "import os; log.info(os.environ['MY_SECRET_TOKEN'])\n"
        "try: raise ValueError('refused: ' + key)\nexcept ValueError: log.exception('call failed')\n"
        "def f(): raise RuntimeError('password=\"in-the-trace\"')\nf()\n"
    )
    for form in ("json", "text"):
        text = "\n".join(said(code, str(tmp_path / "key"), form, MY_SECRET_TOKEN="from-the-environment"))
        for secret in ("canary", "abcd-1234", "pa55", "def-123456", "sk-abc", "from-the-environment", "in-the-trace"):
            assert secret not in text, (form, secret, text)
        for kept in ("the key is", "refused: ", "@db/x", "RuntimeError"):
            assert kept in text, (form, kept, text)


@pytest.mark.parametrize(
    "text",
    ["the task 12 (ask) failed: no key", 'key = "env:OPENAI_API_KEY"', "password: none", "tokens: 1200", "token 5 of 7",
     "https://example.org/a:b@c", "secretary=anna", "`secret:NAME`, never the key", '{"secret":null,"n":5}'],
)  # fmt: skip
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert logs.redact(text) == text


@pytest.mark.parametrize("value", ["name-of-a-dog", "true-blue", "null.and.void", "NAMELESS-1"])
def test_a_secret_that_begins_like_a_word_that_is_none_is_hidden(value: str) -> None:
    assert logs.redact(f"password={value}") == "password=[secret]"


def test_on_a_terminal_lines_are_coloured_text(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import io\nclass Terminal(io.StringIO):\n    def isatty(self): return True\n"
        "at = Terminal(); logs.set_up(at)\nlogging.getLogger('mill').error('crushed %s', 'grain')\n"
        "sys.stderr.write(repr(at.getvalue()))"
    )
    (coloured,) = said(code, NO_COLOR="")
    (plain,) = said(code, NO_COLOR="1")
    assert "\\x1b[" in coloured
    assert "\\x1b[" not in plain
    assert "crushed grain" in plain
    with pytest.raises(ValueError, match="loud"):
        logs.set_up(io.StringIO(), level="loud")


def test_files_are_turned_over_with_all_that_is_printed_and_no_line_is_lost(tmp_path: Path) -> None:
    """Two processes write into one file, both also past the log."""
    file = tmp_path / "worker.log"
    code = (
        "import os, subprocess\nlogs.MOST = 10_000\nlogs.KEPT = 50\nlogs.set_up(file=Path(sys.argv[1]))\n"
        "log = logging.getLogger('mill')\n"
        "for number in range(250):\n    log.info('line %s-%d %s', sys.argv[2], number, 'x' * 200)\n"
        "    if number % 100 == 0: print(f'printed {sys.argv[2]}-{number}', flush=True)\n"
    )
    command = [
        sys.executable,
        "-c",
        f"import logging, sys\nfrom pathlib import Path\nfrom gristmill import logs\n{code}",
    ]
    both = [subprocess.Popen([*command, str(file), name], cwd=tmp_path) for name in ("a", "b")]
    assert [process.wait(60) for process in both] == [0, 0]
    files = sorted(tmp_path.glob("worker.log*"))
    assert len(files) > 5
    assert all(one.stat().st_size < 15_000 for one in files)
    text = "\n".join(one.read_text() for one in files)
    for name in ("a", "b"):
        assert [number for number in range(250) if f"line {name}-{number} " not in text] == []
        assert all(f"printed {name}-{number}" in text for number in range(0, 250, 100))
    latest = log_files.latest(file, 150)
    assert len(latest) == 150
    assert "-249 " in log_files.for_people(latest[-1])


def test_five_older_files_are_kept(tmp_path: Path) -> None:
    code = (
        "logs.MOST = 2_000\nlogs.set_up(file=Path(sys.argv[1]))\n"
        "for number in range(200): logging.getLogger('mill').info('line %d %s', number, 'x' * 100)\n"
    )
    said(code, str(tmp_path / "worker.log"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["worker.log", *(f"worker.log.{n}" for n in range(1, 6))]


def test_new_lines_are_followed_through_a_turn(tmp_path: Path) -> None:
    file = tmp_path / "worker.log"
    file.write_text("old\n")
    follower = log_files.Follower(file)
    assert follower.newer() == []
    with file.open("a") as lines:
        lines.write("one\ntwo\nhal")
    assert follower.newer() == ["one", "two"]
    file.rename(tmp_path / "worker.log.1")
    file.write_text('{"event": "three", "timestamp": "2026-01-01T00:00:00.000000Z", "level": "info", "run": 4}\n')
    (line,) = follower.newer()
    assert log_files.for_people(line) == "2026-01-01T00:00:00.000 info     three  run=4"


def test_a_quick_process_sets_its_logs_up_at_the_first_line() -> None:
    lines = said("logs.set_up_when_used()\nprint('structlog' in sys.modules, file=sys.stderr)\nlogging.warning('once')")
    assert lines[0] == "False"
    assert [json.loads(line)["event"] for line in lines[1:]] == ["once"]


def test_logging_of_others_is_left_alone_until_we_are_asked() -> None:
    assert not any(type(handler).__module__.startswith("gristmill") for handler in logging.getLogger().handlers)
