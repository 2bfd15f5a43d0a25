"""Annotations over the API: written in the formats that Label Studio and trainers know, pushed to a server, pulled."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

from gristmill.run import Run
from tests.api.conftest import Api
from tests.api.finished import finished, worked_off
from tests.api.test_bulk import until, working
from tests.review.label_studio_runs import AREAS, SPANS, picture
from tests.review.label_studio_server import TOKEN, label_studio

LINES = {"letters.md": "Ada wrote to Bob from Rome.\nNothing here.\nBob & <Ada>\n"}


async def areas(api: Api) -> Run:
    folder = api.app.settings.home.parent / "pictures"
    folder.mkdir(exist_ok=True)
    run = await api.app.start(AREAS, [picture(folder)])
    await worked_off(api, run)
    return run


async def test_every_format_of_annotations_is_previewed_written_and_fetched(api: Api) -> None:
    formats = [one for one in await api.json("/api/exports/formats") if one["annotations"]]
    assert {one["name"] for one in formats} == {
        "label-studio", "label-studio-min", "annotations-csv", "annotations-tsv", "conll", "coco", "voc", "yolo",
        "yolo-obb",
    }  # fmt: skip
    runs = {"entities": await finished(api, SPANS, LINES, model=None), "boxes": await areas(api)}
    for run in runs.values():
        detail = await api.json(f"/api/runs/{run.name}")
        assert (detail["reviewable"], detail["makes_rows"]) == (True, False)
    begun: dict[str, Any] = {}
    for one in formats:
        kind = "boxes" if "entities" not in one["kinds"] else "entities"
        wanted = {"run": runs[kind].name, "format": one["name"]}
        preview = await api.post("/api/exports/preview", json=wanted | {"count": 1})
        assert preview.status_code == 200, preview.text
        assert preview.json()["entries"] == 1
        made = await api.post("/api/exports", json=wanted)
        assert made.status_code == 201, made.text
        begun[one["name"]] = (made.json()["id"], preview.json()["text"])
    files: dict[str, bytes] = {}
    async with working(api):
        for name, (number, _) in begun.items():
            done = await until(api, f"/api/exports/{number}", "completed", "failed")
            assert (done["state"], done["format"]) == ("completed", name), done
            files[name] = (await api.get(done["file"])).content
    tasks = json.loads(files["label-studio"])
    assert [len(one["annotations"]) for one in tasks] == [1, 1, 1]
    assert json.loads(begun["label-studio"][1])[0]["data"] == tasks[0]["data"]
    assert b"Ada" in files["conll"]
    for name in ("coco", "voc", "yolo", "yolo-obb"):
        names = zipfile.ZipFile(io.BytesIO(files[name])).namelist()
        assert any(one.endswith(".png") for one in names), (name, names)
    coco = zipfile.ZipFile(io.BytesIO(files["coco"]))
    inner = next(one for one in coco.namelist() if one.endswith("annotations.json"))
    assert json.loads(coco.read(inner))["annotations"][0]["bbox"] == [10, 10, 20, 10]


async def test_an_export_of_annotations_that_cannot_be_is_refused_at_once(api: Api) -> None:
    plain, spans = await finished(api), await finished(api, SPANS, LINES, model=None)
    for run, wanted, code in (
        (plain, {"format": "conll"}, "L120"), (spans, {"format": "coco"}, "L160"),
        (spans, {"format": "conll", "options": {"kind": "boxes"}}, "L120"),
        (spans, {"format": "conll", "options": {"balance": 3}}, "U412"),
        (plain, {"format": "jsonl", "options": {"kind": "boxes"}}, "U412"),
    ):  # fmt: skip
        for path in ("/api/exports", "/api/exports/preview"):
            found = await api.post(path, json={"run": run.name, **wanted})
            assert (found.status_code, found.json()["code"]) == (422, code), (wanted, found.text)


async def test_annotations_are_pushed_to_a_server_and_pulled_back_by_a_worker(api: Api, tmp_path: Path) -> None:
    run = await finished(api, SPANS, LINES, model=None)
    wanted = {"run": run.name}
    unset = await api.post("/api/label-studio/push", json=wanted)
    assert (unset.status_code, unset.json()["code"]) == (422, "L130"), unset.text
    with (
        label_studio() as studio,
        mock.patch.dict(os.environ, {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": TOKEN}),
    ):
        early = await api.post("/api/label-studio/pull", json=wanted)
        assert (early.status_code, early.json()["code"]) == (422, "L123"), early.text
        elsewhere = await api.post("/api/label-studio/push", json=wanted | {"url": "http://169.254.169.254"})
        assert elsewhere.json()["code"] == "A422"
        async with working(api):
            for what, counted in (("push", ("added", 3)), ("push", ("unchanged", 3)), ("pull", ("tasks", 3))):
                begun = await api.post(f"/api/label-studio/{what}", json=wanted)
                assert begun.status_code == 201, begun.text
                assert begun.json()["state"] in ("waiting", "running", "completed")
                done = await until(api, f"/api/label-studio/{begun.json()['id']}", "completed", "failed")
                assert done["state"] == "completed", done
                assert done["done"][counted[0]] == counted[1]
                assert done["url"].startswith(studio.url)
        assert [one["what"] for one in (await api.json("/api/label-studio"))["items"]] == ["pull", "push", "push"]
        assert await api.app.pool.fetchval(
            "select count(*) from task where position($1 in payload) > 0", TOKEN
        ) == 0  # fmt: skip
    assert (await api.json("/api/runs"))["items"][0]["name"] == run.name
