"""gristmill review on the command line."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gristmill.app import App
from gristmill.cli import gristmill
from gristmill.errors import GristmillError
from tests.review.test_exports import made_run

Call = Callable[..., Awaitable[Any]]


@pytest.fixture
def call(database_url: str, tmp_path: Path) -> Call:
    """Calls a command in a thread of its own; gives what it printed, with --json as a document."""
    environment = {**os.environ, "GRISTMILL_DATABASE_URL": database_url, "GRISTMILL_HOME": str(tmp_path / "home")}

    async def run(*arguments: str, given: str | None = None) -> Any:
        def here() -> Any:
            return CliRunner(env=environment).invoke(gristmill, ["review", *arguments], input=given)

        done = await asyncio.to_thread(here)
        if isinstance(done.exception, GristmillError):
            raise done.exception
        assert done.exit_code in (0, 1), (done.output, done.exception)
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    return run


async def test_a_person_takes_decides_and_takes_back(app: App, tmp_path: Path, call: Call) -> None:
    await made_run(app, tmp_path / "in")
    told = await call()
    assert re.search(r"5 of 5 pieces wait", told)
    assert "/review?run=1" in told
    pieces = (await call("next", "--limit", "3", "--as", "ann", "--json"))["pieces"]
    one, two, three = (str(piece["record_id"]) for piece in pieces)
    assert pieces[0]["source"]["text"] == "one"
    assert await call("accept", one, "--as", "ann", "--note", "good") == f"record {one} is accepted\n"
    edited = await call("edit", two, "--set", "answer=42", "--set", 'label=["a", "b"]', "--as", "ann", "--json")
    assert (edited["state"], edited["schema"]) == ("edited", "gristmill.review.edit/1")
    body = json.dumps({"question": "three?", "answer": "By hand."})
    assert "edited as record" in await call("edit", three, "--body", "-", "--as", "ann", given=body)
    shown = await call("show", two)
    assert "answer: 42   (was: plain two?)" in shown
    assert "ann edit" in shown
    assert await call("undo", "--as", "ann") == f"record {three} is proposed\n"
    assert (await call("undo", "--as", "ann", "--json"))["state"] == "proposed"
    listed = (await call("list", "--state", "accepted", "--json"))["pieces"]
    assert [(str(piece["record_id"]), piece["note"]) for piece in listed] == [(one, "good")]
    figures = await call("stats", "--json")
    assert (figures["states"]["accepted"], figures["reviewers"][0]["undone"], figures["total"]) == (1, 2, 5)
    assert "ann: 1 decided (1 accepted" in await call("stats")


async def test_all_rows_that_a_filter_takes_are_decided_at_once_but_only_proposed_ones(
    app: App, tmp_path: Path, call: Call
) -> None:
    run = await made_run(app, tmp_path / "in")
    (one,) = (await call("next", "--as", "ann", "--json"))["pieces"]
    await call("reject", str(one["record_id"]), "--as", "ann")
    assert await call("accept", "--where", "question like 't%'", "--as", "bob") == "2 accepted\n"
    (held,) = (await call("next", "--as", "ann", "--json"))["pieces"]
    told = await call("accept", "--where", "score > 0", "--as", "bob", "--json")
    assert len(told["decided"]) == 1
    assert [one["code"] for one in told["refused"]] == ["V110"]  # ann has it before her
    states = {row.question: row.review async for row in run.rows(left_out=True)}
    assert states == {
        "one?": "rejected", "two?": "accepted", "three?": "accepted", "four?": "proposed", "five?": "accepted",
    }  # fmt: skip
    assert held["body"]["question"] == "four?"
    assert await call("release", "--as", "ann") == "1 given back\n"


async def test_work_is_shared_out_and_taken_back(app: App, tmp_path: Path, call: Call) -> None:
    await made_run(app, tmp_path / "in")
    assert "whoever asks gets the next piece" in await call("assign")
    told = await call("assign", "--to", "ann", "--to", "bob", "--count", "4", "--overlap", "1", "--json")
    assert told["given"] == {"ann": 2, "bob": 2}
    assert (await call("assign", "--take-back", "bob")) == "ann: 2 open, 0 decided\n"
    for name, word in (("ann", "accept"), ("bob", "reject")):
        pieces = (await call("next", "--limit", "9", "--as", name, "--json"))["pieces"]
        await call(word, *(str(piece["record_id"]) for piece in pieces), "--as", name)
    told = await call("stats")
    assert "agreement over 5 pieces: 0 % the same decision" in told  # ann took all five, bob was asked about them again
    assert "5 are disputed" in told


async def test_what_cannot_be_meant_is_refused(app: App, tmp_path: Path, call: Call) -> None:
    run = await made_run(app, tmp_path / "in")
    rows = [row async for row in run.rows()]
    for arguments, code in (
        (("accept",), "V122"), (("accept", "1", "--where", "score > 1"), "V122"), (("accept", "999"), "V101"),
        (("show", "999"), "V101"), (("edit", rows[0].record_id, "--set", "answer"), "V122"),
        (("next", "--by", "luck"), "V106"), (("list", "--state", "done"), "V106"), (("undo",), "V140"),
    ):  # fmt: skip
        with pytest.raises(GristmillError) as caught:
            await call(*arguments)
        assert caught.value.code == code


async def test_what_is_not_saved_in_the_editor_changes_nothing(
    app: App, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await made_run(app, tmp_path / "in")
    rows = [row async for row in run.rows()]
    number = rows[0].record_id
    monkeypatch.setenv("EDITOR", "true")
    with pytest.raises(GristmillError) as caught:
        await call("edit", number, "--as", "ann")
    assert caught.value.code == "V123"
    assert (await call("show", number, "--json"))["piece"]["holder"] is None  # it is given back
