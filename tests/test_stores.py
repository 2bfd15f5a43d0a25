"""Search indexes: chunks become vectors and are found again; what is written twice is there once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gristmill.app import App
from gristmill.cli import gristmill
from gristmill.data.kinds import Chunk, Source
from gristmill.db.database import transaction
from gristmill.errors import DatabaseProblem, UsageError
from gristmill.llm import stored_bindings
from gristmill.llm.hashed import DIMENSIONS, vector
from gristmill.llm.model_settings import ModelSettings
from gristmill.operators import embed, index
from gristmill.operators.embed import Entry
from gristmill.operators.operator import Context, operator
from gristmill.run import Run
from gristmill.search import search
from gristmill.stores import pgvector
from gristmill.workflow import Workflow
from gristmill.workflow_files import configured
from tests.by_hand import Hand
from tests.llm.conftest import ScriptedServer, model_server, scripted_server

__all__ = ["model_server", "scripted_server"]


@pytest.fixture(autouse=True)
async def pgvector_here(pool: Any) -> None:
    if not await pool.fetchval("select exists (select from pg_available_extensions where name = 'vector')"):
        pytest.skip("this server has no pgvector")


TEXTS = {
    "pumps.md": "# Pumps\n\nA pump moves water uphill. Its seal is changed every 400 hours of work.\n",
    "leases.md": "# Leases\n\nA worker renews its lease every three seconds, or its tasks are given to others.\n",
    "茶.md": "# 茶\n\n绿茶应该用八十度的水冲泡，这样不会发苦。\n",
}


@operator("t_passage")
async def passage(source: Source, ctx: Context) -> Chunk:
    """A file as one chunk, without a process of its own to read it."""
    heading, _, text = (await ctx.blobs.read(source.blob)).decode().partition("\n\n")
    return Chunk(text=text, heading_path=(heading.strip("# "),))


def light(name: str = "light", model: str = "hashed", **options: str) -> Workflow:
    return Workflow(name, [passage, embed.using(model=model), index.using(**options).after("t_passage", "embed")])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    for name, text in TEXTS.items():
        (made / name).write_text(text)
    return made


async def indexed(app: App, hand: Hand, folder: Path, flow: Workflow | None = None) -> Run:
    run = await app.start(flow or light(), [folder])
    progress, _ = await hand.drain(run)
    assert progress.state == "completed", await run.failures()
    return run


async def find(app: App, run: Run, query: str, **more: Any) -> list[str]:
    return [hit.item for hit in await search(run, app.pool, app.models, query, **more)]


async def test_passages_are_found_by_vectors_by_words_and_by_both(app: App, hand: Hand, folder: Path) -> None:
    run = await indexed(app, hand, folder, configured("rag"))
    for mode in ("hybrid", "vector", "words"):
        assert (await find(app, run, "when is the seal of a pump changed?", mode=mode))[0] == "pumps.md"
        assert (await find(app, run, "绿茶用多少度的水", mode=mode))[0] == "茶.md"
    [best, *_] = await search(run, app.pool, app.models, "renewing a lease")
    assert (best.item, best.near, best.worded) == ("leases.md", 1, 1)
    assert best.score == pytest.approx(2 / 61)
    assert best.chunk.heading_path == ("Leases",)
    assert len(await find(app, run, "water", limit=1)) == 1


async def test_a_changed_file_is_found_by_its_new_words_only_and_vacuum_drops_the_old(
    app: App, hand: Hand, folder: Path
) -> None:
    run = await indexed(app, hand, folder)
    (folder / "pumps.md").write_text("# Pumps\n\nA siphon needs no seal at all.\n")
    again = await app.start(light(), [folder])
    await hand.drain(again)
    assert again.id == run.id
    assert await find(app, run, "siphon", mode="words") == ["pumps.md"]
    assert await find(app, run, "uphill", mode="words") == []
    assert len(await find(app, run, "anything", mode="vector")) == 3
    await app.pool.execute("delete from run_record where run_id = $1", run.id)
    assert await pgvector.vacuum(app.pool) == 4
    assert await app.pool.fetchval("select count(*) from vector_entry") == 0


async def test_the_same_chunk_written_twice_is_one_entry_and_nothing_is_written_the_second_time(app: App) -> None:
    entries = pgvector.DatabaseEntries(app.pool, [7, 8])
    both = [Entry(0, "one pump", tuple(vector("one pump"))), Entry(1, "two", tuple(vector("two")))]
    rows = "select chunk_id, xmin::text from vector_entry order by 1"
    await entries.add(both, "hashed")
    before = await app.pool.fetch(rows)
    await entries.add(both, "hashed")
    assert await app.pool.fetch(rows) == before
    await entries.add([Entry(0, "one siphon", tuple(vector("one siphon")))], "hashed")
    after = await app.pool.fetch(rows)
    assert [row["chunk_id"] for row in after] == [7, 8]
    assert [one == other for one, other in zip(after, before, strict=True)] == [False, True]


async def test_a_provider_is_paid_once_for_a_chunk_and_once_for_a_question(
    app: App, hand: Hand, folder: Path, model_server: ScriptedServer
) -> None:
    settings = ModelSettings(provider="openai-embeddings", model="scripted", base_url=model_server.base_url)
    await stored_bindings.add(app.pool, "bought", settings, app.settings.project)
    flow = light("bought", "bought")
    run = await indexed(app, hand, folder, flow)
    assert len(await find(app, run, "a question", mode="vector")) == 3
    assert (await model_server.stats())["requests"] == 3 + 1
    again = await app.start(flow, [folder], fresh=True)
    await hand.drain(again)
    assert await find(app, again, "a question", mode="vector") == await find(app, run, "a question", mode="vector")
    assert (await model_server.stats())["requests"] == 3 + 1


async def test_an_index_that_was_lost_is_written_again_although_its_work_is_known(
    app: App, hand: Hand, folder: Path
) -> None:
    await indexed(app, hand, folder)
    await app.pool.execute("truncate vector_entry")
    run = await app.start(light(), [folder], fresh=True)
    await hand.drain(run)
    assert (await find(app, run, "lease"))[0] == "leases.md"


async def test_a_database_without_the_extension_says_what_to_do_and_a_later_one_is_used(app: App) -> None:
    async with app.pool.acquire() as connection:
        await connection.execute("drop extension vector cascade; drop table vector_entry")
    await pgvector.make_ready(app.pool)  # the extension is there to be made: first use makes it
    async with transaction(app.pool) as connection:
        assert await connection.fetchval(pgvector.SQL["ready"])
        await connection.execute("create role nobody_special")
        await connection.execute("drop extension vector cascade; drop table vector_entry")
        await connection.execute("revoke create on schema public from public; set local role nobody_special")
        with pytest.raises(DatabaseProblem, match="no extension vector"):
            await pgvector.make_ready(connection)  # type: ignore[arg-type]
        await connection.execute("reset role; drop role nobody_special")


async def test_questions_that_make_no_sense_are_refused_with_a_way_out(app: App, hand: Hand, folder: Path) -> None:
    run = await indexed(app, hand, folder)
    with pytest.raises(UsageError, match="needs a question"):
        await search(run, app.pool, app.models, "  ")
    assert await find(app, run, "' | & !'", mode="words") == []
    bare = await indexed(app, hand, folder, Workflow("bare", [passage]))
    with pytest.raises(UsageError, match="no search index") as caught:
        await search(bare, app.pool, app.models, "pump")
    assert "rag" in caught.value.hint
    wrong = await app.start(light("spoilt", "extractive"), [folder])
    await hand.drain(wrong)
    assert {piece.code for piece in await wrong.failures()} == {"M108"}


async def test_the_command_finds_and_tells_programs_where(
    app: App, hand: Hand, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await indexed(app, hand, folder)
    monkeypatch.setenv("GRISTMILL_DATABASE_URL", app.url)
    monkeypatch.setenv("GRISTMILL_HOME", str(app.settings.home))
    import asyncio

    def ask(*arguments: str) -> str:
        done = CliRunner().invoke(gristmill, ["search", "seal of a pump", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    said = json.loads(await asyncio.to_thread(ask, "--run", run.name, "--limit", "1", "--json"))
    assert [hit["item"] for hit in said["hits"]] == ["pumps.md"]
    assert "1. pumps.md: Pumps" in await asyncio.to_thread(ask)


def test_hashed_vectors_are_the_same_for_ever_and_nearer_for_what_is_alike() -> None:
    def near(left: str, right: str) -> float:
        return sum(one * other for one, other in zip(vector(left), vector(right), strict=True))

    one = vector("A pump moves water.")
    assert len(one) == DIMENSIONS
    assert sum(number * number for number in one) == pytest.approx(1)
    assert near("the pumps move water", "a pump moves water") > near("the pumps move water", "leases of workers") + 0.2
    assert near("绿茶的水", "绿茶用水") > near("绿茶的水", "工作的租约")
    assert vector("") == vector("...") == [1.0] + [0.0] * (DIMENSIONS - 1)
