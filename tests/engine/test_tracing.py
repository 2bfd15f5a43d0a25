"""Spans around attempts, and a trace that travels with the tasks through several processes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gristmill.engine import tracing
from gristmill.engine.queue import Task
from gristmill.errors import Busy, InputError
from tests.engine.conftest import Enqueue, until
from tests.engine.observing import ObservedProcesses

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
TASK = Task(7, 3, None, 0, "bare", "*", 1, "{}", 2, 1, 0, uuid.uuid4(), 9, trace=PARENT)
_provider = TracerProvider()


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What has ended. A process has one tracer provider for all its life, so only the exporter is new for each test."""
    if trace.get_tracer_provider() is not _provider:
        trace.set_tracer_provider(_provider)
    exporter = InMemorySpanExporter()
    processor = SimpleSpanProcessor(exporter)
    _provider.add_span_processor(processor)
    yield exporter
    processor.shutdown()


@pytest.fixture
def observed(database_url: str, tmp_path: Path) -> Iterator[ObservedProcesses]:
    made = ObservedProcesses(database_url, tmp_path / "workers.log")
    yield made
    made.end()


def only(spans: InMemorySpanExporter) -> ReadableSpan:
    (one,) = spans.get_finished_spans()
    return one


def test_a_span_is_below_the_one_that_enqueued_the_task_and_says_what_it_is_about(spans: InMemorySpanExporter) -> None:
    with tracing.span(TASK) as attempt:
        attempt.ended("empty")
    span = only(spans)
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, "b7ad6b7169203331")
    assert span.parent.is_remote
    assert dict(span.attributes or {}) == {
        "gristmill.task.id": 7, "gristmill.run.id": 3, "gristmill.kind": "bare", "gristmill.pool": "*",
        "gristmill.attempt": 2, "gristmill.outcome": "empty",
    }  # fmt: skip


def test_inside_of_an_attempt_its_own_span_is_the_one_that_others_come_below(spans: InMemorySpanExporter) -> None:
    with tracing.span(TASK) as attempt:
        inside = tracing.current()
    span = only(spans)
    assert span.context is not None
    assert inside == attempt.task.trace == f"00-{TRACE}-{span.context.span_id:016x}-01"
    assert tracing.current() is None


def test_the_span_of_the_caller_is_what_a_new_task_gets(spans: InMemorySpanExporter) -> None:
    with trace.get_tracer("a web application").start_as_current_span("upload") as caller:
        mine = tracing.current()
        context = caller.get_span_context()
    assert mine == f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    assert tracing.valid(mine)


def test_a_task_without_a_trace_or_with_nonsense_begins_one(spans: InMemorySpanExporter) -> None:
    for nonsense in (None, "", "00-xyz", f"00-{'0' * 32}-b7ad6b7169203331-01", f"ff-{TRACE}-b7ad6b7169203331-01"):
        with tracing.span(TASK._replace(trace=nonsense)):
            pass
        assert not nonsense or not tracing.valid(nonsense)
    assert [span.parent for span in spans.get_finished_spans()] == [None] * 5


def test_what_the_sender_did_not_sample_is_not_recorded_and_still_travels(spans: InMemorySpanExporter) -> None:
    with tracing.span(TASK._replace(trace=PARENT[:-1] + "0")) as attempt:
        pass
    assert not spans.get_finished_spans()
    assert attempt.task.trace is not None
    assert attempt.task.trace.startswith(f"00-{TRACE}-")
    assert attempt.task.trace.endswith("-00")


def test_an_error_is_recorded_and_goes_on(spans: InMemorySpanExporter) -> None:
    with pytest.raises(InputError), tracing.span(TASK):
        raise InputError("page 3 is blank")
    span = only(spans)
    assert span.status.description == "InputError: page 3 is blank"
    assert (span.attributes or {})["gristmill.outcome"] == "failed"
    assert [event.name for event in span.events] == ["exception"]


@pytest.mark.parametrize(
    ("error", "outcome", "is_error"),
    [
        (Busy("wait", delay=2.0, reason="quota"), "released", False),
        (asyncio.CancelledError(), "cancelled", False),
        (asyncio.CancelledError("stopped"), "stopped", False),
        (asyncio.CancelledError("timeout"), "timeout", True),
        (SystemExit(1), "failed", True),
    ],
)
def test_waiting_and_being_stopped_are_no_errors(
    spans: InMemorySpanExporter, error: BaseException, outcome: str, is_error: bool
) -> None:
    with pytest.raises(type(error)), tracing.span(TASK):
        raise error
    span = only(spans)
    assert (span.attributes or {})["gristmill.outcome"] == outcome
    assert (span.status.status_code is trace.StatusCode.ERROR) is is_error


async def test_attempts_side_by_side_do_not_see_each_other(spans: InMemorySpanExporter) -> None:
    async def attempt(number: int) -> None:
        with tracing.span(TASK._replace(id=number, trace=f"00-{number:032x}-b7ad6b7169203331-01")):
            for _ in range(3):
                await asyncio.sleep(0)
                assert (tracing.current() or "").startswith(f"00-{number:032x}-")

    await asyncio.gather(*(attempt(number) for number in range(1, 20)))
    assert len(spans.get_finished_spans()) == 19


def test_without_opentelemetry_nothing_is_imported_and_the_trace_travels_on() -> None:
    code = f"""
import sys, uuid
sys.modules["opentelemetry"] = None  # as if it were not installed
from gristmill.engine import tracing
from gristmill.engine.queue import Task
assert tracing.current() is None
task = Task(7, 3, None, 0, "bare", "*", 1, "{{}}", 2, 1, 0, uuid.uuid4(), 9, trace="{PARENT}")
with tracing.span(task) as attempt:
    assert attempt.task is task
    assert tracing.current() == "{PARENT}"
    attempt.ended("ok")
assert tracing.current() is None
assert not [name for name in sys.modules if name.startswith("opentelemetry.")]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def recorded(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


async def test_one_trace_goes_through_two_worker_processes(
    observed: ObservedProcesses, enqueue: Enqueue, watching: Any, tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    file = tmp_path / "spans"
    with trace.get_tracer("a web application").start_as_current_span("upload") as caller:
        upload = caller.get_span_context()
        # The follow-up waits in a pool that only the second process looks after.
        await enqueue({"next": {"do": "reject"}}, {"do": "busy"}, trace=tracing.current())
    first = observed.start(str(file), pools={"*": 2})
    await watching("select count(*) = 2 from done")
    await watching("select count(*) = 1 from task where state = 'failed'")
    second = observed.start(str(file), pools={"*": 2})
    await watching("select count(*) = 2 from worker where postmaster_started is not null")
    os.kill(first.pid, 9)
    await enqueue({}, trace=f"00-{upload.trace_id:032x}-{upload.span_id:016x}-01")
    await watching("select count(*) = 3 from done")

    async def all_spans() -> list[dict[str, Any]]:
        lines = recorded(file)
        return lines if len(lines) == 5 else []

    lines = await until(all_spans)
    assert {line["context"]["trace_id"] for line in lines} == {f"0x{upload.trace_id:032x}"}
    assert {line["pid"] for line in lines} == {first.pid, second.pid}
    outcomes = sorted(line["attributes"]["gristmill.outcome"] for line in lines)
    assert outcomes == ["failed", "ok", "ok", "ok", "released"]
    by_id = {line["context"]["span_id"]: line for line in lines}
    follower = next(line for line in lines if line["attributes"]["gristmill.outcome"] == "failed")
    assert by_id[follower["parent_id"]]["attributes"]["gristmill.outcome"] == "ok"  # the attempt that made it
    others = [line["parent_id"] for line in lines if line is not follower]
    assert others == [f"0x{upload.span_id:016x}"] * 4
