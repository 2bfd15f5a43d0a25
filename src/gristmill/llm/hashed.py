"""The model `hashed`: vectors out of words and letters, without any language model, key or network.

Words, pairs of words and groups of three letters are hashed into 512 numbers (the hashing trick, signed). It finds
texts that share words or parts of words; it knows nothing of meaning. The same text always gives the same vector.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from itertools import pairwise

from gristmill.llm.model import Answer, Binding, Request

DIMENSIONS = 512
_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]"
)  # scripts without spaces between words


class HashedEmbeddings:
    """Answers like a server of OpenAI's embeddings protocol: each message of a request is a text."""

    @property
    def binding(self) -> Binding:
        return Binding(
            spec="hashed", provider="gristmill", model="hashed", parameters={"version": 1, "dimensions": DIMENSIONS},
            paid=False,
        )  # fmt: skip

    async def complete(self, request: Request) -> Answer:
        rows = [{"index": place, "embedding": vector(one.text)} for place, one in enumerate(request.messages)]
        return Answer("", "hashed", raw=json.dumps({"data": rows}).encode())

    async def close(self) -> None:
        """Nothing is open."""


def vector(text: str) -> list[float]:
    """512 numbers of length 1 together. Text without a letter or digit gives the first unit vector."""
    sums = [0.0] * DIMENSIONS
    for feature, weight in _features(text).items():
        number = int.from_bytes(hashlib.blake2b(feature.encode("utf-8", "replace"), digest_size=8).digest(), "little")
        sums[number % DIMENSIONS] += weight if number >> 63 else -weight
    length = math.sqrt(math.fsum(one * one for one in sums))
    if not length:
        return [1.0] + [0.0] * (DIMENSIONS - 1)
    return [round(one / length, 7) for one in sums]


def terms(text: str) -> list[str]:
    """The words of a text in their order, folded; scripts without spaces as pairs of signs."""
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if len(word) < 3 or not _UNSPACED.search(word):
            found.append(word)
        else:
            found += [word[at : at + 2] for at in range(len(word) - 1)]
    return found


def _features(text: str) -> dict[str, float]:
    """Features and weights; what comes often counts more, but less than as often."""
    found = terms(text)
    counts: Counter[str] = Counter()
    for word in found:
        counts["w " + word] += 1
        padded = f"<{word}>"
        counts.update("l " + padded[at : at + 3] for at in range(len(padded) - 2))
    counts.update(f"p {one} {other}" for one, other in pairwise(found))
    share = {"w": 1.0, "p": 0.5, "l": 0.3}
    return {feature: share[feature[0]] * (1 + math.log(count)) for feature, count in counts.items()}
