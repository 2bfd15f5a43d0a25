"""Notices that the database's clock was set back, and lets nothing wait until it has caught up with itself."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from gristmill.engine.queue import SQL

log = logging.getLogger("gristmill.worker")
LEAST = 1.0  # seconds; a smaller step is waited out


class ServerClock:
    """What one process has seen of the database's clock, beside the clock that counts since boot."""

    def __init__(self) -> None:
        self._seen: tuple[datetime, float] | None = None
        self.back = 0.0  # seconds that it was set back by, and nothing was done about it yet

    def look(self, now: datetime, asked: float, answered: float) -> None:
        """`now` is what it showed at some moment between `asked` and `answered`, both in seconds since boot."""
        if self._seen is not None:
            then, at = self._seen
            back = (then + timedelta(seconds=asked - at) - now).total_seconds()
            self.back += back if back > LEAST else 0.0
        self._seen = (now, answered)

    async def make_due(self, connection: asyncpg.Connection[Any]) -> None:
        """A duty: what was due by the clock as it was before is due now. Everybody may do this, all at once."""
        if self.back > 0.0:
            back = self.back
            made = await connection.fetch(SQL["clock_set_back"], back)
            log.warning("the database's clock was set back by %.0f s; %d tasks are due at once", back, len(made))
            self.back -= back  # it may have been set back once more meanwhile
