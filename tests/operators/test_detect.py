"""Boxes in pictures: by a model that sees, by a local one, and by a server."""

from __future__ import annotations

import hashlib
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as pillow
from PIL import ImageDraw

from gristmill.data.annotations import Box, Boxes
from gristmill.data.kinds import Image
from gristmill.errors import Busy, GristmillError, InputError
from gristmill.operators import detect, detect_http, detect_onnx
from gristmill.operators.annotation_boxes import Corners, Order, Unit, best_boxes, corners_of, overlap_of, to_boxes
from gristmill.operators.annotation_options import Named
from gristmill.operators.operator import Context
from gristmill.testing.operators import MemoryBlobs, ScriptedModel, perform
from tests.loopback import Answer, serving
from tests.onnx_file import constant_detector
from tests.operators.test_images import drawn, pictures_of, read, saved

LABELS = ["disc", "bar"]


def sides(one: Box) -> tuple[float, ...]:
    return tuple(round(side, 4) for side in (one.x, one.y, one.width, one.height))


def drew(left: float, top: float, right: float, bottom: float, label: str = "disc", **more: Any) -> dict[str, Any]:
    return {"label": label, "left": left, "top": top, "right": right, "bottom": bottom, **more}


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("thousandths", (1000, 1000)), ("percent", (100, 100)), ("fractions", (1, 1)), ("pixels", (500, 250))],
)
async def test_a_box_is_the_same_in_every_unit_that_is_declared(unit: Unit, factor: tuple[int, int]) -> None:
    image, blobs = await read(saved(drawn((2000, 1000)), "PNG"))
    wide, high = factor
    model = ScriptedModel([[drew(0.1 * wide, 0.2 * high, 0.4 * wide, 0.9 * high, confidence=0.7)]])
    (made,) = await perform(detect.using(labels=LABELS, unit=unit, resize_max=500), image, blobs=blobs, model=model)
    assert isinstance(made, Boxes)
    (one,) = made.boxes
    assert (one.id, one.label, sides(one), one.score) == ("b1", "disc", (0.1, 0.2, 0.3, 0.7), 0.7)
    assert one.pixels(2000, 1000) == pytest.approx((200, 200, 800, 900))
    assert (made.width, made.height, made.outcome, made.score) == (2000, 1000, "ok", 0.7)
    assert "500 pixels wide and 250 pixels high" in model.requests[0].messages[-1].text
    assert len(pictures_of(model.requests[0])) == 1


@pytest.mark.parametrize(
    ("order", "numbers"),
    [("xyxy", [100, 200, 400, 900]), ("yxyx", [200, 100, 900, 400]), ("xywh", [100, 200, 300, 700]),
     ("cxcywh", [250, 550, 300, 700])],
)  # fmt: skip
@pytest.mark.parametrize("key", ["box", "bbox_2d", "box_2d"])
async def test_four_numbers_mean_what_their_declared_order_says(order: Order, numbers: list[int], key: str) -> None:
    image, blobs = await read(saved(drawn(), "PNG"))
    model = ScriptedModel([[{"label": "Disc", key: numbers}]])
    (made,) = await perform(detect.using(labels=LABELS, order=order), image, blobs=blobs, model=model)
    assert isinstance(made, Boxes)
    assert [sides(one) for one in made.boxes] == [(0.1, 0.2, 0.3, 0.7)]


async def test_corners_are_clamped_and_what_is_no_box_is_left_out_and_remembered() -> None:
    image, blobs = await read(saved(drawn(), "PNG"))
    model = ScriptedModel([[
        drew(-50, 900, 100, 1100), drew(400, 300, 200, 100),  # out at two sides; corners swapped
        drew(5, 5, 5, 50), drew(1200, 0, 1300, 100), drew(0, 0, 2500, 10), drew(1, 1, 9, 9, "cat"),
        drew(400, 300, 200, 100), drew(0, 0, 9, 9, confidence=0.1),
    ]])  # fmt: skip
    (made,) = await perform(detect.using(labels=LABELS, min_score=0.5), image, blobs=blobs, model=model)
    assert isinstance(made, Boxes)
    assert [sides(one) for one in made.boxes] == [(0.0, 0.9, 0.1, 0.1), (0.2, 0.1, 0.2, 0.2)]
    assert [one.reason for one in made.dropped] == [
        "no_area", "outside", "outside", "unknown_label", "repeated", "low_score",
    ]  # fmt: skip


async def test_boxes_of_a_turned_camera_are_those_of_the_upright_picture() -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6
    image, blobs = await read(saved(drawn((800, 400)), "JPEG", exif=exif, quality=95))
    assert (image.width, image.height) == (400, 800)
    model = ScriptedModel([[drew(0, 0, 400, 200, "bar")]])
    (made,) = await perform(detect.using(labels=LABELS, unit="pixels"), image, blobs=blobs, model=model)
    assert isinstance(made, Boxes)
    assert [sides(one) for one in made.boxes] == [(0, 0, 1, 0.25)]
    with pillow.open(io.BytesIO(pictures_of(model.requests[0])[0].data)) as shown:
        assert shown.size == (400, 800)  # what the model measures in is what the boxes are of


@pytest.mark.parametrize(
    "answer",
    ["I see a disc.", [{"label": "disc", "left": 1}], [drew(0, 0, math.inf, 1)], [{"label": "disc", "box": [1, 2]}]],
)
async def test_a_model_that_draws_nothing_of_use_leaves_a_degraded_annotation(answer: Any) -> None:
    image, blobs = await read(saved(drawn(), "PNG"))
    text = answer if isinstance(answer, str) else json.dumps(answer)
    model = ScriptedModel([text, text])
    (made,) = await perform(detect.using(labels=LABELS), image, blobs=blobs, model=model)
    assert isinstance(made, Boxes)
    assert (made.outcome, made.boxes) == ("degraded", ())
    (made,) = await perform(detect.using(labels=LABELS), image, blobs=blobs, model=ScriptedModel([[]]))
    assert isinstance(made, Boxes)
    assert (made.outcome, made.undecided) == ("empty", False)


finite = st.floats(-3000, 3000) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.lists(st.tuples(finite, finite, finite, finite), max_size=6), st.sampled_from(["pixels", "percent"]))
def test_whatever_numbers_come_every_box_lies_in_its_picture(numbers: list[Any], unit: Unit) -> None:
    boxes, dropped = to_boxes([Corners("x", *four) for four in numbers], unit, 640, 480)
    assert len(boxes) + len(dropped) == len(numbers)
    for one in boxes:
        assert 0 <= one.x < one.x + one.width <= 1 + 1e-9
        assert 0 <= one.y < one.y + one.height <= 1 + 1e-9


@given(st.tuples(*[st.floats(0.01, 0.45)] * 4))
def test_corners_in_every_order_are_the_same_corners(numbers: tuple[float, ...]) -> None:
    x, y, width, height = numbers
    same = [
        corners_of((x, y, x + width, y + height), "xyxy"), corners_of((y, x, y + height, x + width), "yxyx"),
        corners_of((x, y, width, height), "xywh"),
        corners_of((x + width / 2, y + height / 2, width, height), "cxcywh"),
    ]  # fmt: skip
    for one in same:
        assert one == pytest.approx(same[0])


def test_of_boxes_that_overlap_the_surest_of_each_label_stays() -> None:
    found = [Corners("a", 0, 0, 10, 10, 0.5), Corners("a", 1, 0, 11, 10, 0.9), Corners("b", 0, 0, 10, 10, 0.3)]
    assert [one.score for one in best_boxes(found, 0.5)] == [0.9, 0.3]
    assert len(best_boxes(found, 0.95)) == 3
    assert overlap_of((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)


def detector(path: str, body: bytes) -> Answer:
    asked = json.loads(body)
    boxes = [
        {
            "label": "disc",
            "box": [asked["width"] * 0.1, 0, asked["width"] * 0.4, asked["height"]],
            "score": 0.9,
            "id": 7,
        },
        {"label": "moon", "box": [1, 1, 2, 2], "score": 0.8},
    ]
    return Answer(json.dumps({"boxes": boxes, "model": "toy-1"}).encode())


async def by_http(image: Image, blobs: MemoryBlobs, url: str | None, **options: Any) -> Boxes:
    ctx = Context(blobs=blobs, services={"detector": url} if url else {})
    made = await detect_http(image, ctx, **options)
    assert isinstance(made, Boxes)
    return made


async def test_a_detector_behind_an_address_is_sent_the_picture_and_its_boxes_are_held_to_the_labels() -> None:
    image, blobs = await read(saved(drawn((300, 100)), "PNG"))
    with serving(detector) as server:
        made = await by_http(image, blobs, server.url + "/detect", labels=[Named(name="disc")])
        every = await by_http(image, blobs, server.url, resize_max=150)
    assert [(one.label, sides(one), one.score) for one in made.boxes] == [("disc", (0.1, 0, 0.3, 1), 0.9)]
    assert (made.by, made.annotator, made.model, made.outcome) == ("detector", "detector", "toy-1", "ok")
    assert [one.reason for one in made.dropped] == ["unknown_label"]
    assert [one.label for one in every.boxes] == ["disc", "moon"]
    asked = json.loads(server.asked[0][1])
    assert (asked["width"], asked["height"], asked["media_type"], asked["labels"]) == (300, 100, "image/png", ["disc"])
    assert json.loads(server.asked[1][1])["width"] == 150


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(b"who are you", 401), "P260"), (Answer(b"nothing here", 404), "P260"), (Answer(b"no", 422), "P261"),
        (Answer(b"oops", 500), "P313"), (Answer(b"<html>"), "P313"), (Answer(b'{"boxes": [{"label": "x"}]}'), "P313"),
        (Answer(b'{"boxes": [{"label": "x", "box": [1, 2, 3, NaN]}]}'), "P313"),
    ],
)  # fmt: skip
async def test_what_a_detector_cannot_do_has_a_code(answer: Answer, code: str) -> None:
    image, blobs = await read(saved(drawn(), "PNG"))
    with serving(lambda path, body: answer) as server, pytest.raises(GristmillError) as caught:
        await by_http(image, blobs, server.url)
    assert caught.value.code == code


async def test_a_busy_detector_is_waited_for_and_a_missing_one_is_named() -> None:
    image, blobs = await read(saved(drawn(), "PNG"))
    with serving(lambda path, body: Answer(b"", 503, {"retry-after": "17"})) as server, pytest.raises(Busy) as busy:
        await by_http(image, blobs, server.url)
    assert busy.value.delay == 17
    for url, code in ((None, "P260"), (server.url, "P313")):  # no longer there
        with pytest.raises(GristmillError) as caught:
            await by_http(image, blobs, url)
        assert caught.value.code == code


NAMES = "{0: 'disc', 1: 'bar <&>'}"
FINAL = [[8.0, 16.0, 40.0, 48.0, 0.9, 0.0], [8.0, 17.0, 40.0, 48.0, 0.7, 0.0], [1.0, 1.0, 9.0, 9.0, 0.2, 1.0],
         [50.0, 16.0, 60.0, 48.0, 0.8, 1.0]]  # fmt: skip


def as_columns(boxes: list[list[float]], classes: int = 2) -> list[list[float]]:
    """The layout of versions 8 to 11: a column a box, its middle and size, then a score for each class."""
    rows = []
    for left, top, right, bottom, score, kind in [*boxes, *[[0.0, 0.0, 1.0, 1.0, 0.0, 0.0]] * 8]:
        scores = [score if int(kind) == number else 0.0 for number in range(classes)]
        rows.append([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, *scores])
    return [list(column) for column in zip(*rows, strict=True)]


def as_rows(boxes: list[list[float]]) -> list[list[float]]:
    """The layout of versions 5 to 7: a row a box, with its own certainty before the classes."""
    return [[*column[:4], 1.0, *column[4:]] for column in zip(*as_columns(boxes), strict=True)]


async def by_file(folder: Path, content: bytes, size: tuple[int, int] = (128, 64), **options: Any) -> Boxes:
    pytest.importorskip("onnxruntime")
    image, blobs = await read(saved(drawn(size), "PNG"))
    (folder / "toy.onnx").write_bytes(content)
    chosen = detect_onnx.using(file=str(folder / "toy.onnx"), **options)
    (made,) = await perform(chosen, image, blobs=blobs)
    assert isinstance(made, Boxes)
    return made


@pytest.mark.parametrize(
    ("rows", "output"), [(FINAL, "final"), (as_columns(FINAL), "columns"), (as_rows(FINAL), "rows")]
)
@pytest.mark.parametrize("told", [True, False])
async def test_a_local_model_of_each_layout_finds_the_same_boxes(
    tmp_path: Path, rows: list[list[float]], output: str, told: bool
) -> None:
    chosen = output if told else "auto"
    made = await by_file(tmp_path, constant_detector(rows, 64, NAMES), output=chosen)
    # The picture of 128 x 64 stands in the middle of 64 x 64, at half its size: 16 rows of grey above it.
    assert [(one.label, sides(one), one.score) for one in made.boxes] == [
        ("disc", (0.125, 0, 0.5, 1), 0.9), ("bar <&>", (0.7812, 0, 0.1562, 1), 0.8),
    ]  # fmt: skip
    assert (made.by, made.annotator, made.model, made.outcome) == ("detector", "toy.onnx", "toy.onnx", "ok")


async def test_classes_of_a_local_model_have_names_of_the_step_and_are_held_to_its_labels(tmp_path: Path) -> None:
    content = constant_detector(FINAL, None)
    made = await by_file(tmp_path, content, size=(640, 640), names=["moon"], labels=["moon"], min_score=0.1)
    assert {one.label for one in made.boxes} == {"moon"}
    assert {(one.label, one.reason) for one in made.dropped} == {("class 1", "unknown_label")}
    digest = hashlib.sha256(content).hexdigest()
    assert (await by_file(tmp_path, content, size=(640, 640), sha256=digest)).outcome == "ok"


@pytest.mark.parametrize(
    ("content", "options", "code"),
    [
        (b"no model", {}, "P263"),
        (constant_detector(FINAL, inputs=[1, 1, 8, 8]), {}, "P263"),
        (constant_detector([[1.0, 2.0, 3.0]]), {}, "P264"),
        (constant_detector(FINAL), {"output": "columns"}, "P264"),
        (constant_detector(FINAL), {"sha256": "0" * 64}, "P263"),
    ],
)
async def test_a_file_that_is_no_detector_is_told_so(
    tmp_path: Path, content: bytes, options: dict[str, Any], code: str
) -> None:
    with pytest.raises(InputError) as caught:
        await by_file(tmp_path, content, **options)
    assert caught.value.code == code


async def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    image, blobs = await read(saved(drawn(), "PNG"))
    with pytest.raises(InputError, match=r"none\.onnx") as caught:
        await perform(detect_onnx.using(file=str(tmp_path / "none.onnx")), image, blobs=blobs)
    assert caught.value.code == "P263"


async def test_the_layout_of_a_page_is_found_without_a_key_and_without_a_network() -> None:
    pytest.importorskip("rapid_layout")
    page = pillow.new("RGB", (800, 1000), "white")
    pen = ImageDraw.Draw(page)
    for y in range(100, 400, 20):
        pen.text((80, y), "The quick brown fox jumps over the lazy dog and goes on for a while.", fill="black")
    for x in range(100, 701, 150):
        pen.line((x, 500, x, 800), fill="black", width=2)
    for y in range(500, 801, 50):
        pen.line((100, y, 700, y), fill="black", width=2)
    for x in range(110, 700, 150):
        for y in range(510, 800, 50):
            pen.text((x, y), "cell 12", fill="black", font_size=20)
    image, blobs = await read(saved(page, "PNG"))
    (made,) = await perform(detect_onnx.using(labels=["text", "table"]), image, blobs=blobs)
    assert isinstance(made, Boxes)
    found = {one.label: one for one in made.boxes}
    assert overlap_of(found["table"].pixels(800, 1000), (100, 500, 700, 800)) > 0.8
    assert overlap_of(found["text"].pixels(800, 1000), (80, 100, 460, 395)) > 0.7
    assert made.model == "rapid-layout"
