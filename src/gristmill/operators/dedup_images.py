"""Marks pictures that look like an earlier one. Nothing is deleted."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from gristmill.data.kinds import Duplicate, Image
from gristmill.operators.dedup_found import Found
from gristmill.operators.operator import Context, Derived, operator

Bits = Annotated[int, Field(ge=0, le=16)]
HASH_BITS = 64
LEAST_SIGNS = 6  # bits of a hash that are set; an even ground has none, and would be like every other one


@operator("dedup_images", version=1, barrier=True)
def dedup_images(images: list[Image], ctx: Context, bits: Bits = 4) -> list[Derived[Duplicate]]:
    """A mark for each picture that is an earlier one again, or looks like it: that one is kept.

    The parents of a mark are the duplicate and the kept one. `bits` (0 to 16, default 4) is in how many of their 64
    bits the perceptual hashes of two pictures may differ; pictures of nearly one colour are compared by their bytes
    alone. An export leaves out what comes of a marked picture.
    """
    known = Pictures(bits)
    found = [mark for at, image in enumerate(images) if (mark := known.add(at, image))]
    ctx.notes.update(images=len(images), duplicates=len(found))
    return [Derived(Duplicate(similarity=one.similarity, method=one.method), (one.later, one.kept)) for one in found]


class Pictures:
    """The pictures that are kept so far. Two that differ in n bits agree in one of n + 1 parts at least."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.bodies: set[Image] = set()
        self.equal: dict[str, int] = {}
        self.hashes: dict[int, int] = {}
        self.shelves: dict[tuple[int, int], list[int]] = defaultdict(list)

    def add(self, at: int, picture: Image) -> Found | None:
        """The mark of this picture, or None: then it is kept."""
        if picture in self.bodies:  # the same under the same name: what comes of it is shared, and there once
            return None
        if (same := self.equal.get(picture.blob)) is not None:
            return Found(at, same, 1.0, "exact")
        own = int(picture.perceptual_hash or "0", 16)
        keys = self._parts(own) if own.bit_count() >= LEAST_SIGNS else []
        candidates = {other for key in keys for other in self.shelves.get(key, ())}
        near = min((((own ^ self.hashes[one]).bit_count(), one) for one in candidates), default=(HASH_BITS, 0))
        if near[0] <= self.bits:
            self.equal[picture.blob] = near[1]
            return Found(at, near[1], round(1 - near[0] / HASH_BITS, 4), "perceptual")
        self.bodies.add(picture)
        self.equal[picture.blob] = at
        self.hashes[at] = own
        for key in keys:
            self.shelves[key].append(at)
        return None

    def _parts(self, own: int) -> list[tuple[int, int]]:
        ends = [HASH_BITS * n // (self.bits + 1) for n in range(self.bits + 2)]
        return [(start, own >> start & ((1 << (end - start)) - 1)) for start, end in pairwise(ends)]
