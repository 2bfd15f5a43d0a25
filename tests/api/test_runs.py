"""Runs through the API: what is shown of them, and how they are started and steered."""

from __future__ import annotations

from pathlib import Path

from gristmill.llm.prompt import load_prompt
from gristmill.workflow_files import configured
from tests.api.conftest import Api, open_api
from tests.api.finished import finished, worked_off, write_places


async def test_a_run_is_started_from_the_api_and_its_detail_tells_how_it_ended(api: Api) -> None:
    write_places(api.app.settings.home.parent / "docs")
    made = await api.post("/api/runs", json={"workflow": "qa", "sources": ["docs"], "budget": "2.50"})
    assert made.status_code == 201, made.text
    begun = made.json()
    assert begun["state"] == "running"
    assert begun["budget"] == {"amount": "2.5", "currency": "USD"}
    await worked_off(api, await api.app.find(begun["name"]))
    run = await api.json(f"/api/runs/{begun['id']}")
    assert run["state"] == "completed"
    assert [stage["name"] for stage in run["stages"]] == ["parse", "split", "ask", "answer", "dedup"]
    assert run["progress"]["done"] == run["progress"]["total"] > 0
    assert run["stages"][0]["p95"] is not None
    again = await api.json("/api/runs", params={"filter": "state = 'completed' and workflow like 'q%'"})
    assert [one["id"] for one in again["items"]] == [begun["id"]]


async def test_lists_come_in_pages_and_filters_drop_what_does_not_fit(api: Api) -> None:
    run = await finished(api)
    for path, least in (
        (f"/api/runs/{run.name}/tasks", 6), (f"/api/records?run={run.id}", 6),
        (f"/api/rows?run={run.id}&left_out=true", 2), (f"/api/runs/{run.name}/items", 2), ("/api/sources", 2),
    ):  # fmt: skip
        join = "&" if "?" in path else "?"
        whole = (await api.json(f"{path}{join}limit=200"))["items"]
        assert len(whole) >= least, path
        pages, after = [], None
        while True:
            given = await api.json(f"{path}{join}limit=1" + (f"&after={after}" if after else ""))
            pages += given["items"]
            after = given["next"]
            if after is None:
                break
        assert pages == whole, path
    tasks = (await api.json(f"/api/runs/{run.id}/tasks", params={"filter": "stage = 'split'", "limit": 200}))["items"]
    assert {task["stage"] for task in tasks} == {"split"}
    rows = (await api.json("/api/rows", params={"run": run.name, "filter": "source = 'mills.md'"}))["items"]
    assert rows
    assert {row["source"] for row in rows} == {"mills.md"}


async def test_what_is_no_place_and_what_is_no_filter_gets_a_422_that_says_so(api: Api) -> None:
    run = await finished(api)
    for path in ("/api/runs", f"/api/runs/{run.id}/tasks", f"/api/runs/{run.id}/items", f"/api/records?run={run.id}",
                 f"/api/rows?run={run.id}", f"/api/records/coverage?run={run.id}", "/api/sources"):  # fmt: skip
        join = "&" if "?" in path else "?"
        for after in ("nonsense", "W10", "WzFd", "WyJydW5uaW5nIixbMSwyLDNdXQ", "WyJ4IixbXV0"):
            found = await api.get(f"{path}{join}after={after}")
            if found.status_code != 200:
                assert found.status_code == 422, (path, after, found.text)
                assert found.json()["code"] == "A420", (path, after)
        if "coverage" not in path:
            wrong = await api.get(f"{path}{join}filter=nothing=3")
            assert (wrong.status_code, wrong.json()["code"]) == (422, "U420"), (path, wrong.text)


async def test_a_run_that_does_not_exist_is_a_404_everywhere(api: Api) -> None:
    for path in ("", "/stages", "/flow", "/failures", "/held_by", "/difference", "/throughput", "/items", "/tasks"):
        found = await api.get(f"/api/runs/nothing-7{path}")
        assert (found.status_code, found.json()["code"]) == (404, "A404"), path
    for path in ("pause", "resume", "cancel", "retry"):
        assert (await api.post(f"/api/runs/nothing-7/{path}", json={})).status_code == 404
    for path in ("/api/tasks/7", "/api/tasks/7/story", "/api/records/7", "/api/records/7/lineage",
                 "/api/documents/7/text", f"/api/blobs/{'0' * 64}", "/api/blobs/x", "/api/records?run=9"):  # fmt: skip
        assert (await api.get(path)).status_code == 404, path


async def test_the_pictures_of_a_finished_run_end_where_its_counters_do(api: Api) -> None:
    run = await finished(api)
    flow = await api.json(f"/api/runs/{run.id}/flow", params={"points": 50})
    stages = await api.json(f"/api/runs/{run.id}/stages")
    assert 2 <= len(flow["times"]) <= 50
    assert flow["times"] == sorted(flow["times"])
    assert {one["name"]: one["done"][-1] for one in flow["stages"]} == {one["name"]: one["done"] for one in stages}
    for series in flow["stages"]:
        assert series["done"] == sorted(series["done"])
        assert series["done"][0] == 0
    ribbon = await api.json("/api/throughput", params={"minutes": 5})
    done = sum(sum(series["completed"]) for series in ribbon["series"])
    assert done == sum(stage["done"] for stage in stages)
    marks = [mark for mark in ribbon["marks"] if mark["run"] == run.id]
    assert [(mark["event"], mark["facts"].get("state")) for mark in marks] == [
        ("run.start", None), ("run.end", "completed"),
    ]  # fmt: skip


async def test_the_difference_to_the_run_before_names_options_models_and_the_words_of_prompts(
    database_url: str, tmp_path: Path
) -> None:
    own = tmp_path / "prompts" / "en"
    own.mkdir(parents=True)
    async with open_api(database_url, tmp_path / "home", prompts=tmp_path / "prompts") as api:
        first = await finished(api)
        nothing = await api.json(f"/api/runs/{first.id}/difference")
        assert (nothing["previous"], nothing["changes"]) == (None, [])
        text = load_prompt("ask", "en").text
        (own / "ask.md").write_text(text + "\nAsk like a miller.\n")
        write_places(tmp_path / "more", {"extra.md": "# Extra\n\nA third mill stands in Elm Ford since 1871.\n"})
        flow = configured("qa", ["split.size=700"])
        second = await api.app.start(flow, [tmp_path / "docs", tmp_path / "more"], model="extractive")
        found = await api.json(f"/api/runs/{second.name}/difference")
    assert found["previous"] == first.id
    assert found["inputs_added"] == [str(tmp_path / "more")]
    changes = {(one["stage"], one["what"], one["name"]): one for one in found["changes"]}
    assert changes["split", "option", "size"]["now"] == 700
    assert "+Ask like a miller." in changes["ask", "prompt", "ask"]["diff"]
