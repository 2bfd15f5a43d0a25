"""Places in a text: code points as we count them, the text as Label Studio shows it, and UTF-16 on request.

Label Studio is given line feeds only (a browser would make them of all line ends), so places move where the text has
CR LF. Python's `str` counts code points; JavaScript's counts UTF-16 units, where an emoji takes two.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

Unit = Literal["codepoint", "utf16"]
_WIDE = re.compile("[\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Shown:
    """A text as it is shown: `text` has line feeds only. `out` and `back` carry a place over and back; a place between
    CR and LF becomes the one before them."""

    text: str
    ends: tuple[int, ...]  # where a CR LF begins, in the text as it was given
    wide: tuple[int, ...]  # characters of `text` that take two UTF-16 units

    @classmethod
    def of(cls, text: str) -> Shown:
        shown = text.replace("\r\n", "\n").replace("\r", "\n")
        ends = tuple(found.start() for found in re.finditer("\r\n", text))
        return cls(shown, ends, tuple(found.start() for found in _WIDE.finditer(shown)))

    def out(self, place: int, unit: Unit = "codepoint") -> int:
        """Where the place of the given text is in the shown one."""
        moved = place - bisect_left(self.ends, place)
        return moved + bisect_left(self.wide, moved) if unit == "utf16" else moved

    def back(self, place: int, unit: Unit = "codepoint") -> int:
        """Where the place of the shown text is in the given one. In UTF-16, a place inside of a character becomes the
        one before it."""
        if unit == "utf16":
            units = tuple(at + number for number, at in enumerate(self.wide))  # where each wide one begins
            place -= bisect_left(units, place)
        moved = tuple(at - number for number, at in enumerate(self.ends))
        return place + bisect_left(moved, place)

    def slice(self, start: int, end: int, unit: Unit = "codepoint") -> str:
        """What stands in the shown text between two of its places."""
        if unit == "codepoint":
            return self.text[start:end]
        raw = self.text.encode("utf-16-le", "surrogatepass")
        return raw[2 * start : 2 * end].decode("utf-16-le", "surrogatepass")
