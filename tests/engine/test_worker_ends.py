"""Every claim ends: whatever the operator does, whatever the database answers, and however the worker leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from gristmill.engine import queue
from gristmill.engine.metrics import LoggingMetrics
from gristmill.engine.queue import Claimer, Failure
from gristmill.engine.settling import Settler
from gristmill.engine.worker import Outcome
from tests.engine.bare import Bare
from tests.engine.conftest import Enqueue, Processes
from tests.engine.test_queue import claim, state_of
from tests.engine.test_worker import ALL_DONE

CLAIM = b"limit lane.want for update skip locked"  # words that only the text of the claim has


class Proxy:
    """Between workers and the server. `armed`: the next claim that takes something is passed on, and its answer is
    not."""

    def __init__(self, url: str, folder: Path) -> None:
        parts = urlsplit(url)
        self.server = parse_qs(parts.query)["host"][0] + "/.s.PGSQL." + parse_qs(parts.query).get("port", ["5432"])[0]
        self.folder = folder
        self.url = url.replace(parts.query, parts.query.replace(parse_qs(parts.query)["host"][0], str(folder)))
        self.armed = False
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_unix_connection(self.server)
        claims: set[bytes] = set()  # names of prepared statements
        swallow = asyncio.Event()

        async def answers() -> None:
            while data := await upstream.read(65536):
                if swallow.is_set() and b"SELECT 0\0" in data:
                    self.armed = True  # it came before the tasks were there
                    swallow.clear()
                elif swallow.is_set() and b"SELECT" in data:
                    self.lost += 1
                    break
                writer.write(data)
                await writer.drain()
            writer.close()

        answering = asyncio.create_task(answers())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if CLAIM in data and data[:1] == b"P":
                    claims.add(data[5 : data.index(b"\0", 5)])
                if self.armed and data[:1] == b"B" and any(name in data[:200] for name in claims):
                    self.armed = False
                    swallow.set()
                downstream.write(data)
                await downstream.drain()
        answering.cancel()
        downstream.close()


@pytest.fixture
async def proxy(database_url: str, tmp_path: Path) -> AsyncIterator[Proxy]:
    made = Proxy(database_url, tmp_path)
    server = await asyncio.start_unix_server(made.serve, tmp_path / Path(made.server).name)
    yield made
    server.close()


async def test_tasks_whose_claim_was_answered_to_nobody_are_given_back_and_done(
    proxy: Proxy, processes: Processes, enqueue: Enqueue, watching: Any, pool: Any
) -> None:
    processes.url = proxy.url
    processes.start(lease=60.0)
    await enqueue({})
    await watching(ALL_DONE)
    proxy.armed = True
    await enqueue(*[{}] * 3)
    await watching(ALL_DONE, limit=20)
    assert proxy.lost == 1
    assert await pool.fetchval("select count(*) from attempt") == 4
    assert await pool.fetchval("select max(attempt) from task") == 2
    assert await pool.fetchval("select count(*) from worker") == 1


async def test_only_the_named_claims_are_given_back(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({}, {})
    (one,), (other,) = await claim(pool, claimer, 1), await claim(pool, claimer, 1)
    async with pool.acquire() as connection, connection.transaction():
        assert await queue.give_back(connection, claimer, "lost", [one.token]) == [one.id]
    assert (await state_of(pool, one.id), await state_of(pool, other.id)) == ("available", "running")
    assert await queue.settle(pool, claimer, [(one, "ok"), (other, "ok")]) == {other.id}


async def test_a_task_that_will_not_stop_is_given_back_when_its_worker_leaves(
    processes: Processes, enqueue: Enqueue, watching: Any, pool: Any
) -> None:
    worker = processes.start(shutdown=0.2)
    await enqueue({"do": "stubborn"})
    await watching("select state = 'running' from task")
    worker.send_signal(signal.SIGTERM)
    await watching("select state = 'stopped' from worker", limit=15)
    row = await pool.fetchrow("select state, failures, crashes, held from task")
    assert tuple(row) == ("available", 0, 0, "its worker was stopped")


@pytest.mark.parametrize("do", ["exit", "cancel", "words"])
async def test_an_operator_that_ends_in_a_strange_way_is_charged_and_its_worker_lives_on(
    processes: Processes, enqueue: Enqueue, watching: Any, pool: Any, do: str
) -> None:
    worker = processes.start()
    await enqueue({"do": do}, max_attempts=2)
    await watching("select state = 'failed' from task")
    assert await pool.fetchval("select failures from task") == 2
    await enqueue({})
    await watching("select count(*) = 1 from done")
    assert worker.poll() is None


@pytest.mark.parametrize("delay", ["1e300", "nan", "-5"])
async def test_an_absurd_delay_is_a_long_one(
    processes: Processes, enqueue: Enqueue, watching: Any, pool: Any, delay: str
) -> None:
    processes.start()
    await enqueue({"do": "later", "delay": delay})
    await watching("select state = 'available' and run_at > clock_timestamp() + interval '23 hours' from task")


async def test_a_task_may_wait_for_a_quota_any_number_of_times(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({})
    await pool.execute("update task set attempt = 40000")
    (task,) = await claim(pool, claimer)
    assert await queue.fail(pool, claimer, task, Failure("T", "E", "m", retry=False)) == "failed"


async def test_an_idle_worker_works_again_after_its_lease_had_lapsed(
    processes: Processes, enqueue: Enqueue, watching: Any, pool: Any
) -> None:
    worker = processes.start(lease=3.0, beat=0.3, poll=0.1, stall_after=30)
    await watching("select count(*) = 1 from worker where postmaster_started is not null")
    # The lease cannot be renewed while its row is locked; nobody else is there to bury the worker.
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("select 1 from worker for update")
        async with asyncio.timeout(10):
            while "lapsed" not in processes.text():
                await asyncio.sleep(0.05)
    await enqueue({})
    await watching(ALL_DONE, limit=15)
    assert worker.poll() is None


async def test_a_worker_beats_where_the_service_does_not_say_which_server_it_is(
    processes: Processes, watching: Any, pool: Any
) -> None:
    await pool.execute(
        "alter function pg_catalog.pg_walfile_name(pg_lsn) rename to pg_walfile_name_of_old;"
        "create function pg_catalog.pg_walfile_name(pg_lsn) returns text language plpgsql"
        " as $$ begin raise feature_not_supported; end $$"
    )
    processes.start(lease=3.0, beat=0.3)
    before = await watching("select lease_until from worker")
    await watching("select lease_until > $1 from worker", before, limit=10)


async def test_a_freeze_shorter_than_the_lease_harms_nobody(
    processes: Processes, enqueue: Enqueue, watching: Any, pool: Any
) -> None:
    worker = processes.start(lease=60.0, stall_after=2.0)
    await watching("select count(*) = 1 from worker where postmaster_started is not null")
    os.killpg(worker.pid, signal.SIGSTOP)
    await asyncio.sleep(5)  # twice the time after which a silent worker is killed
    os.killpg(worker.pid, signal.SIGCONT)
    await enqueue({})
    await watching(ALL_DONE)
    assert worker.poll() is None
    assert await pool.fetchval("select count(*) from worker") == 1


async def test_results_are_not_failed_because_a_statement_took_too_long(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    """The table of results is locked: the server cancels the statement, and settling goes on when it is free."""

    class Slow(Bare):
        async def save(self, connection: Any, finished: Any) -> Any:
            await connection.execute("set local statement_timeout = '300ms'; set local lock_timeout = 0")
            return await super().save(connection, finished)

    await enqueue({})
    (task,) = await claim(pool, claimer)
    settled = asyncio.Event()
    settler = Settler(pool, claimer, Slow(), 10, LoggingMetrics(), settled.set)
    settling = asyncio.create_task(settler.run())
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("lock table done in exclusive mode")
        settler.put(task, Outcome("ok", {}))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(settled.wait(), 1.0)
    await asyncio.wait_for(settled.wait(), 10)
    await settler.finish(settling, 10.0)
    assert await state_of(pool, task.id) == "completed"


async def test_the_errors_of_a_server_that_is_full_or_stops_are_not_the_fault_of_a_result() -> None:
    from gristmill.db.database import RECONNECT

    for error in (asyncpg.DiskFullError, asyncpg.QueryCanceledError, asyncpg.TooManyConnectionsError,
                  asyncpg.CannotConnectNowError, asyncpg.IdleInTransactionSessionTimeoutError):  # fmt: skip
        assert issubclass(error, RECONNECT)
    assert not issubclass(asyncpg.DataError, RECONNECT)
