"""What a tick is: cron, intervals, and the two nights of the year on which the clock jumps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gristmill.engine.ticks import Timing, seconds, zone
from gristmill.errors import UsageError

BERLIN = zone("Europe/Berlin")


def berlin(cron: str, start: str, n: int) -> list[str]:
    """The next `n` ticks after `start` (UTC), as they read on a clock in Berlin."""
    timing, at, found = Timing(cron, None, "Europe/Berlin"), datetime.fromisoformat(start).replace(tzinfo=UTC), []
    for _ in range(n):
        at = timing.following(at)
        found.append(at.astimezone(BERLIN).strftime("%d %H:%M%z")[:-2])
    return found


SPRING = "2025-03-29 23:30"  # the next night, 2:00 to 3:00 does not exist
AUTUMN = "2025-10-25 21:30"  # the next night, 2:00 to 3:00 exists twice


def test_a_time_of_day_that_is_skipped_in_spring_fires_right_after_the_gap() -> None:
    assert berlin("30 2 * * *", SPRING, 2) == ["30 03:00+02", "31 02:30+02"]


def test_several_skipped_times_of_one_night_fire_once() -> None:
    assert berlin("0,20,40 2 * * *", SPRING, 2) == ["30 03:00+02", "31 02:00+02"]
    assert berlin("0 2,3 * * *", SPRING, 2) == ["30 03:00+02", "31 02:00+02"]


def test_a_time_of_day_that_comes_twice_in_autumn_fires_the_first_time() -> None:
    assert berlin("30 2 * * *", AUTUMN, 2) == ["26 02:30+02", "27 02:30+01"]


def test_who_looks_in_the_second_pass_of_the_hour_does_not_fire_the_first_again() -> None:
    assert berlin("30 2 * * *", "2025-10-26 01:10", 1) == ["27 02:30+01"]


def test_every_half_hour_means_real_half_hours() -> None:
    assert berlin("*/30 * * * *", "2025-03-30 00:00", 3) == ["30 01:30+01", "30 03:00+02", "30 03:30+02"]
    assert berlin("*/30 * * * *", "2025-10-26 00:00", 4) == [
        "26 02:30+02", "26 02:00+01", "26 02:30+01", "26 03:00+01",
    ]  # fmt: skip


def test_six_fields_mean_moments_that_match() -> None:
    assert berlin("0 30 2 * * *", SPRING, 1) == ["31 02:30+02"]
    assert berlin("0 30 2 * * *", AUTUMN, 2) == ["26 02:30+02", "26 02:30+01"]


def test_a_time_of_day_keeps_its_reading_over_the_year() -> None:
    assert berlin("0 3 * * *", "2025-03-28 12:00", 3) == ["29 03:00+01", "30 03:00+02", "31 03:00+02"]


def test_an_interval_counts_real_seconds_from_its_anchor() -> None:
    timing = Timing(None, seconds(90), "Europe/Berlin")
    anchor = datetime(2025, 3, 30, 0, 59, 30, tzinfo=UTC)
    assert timing.following(anchor + timedelta(seconds=100), anchor) == anchor + timedelta(seconds=180)
    assert timing.following(anchor - timedelta(days=1), anchor) == anchor - timedelta(days=1) + timedelta(seconds=90)
    ticks, following = timing.passed(anchor, anchor + timedelta(seconds=1000), 3)
    assert ticks == [anchor + timedelta(seconds=90 * number) for number in (9, 10, 11)]
    assert following == anchor + timedelta(seconds=90 * 12)


field = st.sampled_from
crons = st.tuples(
    field(["*", "0", "30", "*/20", "0,15,59", "10-20/5"]), field(["*", "2", "1,2,3", "*/2", "0-5"]),
    field(["*", "26-31", "*/2", "L"]), field(["*", "3,10"]), field(["*", "SUN", "0-3"]),
).map(" ".join)  # fmt: skip
nights = st.sampled_from([datetime(2025, 3, 30, tzinfo=UTC), datetime(2025, 10, 26, tzinfo=UTC)])


@given(crons, st.sampled_from(["", "0 ", "*/40 "]), nights, st.integers(-2000, 300), st.integers(1, 4000))
@settings(max_examples=300, deadline=None)
@pytest.mark.thorough
def test_the_ticks_that_were_missed_are_those_that_would_have_come(
    cron: str, second: str, night: datetime, begin: int, minutes: int
) -> None:
    timing = Timing(second + cron, None, "Europe/Berlin")
    start = night + timedelta(minutes=begin)
    now = start + timedelta(minutes=minutes, seconds=7)
    one_by_one = [timing.following(start)]
    assume(one_by_one[0] <= now)
    while one_by_one[-1] <= now:
        one_by_one.append(timing.following(one_by_one[-1]))
    assert all(later > earlier for earlier, later in pairwise(one_by_one))
    ticks, following = timing.passed(one_by_one[0], now, 20_000)
    assert [*ticks, following] == one_by_one
    latest, following = timing.passed(one_by_one[0], now, 5)  # from the other end, when there are more
    assert latest == one_by_one[:-1][-5:]
    assert following == one_by_one[-1]


@pytest.mark.parametrize(
    ("cron", "message", "hint"),
    [
        ("* * *", "3 fields, not five or six", "minute hour day month weekday"),
        ("", "0 fields", "five fields"),
        ("@daily", "1 fields", '"0 3 * * *"'),
        ("61 * * * *", "'61' is no minute", "0 to 59"),
        ("* 25 * * *", "'25' is no hour", "8-18"),
        ("0 0 0 * *", "'0' is no day-of-month", "1 to 31"),
        ("0 0 1 13 *", "'13' is no month", "JAN to DEC"),
        ("0 0 * * FOO", "'FOO' is no day-of-week", "MON-FRI"),
        ("99 0 0 * * *", "'99' is no second", "0 to 59"),
        ("*/0 * * * *", "'*/0' is no minute", "0 to 59"),
        ("0 0 30 2 *", "'30' is no day-of-month", "1 to 31"),
        ("* " * 200, "400 characters", "five fields"),
    ],
)
def test_a_wrong_cron_says_which_field_and_what_may_stand_there(cron: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        Timing(cron, None)
    assert caught.value.code == "U331"
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Berlin", "Europe/Berlin"),
        ("new york", "America/New_York"),
        ("Europe/Berln", "Europe/Berlin"),
        ("", "UTC"),
        ("../etc/passwd", "UTC"),
        ("Europe", "Europe/"),
    ],
)
def test_an_unknown_time_zone_names_near_ones(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        Timing("* * * * *", None, name)
    assert caught.value.code == "U332"
    assert hint in caught.value.hint
