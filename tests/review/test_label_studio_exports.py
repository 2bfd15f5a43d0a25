"""What stands of a project, as files that other tools read."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given, settings

from gristmill.app import App
from gristmill.data.annotations import Box, Boxes, Entities, Entity
from gristmill.errors import UsageError
from gristmill.review.decisions import decide
from gristmill.review.label_studio.check import check_task
from gristmill.review.label_studio.export_boxes import CocoFolder, VocFolder, YoloFolder, corners, file_name
from gristmill.review.label_studio.export_text import ConllText, Entry, JsonText, Layout, tagged, without_overlaps
from gristmill.review.label_studio.exports import export_project
from gristmill.review.label_studio.labeling import labeling_for
from gristmill.review.label_studio.projects import make_project
from gristmill.review.label_studio.results import from_result
from gristmill.review.label_studio.same import same
from gristmill.review.label_studio.subjects import picture_name
from tests.review.label_studio_runs import AREAS, SPANS, picture, texts
from tests.review.label_studio_samples import Case, cases, entities, picture_of, subject_of
from tests.review.test_label_studio_projects import LINES, finished


@pytest.fixture
async def app(database_url: str, tmp_path: Path) -> AsyncIterator[App]:
    async with App(database_url, home=tmp_path / "home", workers=0) as opened:
        yield opened


def entry_of(annotation: Any, subject: Any) -> Entry:
    return Entry(subject, annotation, 9, "proposed")


def layout_of(labeling: Any) -> Layout:
    return Layout(labeling, picture_name)


@settings(max_examples=100, deadline=None)
@given(cases)
def test_a_task_in_json_is_sound_and_read_back_the_same(case: Case) -> None:
    annotation, subject, labeling = case
    form = JsonText(layout_of(labeling))
    (task,) = json.loads(form.head() + form.entry(entry_of(annotation, subject)) + form.tail())
    assert check_task(task, labeling, subject) == []
    scale = getattr(annotation, "scale", None)
    back = from_result(annotation.kind, task["annotations"][0]["result"], subject, labeling, "x", scale=scale)
    assert same(back, annotation)


@settings(max_examples=100, deadline=None)
@given(entities())
def test_words_of_conll_hold_every_entity_whole_and_no_word_has_a_blank(case: Case) -> None:
    annotation, subject, _ = case
    assert isinstance(annotation, Entities)
    apart = without_overlaps(annotation.entities)
    text = subject.text or ""
    found = list(tagged(text, apart))
    assert not any(sign.isspace() for word, _ in found for sign in word)
    spoken = [one for one in apart if any(not sign.isspace() and sign.isprintable() for sign in one.text)]
    begun = sum(tag.startswith("B-") for _, tag in found)
    assert len(spoken) <= begun <= len(apart)


def test_conll_as_people_know_it() -> None:
    text = "Ada's cafe\u0301 in New York, 東京."
    subject = subject_of(text)
    found = (
        Entity(id="e1", start=0, end=3, text="Ada", label="PER"),
        Entity(id="e2", start=15, end=23, text="New York", label="BIG CITY"),
        Entity(id="e3", start=19, end=23, text="York", label="PER"),
        Entity(id="e4", start=25, end=27, text="東京", label="LOC"),
    )
    layout = layout_of(labeling_for("entities", ["PER", "LOC", "BIG CITY"]))
    form = ConllText(layout)
    made = Entities(subject=subject.hash, annotator="m", entities=found)
    lines = (form.head() + form.entry(entry_of(made, subject)) + form.tail()).splitlines()
    assert lines == [
        "-DOCSTART- -X- _ O", "", "Ada -X- _ B-PER", "' -X- _ O", "s -X- _ O", "cafe\u0301 -X- _ O", "in -X- _ O",
        "New -X- _ B-BIG_CITY", "York -X- _ I-BIG_CITY", ", -X- _ O", "東 -X- _ B-LOC", "京 -X- _ I-LOC",
        ". -X- _ O", "",
    ]  # fmt: skip
    assert layout.left_out == {"entities that overlap another one": 1}


def turned() -> tuple[Any, Entry]:
    subject = picture_of(200, 100)
    straight = Box(id="b1", label="cat", x=0.1, y=0.2, width=0.5, height=0.25)
    quarter = Box(id="b2", label="a & <b>", x=0.5, y=0.2, width=0.1, height=0.4, rotation=90, score=0.5)
    made = Boxes(subject=subject.hash, annotator="m", width=200, height=100, boxes=(straight, quarter))
    return layout_of(labeling_for("boxes", ["cat", "a & <b>"], medium="image")), entry_of(made, subject)


def test_boxes_in_coco_voc_and_yolo() -> None:
    layout, entry = turned()
    name = file_name(entry)
    assert name == "8-a.png"
    coco = CocoFolder(layout)
    assert coco.files(entry, name) == {}
    document = json.loads(coco.finish()["annotations.json"])
    assert [one["name"] for one in document["categories"]] == ["cat", "a & <b>"]
    assert document["annotations"][0]["bbox"] == [20.0, 20.0, 100.0, 25.0]
    # turned by a quarter about its corner (100, 20): 20 x 40 pixels lie to the left of it and below
    assert document["annotations"][1]["bbox"] == [60.0, 20.0, 40.0, 20.0]
    assert document["annotations"][1]["segmentation"] == [[100.0, 20.0, 100.0, 40.0, 60.0, 40.0, 60.0, 20.0]]
    assert document["annotations"][1]["attributes"] == {"rotation": 90.0, "score": 0.5}
    (text,) = VocFolder(layout).files(entry, name).values()
    root = ElementTree.fromstring(text)  # noqa: S314
    assert [one.text for one in root.iter("name")] == ["cat", "a & <b>"]
    sides = [[int(side.text or "") for side in place] for place in root.iter("bndbox")]
    assert sides == [[20, 20, 120, 45], [60, 20, 100, 40]]
    assert layout.left_out == {"angles of turned boxes": 1}
    yolo = YoloFolder(layout)
    lines = yolo.files(entry, name)["labels/8-a.txt"].decode().splitlines()
    assert lines == ["0 0.350000 0.325000 0.500000 0.250000", "1 0.400000 0.300000 0.200000 0.200000"]
    data = yaml.safe_load(yolo.finish()["data.yaml"])
    assert data["names"] == {0: "cat", 1: "a & <b>"}
    points = YoloFolder(layout, turned=True).files(entry, name)["labels/8-a.txt"].decode().splitlines()
    assert points[1] == "1 0.500000 0.200000 0.500000 0.400000 0.300000 0.400000 0.300000 0.200000"


def test_a_turned_box_keeps_its_sides() -> None:
    box = Box(id="b", label="x", x=0.5, y=0.5, width=0.2, height=0.1, rotation=30)
    a, b, c, d = corners(box, 300, 700)
    assert a == (150.0, 350.0)
    assert math.dist(a, b) == pytest.approx(60)
    assert math.dist(b, c) == pytest.approx(70)
    assert math.dist(a, c) == pytest.approx(math.dist(b, d))
    assert b[1] > a[1]  # clockwise, as y grows downwards


async def test_a_project_is_written_as_it_stands_now(app: App, tmp_path: Path) -> None:
    run = await finished(app, SPANS, texts(tmp_path, *LINES))
    project = (await make_project(run)).project
    first, _, _, bob, _ = [piece async for piece in project.pieces(app.pool)]
    body = json.loads(await app.pool.fetchval("select body from record where id = $1", bob.annotation_id))
    assert first.annotation_id is not None
    assert bob.annotation_id is not None
    changes = {"entities": body["entities"][:1]}
    await decide(app.pool, bob.annotation_id, "edit", "eve", changes=changes, run_id=run.id)
    await decide(app.pool, first.annotation_id, "reject", "eve", run_id=run.id)
    done = await export_project(app.pool, project, tmp_path / "out.json", blobs=app.blobs)
    tasks = json.loads((tmp_path / "out.json").read_text())
    assert done.manifest.rows == len(tasks) == 2  # rejected and undecided ones are not there
    assert [one["annotations"][0]["completed_by"]["email"] for one in tasks] == ["rule", "eve"]
    assert [len(one["annotations"][0]["result"]) for one in tasks] == [0, 1]
    only = await export_project(app.pool, project, tmp_path / "r.json", blobs=app.blobs, reviewed=True)
    assert only.manifest.rows == 1
    again = await export_project(app.pool, project, tmp_path / "again.json", blobs=app.blobs)
    assert (again.manifest.sha256, again.manifest.bytes) == (done.manifest.sha256, done.manifest.bytes)
    short = await export_project(app.pool, project, tmp_path / "min.json", "json-min", blobs=app.blobs)
    rows = json.loads((tmp_path / "min.json").read_text())
    assert short.manifest.rows == 2
    assert rows[1]["entity"] == [{"start": 0, "end": 3, "text": "Bob", "labels": ["PER"]}]
    await export_project(app.pool, project, tmp_path / "out.csv", "csv", blobs=app.blobs)
    table = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_bytes().decode())))
    assert [row["text"] for row in table] == [LINES[1], LINES[3]]
    assert json.loads(table[1]["entity"]) == rows[1]["entity"]
    with pytest.raises(UsageError, match='"coco" cannot hold entities') as caught:
        await export_project(app.pool, project, tmp_path / "x", "coco", blobs=app.blobs)
    assert (caught.value.code, caught.value.hint) == ("L160", "for entities: json, json-min, csv, tsv, conll")
    assert sorted(path.name for path in tmp_path.glob(".gristmill-*")) == []


async def test_a_folder_holds_pictures_and_replaces_only_an_export(app: App, tmp_path: Path) -> None:
    run = await finished(app, AREAS, picture(tmp_path), picture(tmp_path, "ü b.png", "blue"))
    project = (await make_project(run)).project
    for _ in range(2):
        done = await export_project(app.pool, project, tmp_path / "yolo", "yolo", blobs=app.blobs)
    assert (done.manifest.rows, done.manifest.images) == (2, 2)
    images = sorted(path.stem for path in (tmp_path / "yolo/images").iterdir())
    assert images == sorted(path.stem for path in (tmp_path / "yolo/labels").iterdir())
    assert (tmp_path / "yolo/classes.txt").read_text() == "cat\ndog\n"
    assert (tmp_path / "yolo/images" / f"{images[0]}.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "yolo/mine.txt").write_text("keep me")
    with pytest.raises(UsageError, match="which no export has written"):
        await export_project(app.pool, project, tmp_path / "yolo", "coco", blobs=app.blobs)
    assert (tmp_path / "yolo/mine.txt").read_text() == "keep me"
