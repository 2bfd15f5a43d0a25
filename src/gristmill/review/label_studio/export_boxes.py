"""Boxes as folders that detectors are trained on: COCO, Pascal VOC, YOLO and its turned boxes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import yaml

from gristmill.data.annotations import Box, Boxes
from gristmill.review.label_studio.export_text import Entry, Layout
from gristmill.review.label_studio.subjects import picture_name

Point = tuple[float, float]
_DIGITS = 6  # after the point, of pixels and of fractions


def file_name(entry: Entry) -> str:
    """The name of its picture in a folder: record and name of the source, so that two are never mixed up."""
    picture = entry.subject.picture
    if picture is None:
        return ""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", picture.name.rpartition("/")[2].rpartition(".")[0])[:60]
    ending = picture_name(picture).rpartition(".")[2]
    return f"{entry.subject.record_id}-{stem}.{ending}" if stem.strip("_") else f"{entry.subject.record_id}.{ending}"


def corners(box: Box, width: int, height: int) -> list[Point]:
    """The four corners in pixels, clockwise from the upper left one, turned about it; those of a turned box may lie
    outside of the picture."""
    x, y, across, down = box.x * width, box.y * height, box.width * width, box.height * height
    turn = math.radians(box.rotation)
    cos, sin = math.cos(turn), math.sin(turn)
    return [
        (x + dx * cos - dy * sin, y + dx * sin + dy * cos)
        for dx, dy in ((0, 0), (across, 0), (across, down), (0, down))
    ]


def around(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom in pixels of the upright box around it, inside of the picture."""
    if not box.rotation:
        return box.pixels(width, height)
    xs, ys = zip(*corners(box, width, height), strict=True)
    return max(min(xs), 0.0), max(min(ys), 0.0), min(max(xs), float(width)), min(max(ys), float(height))


class CocoFolder:
    """annotations.json, with boxes in pixels, beside images/."""

    def __init__(self, layout: Layout) -> None:
        labels = layout.labeling.need("RectangleLabels").labels
        self._categories = {label: number for number, label in enumerate(labels, 1)}
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def files(self, entry: Entry, name: str) -> dict[str, bytes]:
        boxes = entry.annotation
        assert isinstance(boxes, Boxes)  # noqa: S101  # formats go by kind
        image = len(self._images) + 1
        about = {"record_id": entry.subject.record_id, "source": entry.subject.about.get("source", "")}
        size = {"width": boxes.width, "height": boxes.height}
        self._images.append({"id": image, "file_name": f"images/{name}", **size, **about})
        for one in boxes.boxes:
            left, top, right, bottom = around(one, boxes.width, boxes.height)
            outline = [part for point in corners(one, boxes.width, boxes.height) for part in point]
            made = {
                "id": len(self._annotations) + 1, "image_id": image, "category_id": self._categories[one.label],
                "bbox": _rounded([left, top, right - left, bottom - top]), "iscrowd": 0,
                "area": round(one.width * boxes.width * one.height * boxes.height, _DIGITS),
                "segmentation": [_rounded(outline)] if one.rotation else [],
            }  # fmt: skip
            more = {"rotation": one.rotation} if one.rotation else {}
            more |= {} if one.score is None else {"score": one.score}
            self._annotations.append({**made, "attributes": more} if more else made)
        return {}

    def finish(self) -> dict[str, bytes]:
        categories = [{"id": number, "name": label, "supercategory": ""} for label, number in self._categories.items()]
        document = {
            "info": {"description": "made with Gristmill", "version": "1.0"}, "licenses": [], "images": self._images,
            "categories": categories, "annotations": self._annotations,
        }  # fmt: skip
        return {"annotations.json": (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()}


class VocFolder:
    """Annotations/NAME.xml for each picture, in whole pixels, beside images/."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def files(self, entry: Entry, name: str) -> dict[str, bytes]:
        boxes = entry.annotation
        assert isinstance(boxes, Boxes)  # noqa: S101
        root = ElementTree.Element("annotation")
        _add(root, "folder", "images")
        _add(root, "filename", name)
        source = ElementTree.SubElement(root, "source")
        _add(source, "database", "Gristmill")
        _add(source, "annotation", str(entry.annotation_id))
        _add(source, "image", _said(entry.subject.about.get("source", "")))
        size = ElementTree.SubElement(root, "size")
        for tag, number in (("width", boxes.width), ("height", boxes.height), ("depth", 3)):
            _add(size, tag, str(number))
        _add(root, "segmented", "0")
        self._layout.lose("angles of turned boxes", sum(bool(one.rotation) for one in boxes.boxes))
        for one in boxes.boxes:
            _add_object(root, one, boxes)
        ElementTree.indent(root, "\t")
        text = ElementTree.tostring(root, encoding="unicode") + "\n"
        return {f"Annotations/{name.rpartition('.')[0]}.xml": text.encode()}

    def finish(self) -> dict[str, bytes]:
        return {}


def _add_object(root: ElementTree.Element, box: Box, boxes: Boxes) -> None:
    made = ElementTree.SubElement(root, "object")
    for tag, text in (("name", box.label), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
        _add(made, tag, text)
    place = ElementTree.SubElement(made, "bndbox")
    for tag, number in zip(("xmin", "ymin", "xmax", "ymax"), around(box, boxes.width, boxes.height), strict=True):
        _add(place, tag, str(round(number)))


class YoloFolder:
    """labels/NAME.txt for each picture: class and box in fractions (with `turned` its four corners); classes.txt,
    data.yaml and images/."""

    def __init__(self, layout: Layout, *, turned: bool = False) -> None:
        self._layout = layout
        self._labels = layout.labeling.need("RectangleLabels").labels
        self._turned = turned

    def files(self, entry: Entry, name: str) -> dict[str, bytes]:
        boxes = entry.annotation
        assert isinstance(boxes, Boxes)  # noqa: S101
        lines = [
            f"{self._labels.index(one.label)} {' '.join(map(_plain, self._numbers(one, boxes)))}\n"
            for one in boxes.boxes
        ]
        return {f"labels/{name.rpartition('.')[0]}.txt": "".join(lines).encode()}

    def _numbers(self, box: Box, boxes: Boxes) -> list[float]:
        width, height = boxes.width, boxes.height
        if self._turned:
            return [part for x, y in corners(box, width, height) for part in (x / width, y / height)]
        self._layout.lose("angles of turned boxes", bool(box.rotation))
        left, top, right, bottom = around(box, width, height)
        return [
            (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height
        ]  # fmt: skip

    def finish(self) -> dict[str, bytes]:
        names = dict(enumerate(self._labels))
        data = {"path": ".", "train": "images", "val": "images", "names": names}
        text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
        return {"classes.txt": "".join(f"{label}\n" for label in self._labels).encode(), "data.yaml": text.encode()}


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text


def _said(text: str) -> str:
    """Without what XML cannot hold: names of files may have anything in them."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _rounded(numbers: Sequence[float]) -> list[float]:
    return [round(number, _DIGITS) + 0.0 for number in numbers]


def _plain(number: float) -> str:
    return f"{number + 0.0:.{_DIGITS}f}"
