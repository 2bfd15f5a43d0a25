"""Local detectors: a picture in, corners in its pixels out. Blocking code; it runs in a process of its own."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, Literal, TypeAlias

from gristmill.errors import InputError
from gristmill.operators.annotation_boxes import Corners, best_boxes, corners_of

Pixels: TypeAlias = Any  # numpy, height x width x 3 bytes, RGB; numpy is an extra
Output = Literal["auto", "columns", "rows", "final"]
Detector: TypeAlias = Callable[[Pixels, float, float], list[Corners]]  # with the least score, and the overlap
USUAL_SIDE = 640  # of a model that takes any size
GREY = 114  # what YOLO models are trained to see beside a picture
CANDIDATES = 3000  # the surest boxes of which overlaps are looked at


def upright_pixels(data: bytes) -> Pixels:
    """The picture as an array; turned as its camera says. Raises `InputError` P203 for one that cannot be read."""
    try:
        import numpy
        from PIL import Image, ImageOps
    except ImportError:
        raise _missing() from None
    try:
        with Image.open(BytesIO(data)) as picture:
            return numpy.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError("the picture is damaged and cannot be shown", code="P203") from error


@lru_cache(maxsize=2)
def open_layout(min_score: float, overlap: float) -> Detector:
    """The model of rapid-layout for the layout of pages. Raises `InputError` P262 without the package."""
    try:
        from rapid_layout import RapidLayout
        from rapid_layout.utils.logger import Logger
    except ImportError:
        raise _missing() from None
    engine = RapidLayout(conf_thresh=min_score, iou_thresh=overlap)
    Logger().get_log().setLevel("WARNING")

    def detect(pixels: Pixels, min_score: float, overlap: float) -> list[Corners]:
        result = engine(pixels[:, :, ::-1])
        rows = zip(result.boxes or (), result.class_names or (), result.scores or (), strict=True)
        return [Corners(str(name), *_four(box), float(score)) for box, name, score in rows]

    return detect


@lru_cache(maxsize=2)
def open_yolo(path: str, stamp: tuple[int, int], names: tuple[str, ...], output: Output) -> Detector:
    """A model of the YOLO family. `stamp` tells a file that was replaced from the one that is open.

    Raises `InputError` P262 without the packages, P263 for a file that is no such model, and P264 from the detector for
    an output that it cannot read.
    """
    session = _session(path)
    inputs = session.get_inputs()
    shape = inputs[0].shape
    high, wide = (side if isinstance(side, int) else USUAL_SIDE for side in shape[2:])
    classes = names or _class_names(session.get_modelmeta().custom_metadata_map.get("names", ""))
    half = "float16" in inputs[0].type

    def detect(pixels: Pixels, min_score: float, overlap: float) -> list[Corners]:
        fitted, scale, left, top = _letterboxed(pixels, wide, high)
        try:
            rows = session.run(None, {inputs[0].name: fitted.astype("float16") if half else fitted})[0]
        except Exception as error:
            raise InputError(f"{path} failed: {_line(error)}", code="P264") from None
        found = _read_rows(rows, output, min_score, classes, path)
        best = best_boxes(sorted(found, key=lambda one: -(one.score or 0))[:CANDIDATES], overlap)
        return [
            Corners(
                one.label, (one.left - left) / scale, (one.top - top) / scale, (one.right - left) / scale,
                (one.bottom - top) / scale, one.score,
            )
            for one in best
        ]  # fmt: skip

    return detect


def _session(path: str) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise _missing() from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes of errors share no base
        raise InputError(f"{path} is no ONNX model that can be run: {_line(error)}", code="P263") from None
    inputs = session.get_inputs()
    shape: list[Any] = inputs[0].shape if inputs else []
    if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (3, "3") or "float" not in inputs[0].type:
        raise InputError(
            f"{path} takes {[(one.name, one.shape, one.type) for one in inputs]}", code="P263",
            hint="a detector takes one input: 1 x 3 x height x width, of floats",
        )  # fmt: skip
    return session


def _letterboxed(pixels: Pixels, wide: int, high: int) -> tuple[Any, float, int, int]:
    """1 x 3 x high x wide floats from 0 to 1, with the whole picture in its middle; scale, and where it begins."""
    import numpy
    from PIL import Image

    height, width = pixels.shape[:2]
    scale = min(wide / width, high / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (wide - size[0]) // 2, (high - size[1]) // 2
    canvas = Image.new("RGB", (wide, high), (GREY, GREY, GREY))
    canvas.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR), (left, top))
    array = numpy.asarray(canvas, dtype=numpy.float32) / 255
    return numpy.ascontiguousarray(array.transpose(2, 0, 1)[None]), scale, left, top


def _read_rows(rows: Any, output: Output, min_score: float, classes: Sequence[str], path: str) -> list[Corners]:
    """The boxes of a model's first output, in pixels of what it was shown."""
    table = rows[0].astype("float32") if rows.ndim == 3 and rows.shape[0] == 1 else None
    if table is not None and output == "auto":
        output = "final" if table.shape[1] == 6 else "columns" if table.shape[0] < table.shape[1] else "rows"
    if table is None or table.shape[0 if output == "columns" else 1] < (5 if output == "columns" else 6):
        raise InputError(
            f"the output of {path} has the shape {list(rows.shape)}", code="P264",
            hint="it is 1 x (4 + classes) x boxes, 1 x boxes x (5 + classes), or 1 x boxes x 6; output= says which",
        )  # fmt: skip
    if output == "final":
        return [
            Corners(_name(int(kind), classes), *_four(corners), min(float(score), 1.0))
            for *corners, score, kind in table.tolist() if score >= min_score
        ]  # fmt: skip
    if output == "columns":
        table, scores = table.T, table.T[:, 4:]
    else:
        scores = table[:, 5:] * table[:, 4:5]
    kinds, best = scores.argmax(axis=1), scores.max(axis=1)
    return [
        Corners(
            _name(int(kinds[at]), classes), *corners_of(table[at, :4].tolist(), "cxcywh"), min(float(best[at]), 1.0)
        )
        for at in (best >= min_score).nonzero()[0]
    ]


def _four(numbers: Sequence[Any]) -> tuple[float, float, float, float]:
    a, b, c, d = (float(number) for number in numbers)
    return a, b, c, d


def _class_names(text: str) -> tuple[str, ...]:
    """The names in a model's metadata: {0: 'person', 1: 'car'}, as its exporter writes them."""
    try:
        found = ast.literal_eval(text) if text else {}
        return tuple(str(found[number]) for number in range(len(found)))
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        return ()


def _name(kind: int, classes: Sequence[str]) -> str:
    return classes[kind] if 0 <= kind < len(classes) else f"class {kind}"


def _missing() -> InputError:
    return InputError(
        "local detectors need packages that are not installed", code="P262",
        hint='pip install "gristmill[layout]", then gristmill retry',
    )  # fmt: skip


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
