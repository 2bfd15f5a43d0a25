"""gristmill schedule, as a process on a real database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.conftest import Home


@pytest.fixture
def home(make_home: Callable[..., Home], database_url: str) -> Home:
    made = make_home(GRISTMILL_DATABASE_URL=database_url)
    (made.folder / "mill").mkdir()
    return made


async def test_a_schedule_of_a_run_is_added_listed_paused_resumed_and_removed(home: Home) -> None:
    nightly = ("schedule", "add", "nightly", "--cron", "0 3 * * *", "--timezone", "Europe/Berlin", "--run", "mill")
    code, made = await home.json(*nightly)
    assert (code, made["what"], made["task"]["kind"], made["catch_up"]) == (0, "made", "run.start", "last")
    assert str(Path(home.folder / "mill")) in made["task"]["payload"]
    code, out, err = await home.call(*nightly)
    assert code == 0
    assert "nightly: kept" in err
    assert "no worker that runs now performs run.start" in err
    assert [line[11:16] for line in out.split()] == ["03:00"] * 3
    code, ticks = await home.json("schedule", "next", "nightly", "-n", "400")
    assert len(ticks["ticks"]) == 400
    assert {tick[11:16] for tick in ticks["ticks"]} == {"03:00"}
    assert {tick[-6:] for tick in ticks["ticks"]} == {"+01:00", "+02:00"}
    assert (await home.call("schedule", "pause", "nightly"))[1] == "nightly is paused\n"
    assert "paused" in (await home.call("schedule", "list"))[1]
    assert (await home.call("schedule", "resume", "nightly"))[1] == "nightly is resumed\n"
    _, document = await home.json("schedule", "list")
    assert [(entry["name"], entry["paused"], entry["cron"]) for entry in document["schedules"]] == [
        ("nightly", False, "0 3 * * *")
    ]
    assert (await home.call("schedule", "remove", "nightly"))[0] == 0
    assert "there is no schedule" in (await home.call("schedule", "list"))[2]


async def test_what_is_wrong_with_a_schedule_is_said_before_anything_is_stored(home: Home) -> None:
    for arguments, code, words in (
        (("--cron", "0 25 * * *", "--run", "mill"), "U331", "'25' is no hour"),
        (("--cron", "* * * * *", "--timezone", "Berlin", "--run", "mill"), "U332", "Europe/Berlin"),
        (("--every", "soon", "--run", "mill"), "U333", "30s, 15m, 2h, 1d"),
        (("--every", "0.1", "--run", "mill"), "U333", "too short"),
        (("--every", "1h"), "U337", "--run PATH or --task KIND"),
        (("--every", "1h", "--cron", "* * * * *", "--run", "mill"), "U330", "both"),
        (("--every", "1h", "--run", "none"), "U101", "none"),
        (("--every", "1h", "--task", "x", "--payload", "[]"), "U334", "JSON object"),
    ):
        exit_code, _, err = await home.call("schedule", "add", "x", *arguments)
        assert exit_code == 2, arguments
        assert code in err, arguments
        assert words in err, arguments
    assert (await home.json("schedule", "list"))[1]["schedules"] == []


async def test_a_worker_process_starts_the_scheduled_run_and_makes_its_dataset(home: Home) -> None:
    (home.folder / "mill" / "sieve.md").write_text("A sieve is a part of the mill that holds 5 units of grain.\n")
    assert (await home.call("schedule", "add", "often", "--every", "1s", "--run", "mill"))[0] == 0
    worker = home.start("worker")
    try:
        async with asyncio.timeout(90):
            while True:
                code, out, _ = await home.call("watch", "--once", "--json")  # until the first tick there is no run
                if code == 0 and json.loads(out)["state"] == "completed":
                    break
    finally:
        worker.terminate()
        await asyncio.to_thread(worker.communicate, timeout=60)
    _, document = await home.json("schedule", "list")
    assert document["schedules"][0]["last_at"] is not None
    assert (await home.json("export", "--to", "set.jsonl"))[0] == 0
    assert (home.folder / "set.jsonl").read_text()
