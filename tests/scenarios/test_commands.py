"""Every command, with --json and without, with good arguments and with bad ones."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from gristmill.app import App
from tests.llm.conftest import ScriptedServer
from tests.scenarios.conftest import Home

TEXT = "# Mill\n\n" + "\n\n".join(
    f"A {name} is a part of the mill that holds {number} units of grain. The miller turns the {name} by hand."
    for number, name in enumerate(("hopper", "millstone", "sieve", "chute", "wheel"), start=3)
)


@pytest.fixture
def home(make_home: Callable[..., Home], database_url: str) -> Home:
    made = make_home(GRISTMILL_DATABASE_URL=database_url, GRISTMILL_WORKERS="1")
    (made.folder / "mill.md").write_text(TEXT)
    return made


async def test_a_newcomer_gets_rows_with_their_sources_without_a_key(home: Home) -> None:
    home.environment.pop("GRISTMILL_WORKERS")
    code, out, err = await home.call("run", "mill.md")
    assert code == 0
    assert "completed in" in err
    assert "from mill.md, characters" in err
    rows = [json.loads(line) for line in Path(out.strip()).read_text().splitlines()]
    assert rows
    for row in rows:
        assert row["source"] == "mill.md"
        assert TEXT[row["start"] : row["end"]] == row["chunk"]
        assert TEXT[row["evidence_start"] : row["evidence_end"]] == row["quote"]
    code, out, err = await home.call("run", "mill.md")
    assert code == 0
    assert "nothing left to do" in err


async def test_all_commands_print_one_document_with_json(home: Home) -> None:
    code, run = await home.json("run", "mill.md", "--out", "set.csv")
    assert (code, run["schema"], run["format"]) == (0, "gristmill.run/1", "csv")
    with (home.folder / "set.csv").open() as file:
        assert len(list(csv.DictReader(file))) == run["rows"]
    for arguments, schema in (
        (("watch",), "watch"), (("watch", "--list"), "runs"), (("why",), "why"), (("why", "--record", "1"), "lineage"),
        (("stop",), "stop"), (("export", "--to", "x.jsonl"), "export"), (("doctor",), "doctor"),
        (("doctor", "--config"), "settings"), (("db", "status"), "database"), (("run", "mill.md", "--plan"), "plan"),
        (("retry",), "run"),
    ):  # fmt: skip
        code, document = await home.json(*arguments)
        assert (code, document["schema"]) == (0, f"gristmill.{schema}/1"), arguments


async def test_lineage_goes_from_a_row_back_to_its_file(home: Home) -> None:
    _, run = await home.json("run", "mill.md")
    row = json.loads(Path(run["dataset"]).read_text().splitlines()[0])
    _, story = await home.json("why", "--record", row["record_id"])
    assert [part["kind"] for part in story["chain"]] == ["example", "question", "chunk", "document", "source"]
    code, out, _ = await home.call("why", "--record", row["record_id"])
    assert code == 0
    assert "name: mill.md" in out


async def test_a_plan_counts_and_stores_nothing(home: Home) -> None:
    code, out, _ = await home.call("run", "mill.md", "--plan", "--model", "openai:scripted")
    assert code == 0
    assert "1 files" in out
    assert "calls of openai:scripted" in out
    code, document = await home.json("watch", "--list")
    assert document["runs"] == []


async def test_a_paused_run_waits_says_so_and_goes_on(home: Home, database_url: str) -> None:
    async with App(database_url, home=home.home, workers=0) as app:
        await app.start("qa", [home.folder / "mill.md"], model="extractive")
    code, document = await home.json("stop")
    assert (code, document["state"]) == (0, "paused")
    _, why = await home.json("why")
    assert why["held_by"] == [{"step": "parse", "reason": "the run is paused", "tasks": 1}]
    code, _ = await home.json("run", "mill.md")
    assert code == 0


async def test_a_cancelled_run_keeps_what_it_has(home: Home, database_url: str) -> None:
    async with App(database_url, home=home.home, workers=0) as app:
        await app.start("qa", [home.folder / "mill.md"], model="extractive")
    code, out, _ = await home.call("stop", "--cancel")
    assert code == 0
    assert "1 open pieces were dropped" in out
    _, document = await home.json("watch")
    assert document["state"] == "cancelled"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run",), 2, "PATH"),
        (("run", "nowhere.md"), 2, "nowhere.md"),
        (("rum", "mill.md"), 2, 'Did you mean "run"?'),
        (("run", "mill.md", "--workflow", "qq"), 2, "known: "),
        (("run", "mill.md", "--model", "opnai:x"), 3, "openai"),
        (("run", "mill.md", "--model", "openai:x"), 3, "OPENAI_API_KEY"),
        (("run", "mill.md", "--format", "alpacca"), 2, "alpaca"),
        (("run", "mill.md", "--out", "x.jsonl", "--format", "nonsense"), 2, "jsonl"),
        (("run", "mill.md", "--set", "split.sise=5"), 2, "size"),
        (("run", "mill.md", "--set", "nonsense"), 2, "STEP.OPTION=VALUE"),
        (("run", "mill.md", "--set", "split.size=-4"), 2, "size"),
        (("watch", "nothing-7"), 2, "nothing-7"),
        (("watch",), 2, "no run yet"),
        (("why", "--record", "999"), 2, "no record 999"),
        (("retry", "--cause", "beef"), 2, "no run yet"),
        (("export",), 2, "--to"),
    ],
)
async def test_wrong_use_says_what_is_wrong_and_what_to_do(
    home: Home, arguments: tuple[str, ...], code: int, words: str
) -> None:
    result, out, err = await home.call(*arguments, OPENAI_API_KEY="", OPENAI_BASE_URL="")
    assert result == code, err
    assert words in err
    assert "Traceback" not in err
    assert out == ""


async def test_an_unknown_setting_names_the_nearest(home: Home) -> None:
    (home.folder / "gristmill.toml").write_text("wrokers = 3\n")
    code, _, err = await home.call("run", "mill.md")
    assert code == 2
    assert 'did you mean "workers"?' in err


async def test_another_server_is_used_when_its_url_is_given(home: Home) -> None:
    code, result = await home.json("run", "mill.md")
    assert (code, result["state"]) == (0, "completed")
    assert not (home.home / "postgres").exists()


async def test_an_unreachable_server_is_an_environment_problem(home: Home) -> None:
    code, _, err = await home.call("run", "mill.md", GRISTMILL_DATABASE_URL="postgresql://me:canary@127.0.0.1:9/x")
    assert code == 3
    assert "error[D110]" in err
    assert "canary" not in err


async def test_a_command_whose_run_is_paused_by_another_one_ends_and_says_so(
    home: Home, model_server: ScriptedServer, database_url: str
) -> None:
    await model_server.control(latency=3.0)
    async with App(database_url, home=home.home, workers=0) as other:  # a command may start more slowly than this ends
        process = home.start("run", "mill.md", "--model", "openai:scripted")
        async with asyncio.timeout(60):
            while not (await model_server.stats())["active"]:
                await asyncio.sleep(0.05)
        await (await other.last()).pause()
    _, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 4, err
    assert "paused: nothing lost" in err
    await model_server.control(latency=0.0)
    code, again = await home.json("run", "mill.md", "--model", "openai:scripted")
    assert (code, again["state"]) == (0, "completed")


async def test_a_database_that_refuses_is_named_without_a_traceback(home: Home, database_url: str) -> None:
    code, _ = await home.json("run", "mill.md")
    assert code == 0
    connection = await asyncpg.connect(database_url)
    await connection.execute("alter table gristmill.run rename to gone")
    code, out, err = await home.call("watch", "--once")
    await connection.close()
    assert (code, out) == (3, "")
    assert "error[D140]" in err
    assert "Traceback" not in err
