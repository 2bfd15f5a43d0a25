"""Counters add up over processes and restarts, gauges tell what the tables say, and every name is documented."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gristmill.db.database import connect
from gristmill.engine import metrics, queue, scrape, upkeep
from gristmill.engine.metrics import COUNTERS, HISTOGRAMS, DatabaseMetrics, LoggingMetrics
from gristmill.errors import UsageError
from tests.engine.conftest import Enqueue, register, until
from tests.engine.observing import ObservedProcesses

ROOT = Path(__file__).parents[2]

if TYPE_CHECKING:
    Pool = asyncpg.Pool[Any]


@pytest.fixture
def observed(database_url: str, tmp_path: Path) -> Iterator[ObservedProcesses]:
    made = ObservedProcesses(database_url, tmp_path / "workers.log")
    yield made
    made.end()


async def numbers(pool: Pool) -> dict[tuple[str, ...], float]:
    """(sample name, label values in order of their names...) -> value, from the text as Prometheus reads it."""
    async with pool.acquire() as connection:
        body, _ = await scrape.text(connection)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


async def test_counts_of_several_processes_add_up(pool: Pool) -> None:
    one, two = DatabaseMetrics(), DatabaseMetrics()
    one.incr("claim_success", 3, pool="*")
    one.incr("claim_success", pool="gpu")
    two.incr("claim_success", 4, pool="*")
    one.incr("worker_reaped")
    assert await one.flush(pool)
    assert await two.flush(pool)
    two.incr("claim_success", pool="*")
    assert await two.flush(pool)
    seen = await numbers(pool)
    assert seen["gristmill_claim_success_total", "*"] == 8
    assert seen["gristmill_claim_success_total", "gpu"] == 1
    assert seen["gristmill_worker_reaped_total",] == 1
    assert seen["gristmill_claim_error_total",] == 0  # a counter without labels is there from the first day on


async def test_nothing_is_sent_when_nothing_was_counted(pool: Pool) -> None:
    counting = DatabaseMetrics()
    assert not await counting.flush(pool)
    counting.incr("claim_error")
    assert await counting.flush(pool)
    assert not await counting.flush(pool)
    assert await pool.fetchval("select count(*) from metric_delta") == 1


async def test_a_histogram_has_cumulative_buckets_a_sum_and_a_count(pool: Pool) -> None:
    counting = DatabaseMetrics()
    for seconds in (0.0005, 0.001, 0.002, 99.0):
        counting.observe("claim_duration", seconds, pool="*")
    await counting.flush(pool)
    counting.observe("claim_duration", 0.0005, pool="*")
    await counting.flush(pool)
    seen = await numbers(pool)
    name = "gristmill_claim_duration_seconds"
    assert seen[f"{name}_bucket", "0.001", "*"] == 3  # its upper bound belongs to a bucket
    assert seen[f"{name}_bucket", "0.0025", "*"] == 4
    assert seen[f"{name}_bucket", "10.0", "*"] == 4
    assert seen[f"{name}_bucket", "+Inf", "*"] == 5
    assert seen[f"{name}_count", "*"] == 5
    assert seen[f"{name}_sum", "*"] == pytest.approx(99.004)


async def test_a_batch_whose_reply_was_lost_is_counted_once(pool: Pool, database_url: str) -> None:
    counting = DatabaseMetrics()
    connection = await connect(database_url)
    counting.incr("worker_started")
    await counting.flush(connection)
    counting.incr("worker_started", 4)
    blocker = await connect(database_url)
    async with blocker.transaction():
        await blocker.execute("lock table metric_delta in exclusive mode")
        sending = asyncio.create_task(counting.flush(connection))
        await until(lambda: blocker.fetchval("select true from pg_locks where not granted"))
        # The client goes away; the server does not notice, and commits as soon as it can.
        transport = connection._transport  # type: ignore[attr-defined]
        transport.pause_reading()
        connection.terminate()
        with pytest.raises((OSError, asyncpg.InterfaceError, asyncpg.PostgresError)):
            await sending
    await until(lambda: pool.fetchval("select batch = 2 from metric_source"))
    counting.incr("worker_started", 2)  # meanwhile counting goes on
    await counting.flush(pool)
    assert (await numbers(pool))["gristmill_worker_started_total",] == 5
    await counting.flush(pool)
    assert (await numbers(pool))["gristmill_worker_started_total",] == 7
    await blocker.close()


async def test_folding_changes_no_total_however_many_fold_at_once(pool: Pool) -> None:
    sources = [DatabaseMetrics() for _ in range(6)]

    async def count(counting: DatabaseMetrics) -> None:
        for _ in range(20):
            counting.incr("step_completed", 2, kind="a")
            counting.observe("step_duration", 0.5, kind="a")
            await counting.flush(pool)

    async def fold_and_look() -> None:
        before = 0.0
        while not counted.done():
            async with pool.acquire() as connection:
                await metrics.fold(connection, older_than=0.0)
            total = (await numbers(pool)).get(("gristmill_step_completed_total", "a"), 0.0)
            assert total >= before
            before = total

    counted = asyncio.gather(*(count(counting) for counting in sources))
    await asyncio.gather(counted, fold_and_look(), fold_and_look())
    async with pool.acquire() as connection:
        await metrics.fold(connection, older_than=0.0)
    assert await pool.fetchval("select count(*) from metric_delta") == 0
    seen = await numbers(pool)
    assert seen["gristmill_step_completed_total", "a"] == 240
    assert seen["gristmill_step_duration_seconds_count", "a"] == 120
    assert seen["gristmill_step_duration_seconds_sum", "a"] == 60


async def test_a_fold_waits_until_it_is_worth_it(pool: Pool) -> None:
    counting = DatabaseMetrics()
    counting.incr("claim_error")
    await counting.flush(pool)
    async with pool.acquire() as connection:
        assert await metrics.fold(connection, older_than=3600.0) == 0
        assert await metrics.fold(connection, older_than=0.0) == 1
        assert await metrics.fold(connection, older_than=0.0) == 0


async def test_the_duty_of_a_beat_process_flushes_and_folds_when_it_is_due(pool: Pool) -> None:
    counting = DatabaseMetrics(every=0.05)
    counting.incr("worker_reaped", 3)
    async with pool.acquire() as connection:

        async def folded() -> bool:
            await counting.upkeep(connection)
            return bool(await connection.fetchval("select value = '{3}' from metric where name = 'worker_reaped'"))

        await until(folded)


async def test_what_was_counted_last_is_flushed_at_the_end(pool: Pool) -> None:
    counting = DatabaseMetrics(every=3600.0)
    async with metrics.flushing(counting, pool):
        counting.incr("worker_stopped")
    assert (await numbers(pool))["gristmill_worker_stopped_total",] == 1
    async with metrics.flushing(LoggingMetrics(), pool):
        pass


async def test_the_flusher_goes_on_after_errors_and_loses_nothing(pool: Pool) -> None:
    counting = DatabaseMetrics(every=0.01)
    async with metrics.flushing(counting, pool):
        counting.incr("claim_error")
        await until(lambda: pool.fetchval("select true from metric_delta limit 1"))
        await pool.execute("alter table metric_delta rename to elsewhere")
        counting.incr("claim_error", 2)
        await asyncio.sleep(0.1)  # some attempts fail
        await pool.execute("alter table elsewhere rename to metric_delta")

        async def all_there() -> bool:
            return (await numbers(pool))["gristmill_claim_error_total",] == 3

        await until(all_there)


@pytest.mark.parametrize(
    ("name", "labels"),
    [("nonsense", {}), ("claim_error", {"pool": "*"}), ("claim_idle", {}), ("claim_duration", {"pool": "*"})],
)
def test_an_unknown_name_or_label_is_refused_with_what_is_known(name: str, labels: dict[str, str]) -> None:
    counting = DatabaseMetrics()
    with pytest.raises(UsageError) as caught:
        counting.incr(name, 1, **labels)
    assert caught.value.code == "U140"
    with pytest.raises(UsageError):
        counting.observe("step_completed", 1.0, kind="a")


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_duration_that_would_spoil_a_sum_for_ever_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match="seconds"):
        DatabaseMetrics().observe("claim_duration", value, pool="*")


def test_a_counter_never_goes_down() -> None:
    with pytest.raises(UsageError, match="negative"):
        DatabaseMetrics().incr("claim_error", -1)


async def test_names_from_users_cannot_flood_the_database_or_break_a_batch(pool: Pool) -> None:
    counting = DatabaseMetrics()
    counting.incr("claim_idle", pool='a "b"\n\\c \0 \udcff')
    for number in range(2 * metrics.MOST_SERIES):
        counting.incr("claim_attempts", pool=f"p{number}")
    await counting.flush(pool)
    counting.incr("claim_attempts", pool="p1")
    counting.incr("claim_attempts", pool="one more")
    await counting.flush(pool)
    seen = {key: n for key, n in (await numbers(pool)).items() if key[0] == "gristmill_claim_attempts_total"}
    assert len(seen) == metrics.MOST_SERIES
    assert sum(seen.values()) == 2 * metrics.MOST_SERIES + 2
    assert seen["gristmill_claim_attempts_total", "p1"] == 2


async def test_what_only_a_newer_version_counts_is_left_out(pool: Pool) -> None:
    await pool.execute("insert into metric values ('of_tomorrow', '{}', '{1}')")
    assert not [key for key in await numbers(pool) if "tomorrow" in key[0]]


def test_the_logging_metrics_write_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "gristmill.metrics"):
        LoggingMetrics().incr("claim_idle", pool="gpu")
        LoggingMetrics().observe("claim_duration", 0.25, pool="gpu")
    assert [record.levelno for record in caplog.records] == [logging.DEBUG] * 2
    assert "claim_idle +1" in caplog.text
    assert "0.25" in caplog.text


async def test_a_lock_that_was_taken_in_the_same_moment_is_counted(
    pool: Pool, database_url: str, enqueue: Enqueue, claimer: queue.Claimer
) -> None:
    await enqueue({}, lock="db:one")
    other = await connect(database_url)
    async with other.transaction():  # not to be seen yet: the claim believes that the slot is free, and waits
        await other.execute(
            "insert into lock (key, slot, holder_kind, holder, token, fence) "
            "values ('db:one', 1, 'cli', 'x', gen_random_uuid(), 1)"
        )
        claiming = asyncio.create_task(queue.claim(pool, claimer, {"*": 1}, ["bare"], locked=True))
        await until(lambda: other.fetchval("select true from pg_locks where not granted"))
    assert await claiming == []
    assert (await numbers(pool))["gristmill_claim_lost_race_total",] == 1
    await other.close()


async def test_gauges_show_tasks_by_pool_and_state_and_the_age_of_the_oldest(
    pool: Pool, enqueue: Enqueue, claimer: queue.Claimer, bare_run: int
) -> None:
    await enqueue(*[{}] * 5)
    await enqueue({}, pool="gpu", priority=3)
    await enqueue(*[{}] * 3, pool="later", delay=3600.0)
    await pool.execute("update task set run_at = run_at - interval '100 s' where pool = 'gpu'")
    async with pool.acquire() as connection:
        assert len(await queue.claim(connection, claimer, {"*": 2}, ["bare"])) == 2
    await fold_all(pool)
    seen = await numbers(pool)
    assert seen["gristmill_tasks", "*", "available"] == 7  # by the pool of the step
    assert seen["gristmill_tasks", "*", "running"] == 2
    assert 100 <= seen["gristmill_oldest_task_seconds", "gpu"] < 1000
    assert 0 <= seen["gristmill_oldest_task_seconds", "*"] < 60
    assert seen["gristmill_oldest_task_seconds", "later"] == 0
    assert seen["gristmill_runs", "running"] == 1
    assert seen["gristmill_deltas_unfolded",] == 0
    await pool.execute("update run set state = 'cancelled' where id = $1", bare_run)
    seen = await numbers(pool)
    assert not [key for key in seen if key[0] in ("gristmill_tasks", "gristmill_oldest_task_seconds")]
    assert seen["gristmill_runs", "cancelled"] == 1


async def fold_all(pool: Pool) -> None:
    async with pool.acquire() as connection:
        await upkeep.fold(connection)


async def test_looking_for_the_oldest_task_reads_a_bounded_piece_of_an_index(pool: Pool, enqueue: Enqueue) -> None:
    await enqueue(*[{}] * 20_000)
    await enqueue(*[{}] * 200, priority=5, lock="one key")
    await pool.execute("analyze task")
    plan = json.loads(await pool.fetchval("explain (analyze, buffers, format json) " + scrape.SQL["oldest"]))[0]["Plan"]
    pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    print(f"{pages} pages")
    assert pages < 300
    scans = json.dumps(plan)
    assert '"Relation Name": "task"' in scans
    assert "Seq Scan" not in re.findall(r'"Node Type": "([^"]*)"[^{}]*?"Relation Name": "task"', scans)


async def test_gauges_show_workers_slots_pools_and_locks(pool: Pool, claimer: queue.Claimer) -> None:
    late = await register(pool)
    await pool.execute("update worker set lease_until = clock_timestamp() - interval '1 s' where id = $1", late.id)
    await pool.execute("insert into pool (name, slots, paused) values ('gpu', 2, true), ('*', null, false)")
    await pool.execute(
        "insert into lock (key, slot, holder_kind, holder, token, fence, expires_at) values"
        " ('a', 0, 'task', 'x', gen_random_uuid(), 1, null),"
        " ('b', 0, 'cli', 'x', gen_random_uuid(), 2, clock_timestamp() + interval '1 h'),"
        " ('c', 0, 'cli', 'x', gen_random_uuid(), 3, clock_timestamp() - interval '1 h')"
    )
    seen = await numbers(pool)
    assert (seen["gristmill_workers", "alive"], seen["gristmill_workers", "late"]) == (1, 1)
    assert seen["gristmill_workers", "paused"] == 0
    assert seen["gristmill_worker_slots", "*"] == 3
    assert (seen["gristmill_pool_slots", "gpu"], seen["gristmill_pool_paused", "gpu"]) == (2, 1)
    assert ("gristmill_pool_slots", "*") not in seen
    assert (seen["gristmill_locks", "task"], seen["gristmill_locks", "cli"], seen["gristmill_locks", "hook"]) == (
        1,
        1,
        0,
    )


async def test_gauges_show_how_far_the_folder_is_behind(pool: Pool) -> None:
    assert (await numbers(pool))["gristmill_event_lag_seconds",] == 0
    await pool.execute("insert into event_inbox (name, at) values ('run.start', clock_timestamp() - interval '90 s')")
    await pool.execute("insert into event_inbox (name) values ('run.start')")
    await pool.execute("insert into counter_delta values (1, 0, 'available', 1)")
    seen = await numbers(pool)
    assert 90 <= seen["gristmill_event_lag_seconds",] < 900
    assert seen["gristmill_events_unnumbered",] == 2
    assert seen["gristmill_deltas_unfolded",] == 1
    await fold_all(pool)
    assert (await numbers(pool))["gristmill_events_unnumbered",] == 0


async def test_a_snapshot_that_stays_open_is_seen(pool: Pool, database_url: str) -> None:
    other = await connect(database_url)
    async with other.transaction(isolation="repeatable_read"):
        await other.fetchval("select count(*) from run")
        await asyncio.sleep(0.2)
        seen = await numbers(pool)
        assert 0.2 <= seen["gristmill_oldest_snapshot_seconds",] < 60
    assert 0 <= seen["gristmill_notify_queue_used_ratio",] <= 1
    await other.close()


async def test_gauges_that_cannot_be_read_are_left_out_and_counted(
    pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape, "TIMEOUT", 0.5)
    other = await connect(database_url)
    async with other.transaction():
        await other.execute("lock table lock in access exclusive mode")
        seen = await numbers(pool)
    await other.close()
    assert seen["gristmill_scrape_failures",] == 1
    assert ("gristmill_locks", "task") not in seen
    assert ("gristmill_workers", "alive") in seen


def test_every_metric_that_is_counted_is_defined_with_these_labels_and_every_one_defined_is_counted() -> None:
    used: dict[str, tuple[str, tuple[str, ...]]] = {}
    for file in sorted((ROOT / "src/gristmill").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("incr", "observe")
            ):
                texts = [one.value for one in ast.walk(node.args[0]) if isinstance(one, ast.Constant)]
                for name in (text for text in texts if text in COUNTERS or str(text).count("_")):
                    used[name] = node.func.attr, tuple(word.arg or "" for word in node.keywords)
    for file in sorted((ROOT / "src/gristmill/db/sql").glob("*.sql")):  # statements that count on their own
        for name in re.findall(r"insert into metric_delta \(.*?\)\s+select '(\w+)', '{}'", file.read_text()):
            used[name] = "incr", ()
    known = {name: ("incr", one.labels) for name, one in COUNTERS.items()}
    known |= {name: ("observe", one.labels) for name, one in HISTOGRAMS.items()}
    assert used == known


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text()
    rows = re.findall(r"^\| `(gristmill_\w+)` \| (\w+) \|(.*?)\|", page, re.MULTILINE)
    labels = {
        name: known.labels
        for suffix, group in (("_total", COUNTERS), ("_seconds", HISTOGRAMS), ("", scrape.GAUGES))
        for name, known in ((f"gristmill_{name}{suffix}", known) for name, known in group.items())
    }
    assert {name: (kind, tuple(re.findall(r"`(\w+)`", column))) for name, kind, column in rows} == {
        name: (kind, labels[name]) for name, kind in scrape.exported().items()
    }


@pytest.mark.parametrize("file", ["monitoring.md", "monitoring/dashboard.json", "monitoring/alerts.yml"])
def test_dashboard_and_alerts_name_only_metrics_that_exist(file: str) -> None:
    text = (ROOT / "docs/guides" / file).read_text()
    if file.endswith(".json"):
        json.loads(text)
    known = set(scrape.exported())
    for name, kind in scrape.exported().items():
        if kind == "histogram":
            known |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    found = set(re.findall(r"\bgristmill_\w+", text))
    assert found
    assert found <= known


@pytest.mark.thorough
async def test_numbers_add_up_over_workers_that_are_killed_stopped_and_started_again(
    observed: ObservedProcesses, enqueue: Enqueue, pool: Pool
) -> None:
    before: dict[tuple[str, ...], float] = {}

    async def counted(name: str, n: float) -> bool:
        nonlocal before
        seen = await numbers(pool)
        for key, value in before.items():
            if key[0].endswith(("_total", "_bucket", "_count", "_sum")):
                assert seen[key] >= value - 1e-9, key  # nothing that only grows ever goes back
        before = seen
        return sum(value for key, value in seen.items() if key[0] == name) >= n

    first = observed.start()
    await enqueue(*[{}] * 30, {"do": "reject"}, {"do": "busy"})
    await until(lambda: counted("gristmill_step_completed_total", 31))
    await until(lambda: counted("gristmill_step_duration_seconds_count", 33))
    os.kill(first.pid, signal.SIGKILL)
    second, _ = observed.start(), observed.start()
    await enqueue(*[{}] * 40)
    await until(lambda: counted("gristmill_step_completed_total", 71))
    await until(lambda: counted("gristmill_worker_reaped_total", 1))
    second.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(second.wait, 20) == 0
    await enqueue(*[{}] * 10)
    await until(lambda: counted("gristmill_step_completed_total", 81))
    await until(lambda: counted("gristmill_step_started_total", 83))
    await until(lambda: counted("gristmill_step_duration_seconds_count", 83))
    seen = await numbers(pool)
    assert seen["gristmill_step_completed_total", "bare"] == 81
    assert seen["gristmill_step_started_total", "bare"] == 83  # one was released once, and one never succeeds
    assert seen["gristmill_step_failed_total", "bare"] == 1
    assert seen["gristmill_step_released_total", "bare"] == 1
    assert seen["gristmill_claim_success_total", "*"] == 83
    assert seen["gristmill_worker_reaped_total",] == 1
    assert await pool.fetchval("select count(*) > 0 from metric")  # the beat processes have folded


class Server:
    """`gristmill metrics --serve` in a process of its own."""

    def __init__(self, url: str, home: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gristmill", "metrics", "--serve", *arguments, "--home", str(home)],
            env={**os.environ, "GRISTMILL_DATABASE_URL": url}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        self.address = self.process.stderr.readline().strip()

    async def get(self, path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, str]:
        """Status and body."""
        port = int(self.address.rsplit(":", 1)[1].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: here\r\n{lines}\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return int(head.split()[1]) if head else 0, body

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(10)


async def test_the_command_prints_and_serves_what_the_fleet_has_counted(
    pool: Pool, database_url: str, tmp_path: Path
) -> None:
    counting = DatabaseMetrics()
    counting.incr("worker_reaped", 7)
    await counting.flush(pool)
    environment = {**os.environ, "GRISTMILL_DATABASE_URL": database_url}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "gristmill", "metrics", "--home", str(tmp_path), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert "gristmill_worker_reaped_total 7.0\n" in await asyncio.to_thread(run)
    document = json.loads(await asyncio.to_thread(run, "--json"))
    assert document["schema"] == "gristmill.metrics/1"
    assert {"name": "gristmill_worker_reaped_total", "labels": {}, "value": 7.0} in document["samples"]
    server = await asyncio.to_thread(Server, database_url, tmp_path, "0")
    try:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", server.address)
        status, body = await server.get()
        assert (status, "gristmill_worker_reaped_total 7.0\n" in body) == (200, True)
        status, body = await server.get(Accept="application/openmetrics-text; version=1.0.0")
        assert body.endswith("# EOF\n")
        assert (await server.get(method="HEAD")) == (200, "")
        assert (await server.get("/"))[0] == 404
        assert (await server.get(method="POST"))[0] == 405
        assert (await server.get("/" + "x" * 70_000))[0] == 0  # too long to be a question
        assert (await server.get())[0] == 200
    finally:
        assert server.end() == 0


async def test_other_machines_need_a_token(database_url: str, tmp_path: Path) -> None:
    refused = await asyncio.to_thread(Server, database_url, tmp_path, "0.0.0.0:0")
    assert refused.address.startswith("error[U143]")
    assert refused.process.wait() == 2
    secret = tmp_path / "token"
    secret.write_text("0123456789abcdef\n")
    server = await asyncio.to_thread(Server, database_url, tmp_path, "0.0.0.0:0", "--token-file", str(secret))
    try:
        assert (await server.get())[0] == 401
        assert (await server.get(Authorization="Bearer 0123456789abcdeX"))[0] == 401
        assert (await server.get(Authorization="Bearer 0123456789abcdef"))[0] == 200
    finally:
        server.end()
