"""App and Run: starting, finding, going on, and what happens when the inputs are not what they were."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gristmill.app import App
from gristmill.config import Settings, load_settings
from gristmill.data.kinds import Chunk, Example, Source
from gristmill.db import embedded
from gristmill.errors import ModelSetupError, UsageError
from gristmill.operators.operator import Context, operator
from gristmill.workflow import Workflow
from tests.by_hand import Hand, hand_of

TEXT = "A sieve is a part of the mill that holds {} units of grain. The miller turns the sieve by hand."


class Rating(BaseModel):
    stars: int


@operator("t_chunks")
async def chunks(source: Source, ctx: Context) -> list[Chunk]:
    text = (await ctx.blobs.read(source.blob)).decode()
    if "refuse" in text:
        raise ValueError("refused")
    return [Chunk(text=line) for line in text.splitlines()]


@operator("t_examples")
async def examples(chunk: Chunk) -> Example:
    return Example(question=f"What about {chunk.text}?", answer=chunk.text)


@operator("t_rate")
async def rate(example: Example) -> Rating:
    return Rating(stars=len(example.answer))


FLOW = Workflow("plain", [chunks, examples])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    (made / "a.txt").write_text("one\ntwo\n")
    (made / "b.txt").write_text("three\n")
    return made


async def rows(run: Any) -> list[tuple[str, str]]:
    return [(row.source, row.answer) async for row in run.rows()]


async def test_an_app_that_is_not_open_says_how_to_open_it() -> None:
    with pytest.raises(UsageError, match="not open"):
        _ = App("postgresql://nobody@127.0.0.1:9/x").pool


async def test_a_second_app_on_the_same_home_uses_the_same_server_and_outlives_the_first(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRISTMILL_DATABASE_LINGER", "1")
    home = tmp_path / "home"
    async with App(home=home, workers=0) as second:
        async with App(home=home, workers=0) as first:
            assert first.url == second.url
            run = await first.start(FLOW, [folder])
        same = await second.find(run.name)
        async with hand_of(second) as hand:
            progress, _ = await hand.drain(same)
        assert progress.state == "completed"
    assert await embedded.stop_server(home) in (True, False)


async def test_a_run_that_does_not_exist_is_named_and_the_list_pointed_to(app: App) -> None:
    with pytest.raises(UsageError, match="nothing-7") as caught:
        await app.find("nothing-7")
    assert caught.value.code == "U311"
    assert "--list" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        await app.last()
    assert caught.value.code == "U312"


async def test_a_step_without_a_model_is_refused_before_anything_is_stored(app: App, folder: Path) -> None:
    with pytest.raises(UsageError, match="needs a model"):
        await app.start("qa", [folder])
    with pytest.raises(ModelSetupError):
        await app.start("qa", [folder], model="nonsense:x")
    assert await app.pool.fetchval("select count(*) from run") == 0


async def test_the_same_call_goes_on_and_has_nothing_to_do_when_it_was_finished(
    app: App, hand: Hand, folder: Path
) -> None:
    first = await app.start(FLOW, [folder])
    again = await app.start(FLOW, [folder])
    assert again.id == first.id
    progress, seen = await hand.drain(first)
    assert (progress.state, len(seen)) == ("completed", 5)
    assert (await (await app.start(FLOW, [folder])).progress()).ended
    assert await rows(first) == [("a.txt", "one"), ("a.txt", "two"), ("b.txt", "three")]


async def test_a_fresh_run_is_the_last_one_is_listed_and_is_what_the_same_call_finds(
    app: App, hand: Hand, folder: Path
) -> None:
    first = await app.start(FLOW, [folder])
    await hand.drain(first)
    fresh = await app.start(FLOW, [folder], fresh=True)
    assert fresh.id != first.id
    assert (await app.last()).id == fresh.id
    assert (await app.start(FLOW, [folder])).id == fresh.id
    assert (await app.find(first.name)).id == first.id
    _, seen = await hand.drain(fresh)
    assert {outcome.name for _, outcome in seen} == {"reused"}


async def test_inputs_that_changed_are_done_again_and_those_that_are_gone_do_not_count(
    app: App, hand: Hand, folder: Path
) -> None:
    run = await app.start(FLOW, [folder])
    await hand.drain(run)
    (folder / "a.txt").write_text("one\nfour\n")
    (folder / "b.txt").unlink()
    assert (await app.start(FLOW, [folder])).id == run.id
    progress, seen = await hand.drain(run)
    assert (progress.state, progress.epoch) == ("completed", 2)
    assert sorted(outcome.name for _, outcome in seen) == ["ok", "ok", "reused"]
    assert await rows(run) == [("a.txt", "one"), ("a.txt", "four")]
    (folder / "b.txt").write_text("three\n")
    await app.start(FLOW, [folder])
    progress, seen = await hand.drain(run)
    assert {outcome.name for _, outcome in seen} == {"reused"}
    assert await rows(run) == [("a.txt", "one"), ("a.txt", "four"), ("b.txt", "three")]


async def test_a_row_names_the_file_it_comes_from_now_and_not_an_earlier_name(
    app: App, hand: Hand, folder: Path
) -> None:
    run = await app.start(FLOW, [folder])
    await hand.drain(run)
    (folder / "b.txt").rename(folder / "c.txt")
    await app.start(FLOW, [folder])
    await hand.drain(run)
    assert [source for source, answer in await rows(run) if answer == "three"] == ["c.txt"]


async def test_two_files_with_the_same_text_give_its_rows_once_and_either_may_go(
    app: App, hand: Hand, folder: Path
) -> None:
    (folder / "b.txt").write_text("one\ntwo\n")
    run = await app.start(FLOW, [folder])
    await hand.drain(run)
    assert await rows(run) == [("a.txt", "one"), ("a.txt", "two")]
    (folder / "a.txt").unlink()
    await app.start(FLOW, [folder])
    await hand.drain(run)
    assert await rows(run) == [("b.txt", "one"), ("b.txt", "two")]


async def test_a_file_whose_name_is_not_text_is_an_input_like_any_other(app: App, hand: Hand, folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("five\n")
    strange = folder / os.fsdecode(b"fol\xe9der")
    strange.mkdir()
    (strange / "d.txt").write_text("six\n")
    run = await app.start(FLOW, [folder])
    progress, _ = await hand.drain(run)
    assert progress.state == "completed"
    assert {"five", "six"} <= {answer for _, answer in await rows(run)}
    alone = await app.start(FLOW, [strange])
    await hand.drain(alone)
    assert [answer for _, answer in await rows(alone)] == ["six"]
    assert await alone.retry() == 0


async def test_an_input_that_cannot_be_read_shows_even_in_a_run_that_had_ended(
    app: App, hand: Hand, folder: Path
) -> None:
    run = await app.start(FLOW, [folder])
    await hand.drain(run)
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    await app.start(FLOW, [folder])
    progress, _ = await hand.drain(run)
    assert (progress.state, progress.unreadable, progress.failed) == ("partial", 1, 1)
    (folder / "gone.txt").unlink()
    assert await run.retry() == 0
    progress, _ = await hand.drain(run)
    assert (progress.state, progress.failed) == ("completed", 0)


async def test_a_retry_of_a_run_that_was_killed_while_it_took_its_inputs_takes_them_all(
    app: App, hand: Hand, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    async def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("gristmill.app.queue.hint", die)  # the last thing before the run is sealed
        with pytest.raises(Killed):
            await app.start(FLOW, [folder])
    run = await app.last()
    await run.retry()
    progress, _ = await hand.drain(run)
    assert progress.state == "completed"
    assert len(await rows(run)) == 3


async def test_a_cancelled_run_is_over_for_good_and_the_same_call_begins_another(
    app: App, hand: Hand, folder: Path
) -> None:
    run = await app.start(FLOW, [folder])
    assert await run.cancel() == 2
    with pytest.raises(UsageError, match="was cancelled"):
        await run.retry()
    other = await app.start(FLOW, [folder])
    assert other.id != run.id
    progress, _ = await hand.drain(other)
    assert progress.state == "completed"
    assert (await run.progress()).state == "cancelled"


async def test_a_paused_run_goes_on_with_the_same_call(app: App, hand: Hand, folder: Path) -> None:
    run = await app.start(FLOW, [folder])
    assert await run.pause()
    assert not await run.pause()
    assert await hand.work() == []
    assert await run.held_by() == [("t_chunks", "the run is paused", 2)]
    await app.start(FLOW, [folder])
    progress, _ = await hand.drain(run)
    assert progress.state == "completed"


async def test_a_retry_of_one_cause_leaves_the_others(app: App, hand: Hand, folder: Path) -> None:
    (folder / "b.txt").write_text("refuse\n")
    run = await app.start(Workflow("plain", [chunks.using(attempts=1), examples]), [folder])
    progress, _ = await hand.drain(run)
    assert progress.state == "partial"
    (piece,) = await run.failures()
    assert (piece.item, piece.step, piece.message) == ("b.txt", "t_chunks", "refused")
    assert await run.retry("00" * 32) == 0
    assert await run.retry(piece.cause) == 1


async def test_events_come_in_order_and_the_end_is_the_last(app: App, hand: Hand, folder: Path) -> None:
    run = await app.start(FLOW, [folder])

    async def listen() -> list[str]:
        return [event.name async for event in run.events(poll=0.01) if event.run_id == run.id]

    listening = asyncio.create_task(listen())
    await hand.drain(run)
    names = await asyncio.wait_for(listening, 20)
    assert (names[0], names[-1], names.count("run.end")) == ("run.start", "run.end", 1)


async def test_the_counts_of_a_run_that_has_ended_are_complete(app: App, hand: Hand, folder: Path) -> None:
    run = await app.start(FLOW, [folder])
    async with app.pool.acquire() as busy, busy.transaction():  # somebody else is folding at this moment
        await busy.fetchval("select pg_try_advisory_xact_lock($1, 1)", 0x6772_6966)
        while not (await run.progress()).ended:
            await hand.work()
            async with app.pool.acquire() as connection:
                from gristmill.engine import workflow

                await workflow.advance(connection, run.id)
        waiting = asyncio.create_task(run.wait())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.5)
    progress = await asyncio.wait_for(waiting, 10)
    assert [(step.completed, step.running, step.waiting) for step in progress.steps] == [(2, 0, 0), (3, 0, 0)]


async def test_a_step_after_the_examples_does_not_hide_them(app: App, hand: Hand, folder: Path) -> None:
    run = await app.start(Workflow("rated", [chunks, examples, rate]), [folder])
    await hand.drain(run)
    assert len(await rows(run)) == 3


async def test_the_built_in_workflow_works_without_a_key(app: App, hand: Hand, tmp_path: Path) -> None:
    file = tmp_path / "mill.md"
    file.write_text("# Mill\n\n" + "\n\n".join(TEXT.format(number) for number in range(3, 6)))
    run = await app.start("qa", [file], model="extractive")
    progress, _ = await hand.drain(run)
    assert progress.state == "completed"
    assert await rows(run)


async def test_workers_get_the_settings_of_their_app(database_url: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"language": "de", "project": "mine", "pools": {"parse": 2, "model": 5, "*": 1}}
    settings = Settings(home=tmp_path / "home", database_url=database_url, workers=1, **given)
    async with App(settings=settings) as app:
        await app.start_crew()
        assert app.crew is not None
        handed = load_settings(tmp_path, app.crew.environment).values
        assert (handed.language, handed.project, handed.pools) == ("de", "mine", given["pools"])
        async with asyncio.timeout(30):
            while not (pools := await app.pool.fetchval("select pools from worker where state = 'alive'")):
                await asyncio.sleep(0.05)
        assert json.loads(pools) == {"notify": 4, **given["pools"]}
        (pid,) = app.crew.pids
    assert not Path(f"/proc/{pid}").exists()


async def test_a_run_waits_for_a_database_that_went_away(app: App, hand: Hand, folder: Path) -> None:
    run = await app.start(FLOW, [folder])
    await hand.drain(run)
    async with app.pool.acquire() as connection:
        for _ in range(3):
            others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            await connection.fetch(others + " and pid <> pg_backend_pid()")
            assert (await run.wait()).state == "completed"
            assert [event.name async for event in run.events()][-1] == "run.end"
