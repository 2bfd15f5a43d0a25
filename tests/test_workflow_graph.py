"""Workflows as graphs: what is refused, what is stored, and what records come out at the other end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gristmill.app import App
from gristmill.data.kinds import Source
from gristmill.errors import UsageError, WorkflowError
from gristmill.operators.operator import Context, StepSpec, operator
from gristmill.workflow import Workflow
from gristmill.workflow_files import find_workflow
from tests.by_hand import Hand


class Word(BaseModel):
    text: str


class Number(BaseModel):
    value: int


class Note(BaseModel):
    text: str


@operator("g_words")
async def words(source: Source, ctx: Context) -> list[Word]:
    return [Word(text=text) for text in (await ctx.blobs.read(source.blob)).decode().split()]


@operator("g_size")
async def size(source: Source) -> Note:
    return Note(text=f"{source.size} bytes")


@operator("g_loud")
async def loud(word: Word) -> Note:
    return Note(text=word.text.upper())


@operator("g_quiet")
async def quiet(word: Word, mark: str = ".") -> Note:
    if word.text == "bad":
        raise ValueError("bad word")
    return Note(text=word.text.lower() + mark)


@operator("g_keep")
async def keep(note: Note) -> Note:
    return Note(text=f"[{note.text}]")


@operator("g_gather", barrier=True)
async def gather(notes: list[Note]) -> Note:
    return Note(text=" ".join(sorted(note.text for note in notes)))


@operator("g_sort")
async def sort(word: Word) -> list[Note | Number]:
    return [Number(value=int(word.text))] if word.text.isdigit() else [Note(text=word.text)]


@operator("g_add")
async def add(number: Number) -> Number:
    return Number(value=number.value + 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "inputs"
    made.mkdir()
    (made / "a.txt").write_text("One Two")
    (made / "b.txt").write_text("Three")
    return made


async def bodies(app: App, run: Any, step: int) -> list[str]:
    """Texts of what a step has made, sorted."""
    rows = await app.pool.fetch(
        "select r.body::json ->> 'text' as text from run_record rr join record r on r.id = rr.record_id"
        " where rr.run_id = $1 and rr.step = $2 order by 1", run.id, step,
    )  # fmt: skip
    return [row["text"] for row in rows]


@pytest.mark.parametrize(
    ("steps", "message", "hint"),
    [
        ([words, loud.after("g_wrods")], 'follows "g_wrods", and there is no such step', "g_words"),
        ([words, loud.after("zzz")], "there is no such step", "inputs, g_words, g_loud"),
        ([words, loud.after("g_loud")], 'step "g_loud" follows itself', ""),
        ([words, loud, loud], 'two steps are called "g_loud"', "name one"),
        ([words, loud, quiet.after()], 'nothing would ever reach step "g_quiet"', "inputs"),
        ([words, keep.after("g_loud", "b"), loud.after("b"), keep.using(name="b").after("g_keep")],
         "in a circle: g_keep -> b -> g_loud -> g_keep", "arrow"),
        ([words.after("g_loud"), loud], "in a circle: g_words -> g_loud -> g_words", "arrow"),
        ([words, loud, quiet.after("g_loud")], '"g_quiet" takes a word, but "g_loud" makes note', ""),
        ([words, loud, size.after("g_loud")], '"g_size" takes a source, but "g_loud" makes note', ""),
        ([words, loud, keep.after("inputs")], "takes a note, but the inputs are source", ""),
        ([words, loud, keep.using(per="item")], "takes one record at a time", "barrier=True"),
        ([words, loud, gather.using(per="week")], "per='week' is not known", "item"),
        ([gather], "cannot stand before all of them", ""),
        ([words, loud, gather, gather.using(name="each", per="item")], 'what "g_gather" makes belongs to', ""),
        ([], "has no steps", ""),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused_with_its_reason(steps: list[Any], message: str, hint: str) -> None:
    with pytest.raises(WorkflowError) as raised:
        Workflow("wrong", steps)
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_a_plain_list_says_nothing_about_lines_so_that_its_fingerprint_stays() -> None:
    plain = Workflow("w", [words, loud, keep])
    assert all("after" not in step and "per" not in step for step in plain.definition()["steps"])
    named = Workflow("w", [words.after("inputs"), loud.after("g_words"), keep.using(after="g_loud")])
    assert named == plain
    assert named.fingerprint() == plain.fingerprint()
    assert find_workflow("qa").edges == ((-1,), (0,), (1,), (2,), (3,))


def test_a_graph_is_stored_and_found_again() -> None:
    flow = Workflow("w", [
        words, loud, quiet.after("g_words"), gather.using(per="item").after("g_loud", "g_quiet"), keep,
    ])  # fmt: skip
    again = Workflow.from_definition(flow.definition())
    assert again.definition() == flow.definition()
    assert again.edges == ((-1,), (0,), (0,), (1, 2), (3,))
    assert again.fingerprint() == flow.fingerprint()
    assert flow.fingerprint() != Workflow("w", [words, loud, keep.after("g_loud")]).fingerprint()
    assert flow.with_model("extractive").edges == flow.edges


def test_a_definition_of_the_version_before_is_a_plain_list() -> None:
    stored = Workflow("w", [words, loud]).definition()
    assert set(stored["steps"][0]) == {
        "name", "operator", "operator_version", "options", "model", "pool", "attempts", "timeout",
    }  # fmt: skip
    assert Workflow.from_definition(stored).edges == ((-1,), (0,))


def test_steps_may_be_named_before_they_come() -> None:
    flow = Workflow("w", [words, keep.after("g_loud"), loud.after("g_words")])
    assert [spec.name for spec in flow.steps] == ["g_words", "g_loud", "g_keep"]
    assert flow.edges == ((-1,), (0,), (1,))


async def test_branches_merge_and_join_with_all_their_records(app: App, hand: Hand, folder: Path) -> None:
    flow = Workflow("diamond", [words, loud, quiet.after("g_words"), keep.after("g_loud", "g_quiet"), gather])
    run = await app.start(flow, [folder])
    progress, _ = await hand.drain(run)
    assert progress.state == "completed"
    assert [step.completed for step in progress.steps] == [2, 3, 3, 6, 1]
    assert await bodies(app, run, 3) == sorted(["[ONE]", "[one.]", "[TWO]", "[two.]", "[THREE]", "[three.]"])
    assert await bodies(app, run, 4) == [" ".join(await bodies(app, run, 3))]
    parents = await app.pool.fetchval(
        "select count(*) from lineage l join run_record rr on rr.record_id = l.record_id"
        " where rr.run_id = $1 and rr.step = 4", run.id,
    )  # fmt: skip
    assert parents == 6


async def test_several_steps_take_the_inputs(app: App, hand: Hand, folder: Path) -> None:
    flow = Workflow("roots", [words, loud, size.after("inputs"), keep.after("g_loud", "g_size")])
    run = await app.start(flow, [folder])
    progress, _ = await hand.drain(run)
    assert progress.state == "completed"
    assert [step.completed for step in progress.steps] == [2, 3, 2, 5]
    assert "[5 bytes]" in await bodies(app, run, 3)


async def test_each_item_is_gathered_for_itself(app: App, hand: Hand, folder: Path) -> None:
    flow = Workflow("each", [words, loud, quiet.after("g_words"),
                             gather.using(per="item").after("g_loud", "g_quiet"), keep])  # fmt: skip
    run = await app.start(flow, [folder])
    progress, _ = await hand.drain(run)
    assert progress.state == "completed"
    assert await bodies(app, run, 4) == sorted(["[ONE TWO one. two.]", "[THREE three.]"])


async def test_an_item_that_has_come_to_nothing_gathers_nothing(app: App, hand: Hand, folder: Path) -> None:
    (folder / "b.txt").write_text("  ")
    run = await app.start(Workflow("few", [words, loud, gather.using(per="item")]), [folder])
    progress, _ = await hand.drain(run)
    assert progress.state == "completed"
    assert await bodies(app, run, 2) == ["ONE TWO"]
    assert progress.steps[2].empty == 1


async def test_a_retry_gathers_an_item_again_and_replaces_what_was_made_of_it(
    app: App, hand: Hand, folder: Path
) -> None:
    (folder / "b.txt").write_text("bad Four")
    flow = Workflow("again", [words, quiet.using(attempts=1), gather.using(per="item"), keep])
    run = await app.start(flow, [folder])
    progress, _ = await hand.drain(run)
    assert progress.state == "partial"
    assert await bodies(app, run, 3) == ["[four.]", "[one. two.]"]
    (folder / "b.txt").write_text("Five Four")
    await run.retry()
    progress, _ = await hand.drain(run)
    assert progress.state == "completed"
    rows = await app.pool.fetch(
        "select r.body::json ->> 'text' as text from run_record rr join record r on r.id = rr.record_id"
        " join item i on i.id = rr.item_id where rr.run_id = $1 and rr.step = 3 and i.state = 'active' order by 1",
        run.id,
    )  # fmt: skip
    assert [row["text"] for row in rows] == ["[five. four.]", "[one. two.]"]


async def test_records_of_several_kinds_go_where_they_fit(app: App, hand: Hand, folder: Path) -> None:
    (folder / "b.txt").write_text("7 Four")
    flow = Workflow("sorted", [words, sort, add, keep.after("g_sort")])
    run = await app.start(flow, [folder])
    progress, _ = await hand.drain(run)
    assert [step.completed for step in progress.steps] == [2, 4, 1, 3]
    second = await app.start(flow, [folder], fresh=True)  # all of it is used again: the kinds are looked up
    progress, _ = await hand.drain(second)
    assert [step.completed for step in progress.steps] == [2, 4, 1, 3]


async def test_a_barrier_in_the_middle_replaces_only_its_own_branch(app: App, hand: Hand, folder: Path) -> None:
    flow = Workflow("middle", [words, loud, gather, keep, quiet.after("g_words"),
                               keep.using(name="both").after("g_keep", "g_quiet")])  # fmt: skip
    run = await app.start(flow, [folder])
    await hand.drain(run)
    both = [spec.name for spec in run.workflow.steps].index("both")
    assert await bodies(app, run, both) == sorted(["[[ONE THREE TWO]]", "[one.]", "[two.]", "[three.]"])
    (folder / "c.txt").write_text("Zero")
    again = await app.start(flow, [folder])
    assert again.id == run.id
    await hand.drain(run)
    assert await bodies(app, run, both) == sorted(["[[ONE THREE TWO ZERO]]", "[one.]", "[two.]", "[three.]", "[zero.]"])


async def test_runs_follow_runs_and_say_what_they_wait_for(app: App, hand: Hand, folder: Path) -> None:
    (folder / "b.txt").write_text("bad")
    first = await app.start(Workflow("first", [words, quiet.using(attempts=1)]), [folder])
    second = await app.start(Workflow("second", [words, loud]), [folder], after=[first])
    assert (await second.progress()).state == "waiting"
    assert await second.waits_for() == [f"{first.name} (running)"]
    assert (await second.held_by())[0][1] == f"waits for run {first.name}, which is running"
    assert (await hand.drain(first))[0].state == "partial"
    reason = f"waits for run {first.name}, which ended partial: gristmill retry {first.name}"
    assert [entry[1] for entry in await second.held_by()] == [reason]
    (folder / "b.txt").write_text("good")
    await first.retry()
    assert (await hand.drain(first))[0].state == "completed"
    from gristmill.engine import workflow

    async with app.pool.acquire() as connection:
        assert await workflow.start_waiting(connection) == 1
    assert (await hand.drain(second))[0].state == "completed"


async def test_one_input_is_paused_cancelled_and_taken_up_again(app: App, hand: Hand, folder: Path) -> None:
    run = await app.start(Workflow("one", [words, loud]), [folder], events="tasks")
    assert await run.pause("a.txt")
    assert not await run.pause("a.txt")
    assert len(await hand.work()) == 2
    assert await run.held_by() == [("g_words", "the item is paused", 1)]
    assert await run.cancel("a.txt") == 1
    assert (await hand.drain(run))[0].state == "completed"
    assert await bodies(app, run, 1) == ["THREE"]
    assert await run.retry(item="a.txt") == 1
    assert (await hand.drain(run))[0].state == "completed"
    assert await bodies(app, run, 1) == ["ONE", "THREE", "TWO"]
    names = [event.name async for event in run.events()]
    assert names.count("item.pause") == 1
    assert names.count("item.end") == 3
    assert names.count("step.end") == 5


async def test_an_unknown_input_is_named_with_its_neighbour(app: App, folder: Path) -> None:
    run = await app.start(Workflow("one", [words, loud]), [folder])
    for order in (run.pause, run.resume, run.cancel):
        with pytest.raises(UsageError, match=r'no input "aa.txt"') as raised:
            await order("aa.txt")
        assert "a.txt" in raised.value.hint


async def test_a_run_tells_as_much_as_it_was_asked_to(app: App, folder: Path) -> None:
    run = await app.start(Workflow("one", [words]), [folder], events="run")
    assert await app.pool.fetchval("select detail from run where id = $1", run.id) == 0
    with pytest.raises(UsageError, match="events='all'"):
        await app.start(Workflow("one", [words]), [folder], events="all")  # type: ignore[arg-type]


def test_a_step_is_made_by_using_or_after_in_any_order() -> None:
    one: StepSpec = quiet.after("x").using(mark="?", per=None)
    assert one == quiet.using(mark="?", after=["x"])
