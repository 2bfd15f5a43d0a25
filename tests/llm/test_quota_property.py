"""No window of the provider's ever sees more than it allows, whatever comes in whatever order."""

from __future__ import annotations

import asyncio
import math
import uuid
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gristmill.db.statements import statements
from gristmill.llm.quota_limits import set_limit
from gristmill.llm.quota_settings import LimitSettings

SQL = statements("quota")
START = 1_700_000_000.0
WINDOW = 60.0

# What happens next: so many seconds later, so many ask; of those who got a permit so many do not use it.
ACTS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 0.5), st.floats(0, 90)), st.integers(0, 25), st.integers(0, 3), st.floats(0, 3),
    ),
    min_size=5, max_size=40,
)  # fmt: skip


@dataclass
class Provider:
    """Counts as a provider does, and believes nothing."""

    left: list[float] = field(default_factory=list)

    def worst(self, window: float) -> int:
        moments = sorted(self.left)
        return max((sum(moment - window < other <= moment for other in moments) for moment in moments), default=0)


async def play(connection: Any, limit: tuple[int, int], acts: list[tuple[float, int, int, float]]) -> Provider:
    minute, burst = limit
    await connection.execute("truncate quota, quota_holder")
    await connection.fetch(SQL["change"], "p", float(minute), None, None, "UTC", burst, None, "test", None)
    provider, who, now = Provider(), uuid.uuid4(), START
    back = 0
    for later, asking, unused, age in acts:
        now += later
        row = await connection.fetchrow(
            "select * from quota_take('p', $1, $2, $3, 0, $4, $5, 0, 0.5, 2, $6)",
            who, [1.0] * asking, [0.0] * asking, back, max(later, age), now,
        )  # fmt: skip
        moments = sorted(now + start for start in row["starts"] if start is not None)
        back = min(unused, len(moments))
        provider.left += moments[: len(moments) - back]
    return provider


def test_in_every_window_there_are_at_most_as_many_requests_as_the_provider_allows(database_url: str) -> None:
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(
        asyncpg.connect(database_url, server_settings={"search_path": "gristmill,public", "synchronous_commit": "off"})
    )

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(limit=st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), acts=ACTS)
    def check(limit: tuple[int, int], acts: list[tuple[float, int, int, float]]) -> None:
        provider = loop.run_until_complete(play(connection, limit, acts))
        minute, burst = limit
        assert provider.worst(WINDOW) <= minute
        assert provider.worst(WINDOW + 0.5 - 1e-6) <= minute  # each may be late by half a second
        assert provider.worst(1e-6) <= burst
        apart = (WINDOW + 0.5) / (minute - burst + 1)
        assert provider.worst(10.0) <= burst + math.ceil(10.0 / apart)

    try:
        check()
    finally:
        loop.run_until_complete(connection.close())
        loop.close()


@pytest.mark.parametrize(("minute", "burst"), [(600, None), (60, None), (15, 5), (20, 10)])
async def test_whoever_always_asks_gets_nearly_all_of_it(
    pool: asyncpg.Pool[Any], minute: int, burst: int | None
) -> None:
    await set_limit(pool, "p", LimitSettings(requests_per_minute=minute, burst=burst), by="test")
    await pool.execute("update quota set request_tat = 0")
    now, left = START, 0
    for _ in range(240):
        now += 0.5
        row = await pool.fetchrow(
            "select * from quota_take('p', $1, $2, $3, 0, 0, 0, 0, 0.5, 2, $4)",
            uuid.uuid4(), [1.0] * 20, [0.0] * 20, now,
        )  # fmt: skip
        left += sum(start is not None for start in row["starts"])
    steady = minute if burst is None else minute - burst + 1
    assert left >= 0.98 * steady * 2
    assert left <= minute * 3
