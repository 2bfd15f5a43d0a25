"""When a schedule ticks: cron or interval, time zones, summer time. Pure: nobody here looks at a clock.

Summer time, as in Debian's cron. A five-field cron whose minute and hour are both said (30 2 * * *) means a time of
day: one that the clock skips in spring fires right after the gap, one that comes twice in autumn fires the first time
only. All others (minute or hour begin with a star, or six fields) mean every moment that matches: a skipped hour has
none, a repeated hour has them twice. Intervals are seconds of real time and know nothing of this.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from gristmill.errors import UsageError

LONGEST = 3660 * 86_400.0  # seconds; an interval of more than ten years is a slip of the hand
FIELDS = {  # what may stand in a field, with an example
    "second": "0 to 59, for example */10",
    "minute": "0 to 59, for example */15",
    "hour": "0 to 23, for example 8-18",
    "day-of-month": "1 to 31, or L for the last day, for example 1,15",
    "month": "1 to 12 or JAN to DEC, for example 3-5",
    "day-of-week": "0 to 7 (0 and 7 are Sunday) or SUN to SAT, for example MON-FRI",
}
EXAMPLE = 'write five fields (minute hour day month weekday), for example "0 3 * * *": every day at 3:00'


@dataclass(frozen=True, slots=True)
class Timing:
    """Either `cron` (five fields, or six with seconds first) in `timezone`, or `every` so long. Raises `UsageError`
    U330 (neither or both), U331 (cron), U332 (time zone), U333 (interval)."""

    cron: str | None
    every: timedelta | None
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if (self.cron is None) == (self.every is None):
            what = "has both a cron and an interval" if self.cron is not None else "has neither a cron nor an interval"
            raise UsageError(f"the schedule {what}", code="U330", hint='give one: cron="0 3 * * *" or every=60')
        zone(self.timezone)
        if self.cron is not None:
            _check_cron(self.cron)

    def following(self, after: datetime, anchor: datetime | None = None) -> datetime:
        """The first tick later than `after` (aware; the result is in UTC). Intervals count from `anchor`, any tick of
        theirs; without one from `after`. Raises `UsageError` U331 when none comes within 50 years."""
        if self.every is not None:
            start = anchor or after
            return start + ((after - start) // self.every + 1) * self.every
        assert self.cron is not None  # noqa: S101 - for the type checker; __post_init__ has looked
        for tick in CronSim(self.cron, after.astimezone(zone(self.timezone))):
            found = tick.astimezone(UTC)
            if found > after:  # in a repeated hour a time of day of its first pass comes up again
                return found
        raise UsageError(f'the cron "{self.cron}" has no tick within 50 years', code="U331", hint=EXAMPLE)

    def passed(self, first: datetime, now: datetime, most: int) -> tuple[list[datetime], datetime]:
        """The ticks from `first` (itself one, not later than `now`) up to `now`, and the one that follows.

        Oldest first, the latest `most` of them.
        """
        if self.every is not None:
            count = (now - first) // self.every + 1
            ticks = [first + number * self.every for number in range(max(0, count - most), count)]
            return ticks, first + count * self.every
        found = [first]
        while (tick := self.following(found[-1])) <= now:
            if len(found) == most:  # a long time: the latest are found from the other end, whatever lies between
                return self._backwards(first, now, most) or found, self.following(now)
            found.append(tick)
        return found, tick

    def _backwards(self, first: datetime, now: datetime, most: int) -> list[datetime]:
        """The latest `most` cron ticks later than `first` up to `now`: years of every second cost no more than that."""
        assert self.cron is not None  # noqa: S101
        start = (now + timedelta(seconds=1)).astimezone(zone(self.timezone))  # in this order: a sum forgets its fold
        if start.fold:  # in the second pass of a repeated hour: begin behind it, to see the ticks of its first pass
            begins, ends = start.replace(fold=0).utcoffset(), start.utcoffset()
            start = (start.astimezone(UTC) + ((begins or timedelta()) - (ends or timedelta()))).astimezone(start.tzinfo)
        found: list[datetime] = []
        for tick in CronSim(self.cron, start, reverse=True):
            at = tick.astimezone(UTC)
            if at <= first or len(found) == most:
                break
            if at <= now and (not found or at < found[-1]):
                found.append(at)
        return found[::-1]

    def local(self, tick: datetime) -> str:
        """ISO 8601 in the schedule's time zone, with its offset."""
        return tick.astimezone(zone(self.timezone)).isoformat()


def seconds(every: float) -> timedelta:
    """An interval of so many seconds, 1 s to ten years. Raises `UsageError` U333 for anything else."""
    if isinstance(every, bool) or not isinstance(every, int | float) or not math.isfinite(every):
        raise UsageError(f"the interval {every!r} is not a number of seconds", code="U333", hint="for example every=60")
    if not 1 <= every <= LONGEST:
        raise UsageError(
            f"an interval of {every:g} s is too {'short' if every < 1 else 'long'}", code="U333",
            hint="at least 1 second and at most ten years; for a task that goes on at once use no schedule",
        )  # fmt: skip
    return timedelta(seconds=every)


@lru_cache(maxsize=64)
def zone(name: str) -> tzinfo:
    """The time zone of that name. Raises `UsageError` U332 with near names."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        known = {known.lower(): known for known in available_timezones()}
        ends = [
            full for low, full in known.items() if name and low.rpartition("/")[2] == name.lower().replace(" ", "_")
        ]
        near = sorted(ends) or [known[low] for low in difflib.get_close_matches(str(name).lower(), known, 3, 0.5)]
        raise UsageError(
            f'there is no time zone "{name}"', code="U332",
            hint=f"did you mean {' or '.join(near)}?" if near else "for example Europe/Berlin, or UTC",
        ) from None  # fmt: skip


def _check_cron(cron: str) -> None:
    fields = cron.split()
    try:
        if len(cron) > 200:
            raise UsageError(
                f"the cron is {len(cron)} characters long, at most 200 are read", code="U331", hint=EXAMPLE
            )
        never = next(CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC)), None) is None
    except (CronSimError, AssertionError, ValueError) as error:
        name = str(error).removeprefix("Bad ")
        if name not in FIELDS or len(fields) not in (5, 6):
            raise UsageError(
                f'the cron "{cron}" has {len(fields)} fields, not five or six', code="U331", hint=EXAMPLE
            ) from None
        place = list(FIELDS).index(name) - (6 - len(fields))
        raise UsageError(
            f'the cron "{cron}": {fields[place]!r} is no {name}', code="U331", hint=f"the {name} is {FIELDS[name]}"
        ) from None
    if never:
        raise UsageError(f'the cron "{cron}" never comes', code="U331", hint=EXAMPLE)
