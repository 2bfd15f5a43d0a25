"""The performer: what work is, what it is made from, and what is saved of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gristmill.app import App
from gristmill.data import records
from gristmill.data.kinds import Source
from gristmill.data.records import NewRecord, Work
from gristmill.db.database import transaction
from gristmill.engine.queue import Failure
from gristmill.engine.retry import DEFAULT
from gristmill.errors import InputError, TransientError
from gristmill.operators.operator import Context, Derived, operator
from gristmill.workflow import Workflow
from tests.by_hand import Hand

CALLS: list[str] = []


class Line(BaseModel):
    text: str
    number: float = 0.0


class Loud(BaseModel):
    text: str
    where: str = ""


class Joined(BaseModel):
    text: str


@operator("t_lines")
async def lines(source: Source, ctx: Context) -> list[Line]:
    return [Line(text=text) for text in (await ctx.blobs.read(source.blob)).decode().splitlines()]


@operator("t_shout")
async def shout(line: Line, ctx: Context, mark: str = "!") -> Loud:
    CALLS.append(line.text)
    return Loud(text=line.text.upper() + mark)


@operator("t_place")
async def place(line: Line, source: Source) -> Loud:
    return Loud(text=line.text, where=source.name)


@operator("t_join", barrier=True)
async def join(everything: list[Loud]) -> list[Derived[Joined]]:
    CALLS.append(f"join {len(everything)}")
    return [Derived(Joined(text="".join(one.text for one in everything)), (0,))] if everything else []


@operator("t_again")
async def again(joined: Joined) -> Loud:
    return Loud(text=joined.text.lower())


@operator("t_slow", timeout=0.05)
async def slow(line: Line) -> Loud:
    await asyncio.sleep(60)
    return Loud(text="never")


@operator("t_own_timeout")
async def own_timeout(line: Line) -> Loud:
    raise TimeoutError("the socket of the operator")


@operator("t_orphan")
async def orphan(line: Line, joined: Joined) -> Loud:
    return Loud(text=joined.text)


@operator("t_spoil")
async def spoil(line: Line) -> Line:
    bad = {"nul": "a\0b", "half": "\ud800", "large": "x" * 2**20, "escape": r"a \u0000 in words", "nan": ""}[line.text]
    return Line(text=bad, number=float("nan") if line.text == "nan" else 0.0)


@pytest.fixture
async def app(database_url: str, tmp_path: Path) -> AsyncIterator[App]:
    CALLS.clear()
    async with App(database_url, home=tmp_path / "home", workers=0) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    (made / "a.txt").write_text("one\ntwo\n")
    (made / "b.txt").write_text("three\ntwo\n")
    return made


async def texts(app: App, run: Any, step: int) -> list[str]:
    rows = await app.pool.fetch(records.SQL["of_run"], run.id, step)
    return [Loud.model_validate_json(row["body"]).text for row in rows]


SHOUT = Workflow("shouting", [lines, shout])
JOIN = Workflow("joining", [lines, shout, join])


async def test_the_same_work_in_another_run_is_not_done_again(app: App, hand: Hand, folder: Path) -> None:
    first = await app.start(SHOUT, [folder])
    progress, _ = await hand.drain(first)
    assert progress.state == "completed"
    assert sorted(CALLS) == ["one", "three", "two"]  # the two lines "two" are one piece of work
    second = await app.start(SHOUT, [folder], fresh=True)
    assert second.id != first.id
    progress, seen = await hand.drain(second)
    assert len(CALLS) == 3
    assert {outcome.name for _, outcome in seen} == {"reused"}
    assert [step.reused for step in progress.steps] == [2, 4]
    assert await texts(app, second, 1) == await texts(app, first, 1) == ["ONE!", "TWO!", "THREE!"]


async def test_another_option_redoes_what_depends_on_it_and_nothing_else(app: App, hand: Hand, folder: Path) -> None:
    await hand.drain(await app.start(SHOUT, [folder]))
    CALLS.clear()
    run = await app.start(Workflow("shouting", [lines, shout.using(mark="?")]), [folder])
    progress, _ = await hand.drain(run)
    assert progress.steps[0].reused == 2
    assert sorted(CALLS) == ["one", "three", "two"]


async def test_an_ancestor_is_found_by_its_kind(app: App, hand: Hand, folder: Path) -> None:
    run = await app.start(Workflow("places", [lines, place]), [folder])
    await hand.drain(run)
    rows = await app.pool.fetch(records.SQL["of_run"], run.id, 1)
    found = {(one.text, one.where) for one in (Loud.model_validate_json(row["body"]) for row in rows)}
    assert found == {("one", "a.txt"), ("two", "a.txt"), ("three", "b.txt"), ("two", "b.txt")}


async def test_an_ancestor_that_is_not_there_is_named(app: App, hand: Hand, folder: Path) -> None:
    run = await app.start(Workflow("orphans", [lines, orphan]), [folder])
    progress, _ = await hand.drain(run)
    assert progress.state == "failed"
    assert {piece.code for piece in await run.failures()} == {"T210"}


async def test_an_operator_has_only_so_much_time(app: App, hand: Hand, folder: Path) -> None:
    run = await app.start(Workflow("slowly", [lines, slow.using(attempts=1)]), [folder])
    progress, _ = await hand.drain(run)
    assert progress.state == "failed"
    assert {piece.code for piece in await run.failures()} == {"T310"}


async def test_a_timeout_of_the_operators_own_is_not_taken_for_its_limit(app: App, hand: Hand, folder: Path) -> None:
    run = await app.start(Workflow("own", [lines, own_timeout.using(attempts=1)]), [folder])
    await hand.drain(run)
    assert {piece.message for piece in await run.failures()} == {"the socket of the operator"}


async def test_a_barrier_sees_everything_once_and_in_the_order_of_the_text(app: App, hand: Hand, folder: Path) -> None:
    hand.order = lambda tasks: tasks[::-1]
    run = await app.start(JOIN, [folder])
    await hand.drain(run)
    assert await texts(app, run, 2) == ["ONE!TWO!THREE!"]  # "two" of b.txt is the record of a.txt


async def test_what_two_inputs_share_stays_when_one_of_them_goes(app: App, hand: Hand, folder: Path) -> None:
    run = await app.start(JOIN, [folder])
    await hand.drain(run)
    (folder / "a.txt").unlink()
    assert (await app.start(JOIN, [folder])).id == run.id
    progress, _ = await hand.drain(run)
    assert progress.state == "completed"
    assert await texts(app, run, 1) == ["THREE!", "TWO!"]
    assert await texts(app, run, 2) == ["THREE!TWO!"]


async def test_a_barrier_is_made_anew_for_other_records_with_the_same_words(app: App, hand: Hand, folder: Path) -> None:
    first = await app.start(JOIN, [folder])
    await hand.drain(first)
    (folder / "c.txt").write_text("one!\ntwo!\nthree!\n")
    (folder / "a.txt").unlink()
    (folder / "b.txt").unlink()
    second = await app.start(Workflow("joining", [lines, shout.using(mark=""), join]), [folder])
    await hand.drain(second)
    assert await texts(app, second, 1) == await texts(app, first, 1)
    parents = "select l.parent_id from lineage l join run_record r using (record_id) where r.run_id = $1 and r.step = 2"
    members = "select record_id from run_record where run_id = $1 and step = 1"
    for run in (first, second):
        ours = {row[0] for row in await app.pool.fetch(members, run.id)}
        assert {row[0] for row in await app.pool.fetch(parents, run.id)} <= ours


async def test_what_follows_a_barrier_is_replaced_with_it(app: App, hand: Hand, folder: Path) -> None:
    flow = Workflow("onwards", [lines, shout, join, again])
    run = await app.start(flow, [folder])
    await hand.drain(run)
    assert await texts(app, run, 3) == ["one!two!three!"]
    (folder / "b.txt").unlink()
    await app.start(flow, [folder])
    await hand.drain(run)
    assert await texts(app, run, 3) == ["one!two!"]


async def test_of_two_answers_to_the_same_work_the_first_is_kept_whole(app: App) -> None:
    async def save(count: int, word: str) -> list[int]:
        made = tuple(NewRecord(Line(text=f"{word} {n}"), ()) for n in range(count))
        async with transaction(app.pool) as connection:
            return (await records.save(connection, [Work(b"k" * 32, "t", "ok", 1, made)]))[b"k" * 32]

    first = await save(2, "first")
    assert await save(5, "second") == first
    rows = await app.pool.fetch("select body from record order by ordinal")
    assert [Line.model_validate_json(row["body"]).text for row in rows] == ["first 0", "first 1"]


async def test_one_body_that_cannot_be_stored_fails_alone_and_at_once(app: App, hand: Hand, tmp_path: Path) -> None:
    source = tmp_path / "spoiled.txt"
    source.write_text("nul\nhalf\nlarge\nescape\nnan\n")
    run = await app.start(Workflow("spoiled", [lines, spoil]), [source])
    progress, seen = await hand.drain(run)
    assert (progress.state, progress.steps[1].completed, progress.steps[1].failed) == ("partial", 1, 4)
    errors = [outcome for _, outcome in seen if isinstance(outcome, Exception)]
    assert all(isinstance(error, InputError) for error in errors)
    assert sorted(piece.code for piece in await run.failures()) == ["T601", "T602", "T602", "T603"]
    assert await texts(app, run, 1) == [r"a \u0000 in words"]


async def test_a_workflow_with_an_unknown_operator_is_left_to_those_who_know_it(
    app: App, hand: Hand, folder: Path
) -> None:
    run = await app.start(SHOUT, [folder])
    await app.pool.execute("update run set definition = replace(definition, 't_shout', 'of_another_process')")
    seen = await hand.work()
    assert len(seen) == 2
    ((_, reason, _),) = await run.held_by()
    assert "of_another_process" in reason
    assert await app.pool.fetchval("select sum(failures) from task") == 0


def test_errors_of_timeouts_can_be_retried() -> None:
    for error, again in ((TimeoutError("x"), True), (TransientError("x"), True), (InputError("x"), False)):
        failure = DEFAULT.judge(error)
        assert isinstance(failure, Failure)
        assert failure.retry is again
