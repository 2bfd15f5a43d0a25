"""Questions whose vectors lie close together."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from gristmill.data.kinds import Example, Vector
from gristmill.errors import InputError, UsageError
from gristmill.operators.wording import negations, numbers, question_key, words

BLOCK = 256  # questions that are compared with all kept ones at once: 100 MB for 100,000 of them


class Blobs(Protocol):
    async def read(self, digest: str) -> bytes: ...


async def vectors_of(examples: Sequence[Example], vectors: Sequence[Vector], blobs: Blobs) -> list[bytes]:
    """The vector of each example (little-endian 32-bit floats): that of its question, else that of question and answer
    with a line end between them. Raises `InputError` T223 for an example without one, and for different lengths."""
    by_text = {vector.text_hash: vector for vector in vectors}
    if len({(vector.model, vector.dimensions) for vector in vectors}) > 1:
        raise InputError("dedup: the vectors are of different models", code="T223")
    found = []
    for example in examples:
        texts = (example.question, f"{example.question}\n{example.answer}")
        hashes = (hashlib.sha256(text.encode()).hexdigest() for text in texts)
        vector = next((by_text[digest] for digest in hashes if digest in by_text), None)
        if vector is None:
            raise InputError(
                f'dedup: there is no vector of the question "{example.question[:80]}"', code="T223",
                hint="a step that embeds the examples has to come before it, and dedup.after both",
            )  # fmt: skip
        data = await blobs.read(vector.blob)
        if len(data) != 4 * vector.dimensions:
            raise InputError(f"dedup: the vector {vector.blob} has {len(data)} bytes", code="T223")
        found.append(data)
    return found


def find_near(examples: Sequence[Example], vectors: Sequence[bytes], threshold: float) -> dict[int, tuple[int, float]]:
    """Position of a duplicate -> position of the earlier one that it repeats, and their cosine.

    As everywhere in `dedup`, numbers, signs and negations must agree: "in 1950" and "in 1960" lie close together. About
    10 s for 20,000 questions of 1,500 dimensions on one core. Raises `UsageError` U215 without numpy.
    """
    try:
        import numpy
    except ImportError:
        raise UsageError(
            'dedup with method="vectors" needs numpy', code="U215", hint='pip install "gristmill[quality]"'
        ) from None
    groups: dict[object, list[int]] = defaultdict(list)
    seen: set[str] = set()
    for position, example in enumerate(examples):
        if (key := question_key(example.question)) in seen:  # the same words: no vector is needed to say so
            continue
        seen.add(key)
        tokens = words(example.question)
        groups[tuple(sorted(numbers(tokens))), negations(tokens)].append(position)
    found: dict[int, tuple[int, float]] = {}
    for members in groups.values():
        if len(members) > 1:
            matrix = numpy.stack([numpy.frombuffer(vectors[one], dtype="<f4") for one in members])
            lengths = numpy.linalg.norm(matrix, axis=1, keepdims=True)
            near = _near(numpy, matrix / numpy.where(lengths > 0, lengths, 1), threshold)
            found |= {members[later]: (members[kept], cosine) for later, (kept, cosine) in near.items()}
    return found


def _near(numpy: Any, matrix: Any, threshold: float) -> Mapping[int, tuple[int, float]]:
    found: dict[int, tuple[int, float]] = {}
    kept: list[int] = []
    for start in range(0, len(matrix), BLOCK):
        block = matrix[start : start + BLOCK]
        before = numpy.asarray(kept, dtype=int)
        earlier = block @ matrix[before].T if kept else None
        own = block @ block.T
        fresh: list[int] = []  # kept ones of this block
        for row in range(len(block)):
            best = (-1, -1.0)
            if earlier is not None:
                column = int(earlier[row].argmax())
                best = (kept[column], float(earlier[row][column]))
            if fresh:
                column = int(own[row][fresh].argmax())
                cosine = float(own[row][fresh[column]])
                best = max(best, (start + fresh[column], cosine), key=lambda one: one[1])
            if best[0] >= 0 and best[1] >= threshold - 1e-6:
                found[start + row] = (best[0], round(min(best[1], 1.0), 4))
            else:
                fresh.append(row)
        kept += [start + row for row in fresh]
    return found
