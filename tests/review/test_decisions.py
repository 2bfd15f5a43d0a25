"""Decisions about records: each changes what it says, is kept, and can be taken back in order."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gristmill.data import records
from gristmill.data.kinds import Chunk
from gristmill.errors import UsageError
from gristmill.review.decisions import decide, history, states, undo
from gristmill.review.states import PROPOSED
from tests.review.conftest import Made, Runs


async def stands(pool: Any, number: int) -> Any:
    return (await states(pool, [number])).get(number)


async def code_of(awaitable: Any) -> str:
    with pytest.raises(UsageError) as caught:
        await awaitable
    assert caught.value.hint
    assert caught.value.safe
    return caught.value.code


async def test_each_decision_leads_to_its_state_and_is_kept_with_its_person(made: Made) -> None:
    one, two, three, four = await made.examples(4)
    assert (await decide(made.pool, one, "accept", "ann", note="good")).state == "accepted"
    assert (await decide(made.pool, two, "edit", "ann", changes={"answer": "Better."})).state == "edited"
    assert (await decide(made.pool, three, "reject", "bob")).state == "rejected"
    assert (await decide(made.pool, four, "skip", "bob")).state == "skipped"
    found = await states(made.pool, [one, two, three, four, 999_999])
    assert [found[number].state for number in (one, two, three, four)] == ["accepted", "edited", "rejected", "skipped"]
    assert [found[number].reviewer for number in (one, two, three, four)] == ["ann", "ann", "bob", "bob"]
    assert 999_999 not in found
    (line,) = await history(made.pool, one)
    assert (line.reviewer, line.decision, line.note, line.before_state) == ("ann", "accept", "good", PROPOSED)


async def test_an_edit_makes_a_new_record_below_the_old_one_with_the_persons_name(made: Made) -> None:
    (one,) = await made.examples(1)
    first = await decide(made.pool, one, "edit", "ann", changes={"answer": "Better."})
    second = await decide(made.pool, one, "edit", "bob", changes={"label": ["physics", "heat"]})
    assert first.revision_id is not None
    assert second.revision_id is not None
    family = await records.load_family(made.pool, [second.revision_id])
    assert [record.id for record in family][:3] == [second.revision_id, first.revision_id, one]
    body = json.loads(family[0].body)
    assert (body["answer"], body["label"], body["question"]) == ("Better.", ["physics", "heat"], "Question 0?")
    notes = await made.pool.fetchval(
        "select w.notes from record r join work w on w.key = r.work_key where r.id = $1", second.revision_id
    )
    assert notes == "bob"
    assert json.loads(family[2].body)["answer"] == "Answer 0."  # nothing is overwritten


async def test_undo_takes_ones_own_decisions_back_in_order_also_an_edit_of_an_edit(made: Made) -> None:
    one, two = await made.examples(2)
    await decide(made.pool, one, "accept", "ann")
    edit = await decide(made.pool, one, "edit", "ann", changes={"answer": "Better."})
    await decide(made.pool, one, "edit", "ann", changes={"answer": "Best."})
    await decide(made.pool, two, "reject", "ann")
    await decide(made.pool, one, "reject", "ann")
    seen = []
    for _ in range(5):
        back = await undo(made.pool, "ann")
        seen.append((back.record_id, back.state, back.revision_id == edit.revision_id))
    assert seen == [
        (one, "edited", False), (two, PROPOSED, False), (one, "edited", True), (one, "accepted", False),
        (one, PROPOSED, False),
    ]  # fmt: skip
    assert await code_of(undo(made.pool, "ann")) == "V140"
    assert all(line.undone_at for line in await history(made.pool, one))


async def test_nobody_takes_back_what_another_person_has_decided_over(made: Made) -> None:
    one, two = await made.examples(2)
    await decide(made.pool, two, "accept", "ann")
    await decide(made.pool, one, "accept", "ann")
    await decide(made.pool, one, "reject", "bob")
    assert await code_of(undo(made.pool, "ann")) == "V110"
    assert (await stands(made.pool, one)).state == "rejected"
    assert (await undo(made.pool, "ann", two)).state == PROPOSED  # of that record it is the last word
    assert (await undo(made.pool, "bob")).state == "accepted"
    assert (await stands(made.pool, one)).reviewer == "ann"


async def test_the_same_word_twice_changes_nothing(made: Made) -> None:
    one, two = await made.examples(2)
    await decide(made.pool, one, "accept", "ann")
    again = await decide(made.pool, one, "accept", "bob")
    assert (again.changed, again.state) == (False, "accepted")
    edits = [await decide(made.pool, two, "edit", "ann", changes={"answer": "Better."}) for _ in range(2)]
    assert [one.changed for one in edits] == [True, False]
    assert edits[0].revision_id == edits[1].revision_id
    assert (await decide(made.pool, two, "accept", "bob")).state == "edited"  # the edit is what is accepted
    assert len(await history(made.pool, one)) == len(await history(made.pool, two)) == 1


async def test_an_edit_that_changes_nothing_is_an_acceptance(made: Made) -> None:
    (one,) = await made.examples(1)
    body = json.loads((await records.load(made.pool, [one]))[one].body)
    assert (await decide(made.pool, one, "edit", "ann", body=body)).state == "accepted"


async def test_an_answer_that_got_lost_is_sent_again_without_harm(made: Made) -> None:
    await made.examples(2)
    first, second = await made.review.claim("ann", 2)
    asked: dict[str, Any] = {"changes": {"answer": "Better."}, "token": first.token}
    once = await decide(made.pool, first.record_id, "edit", "ann", **asked)
    twice = await decide(made.pool, first.record_id, "edit", "ann", **asked)
    assert (once.revision_id, once.changed, twice.changed) == (twice.revision_id, True, False)
    await decide(made.pool, second.record_id, "accept", "ann", token=second.token)
    assert not (await decide(made.pool, second.record_id, "accept", "ann", token=second.token)).changed
    other = decide(made.pool, second.record_id, "reject", "ann", token=second.token)
    assert await code_of(other) == "V110"  # that is another decision under a token that is used up


async def test_a_body_that_does_not_fit_is_refused_with_the_place_and_nothing_changes(made: Made) -> None:
    (one,) = await made.examples(1)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"answer": " "}, "answer: it is empty"), ({"answer": 7}, "answer"), ({"anwser": "x"}, "anwser"),
        ({"label": "physics"}, "label"), ({"answer": "a\0b"}, "NUL"), ({"answer": "\ud800"}, ""),
        ({"answer": "x" * 2_000_000}, "limit"),
    ]  # fmt: skip
    for changes, says in wrong:
        with pytest.raises(UsageError) as caught:
            await decide(made.pool, one, "edit", "ann", changes=changes)
        assert caught.value.code == "V120"
        assert says in caught.value.message
    assert (await stands(made.pool, one)) is None


async def test_what_cannot_be_decided_is_refused_with_what_to_do(made: Made) -> None:
    (one,) = await made.examples(1)
    chunk = await made.add(Chunk(text="no row"))
    assert await code_of(decide(made.pool, 999_999, "accept", "ann")) == "V101"
    assert await code_of(decide(made.pool, chunk, "accept", "ann")) == "V101"
    assert await code_of(decide(made.pool, one, "approve", "ann")) == "V131"
    assert await code_of(decide(made.pool, one, "accept", " \n")) == "V102"
    assert await code_of(decide(made.pool, one, "accept", "ann", note="x" * 20_000)) == "V103"
    assert await code_of(decide(made.pool, one, "accept", "ann", token="mine")) == "V104"
    assert await code_of(decide(made.pool, one, "edit", "ann")) == "V121"
    assert await code_of(decide(made.pool, one, "accept", "ann", changes={})) == "V121"
    await decide(made.pool, one, "accept", "ann")
    assert await code_of(decide(made.pool, one, "skip", "ann")) == "V130"
    assert await code_of(decide(made.pool, one, "reject", "ann", seen=one + 1)) == "V110"


async def test_of_two_people_who_decide_at_once_one_comes_second_and_both_are_on_record(made: Made) -> None:
    numbers = await made.examples(10)
    asked = [decide(made.pool, n, word, who) for n in numbers for word, who in (("accept", "ann"), ("reject", "bob"))]
    await asyncio.gather(*asked)
    for number in numbers:
        lines = await history(made.pool, number)
        assert {line.reviewer for line in lines} == {"ann", "bob"}
        assert lines[0].after_state == lines[1].before_state
        assert (await stands(made.pool, number)).state == lines[1].after_state


async def test_decisions_and_undos_are_told_in_order(made: Made) -> None:
    (one,) = await made.examples(1)
    await made.review.look()
    await decide(made.pool, one, "accept", "ann")
    await undo(made.pool, "ann")
    rows = await made.pool.fetch("select name, run_id, body from event_inbox where name like 'review%' order by id")
    assert [(row["name"], row["run_id"]) for row in rows] == [
        ("review.decided", made.run_id), ("review.undone", made.run_id),
    ]  # fmt: skip
    assert json.loads(rows[0]["body"]) == {
        "record": one, "decision": "accept", "before": "proposed", "after": "accepted", "reviewer": "ann",
        "revision": None, "decision_id": 1, "opinion": False, "disputed": False,
    }  # fmt: skip


async def test_a_record_that_two_runs_share_has_one_state_and_leaves_both_queues(runs: Runs) -> None:
    first, second = await runs.make(), await runs.make()
    one, two = await first.examples(2)
    await second.join(one, 3)
    await first.review.look()
    await second.review.look()
    await decide(first.pool, one, "accept", "ann")
    assert [piece.record_id for piece in await second.review.claim("bob", 5)] == []
    assert [piece.record_id for piece in await first.review.claim("bob", 5)] == [two]
    third = await runs.make()
    await third.join(one, 3)
    assert (await third.review.claim("bob", 5)) == []  # what was decided before it came is not asked again
    await undo(first.pool, "ann")
    assert [piece.record_id for piece in await third.review.claim("bob", 5)] == [one]
