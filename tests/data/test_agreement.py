"""Agreement beside published examples, and annotations beside each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gristmill.data.agreement import Counts, cohen, fleiss, krippendorff, percent, summed
from gristmill.data.annotation_units import boxes_matched, compared, shared_area
from gristmill.data.annotations import Box, Boxes, Classes, Entities, Entity, Rating, Relation, Relations
from gristmill.data.kinds import KINDS, content_hash

ABOUT: dict[str, Any] = {"subject": "0" * 64, "annotator": "anna"}
# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), example C: four observers, missing data.
OBSERVERS = ("1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .")
RELIABILITY = [
    [int(value) for value in unit if value != "."]
    for unit in zip(*(row.split() for row in OBSERVERS), strict=True)
]  # fmt: skip
# Fleiss (1971) as it is told in most textbooks: 10 subjects, 5 categories, 14 raters.
RATED = ("0 0 0 0 14", "0 2 6 4 2", "0 0 3 5 6", "0 3 9 2 0", "2 2 8 1 1", "7 7 0 0 0", "3 2 6 3 0", "2 5 3 2 2",
         "6 5 2 1 0", "0 2 2 3 7")  # fmt: skip


def test_kappa_of_two_is_that_of_the_textbook() -> None:
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert cohen(pairs) == pytest.approx(0.4)
    assert percent(pairs) == pytest.approx(0.7)


def test_kappa_of_many_is_that_of_the_textbook() -> None:
    units = [[category for category, count in enumerate(row.split()) for _ in range(int(count))] for row in RATED]
    assert fleiss(units) == pytest.approx(0.20993, abs=1e-5)
    assert fleiss([*units, [1, 2]]) == fleiss(units)  # a unit that not all have rated is left out


@pytest.mark.parametrize(
    ("level", "order", "alpha"),
    [("nominal", (), 0.743), ("ordinal", (1, 2, 3, 4, 5), 0.815), ("interval", {n: n for n in range(1, 6)}, 0.849)],
)
def test_alpha_is_that_of_its_author(level: Any, order: Any, alpha: float) -> None:
    assert krippendorff(RELIABILITY, level, order) == pytest.approx(alpha, abs=5e-4)


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=2, max_size=4), min_size=1, max_size=20))
def test_what_is_said_the_same_by_all_agrees_fully_and_nothing_is_above_that(units: list[list[str]]) -> None:
    for figure in (percent(units), fleiss(units), krippendorff(units)):
        assert figure is None or figure <= 1 + 1e-12
    same = [[unit[0]] * len(unit) for unit in units]
    assert percent(same) == 1
    assert krippendorff(same) in (None, pytest.approx(1))


def test_a_figure_without_anything_to_compare_is_missing_and_not_zero() -> None:
    assert [percent([]), cohen([]), fleiss([]), krippendorff([])] == [None] * 4
    assert [percent([["a"]]), fleiss([["a"]]), krippendorff([["a"]])] == [None] * 3
    assert [cohen([("a", "a")]), fleiss([["a", "a"]]), krippendorff([["a", "a"]])] == [None] * 3
    nothing = Counts()
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)


def entities(*spans: tuple[int, int, str]) -> Entities:
    made = [
        Entity(id=f"e{n}", start=a, end=b, text="x" * (b - a), label=label) for n, (a, b, label) in enumerate(spans)
    ]
    return Entities(**ABOUT, entities=tuple(made))


def test_precision_recall_and_f1_are_counted_label_by_label() -> None:
    said = entities((0, 3, "PER"), (5, 9, "PER"), (10, 12, "LOC"))
    truth = entities((0, 3, "PER"), (5, 8, "PER"), (10, 12, "ORG"))
    counts = compared(said, truth)
    assert counts == {"PER": Counts(1, 1, 1), "LOC": Counts(0, 1, 0), "ORG": Counts(0, 0, 1)}
    assert (counts["PER"].precision, counts["PER"].recall, counts["PER"].f1) == (0.5, 0.5, 0.5)
    assert counts["LOC"].recall is None
    assert summed([counts, counts])["PER"] == Counts(2, 2, 2)
    assert compared(Classes(**ABOUT, labels=("a", "b")), Classes(**ABOUT, labels=("b",))) == {
        "a": Counts(extra=1), "b": Counts(right=1),
    }  # fmt: skip
    one = Rating(**ABOUT, scale="s", values=("1",))
    assert compared(one, one) == {"1": Counts(right=1)}


def test_relations_are_the_same_when_their_spans_are_whatever_their_ids() -> None:
    spans = entities((0, 3, "PER"), (5, 9, "PER")).entities
    turned = tuple(reversed([one.model_copy(update={"id": f"x{n}"}) for n, one in enumerate(spans)]))
    forth = Relations(**ABOUT, entities=spans, relations=(Relation(head="e0", tail="e1", label="knows"),))
    same = Relations(**ABOUT, entities=turned, relations=(Relation(head="x0", tail="x1", label="knows"),))
    back = Relations(**ABOUT, entities=turned, relations=(Relation(head="x1", tail="x0", label="knows"),))
    assert compared(forth, same) == {"knows": Counts(right=1)}
    assert compared(forth, back) == {"knows": Counts(extra=1, missed=1)}
    both, ways = (
        one.model_copy(update={"relations": (one.relations[0].model_copy(update={"symmetric": True}),)})
        for one in (forth, back)
    )
    assert compared(both, ways) == {"knows": Counts(right=1)}


def box(x: float, y: float, width: float, height: float, label: str = "a", **more: Any) -> Box:
    return Box(id=f"{label} {x} {y}", label=label, x=x, y=y, width=width, height=height, **more)


def test_boxes_are_the_same_when_they_overlap_enough_and_each_is_used_once() -> None:
    said = Boxes(
        **ABOUT, width=100, height=50, boxes=(box(0, 0, 0.5, 0.5), box(0.05, 0, 0.5, 0.5), box(0.6, 0.6, 0.2, 0.2))
    )
    truth = Boxes(**ABOUT, width=100, height=50, boxes=(box(0.04, 0, 0.5, 0.5), box(0.6, 0.6, 0.2, 0.2, "b")))
    assert boxes_matched(said.boxes, truth.boxes, 100, 50) == {1: 0}
    assert compared(said, truth) == {"a": Counts(right=1, extra=2), "b": Counts(missed=1)}
    assert shared_area(box(0, 0, 0.5, 1), box(0.25, 0, 0.5, 1), 640, 480) == pytest.approx(1 / 3)
    assert shared_area(box(0, 0, 0.2, 0.2), box(0.5, 0.5, 0.2, 0.2), 640, 480) == 0


def test_turned_boxes_are_compared_as_they_lie() -> None:
    flat, turned = box(0.5, 0.5, 0.2, 0.1), box(0.5, 0.5, 0.2, 0.1, rotation=90)
    assert shared_area(turned, turned, 300, 300) == pytest.approx(1)
    assert shared_area(flat, turned, 300, 300) == pytest.approx(0)  # it lies to the left of its corner
    crossed = box(0.55, 0.45, 0.2, 0.1, rotation=90)  # 0.45 to 0.55 wide, 0.45 to 0.65 high
    assert shared_area(box(0.45, 0.5, 0.2, 0.1), crossed, 300, 300) == pytest.approx(0.01 / 0.03)


sides = st.floats(0.01, 0.49).map(lambda value: round(value, 3))


@given(sides, sides, sides, sides, st.integers(-180, 180))
def test_a_box_is_wholly_itself_at_every_angle_and_shares_no_more_than_all(
    x: float, y: float, width: float, height: float, turn: int
) -> None:
    one, other = box(x, y, width, height, rotation=turn), box(y, x, height, width)
    assert shared_area(one, one, 640, 480) == pytest.approx(1, abs=1e-6)
    there, back = shared_area(one, other, 640, 480), shared_area(other, one, 640, 480)
    assert 0 <= there <= 1
    assert there == pytest.approx(back, abs=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Classes(**ABOUT, labels=("a", "a")),
        lambda: Entity(id="e1", start=0, end=2, text="abc", label="x"),
        lambda: entities((0, 1, "a")).model_validate(
            {**ABOUT, "entities": [{"id": "e", "start": 0, "end": 1, "text": "a", "label": "x"}] * 2}
        ),
        lambda: Relations(**ABOUT, relations=(Relation(head="e1", tail="e2", label="x"),)),
        lambda: box(0.5, 0, 0.6, 0.1),
        lambda: box(0, 0, 0, 0.1),
        lambda: box(-0.1, 0, 0.2, 0.1),
        lambda: box(0, 0, math.nan, 0.1),
        lambda: Classes(**ABOUT, labels=("a",), score=1.5),
    ],
)
def test_annotations_that_contradict_themselves_do_not_exist(make: Any) -> None:
    with pytest.raises(ValidationError):
        make()


def test_fractions_go_to_percent_and_back_without_a_change() -> None:
    one = box(1 / 3, 2 / 7, 0.123456789123, 0.1)
    percents = [100 * side for side in (one.x, one.y, one.width, one.height)]
    x, y, width, height = (side / 100 for side in percents)
    back = box(x, y, width, height)
    assert (back.x, back.y, back.width, back.height) == (one.x, one.y, one.width, one.height)
    stored = Boxes(**ABOUT, width=3, height=3, boxes=(one,))
    again = KINDS["boxes"].model_validate_json(stored.model_dump_json())
    assert content_hash(again) == content_hash(stored)
