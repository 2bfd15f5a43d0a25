"""What was asked already, and whether a question asks for the same again."""

from __future__ import annotations

from gristmill.data.kinds import Example
from gristmill.operators.dedup import find_duplicates
from gristmill.operators.wording import question_key


class Asked:
    """Questions, or names, that were given. `threshold` is the least similarity of what repeats one, 0.5 to 1."""

    def __init__(self, threshold: float = 0.9, language: str = "en") -> None:
        self._threshold, self._language = threshold, language
        self._keys: set[str] = set()
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        self._keys.add(question_key(text))
        self.texts.append(text.strip())

    def has(self, text: str) -> bool:
        """Whether it is there, but for case, spacing and typography, or nearly: see `dedup`. About 1 ms for 50."""
        if question_key(text) in self._keys:
            return True
        if not self.texts or self._threshold >= 1:
            return False
        asked = [Example(question=one, answer="") for one in (*self.texts, text)]
        found = find_duplicates(asked, threshold=self._threshold, language=self._language)
        return any(one.later == len(asked) - 1 for one in found)
