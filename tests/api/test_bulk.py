"""Bulk actions and exports: first a count, then a durable run."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gristmill.data.kinds import Chunk, Example, Source
from gristmill.errors import InputError
from gristmill.operators.operator import Context, operator
from gristmill.run import Run
from gristmill.workflow import Workflow
from tests.api.conftest import Api
from tests.api.finished import finished

BROKEN = {"on": True}


@operator("t_api_lines")
async def lines(source: Source, ctx: Context) -> list[Chunk]:
    found = (await ctx.blobs.read(source.blob)).decode().splitlines()
    if found == ["refuse"]:
        raise InputError("cannot take this")
    return [Chunk(text=line) for line in found]


@operator("t_api_examples", attempts=1)
async def examples(chunk: Chunk) -> Example:
    if BROKEN["on"] and "bad" in chunk.text:
        raise ValueError(f"cannot make {chunk.text}")
    return Example(question=f"What of {chunk.text}?", answer=chunk.text)


FLOW = Workflow("bulky", [lines, examples])
TEXTS = {"a.txt": "one\nbad apple\nbad pear\n", "b.txt": "two\nworse\nbad plum\n"}


@pytest.fixture
def broken() -> None:
    BROKEN["on"] = True


@asynccontextmanager
async def working(api: Api) -> AsyncIterator[None]:
    """A real worker of the App, in this process, until the block ends."""
    worker = api.app.worker("t-bulk")
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await task


async def until(api: Api, path: str, *states: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (found := await api.json(path))["state"] not in states:
            await asyncio.sleep(0.05)
    return dict(found)


async def start_broken(api: Api) -> Run:
    run = await finished(api, FLOW, TEXTS, model=None)
    assert (await run.progress()).state == "partial"
    return run


async def test_failures_are_grouped_by_cause_and_one_group_is_retried(api: Api, broken: None) -> None:
    run = await start_broken(api)
    failures = await api.json(f"/api/runs/{run.id}/failures")
    assert (failures["failed"], failures["complete"]) == (3, True)
    assert sum(group["count"] for group in failures["causes"]) == 3
    assert {group["stage"] for group in failures["causes"]} == {"t_api_examples"}
    story = await api.json(f"/api/tasks/{failures['causes'][0]['sample_task']}/story")
    assert story["attempts"][-1]["outcome"] == "failed"
    assert "cannot make bad" in story["attempts"][-1]["message"]
    BROKEN["on"] = False
    cause = failures["causes"][0]
    both = await api.post(f"/api/runs/{run.id}/retry", json={"cause": cause["cause"], "degraded": True})
    assert (both.status_code, "goes with neither" in both.text) == (422, True)
    again = (await api.post(f"/api/runs/{run.id}/retry", json={"cause": cause["cause"]})).json()
    assert again["changed"] == cause["count"]
    assert again["run"]["state"] == "running"
    assert again["run"]["epoch"] == 2


async def test_a_bulk_action_counts_first_and_does_exactly_what_was_confirmed(api: Api, broken: None) -> None:
    run = await start_broken(api)
    wanted = {"action": "retry", "run": str(run.id), "filter": "message like '%pear%' or message like '%plum%'"}
    seen = (await api.post("/api/actions", json=wanted)).json()
    assert (seen["id"], seen["count"], seen["state"]) == (None, 2, "foreseen")
    assert (await run.progress()).state == "partial"
    other = await api.post("/api/actions", json=wanted | {"confirm": 3})
    assert (other.status_code, other.json()["code"]) == (409, "A411")
    BROKEN["on"] = False
    async with working(api):
        begun = await api.post("/api/actions", json=wanted | {"confirm": 2})
        assert begun.status_code == 201, begun.text
        done = await until(api, f"/api/actions/{begun.json()['id']}", "completed", "failed")
        assert (done["state"], done["done"], done["parts"]) == ("completed", 1, 1)
        await until(api, f"/api/runs/{run.id}", "partial")
    left = await api.json(f"/api/runs/{run.id}/tasks", params={"state": "failed"})
    assert ["apple" in one["message"] for one in left["items"]] == [True]
    assert [one["id"] for one in (await api.json("/api/actions"))["items"]] == [begun.json()["id"]]
    assert [one["id"] for one in (await api.json("/api/runs"))["items"]] == [run.id]
    assert (await api.app.last()).id == run.id
    itself = await api.json(f"/api/runs/{begun.json()['id']}")  # it can be looked at like any other run
    assert (itself["state"], itself["progress"]["done"], itself["reviewable"]) == ("completed", 1, False)


async def test_one_task_is_tried_again_and_one_that_is_over_is_not(api: Api, broken: None) -> None:
    run = await start_broken(api)
    failed = (await api.json(f"/api/runs/{run.id}/tasks", params={"state": "failed"}))["items"][0]["id"]
    again = (await api.post(f"/api/tasks/{failed}/retry")).json()
    assert again["changed"]
    assert again["task"]["state"] == "available"
    twice = await api.post(f"/api/tasks/{failed}/retry")
    assert (twice.status_code, twice.json()["code"]) == (409, "A409")
    cancelled = (await api.post(f"/api/tasks/{failed}/cancel")).json()
    assert (cancelled["changed"], cancelled["task"]["state"]) == (True, "cancelled")


async def test_an_export_is_previewed_written_by_a_worker_and_fetched(api: Api) -> None:
    run = await finished(api)
    wanted: dict[str, Any] = {"run": run.name, "format": "alpaca", "options": {"left_out": True}}
    preview = (await api.post("/api/exports/preview", json=wanted | {"count": 1})).json()
    begun = await api.post("/api/exports", json=wanted)
    assert begun.status_code == 201, begun.text
    number = begun.json()["id"]
    assert begun.json()["state"] == "waiting"
    assert "no worker" in begun.json()["held_by"]
    assert (await api.get(f"/api/exports/{number}/file")).status_code == 409
    async with working(api):
        done = await until(api, f"/api/exports/{number}", "completed", "failed")
        split = (await api.post("/api/exports", json=wanted | {"options": {"split": {"train": 1, "test": 1}}})).json()
        parts = await until(api, f"/api/exports/{split['id']}", "completed", "failed")
    assert done["state"] == "completed", done
    file = await api.get(done["file"])
    assert file.headers["content-disposition"] == f'attachment; filename="{run.name}.jsonl"'
    texts = file.text.splitlines()
    assert len(texts) == done["rows"]
    assert texts[0] == preview["text"].splitlines()[0]
    archive = zipfile.ZipFile(io.BytesIO((await api.get(parts["file"])).content))
    names = archive.namelist()
    assert {f"{run.name}-train.jsonl", f"{run.name}-test.jsonl"} <= set(names)
    rows = sum(len(archive.read(name).splitlines()) for name in names if name.endswith(".jsonl"))
    assert rows == parts["rows"]


async def test_an_export_that_cannot_be_made_is_refused_at_once(api: Api, broken: None) -> None:
    run = await finished(api)
    for wanted, code in (
        ({"format": "alpacca"}, "U401"), ({"options": {"where": "nothing = 1"}}, "U420"),
        ({"options": {"bom": True}}, "U412"), ({"options": {"split": {"1x": 1}}}, "U412"),
        ({"options": {"nonsense": 1}}, "A422"), ({"run": "nothing-9"}, "A404"),
    ):  # fmt: skip
        for path in ("/api/exports", "/api/exports/preview"):
            found = await api.post(path, json={"run": run.name, **wanted})
            assert found.json()["code"] == code, (wanted, found.text)
    assert (await api.json("/api/exports"))["items"] == []


async def test_words_of_an_action_that_do_not_go_together_are_refused(api: Api, broken: None) -> None:
    run = await start_broken(api)
    for wanted, code in (
        ({"action": "accept", "stage": "t_api_lines"}, "A424"), ({"action": "cancel", "cause": "0" * 64}, "A424"),
        ({"action": "retry", "stage": "nothing"}, "U302"), ({"action": "retry", "filter": "colour = 'red'"}, "U420"),
        ({"action": "explode"}, "A422"),
    ):  # fmt: skip
        found = await api.post("/api/actions", json={"run": run.name, **wanted})
        assert found.json()["code"] == code, (wanted, found.text)


async def test_the_coverage_map_shows_what_failed_what_waits_and_which_input_came_to_nothing(
    api: Api, broken: None
) -> None:
    run = await finished(api, FLOW, TEXTS | {"c.txt": "refuse\n"}, model=None)
    rows = {row["name"]: row for row in (await api.json(f"/api/records/coverage?run={run.id}"))["items"]}
    # Lines are what the first step makes, so each is a row of one cell; the input that was refused is one of its own.
    cells = [(row["name"], cell["fate"]) for row in (await api.json(f"/api/records/coverage?run={run.id}"))["items"]
             for cell in row["cells"]]  # fmt: skip
    assert sorted(cells) == [
        ("a.txt", "accepted"), ("a.txt", "failed"), ("a.txt", "failed"), ("b.txt", "accepted"), ("b.txt", "accepted"),
        ("b.txt", "failed"), ("c.txt", "failed"),
    ]  # fmt: skip
    assert rows["c.txt"]["record"] is None
    assert "cannot take" in rows["c.txt"]["why"]
    await api.post(f"/api/runs/{run.id}/retry", json={"degraded": True})
    fates = [cell["fate"] for row in (await api.json(f"/api/records/coverage?run={run.id}"))["items"]
             for cell in row["cells"]]  # fmt: skip
    assert sorted(fates) == ["accepted"] * 3 + ["waiting"] * 3
