"""Runs that annotate without a model, for the tests of projects."""

from __future__ import annotations

import io
import re
from pathlib import Path

from PIL import Image as pillow

from gristmill.data.annotations import Box, Boxes, Classes, Entities, Entity
from gristmill.data.kinds import Chunk, Image, Source, content_hash
from gristmill.operators.annotation_options import Labels, Named
from gristmill.operators.operator import Context, operator
from gristmill.operators.panel import panel
from gristmill.operators.read_images import read_images
from gristmill.workflow import Workflow

NAMES = ("Ada", "Bob", "Rome")
SPAN_LABELS = [Named(name="PER"), Named(name="LOC")]
CLASS_LABELS = [Named(name="long"), Named(name="short")]
BOX_LABELS = [Named(name="cat"), Named(name="dog")]


@operator("studio_lines")
async def lines(source: Source, ctx: Context) -> list[Chunk]:
    text = (await ctx.blobs.read(source.blob)).decode()
    return [Chunk(text=line, ordinal=at) for at, line in enumerate(text.splitlines()) if line]


@operator("studio_entities")
async def entities(chunk: Chunk, labels: Labels = SPAN_LABELS) -> list[Entities]:
    """A line that begins with "?" is given up, and one that begins with "!" is not annotated at all."""
    subject = content_hash(chunk).hex()
    if chunk.text.startswith("!"):
        return []
    if chunk.text.startswith("?"):
        return [Entities(subject=subject, annotator="rule", outcome="degraded", reason="no answer")]
    found = [
        Entity(
            id=f"e{at}", start=one.start(), end=one.end(), text=one[0], label="LOC" if one[0] == "Rome" else "PER",
            score=0.5, match="exact",
        )
        for at, one in enumerate(re.finditer("|".join(NAMES), chunk.text), start=1)
    ]  # fmt: skip
    outcome = "ok" if found else "empty"
    return [Entities(subject=subject, annotator="rule", entities=tuple(found), outcome=outcome, score=0.5)]


@operator("studio_classes")
async def classes(chunk: Chunk, labels: Labels = CLASS_LABELS, annotator: str = "rule", least: int = 20) -> Classes:
    label = "long" if len(chunk.text) > least else "short"
    return Classes(subject=content_hash(chunk).hex(), annotator=annotator, labels=(label,))


@operator("studio_boxes")
async def boxes(image: Image, labels: Labels = BOX_LABELS) -> Boxes:
    one = Box(id="b1", label="cat", x=0.25, y=1 / 3, width=0.5, height=1 / 3, score=0.75)
    return Boxes(
        subject=content_hash(image).hex(), annotator="rule", by="detector", width=image.width, height=image.height,
        boxes=(one,),
    )  # fmt: skip


SPANS = Workflow("spans", [lines, entities])
KINDS = Workflow("kinds", [lines, classes])
VOTES = Workflow(
    "votes",
    [
        lines.using(name="lines"),
        *(
            classes.using(name=name, annotator=name, least=least, after="lines")
            for name, least in (("first", 20), ("second", 10))
        ),
        panel.after("first", "second"),
    ],
)
AREAS = Workflow("areas", [read_images, boxes])


def texts(folder: Path, *lines_: str) -> Path:
    path = folder / "letters.md"
    path.write_text("\n".join(lines_))
    return path


def picture(folder: Path, name: str = "a.png", colour: str = "red") -> Path:
    file = io.BytesIO()
    pillow.new("RGB", (40, 30), colour).save(file, "png")
    (folder / name).write_bytes(file.getvalue())
    return folder / name
