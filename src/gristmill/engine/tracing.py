"""OpenTelemetry spans around attempts, and the trace context that travels with tasks from process to process.

Needs `opentelemetry-api` (`pip install gristmill[tracing]`). A process that has not imported it has no tracer either:
there a span costs a context variable, nothing is imported, and the context still travels.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from gristmill.errors import Busy
from gristmill.version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from gristmill.engine.task import Task

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_inherited: ContextVar[str | None] = ContextVar("gristmill_trace", default=None)


def valid(trace: str) -> bool:
    """Whether the text is a W3C `traceparent`, for example `00-<32 hex digits>-<16 hex digits>-01`."""
    return len(trace) <= 200 and _PARENT.fullmatch(trace) is not None


def current() -> str | None:
    """The W3C `traceparent` of whoever calls: of the span it is in, else of the task it works for, else None."""
    api = sys.modules.get("opentelemetry.trace")
    if api is not None:
        context = api.get_current_span().get_span_context()
        if context.is_valid:
            return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    return _inherited.get()


class Attempt:
    """One attempt under way. `task` is the claimed task; its `trace` is this attempt's, for the tasks that follow."""

    def __init__(self, task: Task, span: Span | None = None) -> None:
        self.task = task
        self._span = span

    def ended(self, outcome: str) -> None:
        """Names the outcome: ok, empty, reused, or whatever the performer calls it."""
        if self._span is not None:
            self._span.set_attribute("gristmill.outcome", outcome)


def span(task: Task) -> AbstractContextManager[Attempt]:
    """A span around an attempt, below the one that enqueued the task; errors that leave it are recorded and go on.

    `Busy` is "released" and no error. A cancellation is none either, unless its message is "timeout" or "deadline"; its
    outcome is that message, or "cancelled". Anything else is "failed".
    """
    api = sys.modules.get("opentelemetry.trace")
    return _Untraced(task) if api is None else _traced(api, task)


class _Untraced(Attempt):
    """Only carries the context on. A class: a generator costs four times as much, and every task pays for it."""

    def __enter__(self) -> Attempt:
        self._token = _inherited.set(self.task.trace)
        return self

    def __exit__(self, *_: object) -> None:
        _inherited.reset(self._token)


@contextmanager
def _traced(api: Any, task: Task) -> Iterator[Attempt]:
    with api.get_tracer("gristmill", __version__).start_as_current_span(
        f"{task.kind} attempt", context=_context(api, task.trace), kind=api.SpanKind.CONSUMER,
        attributes=_attributes(task), record_exception=False, set_status_on_exception=False,
    ) as made:  # fmt: skip
        token = _inherited.set(task.trace)  # for a process with the API and without a tracer
        attempt = Attempt(task._replace(trace=current()), made)
        attempt.ended("ok")
        try:
            yield attempt
        except BaseException as error:
            _record(api, made, error)
            raise
        finally:
            _inherited.reset(token)


def _attributes(task: Task) -> dict[str, str | int]:
    return {
        "gristmill.task.id": task.id, "gristmill.run.id": task.run_id, "gristmill.kind": task.kind,
        "gristmill.pool": task.pool, "gristmill.attempt": task.attempt,
    }  # fmt: skip


def _context(api: Any, trace: str | None) -> Any:
    """An OpenTelemetry context whose current span is the remote one; an empty one for a task without a trace."""
    from opentelemetry.context import Context

    found = _PARENT.fullmatch(trace) if trace else None
    if found is None:  # nobody's trace, or not one that we can read: never a reason to fail a task
        return Context()
    flags = api.TraceFlags(int(found[3], 16))
    parent = api.SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=flags)
    return api.set_span_in_context(api.NonRecordingSpan(parent), Context())


def _record(api: Any, made: Span, error: BaseException) -> None:
    from asyncio import CancelledError

    if isinstance(error, Busy):
        made.set_attribute("gristmill.outcome", "released")
        made.add_event("released", {"reason": error.reason, "delay": error.delay})
    elif isinstance(error, CancelledError) and error.args[:1] not in (("timeout",), ("deadline",)):
        made.set_attribute("gristmill.outcome", str(error.args[0]) if error.args else "cancelled")
    else:
        late = isinstance(error, CancelledError)
        made.set_attribute("gristmill.outcome", str(error.args[0]) if late else "failed")
        made.record_exception(error)
        made.set_status(api.Status(api.StatusCode.ERROR, f"{type(error).__name__}: {error}"))
