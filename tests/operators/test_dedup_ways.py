"""The ways of `dedup` beside words: vectors, which one is kept, within what."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

import pytest

from gristmill.data.kinds import Duplicate, Evaluation, Example, Vector, content_hash
from gristmill.errors import InputError
from gristmill.operators import dedup
from gristmill.operators.calling import run_operator
from gristmill.operators.dedup_vectors import BLOCK, find_near
from gristmill.operators.operator import Context
from gristmill.testing import MemoryBlobs

SAME = ("How do I start the pump?", "What makes the pump run?", "how do I start the PUMP", "What is a valve?")


def rows(*questions: str, label: Sequence[str] = ()) -> list[Example]:
    return [
        Example(question=text, answer="It is said.", label=(label[n],) if label else None)
        for n, text in enumerate(questions)
    ]


def bytes_of(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


async def marks(inputs: Sequence[Example | Evaluation | Vector], blobs: MemoryBlobs | None = None, **options: object) -> list[tuple[tuple[int, ...], float, str]]:  # fmt: skip  # noqa: E501
    produced = await run_operator(dedup, inputs, {}, options, Context(blobs=blobs or MemoryBlobs()))
    found = []
    for one in produced:
        assert isinstance(one.body, Duplicate)
        found.append((one.parents, one.body.similarity, one.body.method))
    return found


async def embedded(examples: Sequence[Example], *points: Sequence[float]) -> tuple[list[Example | Vector], MemoryBlobs]:
    blobs = MemoryBlobs()
    made: list[Example | Vector] = []
    for example, point in zip(examples, points, strict=True):
        digest = hashlib.sha256(example.question.encode()).hexdigest()
        blob = await blobs.write(bytes_of(*point))
        made += [Vector(blob=blob, dimensions=len(point), model="v", text_hash=digest), example]
    return made, blobs


async def test_vectors_find_what_shares_no_word() -> None:
    inputs, blobs = await embedded(rows(*SAME), (1, 0.1), (2, 0.3), (1, 0.1), (0, 1))
    assert await marks(inputs, blobs, method="vectors") == [((3, 1), 0.9988, "vectors"), ((5, 1), 1.0, "exact")]
    assert [parents for parents, _, _ in await marks(inputs, blobs)] == [(5, 1)]


async def test_vectors_may_lie_as_close_as_they_like_when_the_numbers_differ() -> None:
    inputs, blobs = await embedded(rows("Who ruled in 1950?", "Who ruled in 1960?"), (1, 0), (1, 0))
    assert await marks(inputs, blobs, method="vectors") == []


async def test_a_question_without_its_vector_is_told_and_not_passed_over() -> None:
    with pytest.raises(InputError, match="no vector of the question") as raised:
        await marks(rows(*SAME), method="vectors")
    assert raised.value.code == "T223"


def test_over_many_blocks_every_duplicate_points_to_the_first_of_its_kind() -> None:
    count = 2 * BLOCK + 50
    kinds = [number % 40 for number in range(count)]
    examples = rows(*(f"What is {'x' * number}?" for number in range(count)))
    near = find_near(examples, [bytes_of(*(float(place == kind) for place in range(40))) for kind in kinds], 0.9)
    assert near == {place: (kinds[place], 1.0) for place in range(40, count)}


@pytest.mark.parametrize(
    ("scores", "expected"),
    [((3.0, 4.5, 4.0), [(0, 1), (2, 1)]), ((4.0, 4.0, 4.0), [(1, 0), (2, 0)]), ((3.0, None, 4.0), [(0, 2), (1, 2)])],
)
async def test_the_best_score_is_kept(scores: tuple[float | None, ...], expected: list[tuple[int, int]]) -> None:
    examples = rows("What is a pump?", "what is a PUMP", "What is a pump ?")
    evaluations = [
        Evaluation(rubric="r@1", scores=(), overall=score, judge="j", subject=content_hash(example).hex())
        for example, score in zip(examples, scores, strict=True)
        if score is not None
    ]
    assert [parents for parents, _, _ in await marks([*examples, *evaluations], keep="best_score")] == expected


async def test_the_best_score_without_any_is_an_error() -> None:
    with pytest.raises(InputError, match="no example has an evaluation"):
        await marks(rows("What is a pump?", "what is a PUMP"), keep="best_score")


async def test_the_longest_is_kept() -> None:
    examples = [Example(question="What is a pump?", answer=text) for text in ("A thing.", "A thing that moves.", "Hm.")]
    assert [parents for parents, _, _ in await marks(examples, keep="longest")] == [(0, 1), (2, 1)]


async def test_within_a_label_means_only_there() -> None:
    examples = rows("What is it?", "what is IT", "What is it ?", label=("a", "b", "a"))
    assert [parents for parents, _, _ in await marks(examples, scope="label")] == [(2, 0)]
    assert [parents for parents, _, _ in await marks(examples)] == [(1, 0), (2, 0)]
