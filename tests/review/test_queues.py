"""The queue of a run: what comes into it, in which order it is given out, and that no two people get the same piece."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gristmill.data.kinds import Chunk, Conversation, Example, Question, Rejection, Turn
from gristmill.db.database import open_pool
from gristmill.errors import UsageError
from gristmill.review.decisions import decide, history, states, undo
from gristmill.review.queues import Look, Review
from tests.review.conftest import STEPS, Made, Runs


async def numbers(asked: Any) -> list[int]:
    return [piece.record_id for piece in await asked]


async def expire(pool: Any) -> None:
    """As if the time of every claim was over."""
    await pool.execute("update review set lease_until = clock_timestamp() - interval '1 s' where holder is not null")


async def test_a_look_takes_in_what_is_new_and_nothing_twice(made: Made) -> None:
    await made.examples(3)
    assert await made.review.look() == Look(3, 0)
    assert await made.review.look() == Look(0, 0)
    await made.examples(2)
    assert await made.review.look(force=True) == Look(2, 0)
    assert await made.review.look(force=True) == Look(0, 0)


async def test_only_the_last_revision_without_marks_is_asked_for(made: Made) -> None:
    one, two, three, four = await made.examples(4)
    later = await made.add(Example(question="Question 0?", answer="Clean."), [one])
    await made.add(Rejection(rule="r", reason="short"), [two])
    question = await made.pool.fetchval("select parent_id from lineage where record_id = $1", three)
    await made.add(Rejection(rule="r", reason="bad question"), [question])
    assert await numbers(made.review.claim("ann", 10)) == [four, later]


async def test_what_no_longer_counts_is_withdrawn_unless_somebody_has_it_or_decided(made: Made) -> None:
    one, two, three = await made.examples(3)
    (held,) = await made.review.claim("ann")
    assert held.record_id == one
    await decide(made.pool, two, "accept", "bob")
    for number in (one, two, three):
        await made.add(Rejection(rule="r", reason="late"), [number])
    assert await made.review.look(force=True) == Look(0, 1)
    assert await numbers(made.review.pieces()) == [one, two]


async def test_the_lowest_score_comes_first_and_what_has_none_last(made: Made) -> None:
    one, two, three, four = await made.examples(4, [4.0, 2.0, 3.0])
    pieces = await made.review.claim("ann", 4)
    assert [(piece.record_id, piece.score) for piece in pieces] == [(two, 2.0), (three, 3.0), (one, 4.0), (four, None)]
    assert [line["name"] for line in pieces[0].scores] == ["overall", "clarity"]


async def test_a_score_that_comes_later_moves_a_piece(made: Made) -> None:
    one, two = await made.examples(2, [4.0])
    await made.review.look()
    await made.score(two, 1.0)
    await made.score(one, 0.5)
    await made.review.look(force=True)
    assert await numbers(made.review.claim("ann", 2)) == [one, two]


async def test_where_judges_disagree_most_comes_first(made: Made) -> None:
    one, two, three = await made.examples(3, [3.0, 3.0, 3.0])
    await made.score(two, 5.0, judge="other")
    await made.score(three, 3.5, judge="other")
    await made.score(one, 1.0)  # the same judge again
    pieces = await made.review.claim("ann", 3, by="disagreement")
    assert [(piece.record_id, piece.disagreement) for piece in pieces] == [(two, 2.0), (three, 0.5), (one, None)]


async def test_a_sample_is_the_same_for_the_same_seed_in_any_database_and_another_for_another(runs: Runs) -> None:
    first, second = await runs.make(), await runs.make()
    chosen = []
    for made in (first, second):
        await made.examples(40)
        await made.review.look()
        pieces = await made.review.claim("ann", 100, by="random", sample=0.5)
        chosen.append([piece.body["question"] for piece in pieces])
        await made.review.release("ann")
    assert chosen[0] == chosen[1]
    assert 8 <= len(chosen[0]) <= 32
    assert chosen[0] != sorted(chosen[0])
    await first.review.sow(7)
    other = [piece.body["question"] for piece in await first.review.claim("ann", 100, by="random", sample=0.5)]
    assert set(other) != set(chosen[0])


async def test_what_was_reviewed_once_and_made_anew_is_found_by_its_change(runs: Runs) -> None:
    first = await runs.make()
    chunk = await first.add(Chunk(text="x"))
    questions = [await first.add(Question(text=f"{at}?", ordinal=at), [chunk]) for at in range(3)]
    old = [
        await first.add(Example(question=f"{at}?", answer="old"), [question], kind="answer")
        for at, question in enumerate(questions)
    ]
    await first.review.look()
    await decide(first.pool, old[0], "edit", "ann", changes={"answer": "mine"})
    await decide(first.pool, old[1], "reject", "ann")
    second = await runs.make()  # another prompt: other answers to the same questions
    new = [
        await second.add(Example(question=f"{at}?", answer="new"), [question], kind="answer")
        for at, question in enumerate(questions)
    ]
    await second.add(Example(question="0?", answer="other step"), [questions[0]], kind="other")
    cleaned = await second.add(Example(question="1?", answer="clean"), [new[1]], kind="clean")
    pieces = await second.review.claim("ann", 10, by="changed")
    assert [(piece.record_id, piece.since) for piece in pieces] == [(new[0], old[0])]
    await decide(second.pool, new[1], "accept", "ann")
    await second.review.look(force=True)
    await second.review.release("ann")
    pieces = await second.review.claim("ann", 10, by="changed")
    assert [(piece.record_id, piece.since) for piece in pieces] == [(new[0], old[0]), (cleaned, new[1])]


async def test_no_piece_goes_to_two_people_however_many_ask_at_once(made: Made, database_url: str) -> None:
    everything = await made.examples(60)
    await made.review.look()
    pools = [await open_pool(database_url, size=2) for _ in range(4)]
    try:
        got: dict[str, list[int]] = {f"person {at}": [] for at in range(8)}

        async def work(name: str, pool: Any) -> None:
            review = Review(pool, made.run_id, STEPS)
            while pieces := await review.claim(name, 3):
                for piece in pieces:
                    got[name].append(piece.record_id)
                    await decide(pool, piece.record_id, "accept", name, token=piece.token)

        await asyncio.gather(*(work(name, pools[at % 4]) for at, name in enumerate(got)))
    finally:
        for pool in pools:
            pool.terminate()
    assert sorted(number for found in got.values() for number in found) == everything
    found = await states(made.pool, everything)
    assert all(found[number].reviewer == name for name, numbers in got.items() for number in numbers)


async def test_who_asks_again_gets_what_he_has_and_new_ones_up_to_the_number(made: Made) -> None:
    await made.examples(5)
    first = await made.review.claim("ann", 3)
    again = await made.review.claim("ann", 3)
    assert [(one.record_id, one.token) for one in first] == [(one.record_id, one.token) for one in again]
    assert again[0].lease_until is not None
    assert first[0].lease_until is not None
    assert again[0].lease_until > first[0].lease_until
    await decide(made.pool, first[0].record_id, "accept", "ann", token=first[0].token)
    topped = await made.review.claim("ann", 3)
    assert [one.record_id for one in topped[:2]] == [one.record_id for one in first[1:]]
    assert len(topped) == 3
    assert len(await made.review.claim("bob", 5)) == 1


async def test_an_expired_claim_goes_to_the_next_and_its_token_decides_nothing_any_more(made: Made) -> None:
    (one,) = await made.examples(1)
    (anns,) = await made.review.claim("ann")
    assert await made.review.claim("bob") == []
    await expire(made.pool)
    (bobs,) = await made.review.claim("bob")
    assert (bobs.record_id, bobs.token != anns.token) == (one, True)
    with pytest.raises(UsageError, match="bob has record") as caught:
        await decide(made.pool, one, "accept", "ann", token=anns.token)
    assert caught.value.code == "V110"
    with pytest.raises(UsageError, match="bob has record"):
        await decide(made.pool, one, "accept", "ann")
    await decide(made.pool, one, "reject", "bob", token=bobs.token)
    with pytest.raises(UsageError, match="bob has decided since"):
        await decide(made.pool, one, "accept", "ann", token=anns.token)
    assert len(await history(made.pool, one)) == 1


async def test_an_expired_claim_still_counts_while_nobody_else_has_taken_the_piece(made: Made) -> None:
    (one,) = await made.examples(1)
    (piece,) = await made.review.claim("ann")
    await expire(made.pool)
    assert (await decide(made.pool, one, "edit", "ann", changes={"answer": "Long."}, token=piece.token)).changed


async def test_released_pieces_are_there_for_others_at_once(made: Made) -> None:
    one, two, _ = await made.examples(3)
    await made.review.claim("ann", 2)
    assert await made.review.release("bob") == 0
    assert await made.review.release("ann", [two]) == 1
    assert await numbers(made.review.claim("bob", 1)) == [two]
    assert await made.review.release("ann") == 1
    assert await numbers(made.review.claim("cem", 1)) == [one]


async def test_a_certain_piece_can_be_taken_unless_somebody_else_has_it(made: Made) -> None:
    one, two = await made.examples(2)
    await made.review.claim("ann")
    taken = await made.review.take("bob", two)
    assert (taken.record_id, taken.token is not None) == (two, True)
    with pytest.raises(UsageError, match="ann has record"):
        await made.review.take("bob", one)
    with pytest.raises(UsageError, match="not in the queue"):
        await made.review.take("bob", 999_999)


async def test_what_was_left_aside_comes_back_when_it_is_asked_for(made: Made) -> None:
    one, two = await made.examples(2)
    await decide(made.pool, one, "skip", "ann", note="not my field")
    assert await numbers(made.review.claim("ann", 5)) == [two]
    assert await numbers(made.review.claim("bob", 5, skipped=True)) == [one]
    assert (await decide(made.pool, one, "accept", "bob")).before == "skipped"


async def test_assigned_pieces_go_to_their_person_only_and_come_before_the_rest(made: Made) -> None:
    everything = await made.examples(6, [1, 2, 3, 4, 5, 6])
    assert await made.review.assign(["ann", "bob"], count=4) == {"ann": 2, "bob": 2}
    assert await numbers(made.review.claim("bob", 2)) == [everything[1], everything[3]]
    assert await numbers(made.review.claim("cem", 6)) == everything[4:]
    assert await numbers(made.review.claim("ann", 6)) == [everything[0], everything[2]]
    assert [(one.assignee, one.open) for one in await made.review.assignments()] == [("ann", 2), ("bob", 2)]
    await made.review.release("bob")
    assert await made.review.unassign("bob") == 2
    assert await numbers(made.review.claim("dan", 6)) == [everything[1], everything[3]]
    assert await made.review.assign(["ann"]) == {"ann": 0}  # the rest is before somebody


async def test_a_second_opinion_is_asked_blindly_and_agreeing_changes_nothing(made: Made) -> None:
    (one,) = await made.examples(1)
    await made.review.assign(["ann"], overlap=1.0)
    (piece,) = await made.review.claim("ann")
    await decide(made.pool, one, "edit", "ann", changes={"answer": "Better."}, token=piece.token)
    assert await made.review.claim("ann") == []  # it is somebody else's turn
    (second,) = await made.review.claim("bob")
    assert (second.second, second.state, second.body["answer"], second.reviewer) == (
        True,
        "proposed",
        "Answer 0.",
        None,
    )
    told = await decide(made.pool, one, "edit", "bob", changes={"answer": "Better."}, token=second.token)
    assert (told.state, told.disputed) == ("edited", False)
    assert (await states(made.pool, [one]))[one].reviewer == "ann"
    assert [line.opinion for line in await history(made.pool, one)] == [False, True]
    assert await made.review.claim("cem") == []


async def test_two_that_differ_dispute_a_piece_and_a_third_settles_it(made: Made) -> None:
    one, two = await made.examples(2)
    await made.review.assign([], overlap=1.0)
    for name, word in (("ann", "accept"), ("bob", "reject")):
        piece = await made.review.take(name, one)
        told = await decide(made.pool, one, word, name, token=piece.token)
        await made.review.release(name)
    assert (told.state, told.disputed) == ("proposed", True)
    assert await numbers(made.review.claim("cem", 5)) == [two]  # only who asks for disputes gets it
    await made.review.release("cem")
    found = await made.review.claim("cem", 5, by="disagreement")
    assert [(piece.record_id, piece.disputed) for piece in found] == [(one, True), (two, False)]
    settled = await decide(made.pool, one, "reject", "cem", token=found[0].token)
    assert (settled.state, settled.disputed) == ("rejected", False)
    assert (await undo(made.pool, "cem")).disputed
    await made.review.release("cem")
    assert (await undo(made.pool, "bob")).state == "accepted"
    (back,) = await made.review.claim("bob")
    assert (back.record_id, back.second) == (one, True)


async def test_several_kinds_stand_in_one_queue_and_can_be_asked_for_alone(runs: Runs) -> None:
    made = await runs.make([*STEPS, [Conversation]])
    (one,) = await made.examples(1)
    talk = await made.add(Conversation(turns=(Turn(role="assistant", content="Hi."),), rounds=1))
    assert await numbers(made.review.claim("ann", 5, kind="conversation")) == [talk]
    assert await numbers(made.review.claim("bob", 5)) == [one]


async def test_a_piece_comes_with_its_passage_and_where_it_points(made: Made) -> None:
    await made.examples(1)
    (piece,) = await made.review.claim("ann")
    source = piece.source
    assert (source.what, source.text, source.start, source.end) == (
        "text", "Water boils at 100 degrees. Ice melts at 0.", 10, 53,
    )  # fmt: skip
    (mark,) = source.marks
    assert source.text is not None
    assert source.text[mark.start : mark.end] == "Water"
    assert json.loads(json.dumps(piece.as_document()))["source"]["marks"] == [
        {"start": 0, "end": 5, "what": "evidence"}
    ]


async def test_what_cannot_be_asked_for_is_refused_before_anything_is_claimed(made: Made) -> None:
    wrong: list[dict[str, Any]] = [
        {"by": "luck"}, {"limit": 0}, {"limit": 201}, {"kind": "chunk"}, {"sample": 0.0}, {"sample": 1.5}, {"lease": 0},
    ]  # fmt: skip
    for asked in wrong:
        with pytest.raises(UsageError) as caught:
            await made.review.claim("ann", **asked)
        assert caught.value.code == "V106"


async def test_while_somebody_looks_others_get_what_is_there(made: Made) -> None:
    (one,) = await made.examples(1)
    await made.review.look()
    await made.examples(1)
    await made.pool.execute("update review_queue set look_after = clock_timestamp()")
    async with made.pool.acquire() as connection, connection.transaction():
        await connection.execute("select 1 from review_queue for update")
        assert await numbers(made.review.claim("ann", 5)) == [one]
    assert len(await made.review.claim("ann", 5)) == 2


async def test_who_takes_his_word_back_does_not_take_the_piece_from_the_one_who_has_it_now(made: Made) -> None:
    (one,) = await made.examples(1)
    await made.review.assign([], overlap=1.0)
    (anns,) = await made.review.claim("ann")
    await decide(made.pool, one, "accept", "ann", token=anns.token)
    (bobs,) = await made.review.claim("bob")
    await undo(made.pool, "ann")
    assert await made.review.claim("ann") == []
    told = await decide(made.pool, one, "reject", "bob", token=bobs.token)
    assert (told.state, told.before) == ("rejected", "proposed")  # now his is the first word


async def test_what_a_person_has_comes_again_in_the_order_of_the_queue(made: Made) -> None:
    one, two, three = await made.examples(3, [3.0, 2.0, 1.0])
    await made.review.claim("ann", 1)
    await expire(made.pool)
    for _ in range(2):
        assert await numbers(made.review.claim("ann", 3)) == [three, two, one]
    assert await numbers(made.review.claim("ann", 1)) == [three]
