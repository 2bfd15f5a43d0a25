"""Pictures that look like earlier ones: which are marked, and with what."""

from __future__ import annotations

import random

import pytest

from gristmill.data.kinds import Duplicate, Image
from gristmill.operators import dedup_images
from gristmill.operators.calling import run_operator
from gristmill.operators.dedup_images import Pictures
from gristmill.operators.operator import Context


def picture(name: str, bits: int, blob: str = "") -> Image:
    return Image(
        blob=(blob or name) * 64, media_type="image/png", width=9, height=9, name=name, perceptual_hash=f"{bits:016x}"
    )  # fmt: skip


async def marks(*pictures: Image, **options: object) -> list[tuple[int, int, str, float]]:
    made = await run_operator(dedup_images, pictures, {}, options, Context(blobs=None))  # type: ignore[arg-type]
    found = [(entry.parents, entry.body) for entry in made if isinstance(entry.body, Duplicate)]
    assert len(found) == len(made)
    return [(later, kept, body.method, body.similarity) for (later, kept), body in found]


async def test_pictures_that_look_like_earlier_ones_are_marked_and_even_ones_are_not() -> None:
    own = 0xF0F0_1234_5678_9ABC
    pictures = [
        picture("a", own), picture("b", own ^ 0b1111), picture("c", own ^ 0b11111), picture("d", 0), picture("e", 0),
        picture("f", own, blob="a"), picture("a", own),
    ]  # fmt: skip
    assert await marks(*pictures) == [(1, 0, "perceptual", 0.9375), (5, 0, "exact", 1.0)]
    assert [one[:2] for one in await marks(*pictures, bits=5)] == [(1, 0), (2, 0), (5, 0)]
    assert await marks(*pictures, bits=0) == [(5, 0, "exact", 1.0)]


@pytest.mark.parametrize("bits", range(17))
def test_no_picture_that_is_close_enough_is_overlooked(bits: int) -> None:
    dice = random.Random(bits)
    spread = [64 * place // bits for place in range(bits)]  # as far apart as they can be
    for places in (spread, *(dice.sample(range(6, 64), bits) for _ in range(200))):
        own = dice.getrandbits(64) | 0xFFF
        near = own
        for place in places:
            near ^= 1 << place
        known = Pictures(bits)
        assert known.add(0, picture("a", own)) is None
        mark = known.add(1, picture("b", near))
        assert mark is not None
        assert mark.kept == 0
