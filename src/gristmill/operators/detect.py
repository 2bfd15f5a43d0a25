"""Boxes in pictures, drawn by a model that sees."""

from __future__ import annotations

import math
from functools import lru_cache
from io import BytesIO
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model, model_validator

from gristmill.data.annotations import Boxes
from gristmill.data.kinds import Image
from gristmill.operators.annotation_asking import Confidence, OnFailure, asked, least_sure, left_out, subject_of
from gristmill.operators.annotation_boxes import Corners, Order, Unit, corners_of, to_boxes
from gristmill.operators.annotation_options import (
    Count,
    Labels,
    Sample,
    Share,
    label_type,
    told,
)
from gristmill.operators.image_questions import RESIZE_MAX, Side, shown
from gristmill.operators.operator import Context, operator

_LISTS = ("box", "bbox", "bbox_2d", "box_2d", "coordinates")  # under which models give four numbers
_UNITS: dict[str, dict[str, str]] = {
    "en": {
        "pixels": "pixels of the picture as you see it", "percent": "percent of the width and of the height, 0 to 100",
        "thousandths": "thousandths of the width and of the height, 0 to 1000",
        "fractions": "fractions of the width and of the height, 0 to 1",
    },
    "zh": {
        "pixels": "所见图片的像素", "percent": "宽和高的百分比，0 到 100", "thousandths": "宽和高的千分比，0 到 1000",
        "fractions": "宽和高的比例，0 到 1",
    },
    "tr": {
        "pixels": "gördüğün resmin pikselleri", "percent": "genişliğin ve yüksekliğin yüzdesi, 0 ile 100 arası",
        "thousandths": "genişliğin ve yüksekliğin bindesi, 0 ile 1000 arası",
        "fractions": "genişliğin ve yüksekliğin kesri, 0 ile 1 arası",
    },
}  # fmt: skip


class DrawnBox(BaseModel):
    """One box as the model gives it, in the unit that was asked for."""

    label: str
    left: float = Field(allow_inf_nan=False)
    top: float = Field(allow_inf_nan=False)
    right: float = Field(allow_inf_nan=False)
    bottom: float = Field(allow_inf_nan=False)
    confidence: float | None = None


@operator("detect", version=1, pool="model", model=True, prompts=("detect",))
async def detect(
    image: Image, ctx: Context, labels: Labels, unit: Unit = "thousandths", order: Order = "xyxy",
    unknown: Literal["drop", "reject"] = "drop", min_score: Share = 0.0, most: Count = 300,
    annotator: str | None = None, sample: Sample = 0, on_failure: OnFailure = "degrade", resize_max: Side = RESIZE_MAX,
    prompt: str | None = None,
) -> Boxes:  # fmt: skip
    """What of `labels` a picture shows, each in a box.

    The model is asked for corners in `unit`: "thousandths" of width and height (default), "percent", "fractions" or
    "pixels" of the picture that it is sent, no side of which is longer than `resize_max` (default 1568). A model that
    answers with a list of four numbers instead means them in `order`: "xyxy" (default), "xywh", "yxyx" or "cxcywh".

    Corners outside are clamped to the edge of the picture. Left out and remembered are boxes without area or far
    outside, under `min_score`, of labels that are not in the list (`unknown="reject"` asks again instead), and those
    beyond `most` (default 300). The other options are those of `classify`. Raises what the model raises when it cannot
    be reached.
    """
    about: dict[str, Any] = {
        "subject": subject_of(image), "annotator": annotator or ctx.model.name, "model": ctx.model.name,
        "width": image.width, "height": image.height,
    }  # fmt: skip
    picture = await shown(image, ctx, resize_max)
    width, height = _size(picture.data)
    units = _UNITS.get(ctx.language.split("-")[0], _UNITS["en"])
    filled = ctx.prompt(
        prompt or "detect", labels=told(labels), width=str(width), height=str(height), unit=units[unit],
        language=ctx.language,
    )  # fmt: skip
    schema = _schema(tuple(one.name for one in labels), unknown == "reject", order)
    given = await asked(ctx, filled.showing(picture), list[schema], sample, on_failure)  # type: ignore[valid-type]
    if given.value is None:
        return Boxes(**about, outcome="degraded", reason=given.reason)
    drawn: list[DrawnBox] = given.value
    found = [Corners(one.label, one.left, one.top, one.right, one.bottom, one.confidence) for one in drawn]
    boxes, dropped = to_boxes(found, unit, width, height, labels, min_score=min_score, most=most)
    ctx.notes.update(named=len(drawn), boxes=len(boxes))
    return Boxes(
        **about, boxes=tuple(boxes), outcome="ok" if boxes else "empty",
        reason=None if boxes or not drawn else "nothing of what the model drew could be used",
        score=least_sure(one.score for one in boxes), dropped=left_out(ctx, dropped),
    )  # fmt: skip


def _size(data: bytes) -> tuple[int, int]:
    from PIL import Image as pillow

    with pillow.open(BytesIO(data)) as picture:
        return picture.size


@lru_cache(maxsize=64)
def _schema(names: tuple[str, ...], strict: bool, order: Order) -> type[DrawnBox]:

    class Listed(DrawnBox):
        @model_validator(mode="before")
        @classmethod
        def _named(cls, given: Any) -> Any:
            """Four numbers under a name that models are trained to use, as the four sides."""
            key = next((name for name in _LISTS if isinstance(given, dict) and isinstance(given.get(name), list)), None)
            numbers = given[key] if key is not None else ()
            if len(numbers) != 4 or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
                return given
            sides = zip(("left", "top", "right", "bottom"), corners_of(numbers, order), strict=True)
            return {name: value for name, value in given.items() if name != key} | dict(sides)

    return create_model("Drawn", __base__=Listed, label=(label_type(names, strict), ...), confidence=(Confidence, None))
