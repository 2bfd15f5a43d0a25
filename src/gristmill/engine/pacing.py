"""How many tasks of a kind run here at once while a quota holds them up: as many as get through.

Without this a worker would claim, ask and give back everything that waits, thousands for each one that may begin. Every
task that is sent away narrows the window of its kind by one, every one that ends otherwise widens it a little, until it
is as wide as the slots and forgotten. Some wait in their slots for a moment, so the quota never waits for them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

REST = 1.5  # seconds until the next one tries its luck: less than a call waits in its slot, so a permit finds somebody
LONG = 3.0  # seconds; who is sent away for longer shows that nobody gets through


@dataclass(slots=True)
class _Window:
    width: float
    rests_until: float = 0.0


class Pacing:
    """The windows of one worker with so many `slots` in all."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._running: Counter[str] = Counter()
        self._windows: dict[str, _Window] = {}

    def taken(self, kind: str) -> None:
        self._running[kind] += 1

    def ended(self, kind: str, sent_away: float | None) -> None:
        """A task of this kind is over. `sent_away`: by a quota, for so many seconds."""
        self._running[kind] -= 1
        window = self._windows.get(kind)
        if sent_away is None:
            if window is not None:
                window.width += 1 / window.width
                if window.width >= self.slots:
                    del self._windows[kind]
            return
        running = self._running[kind]
        if window is None:
            window = self._windows[kind] = _Window(running + 1)
        window.width = max(1.0, min(window.width, running + 1) - 1)
        if sent_away > LONG or running == 0:
            window.rests_until = time.monotonic() + min(sent_away, REST)
        if sent_away > LONG:
            window.width = 1.0

    def open(self, kinds: Sequence[str]) -> Sequence[str]:
        """The kinds that nothing holds up."""
        return [kind for kind in kinds if kind not in self._windows] if self._windows else kinds

    def room(self) -> dict[str, int]:
        """Of the kinds that are held up those of which some may begin, and how many."""
        now = time.monotonic()
        return {
            kind: room for kind, window in self._windows.items()
            if now >= window.rests_until and (room := int(window.width) - self._running[kind]) > 0
        }  # fmt: skip
