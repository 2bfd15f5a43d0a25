"""Who may start a run over what: uploads, places of the project, workflows by name; and in whose name people decide."""

from __future__ import annotations

import os

import pytest

from gristmill.api import tokens
from tests.api.conftest import Api
from tests.api.finished import PLACES, finished, worked_off, write_places


async def token(api: Api, role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {await tokens.add(api.app.pool, f't-{role}', role, by='test')}"}


async def test_what_was_uploaded_becomes_a_run(api: Api) -> None:
    files = [("files", (name, text.encode())) for name, text in PLACES.items()]
    upload = (await api.post("/api/uploads", files=files)).json()["upload"]
    plan = await api.post("/api/runs/plan", json={"upload": upload})
    assert plan.status_code == 200, plan.text
    assert plan.json()["files"] == 2
    assert plan.json()["calls"][1] == 0
    made = await api.post("/api/runs", json={"upload": upload})
    assert made.status_code == 201, made.text
    await worked_off(api, await api.app.find(made.json()["name"]))
    items = (await api.json(f"/api/runs/{made.json()['id']}/items"))["items"]
    assert sorted(one["name"].rpartition("/")[2] for one in items) == sorted(PLACES)
    missing = await api.post("/api/runs", json={"upload": "0" * 32})
    assert missing.status_code == 404, missing.text


async def test_the_same_key_starts_one_run(api: Api) -> None:
    write_places(api.app.settings.home.parent / "docs")
    body = {"sources": ["docs"], "fresh": True}
    first = await api.post("/api/runs", json=body, headers={"Idempotency-Key": "monday"})
    again = await api.post("/api/runs", json=body, headers={"Idempotency-Key": "monday"})
    assert first.json() == again.json()
    assert len((await api.json("/api/runs"))["items"]) == 1


async def test_a_run_is_made_once_more_with_other_options_and_uses_what_they_do_not_change(api: Api) -> None:
    first = await finished(api)
    made = await api.post(f"/api/runs/{first.name}/again", json={"parameters": {"ask.characters_per_question": 60}})
    assert made.status_code == 201, made.text
    run = await api.app.find(made.json()["name"])
    assert run.id != first.id
    await worked_off(api, run)
    stages = {one["name"]: one for one in await api.json(f"/api/runs/{run.id}/stages")}
    assert stages["parse"]["reused"] == stages["parse"]["done"] == 2
    assert stages["ask"]["reused"] == 0
    changes = (await api.json(f"/api/runs/{run.id}/difference"))["changes"]
    assert [(one["stage"], one["name"], one["now"]) for one in changes] == [("ask", "characters_per_question", 60)]
    model = await api.post(f"/api/runs/{first.name}/again", json={"model": "openai:gpt-4.1-mini", "stage": "ask"})
    assert (model.status_code, model.json()["code"]) == (503, "M101")
    for wrong in ({"stage": "ask"}, {"stage": "parse", "model": "extractive"}, {"parameters": {"nothing.x": 1}}):
        found = await api.post(f"/api/runs/{first.name}/again", json=wrong)
        assert (found.status_code, found.json()["code"]) == (422, "U302"), found.text


async def test_places_outside_of_the_projects_folder_take_an_admin(
    api: Api, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = write_places(tmp_path_factory.mktemp("elsewhere"))
    project = api.app.settings.home.parent
    write_places(project / "docs")
    os.symlink(elsewhere, project / "link")
    operator = await token(api, "operator")
    for source in (str(elsewhere), "../", "link", "/etc/passwd", "/etc/*", f"{project}/../"):
        found = await api.post("/api/runs", json={"sources": [source]}, headers=operator)
        assert (found.status_code, found.json()["code"]) == (403, "A403"), (source, found.text)
    for source in ("docs", str(project / "docs"), "docs/*.md"):
        found = await api.post("/api/runs/plan", json={"sources": [source]}, headers=operator)
        assert found.status_code == 200, (source, found.text)
    for source in ("nothing", "docs/nothing.md"):
        found = await api.post("/api/runs", json={"sources": [source]}, headers=operator)
        assert (found.status_code, found.json()["code"]) == (422, "U101"), (source, found.text)
    admin = await token(api, "admin")
    found = await api.post("/api/runs/plan", json={"sources": [str(elsewhere)]}, headers=admin)
    assert found.status_code == 200, found.text


async def test_a_caller_never_names_code_or_files_as_a_workflow(api: Api) -> None:
    project = api.app.settings.home.parent
    write_places(project / "docs")
    (project / "evil.py").write_text("raise SystemExit('ran')\n")
    (project / "own.yaml").write_text("name: own\nsteps: [parse]\n")
    (project / "workflows").mkdir()
    (project / "workflows" / "mine.yaml").write_text("# Ours.\nname: mine\nsteps: [parse, {split: {size: 600}}]\n")
    (project / "workflows" / "broken.yaml").write_text("name: [\n")
    for name in ("evil.py:NAME", "own.yaml", "../own", "workflows/mine.yaml", str(project / "own.yaml"), "nothing"):
        found = await api.post("/api/runs", json={"workflow": name, "sources": ["docs"]})
        assert (found.status_code, found.json()["code"]) == (422, "U301"), (name, found.text)
    wanted = {"workflow": "mine", "sources": ["docs"], "parameters": {"split.size": 500}}
    made = await api.post("/api/runs", json=wanted)
    assert made.status_code == 201, made.text
    listed = {one["name"]: one for one in await api.json("/api/workflows")}
    assert (listed["mine"]["origin"], listed["mine"]["description"]) == ("project", "Ours.")
    assert listed["broken"]["problem"]
    assert listed["qa"]["steps"] == ["parse", "split", "ask", "answer", "dedup"]
    detail = await api.json("/api/workflows/qa")
    assert detail["graph"][1]["options"]["size"]
    assert "short" in detail["sets"]
    operators = {one["name"]: one for one in await api.json("/api/operators")}
    assert operators["split"]["options"]["properties"]["size"]


async def test_bodies_of_a_run_that_cannot_be_say_what_is_wrong(api: Api) -> None:
    write_places(api.app.settings.home.parent / "docs")
    for wrong, status, code in (
        ({}, 422, "A422"), ({"sources": ["docs"], "upload": "x"}, 422, "A422"),
        ({"sources": ["docs"], "parameters": {"nothing.size": 1}}, 422, "U302"),
        ({"sources": ["docs"], "parameters": {"split.size": "huge"}}, 422, "U300"),
        ({"sources": ["docs"], "set": "nothing"}, 422, "U304"), ({"sources": ["docs"], "budget": -1}, 422, "A422"),
        ({"sources": ["docs"], "model": "openai:gpt-4.1-mini"}, 503, "M101"),
        ({"sources": ["docs"], "model": "nothing"}, 422, "M102"),
        ({"sources": ["docs"], "model": None}, 422, "U100"), ({"sources": ["docs"], "after": ["nothing"]}, 404, "A404"),
        ({"sources": ["http://name:secret@example.org/"]}, 422, "U102"), ({"sources": ["docs\0"]}, 422, None),
        ({"sources": ["x" * 300]}, 422, "U101"), ({"sources": ["x" * 4000]}, 422, "U101"),
        ({"sources": [""]}, 422, "A422"), ({"sources": ["docs"] * 1001}, 422, "A422"),
    ):  # fmt: skip
        found = await api.post("/api/runs", json=wrong)
        assert found.status_code == status, (wrong, found.text)
        assert code is None or found.json()["code"] == code, (wrong, found.text)
        assert "secret" not in found.text
    assert (await api.json("/api/runs"))["items"] == []


async def test_people_decide_in_their_own_name(api: Api) -> None:
    run = await finished(api)
    reviewer, viewer = await token(api, "reviewer"), await token(api, "viewer")
    claim = {"run": run.name, "limit": 1}
    assert (await api.post("/api/reviews/claim", json=claim, headers=viewer)).status_code == 403
    other = await api.post("/api/reviews/claim", json=claim | {"reviewer": "ada"}, headers=reviewer)
    assert (other.status_code, other.json()["code"]) == (403, "A403")
    piece = (await api.post("/api/reviews/claim", json=claim, headers=reviewer)).json()[0]
    assert piece["holder"] == "t-reviewer"
    said = {"decision": "accept", "token": piece["token"]}
    done = await api.post(f"/api/reviews/{piece['record_id']}", json=said, headers=reviewer)
    assert done.json()["state"] == "accepted"
    record = (await api.get(f"/api/records/{piece['record_id']}", headers=viewer)).json()
    assert record["reviewer"] == "t-reviewer"
    wanted = {"action": "retry", "run": run.name}
    assert (await api.post("/api/actions", json=wanted, headers=reviewer)).status_code == 403
    assert (await api.post("/api/actions", json=wanted | {"action": "reject"}, headers=reviewer)).status_code == 200
    assert (await api.post("/api/runs", json={"sources": ["x"]}, headers=reviewer)).status_code == 403


async def test_a_new_run_is_called_as_its_caller_wants(api: Api) -> None:
    write_places(api.app.settings.home.parent / "docs")
    body = {"sources": ["docs"], "name": "harvest.2026"}
    made = await api.post("/api/runs", json=body)
    assert (made.status_code, made.json()["name"]) == (201, "harvest.2026"), made.text
    again = await api.post("/api/runs", json=body)
    assert again.json()["id"] == made.json()["id"]
    assert (await api.json("/api/runs/harvest.2026"))["id"] == made.json()["id"]
    for name in ("harvest.2026", "qa-7", "7", "a b", "../x", "-x"):
        refused = await api.post("/api/runs", json={"sources": ["docs"], "fresh": True, "name": name})
        assert (refused.status_code, refused.json()["code"]) == (422, "U319"), refused.text
    assert len((await api.json("/api/runs"))["items"]) == 1


async def test_uploads_are_listed_and_taken_away_but_not_under_a_run(api: Api) -> None:
    first, second = [
        (await api.post("/api/uploads", files=[("files", ("a.md", text))])).json()["upload"]
        for text in (b"# A mill\n\nIt grinds.", b"# A wheel\n\nIt turns.")
    ]
    run = (await api.post("/api/runs", json={"upload": first})).json()
    kept = {one["upload"]: one for one in await api.json("/api/uploads")}
    assert (kept[first]["runs"], kept[first]["in_use"], kept[first]["bytes"]) == ([run["name"]], True, 20)
    assert (kept[second]["runs"], kept[second]["in_use"], kept[second]["files"]) == ([], False, 1)
    refused = await api.delete(f"/api/uploads/{first}")
    assert (refused.status_code, refused.json()["code"]) == (409, "A409"), refused.text
    assert (await api.delete("/api/uploads", params={"older_than_days": 1})).json() == []
    gone = await api.delete("/api/uploads", params={"older_than_days": 0})
    assert [one["upload"] for one in gone.json()] == [second]
    assert (await api.delete(f"/api/uploads/{second}")).status_code == 404
    await worked_off(api, await api.app.find(run["name"]))
    assert (await api.delete(f"/api/uploads/{first}")).status_code == 204
    assert await api.json("/api/uploads") == []
    assert (await api.json(f"/api/records?run={run['name']}"))["items"]
