"""A pair of duplicates, as positions."""

from __future__ import annotations

from typing import NamedTuple


class Found(NamedTuple):
    """`later` repeats `kept`; `similarity` is 0 to 1, `method` what found it: exact, lexical or vectors."""

    later: int
    kept: int
    similarity: float
    method: str
