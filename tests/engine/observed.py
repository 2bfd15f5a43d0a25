"""A worker process for tests that counts into the database and, when told where, writes its spans into a file.

python -m tests.engine.observed URL SETTINGS [FILE]
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from gristmill.engine.metrics import DatabaseMetrics
from gristmill.engine.queue import NewTask, Task
from gristmill.engine.worker import Outcome, Worker, WorkerSettings
from tests.engine.bare import Bare


class Observed(Bare):
    """Like `Bare`, and what follows has the trace of what it follows from."""

    async def save(self, connection: Any, finished: Sequence[tuple[Task, Outcome]]) -> Sequence[NewTask]:
        await super().save(connection, finished)
        return [
            NewTask(
                task.run_id, "bare", step=task.step + 1, trace=task.trace, payload=json.dumps(outcome.value["next"])
            )
            for task, outcome in finished
            if "next" in outcome.value
        ]


def trace_into(path: str) -> None:
    """Every span that ends is a line of JSON in the file, written at once: this process will be killed."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Lines(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            with open(path, "a") as file:
                for span in spans:
                    line = {**json.loads(span.to_json()), "pid": os.getpid()}
                    file.write(json.dumps(line) + "\n")
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Lines()))
    trace.set_tracer_provider(provider)


async def main() -> None:
    settings = json.loads(sys.argv[2])
    if len(sys.argv) > 3:
        trace_into(sys.argv[3])
    performer = Observed(settings.pop("backoff", 1.0))
    worker = Worker(sys.argv[1], performer, WorkerSettings(**settings), metrics=DatabaseMetrics(every=0.2))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
