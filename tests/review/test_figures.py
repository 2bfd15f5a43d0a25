"""How a review goes, in figures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gristmill.review.decisions import decide, undo
from gristmill.review.figures import figures
from tests.review.conftest import Made


async def opinion(made: Made, number: int, name: str, word: str, text: str = "Better.") -> Any:
    return await decide(made.pool, number, word, name, changes={"answer": text} if word == "edit" else None)


async def test_states_people_and_pace_are_counted_and_what_was_taken_back_is_apart(made: Made) -> None:
    _, _, three, four, _ = await made.examples(5)
    for piece in await made.review.claim("ann", 2):
        await decide(made.pool, piece.record_id, "accept", "ann", token=piece.token)
    await decide(made.pool, three, "edit", "ann", changes={"answer": "Better."})
    await decide(made.pool, four, "reject", "bob")
    await undo(made.pool, "bob")
    await decide(made.pool, four, "skip", "bob")
    await made.review.claim("cem")
    found = await figures(made.pool, made.run_id)
    assert dict(found.states) == {"proposed": 1, "accepted": 2, "edited": 1, "rejected": 0, "skipped": 1}
    assert (found.total, found.open, found.held, found.disputed) == (5, 1, 1, 0)
    ann, bob = found.reviewers
    assert (ann.reviewer, ann.decided, ann.accepted, ann.edited, ann.undone, ann.last_hour) == ("ann", 3, 2, 1, 0, 3)
    assert (bob.decided, bob.rejected, bob.skipped, bob.undone) == (1, 0, 1, 1)
    assert ann.seconds_median is not None
    assert ann.per_hour == pytest.approx(3600 / ann.seconds_median)
    assert bob.seconds_median is None  # he had claimed nothing
    assert (found.agreement.pieces, found.agreement.krippendorff, found.agreement.pairs) == (0, None, ())
    document = json.loads(json.dumps(found.as_document()))
    assert (document["total"], document["reviewers"][1]["per_hour"]) == (5, None)


async def test_agreement_is_counted_over_what_several_have_decided(made: Made) -> None:
    numbers = await made.examples(6)
    await made.review.assign([], overlap=1.0)
    said = ["accept", "accept", "reject", "reject", "edit", "edit"]
    other = ["accept", "reject", "reject", "reject", "edit", "skip"]
    for number, first, second in zip(numbers, said, other, strict=True):
        await opinion(made, number, "ann", first)
        await opinion(made, number, "bob", second, "Other." if first == "edit" else "Better.")
    told = (await figures(made.pool, made.run_id)).agreement
    assert told.pieces == 5  # who skips has no opinion
    assert told.percent == pytest.approx(4 / 5)
    assert told.same == pytest.approx(3 / 5)  # two edits that want other words
    (pair,) = told.pairs
    # observed 4/5; by chance accept 2/5 * 1/5, reject 2/5 * 3/5, edit 1/5 * 1/5
    chance = (2 * 1 + 2 * 3 + 1 * 1) / 25
    assert (pair.first, pair.second, pair.pieces) == ("ann", "bob", 5)
    assert pair.cohen == pytest.approx((0.8 - chance) / (1 - chance))


async def test_only_the_sample_is_asked_twice(made: Made) -> None:
    numbers = await made.examples(30)
    await made.review.assign(["ann"], overlap=0.3)
    for number in numbers:
        await opinion(made, number, "ann", "accept")
    again = await made.review.claim("bob", 50)
    assert 3 <= len(again) <= 18
    assert all(piece.second for piece in again)
    for piece in again:
        await decide(made.pool, piece.record_id, "accept", "bob", token=piece.token)
    told = await figures(made.pool, made.run_id)
    assert (told.open, told.agreement.pieces, told.agreement.percent) == (0, len(again), 1.0)
