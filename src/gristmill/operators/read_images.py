"""The operator `read_images`: a file becomes a picture that later steps can ask about."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import Field
from typing_extensions import TypeAliasType

from gristmill.data.kinds import Image, Source
from gristmill.errors import InputError
from gristmill.operators.operator import Context, operator
from gristmill.operators.pictures import read_picture

MAX_PIXELS = 64_000_000  # 256 MB while it is unpacked
MAX_BYTES = 100_000_000
# Under a name of its own, so that the bounds survive typing.get_type_hints, which drops a bare Annotated.
Pixels = TypeAliasType("Pixels", Annotated[int, Field(ge=1)])


@operator("read_images", version=1, pool="parse", isolate=True)
async def read_images(source: Source, ctx: Context, max_pixels: Pixels = MAX_PIXELS) -> Image:
    """The picture in a file: png, jpg, webp, gif (its first frame) or bmp. A camera's rotation is applied, so that the
    stored picture stands upright for everybody.

    `max_pixels` (default 64,000,000) is the largest width times height. Raises `InputError`:

    P201 the file is empty     P204 it is no picture of these formats      P240 it has too many pixels
    P203 it is damaged         P206 it is larger than 100 MB               P241 Pillow is not installed
    """
    if source.size > MAX_BYTES:
        raise InputError(f"{source.name} is too large: {source.size / 1e6:,.0f} MB, the limit is 100 MB", code="P206")
    data = await ctx.blobs.read(source.blob)
    picture = await asyncio.to_thread(read_picture, data, source.name, max_pixels)
    return Image(
        blob=await ctx.blobs.write(picture.data), media_type=picture.media_type, width=picture.width,
        height=picture.height, name=source.name, perceptual_hash=picture.perceptual_hash,
    )  # fmt: skip
