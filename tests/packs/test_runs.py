"""Actions in real runs: in child processes of real workers, cancelled, killed, locked, reused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gristmill.app import App
from gristmill.cli.plan import forecast
from gristmill.cli.worker import follow_packs
from gristmill.config import load_settings
from gristmill.engine import kin
from gristmill.packs import actions, store
from gristmill.testing import drain
from gristmill.workflow import Workflow
from tests.engine.conftest import until
from tests.packs.conftest import write_pack
from tests.packs.test_hostile import BOMBS
from tests.packs.test_yaml_text import BILLION


def declare(pack: str, name: str, **told: Any) -> str:
    return yaml.safe_dump({"ref": f"{pack}.{name}", "description": "x", "runner": "shell", "delivery": "env"} | told)


@pytest.fixture
async def app(database_url: str, tmp_path: Path) -> AsyncIterator[App]:
    (tmp_path / "inputs").mkdir()
    for name in "ab":
        (tmp_path / "inputs" / f"{name}.txt").write_text(f"text of {name}")
    async with App(database_url, home=tmp_path / "home", workers=0) as opened:
        yield opened


async def installed(app: App, folder: Path, files: dict[str, str], **more: Any) -> None:
    pack = write_pack(folder, files)
    await store.install(app.pool, app.settings.home, pack, "test", **more)
    await store.take_packs(app.pool, app.settings.home, {})


async def bodies(app: App, kind: str = "action_result") -> list[dict[str, Any]]:
    rows = await app.pool.fetch("select body from record where kind = $1 order by id", kind)
    return [json.loads(row["body"]) for row in rows]


async def test_a_run_through_actions_is_saved_reused_and_redone_when_the_pack_changes(app: App, tmp_path: Path) -> None:
    count = "import json, sys\ntold = json.load(sys.stdin)\nprint(json.dumps({'size': told['input']['body']['size']}))"
    files = {
        "actions/read.yaml": declare("flow", "read", entry="read.sh", files=True, takes=["source"], makes=None),
        "read.sh": 'cat "$GRISTMILL_FILE_BLOB"',
        "actions/count.yaml": declare(
            "flow", "count", entry="count.py", runner="python", delivery="stdin", output="json"
        ),
        "count.py": count,
    }  # fmt: skip
    await installed(app, tmp_path / "flow", files)
    read, sized = actions.find_action("flow.read"), actions.find_action("flow.count")
    flow = Workflow("flow", [read, sized.after("inputs")])
    run = await app.start(flow, [tmp_path / "inputs"])
    await drain(app, run)
    made = await bodies(app)
    assert sorted(body["stdout"] for body in made if body["action"] == "flow.read") == [f"text of {n}" for n in "ab"]
    assert [body["result"] for body in made if body["action"] == "flow.count"] == [{"size": 9}] * 2
    again = await app.start(flow, [tmp_path / "inputs"], fresh=True)
    await drain(app, again)
    assert len(await bodies(app)) == 4  # nothing ran again
    (tmp_path / "flow/count.py").write_text(count.replace("'size':", "'bytes':"))
    await installed(app, tmp_path / "flow", {}, replace=True)
    changed = Workflow("flow", [actions.find_action("flow.count")])
    await drain(app, await app.start(changed, [tmp_path / "inputs"]))
    assert [body["result"] for body in (await bodies(app))[4:]] == [{"bytes": 9}] * 2


async def test_a_failed_attempt_names_its_raw_output_and_a_step_may_bound_an_action_otherwise(
    app: App, tmp_path: Path
) -> None:
    files = {
        "actions/bad.yaml": declare("fails", "bad", entry="bad.sh", output="json", attempts=2),
        "bad.sh": "echo '{broken'; echo trouble >&2",
        "actions/no.yaml": declare("fails", "no", entry="no.sh", attempts=5),
        "no.sh": "exit 65",
        "actions/big.yaml": declare("fails", "big", entry="big.sh", timeout=0.2),
        "big.sh": "sleep 0.4; ulimit -v; ulimit -t",
    }
    await installed(app, tmp_path / "fails", files)
    bad, no, big = (actions.find_action(f"fails.{name}") for name in ("bad", "no", "big"))
    other = big.using(memory=400 * 2**20, cpu=50, timeout=60).after("inputs")
    flow = Workflow("fails", [bad, no.after("inputs"), other])
    await drain(app, await app.start(flow, [tmp_path / "inputs/a.txt"]), check=False)
    rows = await app.pool.fetch(
        "select kind, a.code, a.message from attempt a join task on id = task_id where code <> '' order by 1, a.attempt"
    )
    assert [(row["kind"], row["code"]) for row in rows] == [("fails.bad", "K204")] * 2 + [("fails.no", "K210")]
    message = rows[0]["message"]
    assert "trouble" in message
    assert await app.blobs.read(message.split('stdout "')[1][:64]) == b"{broken\n"
    [body] = await bodies(app)
    memory, cpu = body["stdout"].split()
    assert int(memory) == 400 * 1024
    assert 45 <= int(cpu) <= 51


async def test_the_lock_of_an_action_is_held_while_it_runs(app: App, tmp_path: Path) -> None:
    place = tmp_path / "held"
    files = {
        "actions/one.yaml": declare("locked", "one", entry="one.sh", locks={"device:scanner": 1}, attempts=1),
        "one.sh": f"mkdir {place} && sleep 0.1 && rmdir {place} && echo fine $GRISTMILL_KEY",
    }
    await installed(app, tmp_path / "locked", files)
    action = actions.find_action("locked.one")
    flow = Workflow("locked", [action, action.using(name="second")])
    await drain(app, await app.start(flow, [tmp_path / "inputs"]))
    assert [body["stdout"][:4] for body in await bodies(app)] == ["fine"] * 4


async def test_hostile_programs_fail_by_themselves_and_the_worker_goes_on(app: App, tmp_path: Path) -> None:
    programs = {
        "flee": "(env -i setsid sh -c 'exec sleep 96' > /dev/null 2>&1 &); echo fled",  # no parent, session or mark
        "bomb": BOMBS["shell"],
        "flood": "head -c 20000000 /dev/zero | tr '\\0' x",
        "laughs": f"cat <<'END'\n{BILLION}END",
        "noise": "head -c 300000 /dev/urandom",
        "good": "echo fine",
    }
    outputs = {"flood": "json", "laughs": "yaml"}
    files = {f"{name}.sh": text for name, text in programs.items()} | {
        f"actions/{name}.yaml": declare(
            "hostile", name, entry=f"{name}.sh", attempts=1, output=outputs.get(name, "text"), limits={"processes": 20}
        )
        for name in programs
    }
    await installed(app, tmp_path / "hostile", files)
    steps = [actions.find_action(f"hostile.{name}").after("inputs") for name in programs]
    await drain(app, await app.start(Workflow("hostile", steps), [tmp_path / "inputs/a.txt"]), check=False)
    rows = await app.pool.fetch("select kind, code, crashes from attempt join task on id = task_id order by kind")
    assert {row["kind"].partition(".")[2]: row["code"] for row in rows} == {
        "flee": None, "bomb": "K206", "flood": "K205", "laughs": "K204", "noise": None, "good": None,
    }  # fmt: skip
    assert sum(row["crashes"] for row in rows) == 0
    assert not sleeping("96", marked=False)


async def test_a_cancelled_run_ends_the_program_and_a_killed_worker_takes_it_along(
    app: App, tmp_path: Path, database_url: str
) -> None:
    files = {
        "actions/wait.yaml": declare("waits", "wait", entry="wait.sh", attempts=3, timeout=100),
        "wait.sh": "setsid sleep 97 & sleep 97 & wait",
    }  # fmt: skip
    await installed(app, tmp_path / "waits", files)
    flow = Workflow("waits", [actions.find_action("waits.wait")])
    run = await app.start(flow, [tmp_path / "inputs/a.txt"])
    process = subprocess.Popen(
        [sys.executable, "-m", "gristmill", "worker", "--home", str(app.settings.home)], cwd=tmp_path,
        env={**os.environ, "GRISTMILL_DATABASE_URL": database_url}, start_new_session=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await until(lambda: asyncio.sleep(0, sleeping()), limit=60)
        process.kill()
        process.wait()
        await until(lambda: asyncio.sleep(0, not sleeping()), limit=10)
        assert os.listdir(app.settings.home / "work")  # the killed one could not tidy up
        worker = app.worker()
        working = asyncio.create_task(worker.run(app.pool))
        await until(lambda: asyncio.sleep(0, sleeping()), limit=60)
        assert len(os.listdir(app.settings.home / "work")) == 1  # the next one has
        await run.cancel()
        await until(lambda: asyncio.sleep(0, not sleeping()), limit=15)
        worker.stop()
        await working
        assert os.listdir(app.settings.home / "work") == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def sleeping(seconds: str = "97", *, marked: bool = True) -> bool:
    """Whether such a `sleep` runs."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{name}/cmdline").read_bytes() == f"sleep\0{seconds}\0".encode():
                    return not marked or kin.VARIABLE.encode() in Path(f"/proc/{name}/environ").read_bytes()
    return False


async def test_a_worker_that_runs_takes_over_what_is_installed_and_what_is_removed(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.cli.worker.LOOK", 0.05)
    worker = app.worker()
    working = asyncio.create_task(worker.run(app.pool))
    following = asyncio.create_task(follow_packs(app, worker))

    async def knows(name: str) -> bool:
        return bool(await app.pool.fetchval("select $1 = any (kinds) from worker", name))

    try:
        files = {"actions/late.yaml": declare("late", "late", entry="late.sh"), "late.sh": "echo came late"}
        await installed(app, tmp_path / "late", files)
        await until(lambda: knows("late.late"))
        await app.start(Workflow("late", [actions.find_action("late.late")]), [tmp_path / "inputs/a.txt"])
        await until(lambda: bodies(app))
        await store.remove(app.pool, app.settings.home, "late", force=True)

        async def forgotten() -> bool:
            return not await knows("late.late")

        await until(forgotten)
    finally:
        following.cancel()
        worker.stop()
        await working


async def test_settings_of_packs_come_from_the_file(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "gristmill.toml").write_text(f'[packs.core]\nroot = "{tmp_path}/root"\n')
    settings = load_settings(tmp_path, {}, database_url=database_url, workers=0).values
    async with App(settings=settings) as app:
        flow = Workflow(
            "writes", [actions.find_action("core.file_write").using(path="b/${input.name}", text="${input.blob}")]
        )
        await drain(app, await app.start(flow, [tmp_path / "a.txt"]))
        [source] = await bodies(app, "source")
        assert (tmp_path / "root/b/a.txt").read_text() == source["blob"]
    actions.use_settings({})


async def test_a_plan_runs_no_action_and_says_so(app: App, tmp_path: Path) -> None:
    files = {"actions/touch.yaml": declare("plan", "touch", entry="touch.sh"), "touch.sh": f"touch {tmp_path}/touched"}
    await installed(app, tmp_path / "plan", files)
    flow = Workflow("plan", [actions.find_action("plan.touch")])
    told = await forecast(app, flow, [tmp_path / "inputs"])
    assert not (tmp_path / "touched").exists()
    assert told["steps"][0]["inputs"][1] == 2
    assert any("a plan runs no programs" in note for note in told["assumed"])
