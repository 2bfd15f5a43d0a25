"""Chunks to vectors, and vectors into a search index."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gristmill.data.kinds import Chunk, Indexed, Vector
from gristmill.errors import InputError
from gristmill.operators.operator import Context, Derived, operator

BATCH = 500  # entries written at once: bounds the memory, and the length of a statement


@dataclass(frozen=True, slots=True)
class Entry:
    """One chunk for the index. `position` is its place among the inputs of the step, by which its record is known."""

    position: int
    text: str
    vector: tuple[float, ...]


class Entries(Protocol):
    """The search index as an operator sees it (`ctx.index`). Writing the same chunk again changes nothing."""

    @property
    def store(self) -> str: ...

    async def add(self, entries: Sequence[Entry], model: str) -> None: ...

    async def finish(self) -> None: ...


@operator("embed", version=1, pool="model", model=True)
async def embed(chunk: Chunk, ctx: Context) -> Vector:
    """The vector of a chunk: its headings and its text, by the step's model ("hashed" needs no key).

    Raises `ModelSetupError` M108 for a model that makes no vectors, and what the model raises.
    """
    [numbers] = await ctx.model.embed([embedded_text(chunk)])
    digest = await ctx.blobs.write(struct.pack(f"<{len(numbers)}f", *numbers))
    return Vector(blob=digest, dimensions=len(numbers), model=ctx.model.name, text_hash=text_hash(chunk))


@operator("index", version=1, barrier=True, pool="*", timeout=3600.0)
async def index(
    members: list[Chunk | Vector], ctx: Context, store: str = "database", vacuum: bool = True
) -> Derived[Indexed] | None:
    """Chunks with their vectors into a search index: `store` is "database" (default; pgvector) or "lancedb:FOLDER",
    where a relative folder lies in the home of the project. It follows both, `after: [split, embed]`.

    Entries go by chunk: the same chunk twice is one entry. With `vacuum` (default) the store is tidied up once at the
    end. None without a vector. Raises `InputError` T611 for vectors of several models or lengths.
    """
    vectors = {one.text_hash: (place, one) for place, one in enumerate(members) if isinstance(one, Vector)}
    if not vectors:
        return None
    shapes = sorted({(one.model, one.dimensions) for _, one in vectors.values()})
    if len(shapes) > 1:
        raise InputError(f"vectors of several kinds in one index: {shapes}", code="T611", hint="one index for each")
    model, dimensions = shapes[0]
    batch: list[Entry] = []
    count = 0
    for place, one in enumerate(members):
        if isinstance(one, Chunk) and (known := vectors.get(text_hash(one))) is not None:
            data = await ctx.blobs.read(known[1].blob)
            batch.append(Entry(place, one.text, struct.unpack(f"<{len(data) // 4}f", data)))
            count += 1
        if len(batch) >= BATCH:
            await ctx.index.add(batch, model)
            batch = []
    if batch:
        await ctx.index.add(batch, model)
    if vacuum:
        await ctx.index.finish()
    first = next(iter(vectors.values()))[0]
    said = Indexed(store=ctx.index.store, model=model, dimensions=dimensions, entries=count)
    return Derived(said, (first,))


def embedded_text(chunk: Chunk) -> str:
    """The headings above a chunk, and the chunk: "Pumps > Starting" often says what the text does not repeat."""
    return " > ".join(chunk.heading_path) + "\n" + chunk.text


def text_hash(chunk: Chunk) -> str:
    """sha256 of what is embedded, 64 hex digits: by it a vector finds its chunks."""
    return hashlib.sha256(embedded_text(chunk).encode()).hexdigest()
