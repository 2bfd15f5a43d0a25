"""Changed settings reach a crew while it works: what is safe is applied, what is wrong is told and changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import asyncpg

from gristmill.config import LoadedSettings, Settings
from gristmill.crew.places import SQL, Hold, plan, wanted_places
from gristmill.errors import ConfigurationError, UsageError
from gristmill.llm.quota_limits import take_settings

log = logging.getLogger("gristmill.crew")
# applied while everything runs; workers take over their pools within seconds, and limits with their next beat
LIVE = ("crew", "most_workers", "pools", "workers", "limits")


class Following:
    """`settings` are those in force. `load` reads them; `now` tells what a person should know."""

    def __init__(
        self, database: asyncpg.Pool[Any], hold: Hold, loaded: LoadedSettings, load: Callable[[], LoadedSettings], *,
        api: bool, tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.settings = loaded.values
        self._database = database
        self._hold = hold
        self._load = load
        self._api = api
        self._tell = tell
        self._files = loaded.files
        self._seen = self._look()
        self._scale: Mapping[str, int] | None = None
        self._fresh = hold.fresh

    async def __call__(self, scale: Mapping[str, int]) -> None:
        """Looks whether a file of settings, or a count that a person set, has changed; makes the places fit."""
        seen = self._look()
        if seen != self._seen and await self._reload(seen):
            self._scale = None  # as at the start; also by the next call, if the database goes away before it is done
        if self._scale is None:  # limits are shown from the start on, and not only once a worker asks a model
            await take_settings(self._database, self.settings.limits)
        if scale != self._scale:
            wanted = wanted_places(self.settings, scale, api=self._api)
            await plan(self._database, self._hold, wanted, self.settings.most_workers, fresh=self._fresh)
            self._scale, self._fresh = dict(scale), False

    async def _reload(self, seen: list[tuple[Path, int, int, int]]) -> bool:
        """Whether something has changed. The look counts once all is done: a database that is away is asked again."""
        try:
            loaded = self._load()
            if loaded.values.limits != self.settings.limits:
                await take_settings(self._database, loaded.values.limits)
        except (ConfigurationError, UsageError) as error:
            log.error("the changed settings are not taken over: %s", error.message)
            await self._problem(error.message)
            self._seen = seen
            return False
        await self._problem(None)
        self._files = loaded.files
        self._seen = self._look()
        before, self.settings = self.settings, loaded.values
        names = [name for name in Settings.model_fields if getattr(before, name) != getattr(loaded.values, name)]
        if live := [name for name in names if name in LIVE]:
            self._tell(f"changed settings are in force: {', '.join(live)}")
        if later := [name for name in names if name not in LIVE]:
            self._tell(
                f"changed settings count for workers that are started from now on: {', '.join(later)};"
                " for all of them: gristmill worker restart --all"
            )
        return bool(names)

    async def _problem(self, text: str | None) -> None:
        await self._database.execute(SQL["tell_problem"], self._hold.crew, self._hold.fence, text)

    def _look(self) -> list[tuple[Path, int, int, int]]:
        found = []
        for file in self._files:
            try:
                state = file.stat()
            except OSError:
                continue
            found.append((file, state.st_mtime_ns, state.st_size, state.st_ino))
        return found
