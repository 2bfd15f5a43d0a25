"""The table of states is the law: decisions, the schema and the diagram say the same as it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gristmill.data.rows import REVIEWED
from gristmill.errors import UsageError
from gristmill.review import states as law
from gristmill.review.decisions import decide, states, undo
from tests.review.conftest import Made

PAGE = Path(__file__).parents[2] / "docs/concepts/review.md"
WAYS = {  # how a record gets into a state
    "proposed": (), "accepted": ("accept",), "edited": ("edit",), "rejected": ("reject",), "skipped": ("skip",),
}  # fmt: skip


async def put(made: Made, number: int, state: str) -> None:
    for word in WAYS[state]:
        await say(made, number, word, "first", "One.")


async def say(made: Made, number: int, word: str, who: str, text: str = "Two.") -> Any:
    changes = {"answer": text} if word == "edit" else None
    return await decide(made.pool, number, word, who, changes=changes)


async def state_of(made: Made, number: int) -> str:
    found = (await states(made.pool, [number])).get(number)
    return found.state if found else law.PROPOSED


async def test_the_database_accepts_exactly_the_states_of_the_table(pool: Any) -> None:
    definitions = await pool.fetch(
        "select pg_get_constraintdef(oid) as text from pg_constraint"
        " where conrelid = 'review'::regclass and contype = 'c'"
    )
    (listed,) = (row["text"] for row in definitions if "state = ANY" in row["text"])
    assert set(law.STATES) == set(re.findall(r"'([a-z]+)'", listed))
    (said,) = await pool.fetch(
        "select pg_get_constraintdef(oid) as text from pg_constraint"
        " where conrelid = 'review_decision'::regclass and contype = 'c'"
    )
    assert set(law.DECISIONS) == set(re.findall(r"'([a-z]+)'", said["text"]))


@pytest.mark.parametrize("before", law.STATES)
async def test_every_decision_and_its_undo_make_only_the_changes_of_the_table(made: Made, before: str) -> None:
    for word, number in zip(law.DECISIONS, await made.examples(len(law.DECISIONS)), strict=True):
        await put(made, number, before)
        allowed = {after for act, start, after in law.TRANSITIONS if (act, start) == (word, before)}
        if (word, before) in law.STANDING:
            assert not (await say(made, number, word, "second")).changed
        elif not allowed:
            with pytest.raises(UsageError) as caught:
                await say(made, number, word, "second")
            assert caught.value.code == "V130"
        else:
            told = await say(made, number, word, "second")
            assert {told.state} == allowed
            assert ("undo", told.state, before) in law.TRANSITIONS
            await undo(made.pool, "second")
        assert await state_of(made, number) == before


async def test_a_second_opinion_that_differs_makes_the_dispute_of_the_table(made: Made) -> None:
    numbers = await made.examples(len(law.DECIDED))
    await made.review.assign([], overlap=1.0)
    for before, number in zip(sorted(law.DECIDED), numbers, strict=True):
        await put(made, number, before)
        told = await say(made, number, "accept" if before == "rejected" else "reject", "second")
        assert ("dispute", before, told.state) in law.TRANSITIONS
        assert told.disputed
        assert (await undo(made.pool, "second")).state == before


def test_the_diagram_shows_the_table() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+): (.*)$", PAGE.read_text(), re.MULTILINE)
    found = {(act.strip(), before, after) for before, after, acts in drawn for act in acts.split(",")}
    assert found == {change for change in law.TRANSITIONS if change[0] != "undo"}


def test_what_counts_as_reviewed_is_a_decision() -> None:
    assert REVIEWED < law.DECIDED < set(law.STATES)
