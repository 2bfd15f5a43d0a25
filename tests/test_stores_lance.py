"""LanceDB as a search index: one entry a chunk, writers one after the other, space that is given back."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gristmill.app import App
from gristmill.engine.lock_keys import lock_key
from gristmill.engine.locks import acquire, holders, refresh
from gristmill.errors import EnvironmentProblem, LockHeld
from gristmill.llm.hashed import vector
from gristmill.operators.embed import Entry
from gristmill.stores import lance
from gristmill.stores.opening import folder_of, open_entries
from gristmill.stores.vacuum import stores_of, vacuum, verify
from tests.by_hand import Hand
from tests.test_stores import find, folder, indexed, light

__all__ = ["folder"]

try:
    import lancedb
except ImportError:
    lancedb = None
needs_lancedb = pytest.mark.skipif(lancedb is None, reason="the extra lancedb (420 MB) is not installed")


def entries(app: App, store: str = "lancedb:index") -> lance.LanceEntries:
    made = open_entries(app.pool, app.settings.home, store, [7, 8], "task 1 of run 1")
    assert isinstance(made, lance.LanceEntries)
    return made


def entry(position: int, text: str) -> Entry:
    return Entry(position, text, tuple(vector(text)))


async def test_every_spelling_of_a_folder_is_one_store_and_what_is_no_store_is_refused(app: App) -> None:
    home = app.settings.home
    (home / "index").mkdir()
    os.symlink(home / "index", home / "link")
    assert folder_of("lancedb:index", home) == folder_of("lancedb:./x//../link/", home) == (home / "index").resolve()
    result = await vacuum(app.pool, "lancedb:index", home, by="anna")
    assert (result.status, result.http_status) == ("not_found", 404)
    assert (await verify(app.pool, "lancedb:nowhere", home)).status == "not_found"


@pytest.mark.skipif(lancedb is not None, reason="the extra lancedb is installed")
async def test_without_the_extra_the_step_says_what_to_install(app: App) -> None:
    with pytest.raises(EnvironmentProblem, match="not installed") as caught:
        entries(app)
    assert "gristmill[lancedb]" in caught.value.hint
    (app.settings.home / "index" / "x.lance").mkdir(parents=True)
    result = await vacuum(app.pool, "lancedb:index", app.settings.home, by="anna")
    assert (result.status, result.http_status) == ("failed", 500)


@needs_lancedb
async def test_passages_are_found_and_the_store_is_written_and_tidied_once(app: App, hand: Hand, folder: Path) -> None:
    run = await indexed(app, hand, folder, light(store="lancedb:index"))
    for mode in ("hybrid", "vector", "words"):
        assert (await find(app, run, "when is the seal of a pump changed?", mode=mode))[0] == "pumps.md"
        assert (await find(app, run, "绿茶用多少度的水", mode=mode))[0] == "茶.md"
    [store] = await stores_of(app.pool, "default")
    seen = await verify(app.pool, store, app.settings.home)
    assert (seen.status, seen.entries, seen.unused) == ("sound", 3, 0)
    steps = {step.name: step.completed for step in (await run.progress()).steps}
    assert steps["index"] == 1  # one task writes, and tidies up at its end
    assert await holders(app.pool) == []


@needs_lancedb
async def test_the_same_chunk_twice_is_one_row_and_vacuum_gives_space_back(app: App) -> None:
    index = entries(app)
    for number in range(20):
        await index.add([entry(0, f"pump {number}"), entry(1, "lease")], "hashed")
    before = await verify(app.pool, index.store, app.settings.home)
    assert (before.status, before.entries) == ("sound", 2)
    result = await vacuum(app.pool, index.store, app.settings.home, by="anna")
    assert (result.status, result.http_status) == ("done", 200)
    assert result.after < result.before
    after = await verify(app.pool, index.store, app.settings.home)
    assert (after.status, after.entries, after.size) == ("sound", 2, result.after)


@needs_lancedb
async def test_vacuum_during_a_write_is_refused_or_waits_or_takes_the_lock_with_a_trace(app: App) -> None:
    index, home = entries(app), app.settings.home
    await index.add([entry(0, "pump")], "hashed")
    key = lock_key("path", home / "index")
    writer = await acquire(app.pool, key, holder_kind="worker", holder="a writer")
    refused = await vacuum(app.pool, index.store, home, by="anna", kind="api", wait=0)
    assert (refused.status, refused.http_status) == ("locked", 409)
    assert "a writer" in refused.message
    with pytest.raises(LockHeld):  # the step that writes comes again later, uncharged
        await index.add([entry(0, "siphon")], "hashed")
    waiting = asyncio.create_task(vacuum(app.pool, index.store, home, by="anna"))
    while not any(one.slot == 0 for one in await holders(app.pool, key)):
        await asyncio.sleep(0.02)
    forced = await vacuum(app.pool, index.store, home, by="bert", force=True, reason="it hangs")
    assert forced.status == "done"
    assert (await waiting).status == "done"
    assert not await refresh(app.pool, writer)
    told = await app.pool.fetchval("select body::text from event_inbox where name = 'lock.forced'")
    assert "bert" in told
    assert "it hangs" in told


@needs_lancedb
async def test_a_damaged_store_is_found_by_verify(app: App) -> None:
    index, home = entries(app), app.settings.home
    await index.add([entry(0, "pump")], "hashed")
    for data in (home / "index").rglob("*.lance"):
        if data.is_file():
            data.write_bytes(b"spoilt")
    assert (await verify(app.pool, index.store, home)).status == "damaged"
