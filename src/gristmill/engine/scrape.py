"""The numbers of the whole fleet in Prometheus form: flushed totals, and gauges that are read on the spot."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import asyncpg

from gristmill.db.database import REPEAT
from gristmill.engine.metrics import COUNTERS, HISTOGRAMS, SQL, Definition

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

log = logging.getLogger("gristmill.metrics")
PREFIX = "gristmill_"
TIMEOUT = 5.0  # seconds for each statement: looking must not be a burden

GAUGES = {
    "tasks": Definition(
        "Tasks of runs that have not ended, by the pool of their step and by state.", ("pool", "state")
    ),
    "oldest_task_seconds": Definition("Age of the oldest task that could be claimed now.", ("pool",)),
    "workers": Definition("Workers: alive, paused, draining, or late with their beat.", ("state",)),
    "worker_slots": Definition("Slots that live workers offer.", ("pool",)),
    "pool_slots": Definition("Most tasks of a pool that may run at once; absent where there is no limit.", ("pool",)),
    "pool_paused": Definition("1 while a pool is paused.", ("pool",)),
    "locks": Definition("Slots of locks that are held.", ("holder",)),
    "runs": Definition("Runs by state.", ("state",)),
    "event_lag_seconds": Definition("Age of the oldest event that has no number yet."),
    "events_unnumbered": Definition("Events that have no number yet, at most 100000."),
    "deltas_unfolded": Definition("Changes of counters that are not summed yet, at most 100000."),
    "review_backlog": Definition("Pieces that wait for people in the queues of reviews, at most 100000."),
    "oldest_snapshot_seconds": Definition("Age of the oldest open snapshot in the database."),
    "notify_queue_used_ratio": Definition("How full the queue of notifications is, 0 to 1."),
    "scrape_failures": Definition("Groups of these gauges that could not be read this time."),
}
GROUPS = ("tasks", "oldest", "workers", "slots", "locks", "runs", "reviews", "backlog", "server")


def exported() -> dict[str, str]:
    """Every name that Prometheus sees -> its type; histograms without their suffixes."""
    return {
        **{f"{PREFIX}{name}_total": "counter" for name in COUNTERS},
        **{f"{PREFIX}{name}_seconds": "histogram" for name in HISTOGRAMS},
        **{f"{PREFIX}{name}": "gauge" for name in GAUGES},
    }


async def scrape(connection: asyncpg.Connection[Any]) -> CollectorRegistry:
    """A registry of its own with everything, in about ten small reads of at most 5 seconds each.

    A group of gauges that cannot be read in time is left out and counted in `gristmill_scrape_failures`; an error of
    the connection itself is raised.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector

    families = [*_totals(await connection.fetch(SQL["totals"], timeout=TIMEOUT)), *await _gauges(connection)]

    class Read(Collector):
        def collect(self) -> Iterable[Metric]:
            return families

    registry = CollectorRegistry()
    registry.register(Read())
    return registry


async def text(connection: asyncpg.Connection[Any], accept: str = "") -> tuple[bytes, str]:
    """The body of an answer and its content type. `accept` is the header: OpenMetrics is given to who asks for it."""
    from prometheus_client.exposition import choose_encoder

    encode, content_type = choose_encoder(accept)
    return encode(await scrape(connection)), content_type


def _totals(rows: Iterable[asyncpg.Record]) -> Iterable[Metric]:
    """Rows of (name, labels, value) summed up; names that only other versions know are left out."""
    from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily

    sums: dict[str, dict[tuple[str, ...], list[float]]] = {name: {} for name in (*COUNTERS, *HISTOGRAMS)}
    for name, labels, value in rows:
        known = COUNTERS.get(name) or HISTOGRAMS.get(name)
        if known is None:
            continue
        given = json.loads(labels)
        key = tuple(given.get(label, "") for label in known.labels)
        row = sums[name].setdefault(key, [0.0] * len(value))
        sums[name][key] = [have + more for have, more in zip(row, value, strict=True)]
    for name, known in COUNTERS.items():
        counter = CounterMetricFamily(PREFIX + name, known.text, labels=known.labels)
        if not known.labels:
            sums[name].setdefault((), [0.0])  # there from the first day on, so that its rate is 0 and not nothing
        for key, row in sorted(sums[name].items()):
            counter.add_metric(key, row[0])
        yield counter
    for name, known in HISTOGRAMS.items():
        histogram = HistogramMetricFamily(f"{PREFIX}{name}_seconds", known.text, labels=known.labels)
        edges = [*(repr(bound) for bound in known.bounds), "+Inf"]
        for key, row in sorted(sums[name].items()):
            histogram.add_metric(key, list(zip(edges, accumulate(row[:-1]), strict=True)), sum_value=row[-1])
        yield histogram


async def _gauges(connection: asyncpg.Connection[Any]) -> Iterable[Metric]:
    from prometheus_client.metrics_core import GaugeMetricFamily

    families = {
        name: GaugeMetricFamily(PREFIX + name, known.text, labels=known.labels) for name, known in GAUGES.items()
    }
    failures = 0
    for group in GROUPS:
        try:
            rows = await connection.fetch(SQL[group], timeout=TIMEOUT)
        except (*REPEAT, TimeoutError, asyncpg.QueryCanceledError) as error:
            failures += 1
            log.warning("the gauges of %s are left out this time: %s", group, error or type(error).__name__)
            continue
        for name, labels, value in rows:
            families[name].add_metric(labels, value)
    families["scrape_failures"].add_metric([], failures)
    return families.values()
