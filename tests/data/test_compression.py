"""Artifacts that are kept compressed, by kind: the same digests, less disk; and what a full disk holds up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gristmill.app import App
from gristmill.config import Settings
from gristmill.data.blobs import Blobs
from gristmill.data.compression import Compress
from gristmill.data.kinds import Chunk, Document, Source
from gristmill.errors import Busy, EnvironmentProblem
from gristmill.operators.operator import Context, operator
from gristmill.workflow import Workflow
from tests.by_hand import Hand

TEXT = b"a pump moves water uphill. " * 400


FULL: list[str] = []


@operator("t_fills_the_disk")
async def fills_the_disk(source: Source) -> Chunk:
    if FULL:
        raise EnvironmentProblem(FULL.pop(), code="F203")
    return Chunk(text=source.name)


@operator("t_read")
async def read(source: Source, ctx: Context) -> Document:
    text = await ctx.blobs.write((await ctx.blobs.read(source.blob)).upper())
    return Document(text_blob=text, characters=len(TEXT), media_type="text/plain")


@operator("t_whole")
async def whole(document: Document, ctx: Context) -> Chunk:
    await ctx.blobs.write(TEXT + b"again")
    return Chunk(text=(await ctx.blobs.read(document.text_blob)).decode())


@pytest.fixture
async def app(database_url: str, tmp_path: Path) -> AsyncIterator[App]:
    settings = Settings(
        database_url=database_url, home=tmp_path / "home", workers=0, compress=Compress(kinds=("document",))
    )
    async with App(settings=settings) as opened:
        yield opened


def files(blobs: Blobs) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in blobs.folder.rglob("*") if path.is_file()}


async def test_what_is_written_compressed_is_read_by_everybody_under_the_same_digest(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs", reserve=0, compress=Compress(kinds=("document",), level=9))
    small = blobs.of(["document"])
    digest = await small.write(TEXT)
    assert list(files(blobs)) == [f"{digest}.zst"]
    assert files(blobs)[f"{digest}.zst"] < len(TEXT) / 20
    for store in (small, blobs, Blobs(blobs.folder, reserve=0)):
        assert await store.read(digest) == TEXT
        assert store.exists(digest)
        assert await store.write(TEXT) == digest  # it is there: nothing is written twice
    assert len(files(blobs)) == 1
    noise = await small.write(b"\x00\x01\x02")  # would only grow
    assert noise in files(blobs)
    assert blobs.of(["chunk"]).level is None


async def test_a_damaged_compressed_file_is_found_and_replaced(tmp_path: Path) -> None:
    small = Blobs(tmp_path / "blobs", reserve=0, level=3)
    digest = await small.write(TEXT)
    small.path(digest).with_name(f"{digest}.zst").write_bytes(b"spoilt")
    with pytest.raises(EnvironmentProblem) as caught:
        await small.read(digest)
    assert caught.value.code == "F202"
    assert await small.write(TEXT) == digest
    assert await small.read(digest) == TEXT


async def test_only_the_kinds_that_were_named_are_compressed_in_a_run(app: App, hand: Hand, tmp_path: Path) -> None:
    (tmp_path / "pump.txt").write_bytes(TEXT)
    run = await app.start(Workflow("two", [read, whole]), [tmp_path / "pump.txt"])
    assert (await hand.drain(run))[0].state == "completed"
    kept = sorted(name[64:] for name in files(app.blobs))
    assert kept == ["", "", ".zst"]  # the input and what the second step wrote; the document
    document = await app.pool.fetchval("select body::json ->> 'text_blob' from record where kind = 'document'")
    assert await app.blobs.read(document) == TEXT.upper()


async def test_a_step_waits_uncharged_while_the_disk_is_full_and_goes_on_when_there_is_room(
    app: App, hand: Hand, tmp_path: Path
) -> None:
    (tmp_path / "pump.txt").write_bytes(TEXT)
    run = await app.start(Workflow("two", [read, whole]), [tmp_path / "pump.txt"])
    app.blobs.reserve = 2**60  # more than there is
    [(task, busy)] = await hand.work()
    assert isinstance(busy, Busy)
    assert busy.reason.startswith("disk: ")
    state = await app.pool.fetchrow("select state, failures from task where id = $1", task.id)
    assert (state["state"], state["failures"]) == ("available", 0)
    [(_, reason, _)] = await run.held_by()
    assert "disk" in reason
    app.blobs.reserve = 0
    await app.pool.execute("update task set run_at = clock_timestamp() where id = $1", task.id)
    assert (await hand.drain(run))[0].state == "completed"


async def test_a_step_that_meets_the_end_of_the_disk_half_way_is_held_and_not_failed(
    app: App, hand: Hand, tmp_path: Path
) -> None:
    (tmp_path / "pump.txt").write_bytes(TEXT)
    run = await app.start(Workflow("fills", [fills_the_disk]), [tmp_path / "pump.txt"])
    FULL.append("no space left")
    [(task, busy)] = await hand.work()
    assert isinstance(busy, Busy)
    assert "no space left" in busy.reason
    assert await app.pool.fetchval("select failures from task where id = $1", task.id) == 0
    await app.pool.execute("update task set run_at = clock_timestamp() where id = $1", task.id)
    assert (await hand.drain(run))[0].state == "completed"
