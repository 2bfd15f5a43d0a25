"""What follows an end, as a table: no process, no database."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gristmill.crew.places import TRANSITIONS, Place
from gristmill.crew.verdict import End, after_end

PLACE = Place(
    crew="mill", name="parse-1", kind="worker", spec="parse", number=1, settings={}, enabled=True, wanted=True,
    blacklisted=False, dropped=False, paused=False, again=False, ending=None, state="running", restarts=0, deaths=0,
    due_in=None, nonce=None, machine=None, pid=None, pid_started=None, started_at=None, cause=None, worker_id=1,
    worker_state="alive", late=False, beat_age=0.0, tasks=0,
)  # fmt: skip
DIED = End("signal 9", died=True, age=1.0)


def test_restarts_wait_0_2_and_4_seconds_and_then_there_are_none() -> None:
    seen = []
    restarts = 0
    for _ in range(4):
        then = after_end(replace(PLACE, restarts=restarts), DIED, restarts, stopping=False)
        seen.append((then.state, then.delay, then.blacklisted))
        restarts = then.restarts
    assert seen == [("due", 0.0, False), ("due", 2.0, False), ("due", 4.0, False), ("idle", 0.0, True)]


def test_who_ran_well_for_30_seconds_begins_to_count_anew() -> None:
    then = after_end(replace(PLACE, restarts=3), replace(DIED, age=30.5), 3, stopping=False)
    assert (then.state, then.delay, then.restarts) == ("due", 0.0, 1)
    assert after_end(replace(PLACE, restarts=3), replace(DIED, age=29.5), 3, stopping=False).blacklisted


def test_who_dies_every_31_seconds_does_not_get_away_with_it() -> None:
    deaths = 0
    while not (then := after_end(PLACE, replace(DIED, age=31.0), deaths, stopping=False)).blacklisted:
        assert then.state == "due"
        deaths += 1
    assert (deaths, "30 deaths within an hour" in then.cause) == (29, True)


def test_who_was_buried_by_others_is_started_again_and_counts_for_the_hour_only() -> None:
    buried = End("exit code 75", died=True, age=1.0, buried=True)
    then = after_end(replace(PLACE, restarts=3), buried, 3, stopping=False)
    assert (then.state, then.delay, then.restarts, then.died, then.blacklisted) == ("due", 2.0, 3, True, False)
    assert after_end(PLACE, buried, 29, stopping=False).blacklisted


@pytest.mark.parametrize(
    ("place", "end", "stopping", "expected"),
    [
        ({"state": "stopping"}, DIED, False, ("idle", False, True)),
        ({"state": "stopping", "again": True}, DIED, False, ("due", False, True)),
        ({"state": "stopping", "again": True}, DIED, True, ("idle", False, True)),
        ({"wanted": False}, DIED, False, ("idle", False, True)),
        ({"blacklisted": True, "state": "stopping"}, DIED, False, ("idle", False, True)),
        ({"enabled": False, "again": True}, DIED, False, ("idle", False, True)),
        ({}, End("exit code 0", died=False, age=9.0), False, ("idle", False, False)),
        ({}, End("the machine or its container began anew", died=False, age=0.0), False, ("due", False, True)),
        ({}, End("exit code 1", died=True, age=9.0), True, ("idle", False, True)),
    ],
)
def test_an_end_that_was_asked_for_is_never_charged(
    place: dict[str, Any], end: End, stopping: bool, expected: tuple[str, bool, bool]
) -> None:
    then = after_end(replace(PLACE, **place), end, 0, stopping=stopping)
    assert (then.state, then.died, then.wanted) == expected
    assert then.state in TRANSITIONS["stopping"]
