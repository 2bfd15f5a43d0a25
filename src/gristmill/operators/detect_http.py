"""Boxes in pictures, drawn by a detector behind an address of one's own."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from io import BytesIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gristmill.data.annotations import Boxes
from gristmill.data.kinds import Image
from gristmill.errors import Busy, InputError, TransientError
from gristmill.operators.annotation_asking import least_sure, left_out, subject_of
from gristmill.operators.annotation_boxes import Corners, Order, Unit, corners_of, to_boxes
from gristmill.operators.annotation_options import Count, Share, SomeLabels
from gristmill.operators.image_questions import Side
from gristmill.operators.operator import Context, operator
from gristmill.operators.pictures import fit
from gristmill.operators.posting import post_json

ANSWER_LIMIT = 16 * 2**20  # bytes


class FoundBox(BaseModel):
    """One box of the answer: four numbers in the step's unit and order."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    label: str
    box: tuple[float, float, float, float]
    score: float | None = Field(default=None, ge=0, le=1)


class Detection(BaseModel):
    """The answer of a detector: {"boxes": [{"label", "box", "score"}], "model"}."""

    model_config = ConfigDict(extra="ignore")
    boxes: list[FoundBox]
    model: str | None = None


@operator("detect_http", version=1, pool="parse")
async def detect_http(
    image: Image, ctx: Context, labels: SomeLabels = [], unit: Unit = "pixels", order: Order = "xyxy",  # noqa: B006
    min_score: Share = 0.0, most: Count = 300, annotator: str = "detector", resize_max: Side = 8192,
) -> Boxes:  # fmt: skip
    """What a detector at `detector_url` (gristmill.toml) finds in a picture, each in a box.

    It is sent {"image": base64, "media_type", "width", "height", "labels"} and answers {"boxes": [{"label": "table",
    "box": [four numbers], "score": 0.9}], "model": "its name"}. The numbers are in `unit` (default "pixels" of the
    picture that was sent) and in `order` (default "xyxy"; or "xywh", "yxyx", "cxcywh"). Without `labels` all labels
    count. What is left out is as in `detect`. No side of the picture is longer than `resize_max` (default 8192).

    Raises `InputError` P260 (no address, or it refuses us), P261 (it does not take the picture), `TransientError` P313
    (no answer, or none that can be read), and `Busy` when it has too much to do.
    """
    url = ctx.services.get("detector")
    if not url:
        raise InputError(
            "the step detect_http needs a detector", code="P260",
            hint='name it: detector_url = "http://localhost:8000/detect" in gristmill.toml',
        )  # fmt: skip
    data, media_type = await asyncio.to_thread(fit, await ctx.blobs.read(image.blob), image.media_type, resize_max)
    width, height = await asyncio.to_thread(_size, data)
    body = {
        "image": base64.b64encode(data).decode(), "media_type": media_type, "width": width, "height": height,
        "labels": [one.name for one in labels],
    }  # fmt: skip
    told = {"who": "the detector", "large": "P261", "away": "P313"}
    answer = _read(*await post_json(url, json.dumps(body).encode(), limit=ANSWER_LIMIT, **told))
    found = [Corners(one.label, *corners_of(one.box, order), one.score) for one in answer.boxes]
    boxes, dropped = to_boxes(found, unit, width, height, labels, min_score=min_score, most=most)
    return Boxes(
        subject=subject_of(image), annotator=annotator, by="detector", model=answer.model, width=image.width,
        height=image.height, boxes=tuple(boxes), outcome="ok" if boxes else "empty",
        score=least_sure(one.score for one in boxes), dropped=left_out(ctx, dropped),
    )  # fmt: skip


def _size(data: bytes) -> tuple[int, int]:
    from PIL import Image as pillow

    with pillow.open(BytesIO(data)) as picture:
        return picture.size


def _read(status: int, headers: Mapping[str, str], answer: bytes) -> Detection:
    said = " ".join(answer[:2000].decode("utf-8", "replace").split())[:300]
    if status in (429, 503):
        after = headers.get("retry-after", "")
        delay = min(float(after), 300.0) if after.isdigit() else 5.0
        raise Busy(f"the detector answered {status}", delay=delay, reason="the detector has too much to do")
    if status in (401, 403, 404, 405):
        raise InputError(f"the detector answered {status}: {said}", code="P260", hint="is detector_url right?")
    if 400 <= status < 500:
        raise InputError(f"the detector does not take the picture: {status} {said}", code="P261")
    if status != 200:
        raise TransientError(f"the detector answered {status}: {said}", code="P313")
    try:
        return Detection.model_validate_json(answer)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise TransientError(
            f"the detector's answer cannot be read: {where}: {problem['msg']}", code="P313",
            hint='it answers {"boxes": [{"label": "table", "box": [1, 2, 3, 4], "score": 0.9}]}',
        ) from None  # fmt: skip
