"""gristmill vacuum and verify: whose index, how long to wait, and what the exit code says."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gristmill.app import App
from gristmill.cli import gristmill
from gristmill.engine.lock_keys import lock_key
from gristmill.engine.locks import acquire, holders
from gristmill.errors import UsageError
from tests.by_hand import Hand
from tests.test_stores import folder, indexed, light
from tests.test_stores_lance import needs_lancedb

__all__ = ["folder"]


@pytest.fixture(autouse=True)
def home(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRISTMILL_DATABASE_URL", str(app.url))
    monkeypatch.setenv("GRISTMILL_HOME", str(app.settings.home))


async def call(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code, and what `--json` says of each store."""
    done = await asyncio.to_thread(CliRunner().invoke, gristmill, [*arguments, "--json"], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout)["stores"]


async def test_an_index_in_the_database_is_tidied_up_and_verified(app: App, hand: Hand, folder: Path) -> None:
    await indexed(app, hand, folder, light())
    code, stores = await call("vacuum", "database")
    assert (code, [one["status"] for one in stores]) == (0, ["done"])
    code, stores = await call("verify")
    assert (code, [(one["status"], one["entries"]) for one in stores]) == (0, [("sound", 3)])
    code, stores = await call("vacuum", "nowhere", "--fail-fast")
    assert (code, [one["status"] for one in stores]) == (2, ["not_found"])
    for words in ((), ("--all", "--force")):
        with pytest.raises(UsageError) as caught:
            await call("vacuum", *words)
        assert caught.value.code == "U393"


@needs_lancedb
async def test_vacuum_of_all_leaves_out_what_is_in_use_and_of_one_refuses_or_takes_it(
    app: App, hand: Hand, folder: Path
) -> None:
    await indexed(app, hand, folder, light(store="lancedb:index"))
    path = str(app.settings.home / "index")
    key = lock_key("path", path)
    await acquire(app.pool, key, holder_kind="worker", holder="a writer")
    code, stores = await call("vacuum", "--all")
    assert (code, [one["status"] for one in stores]) == (0, ["locked"])
    code, stores = await call("vacuum", path, "--fail-fast")
    assert (code, [one["status"] for one in stores]) == (4, ["locked"])
    code, stores = await call("vacuum", path, "--force", "--reason", "it hangs")
    assert (code, [one["status"] for one in stores]) == (0, ["done"])
    assert await holders(app.pool, key) == []
    told = await app.pool.fetchval("select body::text from event_inbox where name = 'lock.forced'")
    assert "it hangs" in told
