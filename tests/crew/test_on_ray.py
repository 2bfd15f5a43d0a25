"""Workers on a Ray cluster of several nodes on this machine: a worker, a node and the head are killed, a run goes on.

Needs `pip install "gristmill[ray]"`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from gristmill.crew.on_ray import Wish, keep
from gristmill.errors import UsageError
from tests.engine.conftest import until, watching
from tests.scenarios.conftest import Home, descendants, make_home, model_server, scripted_server

__all__ = ["make_home", "model_server", "scripted_server", "watching"]
HERE = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HERE, reason='needs pip install "gristmill[ray]"')
ALIVE = "select array_agg(pid order by id) from worker where state = 'alive' and lease_until > clock_timestamp()"


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster  # type: ignore[import-not-found, unused-ignore]

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@asynccontextmanager
async def kept(address: str, url: str, told: list[str]) -> AsyncIterator[None]:
    """Two workers on that cluster; what is said about them goes into `told`."""
    stopping = asyncio.Event()
    wish = Wish(
        2,
        address,
        cpus=0.5,
        environment={"GRISTMILL_DATABASE_URL": url, "GRISTMILL_LEASE": "15", "GRISTMILL_BEAT": "2"},
    )
    keeping = asyncio.create_task(keep(wish, told.append, stopping))
    try:
        yield
    finally:
        stopping.set()
        await keeping


@needs_ray
@pytest.mark.thorough
@pytest.mark.timeout(600)  # Ray believes a node dead after a minute or so
async def test_a_killed_worker_and_a_lost_node_are_replaced_and_the_end_drains(
    cluster: Any, database_url: str, pool: asyncpg.Pool[Any], watching: Callable[..., Awaitable[Any]]
) -> None:
    told: list[str] = []

    async def two(without: set[int]) -> list[int]:
        found: list[int] = []

        async def there() -> bool:
            found[:] = await pool.fetchval(ALIVE) or []
            return len(found) == 2 and not without & set(found)

        try:
            await until(there, 300)
        except TimeoutError:
            rows = await pool.fetch("select id, pid, state, cause, lease_until > clock_timestamp() as live from worker")
            pytest.fail(f"{[tuple(row) for row in rows]}; told: {told}")
        return found

    async with kept(cluster.address, database_url, told):
        first = await two(set())
        os.kill(first[0], signal.SIGKILL)
        second = await two({first[0]})
        assert first[1] in second
        below = {
            node: set(descendants(node.all_processes["raylet"][0].process.pid)) for node in cluster.list_all_nodes()
        }
        node = next(node for node, pids in below.items() if second[0] in pids)
        cluster.remove_node(node, allow_graceful=False)
        third = await two(below[node])
        assert any("2 of 2 workers run on Ray" in line for line in told)
    assert third
    assert await watching("select count(*) >= 2 from worker where state = 'stopped'")
    assert not await pool.fetchval(ALIVE)


@pytest.mark.skipif(HERE, reason="Ray is installed")
async def test_without_ray_it_says_what_to_install() -> None:
    with pytest.raises(UsageError) as refused:
        await keep(Wish(1), lambda _: None, asyncio.Event())
    assert "gristmill[ray]" in refused.value.hint


async def test_workers_on_other_hosts_need_a_database_that_they_can_reach(make_home: Callable[..., Home]) -> None:
    code, _, err = await make_home().call("up", "--on", "ray")
    assert (code, "gristmill db move --to" in err) == (2, True), err
