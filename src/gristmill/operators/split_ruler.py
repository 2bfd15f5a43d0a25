"""How long a piece of a text is: in characters, or in tokens.

Tokens are counted by a tokenizer file where one is given. Without one they are estimated: four ASCII characters, two
letters of another alphabet, or one Chinese, Japanese or Korean character make a token. All lengths are sums over
characters, so that any range of a text is measured by one subtraction.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from gristmill.errors import InputError

QUARTERS = 4  # an estimate counts in quarters of a token
FIRST_WIDE = 0x2E80  # from here on: Chinese, Japanese, Korean, emoji


class Ruler:
    """Lengths within one text. `scale` is what one unit of the user's sizes is here: sizes are multiplied by it."""

    def __init__(self, weights: Iterable[int] | None = None, scale: int = 1) -> None:
        self.scale = scale
        self._sums = None if weights is None else array("L", accumulate(weights, initial=0))

    @property
    def counts_characters(self) -> bool:
        return self._sums is None

    def length(self, start: int, end: int) -> int:
        """How long text[start:end] is."""
        return end - start if self._sums is None else self._sums[end] - self._sums[start]

    def end(self, start: int, room: int) -> int:
        """The largest end such that the range from `start` takes at most `room`; never within a token."""
        if self._sums is None:
            return start + room
        furthest = bisect_right(self._sums, self._sums[start] + room) - 1
        stop = bisect_left(self._sums, self._sums[furthest])
        return stop if stop > start else furthest

    def start(self, end: int, room: int) -> int:
        """The smallest start such that the range up to `end` takes at most `room`."""
        if self._sums is None:
            return max(0, end - room)
        return bisect_left(self._sums, max(0, self._sums[end] - room))


def ruler_of(text: str, unit: Literal["char", "token"], tokenizer: str | None = None) -> Ruler:
    """The ruler for a text. Raises `InputError` P301 for a tokenizer that cannot be read, P302 without the package."""
    if unit == "char":
        return Ruler()
    if tokenizer is None:
        return Ruler((1 if mark < "\x80" else 2 if ord(mark) < FIRST_WIDE else 4 for mark in text), QUARTERS)
    weights = bytearray(len(text))
    for _, end in _tokenizer(tokenizer).encode(text, add_special_tokens=False).offsets:
        weights[end - 1] = min(255, weights[end - 1] + 1)  # where it ends: a word cut from its space stays one token
    return Ruler(weights)


@cache
def _tokenizer(path: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError(
            "counting tokens with a tokenizer file needs the package tokenizers", code="P302",
            hint='pip install "gristmill[tokens]", or leave out the option tokenizer: tokens are estimated then',
        ) from None  # fmt: skip
    try:
        made = Tokenizer.from_str(Path(path).read_text("utf-8"))
    except Exception as error:  # the package raises plain Exception for a file that is none
        raise InputError(
            f"the tokenizer {path} cannot be read: {error}", code="P301",
            hint="name a tokenizer.json of the model, by a path that every worker can read",
        ) from None  # fmt: skip
    made.no_truncation()
    made.no_padding()
    return made
