"""The vectors of questions, by which `dedup` finds those that say the same in other words."""

from __future__ import annotations

import hashlib
import struct

from gristmill.data.kinds import Example, Vector
from gristmill.operators.operator import Context, operator


@operator("embed_questions", version=1, pool="model", model=True)
async def embed_questions(example: Example, ctx: Context) -> Vector:
    """The vector of an example's question, by the step's model ("hashed" needs no key).

    Raises `ModelSetupError` M108 for a model that makes no vectors, and what the model raises.
    """
    [numbers] = await ctx.model.embed([example.question])
    digest = await ctx.blobs.write(struct.pack(f"<{len(numbers)}f", *numbers))
    return Vector(
        blob=digest, dimensions=len(numbers), model=ctx.model.name,
        text_hash=hashlib.sha256(example.question.encode()).hexdigest(),
    )  # fmt: skip
