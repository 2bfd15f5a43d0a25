"""Attempts: what a worker does with a claimed task, from the operator's first step to the record of how it ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg

from gristmill.db.database import RECONNECT, REPEAT, reconnecting, transaction
from gristmill.engine import queue, tracing
from gristmill.engine.metrics import Metrics
from gristmill.engine.performer import ChildCrashed, Performer
from gristmill.engine.queue import Claimer, Failure, Task
from gristmill.engine.retry import DEFAULT, Policy
from gristmill.engine.settling import Settler
from gristmill.errors import Busy, GristmillError, InputError, LimitReached, TaskError, TransientError
from gristmill.logs import bind, redact

log = logging.getLogger("gristmill.worker")
GRACE = 7.0  # seconds until the slot of a cancelled operator is taken from it; a child process is killed after 5
MOST_LOST = 16  # operators that would not end: the worker makes room for a fresh one


@dataclass(eq=False, slots=True)
class Attempt:
    """One claim under way. `why` is set before it is cancelled: timeout, deadline, lost or stopped."""

    task: Task
    alone: bool
    began: float = field(default_factory=time.monotonic)
    why: str = ""
    recorded: bool = False
    sent_away: float | None = None  # by a quota, for so many seconds
    policy: Policy = DEFAULT
    coroutine: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None


class Attempts:
    """All attempts of one worker. `on_end` hears of each that has given its slot back."""

    def __init__(
        self,
        claimer: Claimer,
        performer: Performer,
        settler: Settler,
        metrics: Metrics,
        on_end: Callable[[Attempt], None],
    ) -> None:
        self.claimer = claimer
        self.performer = performer
        self.settler = settler
        self.metrics = metrics
        self.on_end = on_end
        self.give_up_recording = False  # nobody can be told any more: the lease runs out by itself
        self.lost = 0  # operators that did not end when they were cancelled
        self.running: set[Attempt] = set()

    def start(self, task: Task, *, alone: bool) -> None:
        attempt = Attempt(task, alone)
        self.running.add(attempt)
        attempt.coroutine = asyncio.create_task(self._run(attempt))

    def _bound(self, attempt: Attempt) -> None:
        task = attempt.task
        limit, why = task.timeout if task.timeout is not None else attempt.policy.timeout, "timeout"
        if task.remaining is not None and (limit is None or task.remaining < limit):
            limit, why = task.remaining, "deadline"
        if limit is not None:
            attempt.timer = asyncio.get_running_loop().call_later(max(0.0, limit), self.end, attempt, why)

    def end(self, attempt: Attempt, why: str) -> None:
        """Cancels an attempt; if it does not come to its end within `GRACE`, its slot is taken from it."""
        if attempt.why or attempt.coroutine is None:
            return
        attempt.why = why
        attempt.coroutine.cancel(why)
        if why != "stopped":
            attempt.timer = asyncio.get_running_loop().call_later(GRACE, self._leave_behind, attempt)

    async def look(self, pool: asyncpg.Pool[Any]) -> None:
        """Ends the attempts whose claims are gone: cancelled, taken back, or in other hands."""
        mine = [attempt for attempt in self.running if not attempt.recorded and not attempt.why]
        if not mine:
            return
        held = await queue.still_held(pool, [attempt.task for attempt in mine])
        for attempt in mine:
            # What has finished meanwhile is the settler's: it will find out by itself.
            if attempt.task.id not in held and attempt in self.running and not attempt.recorded:
                log.warning("task %d (%s): its claim is gone; it is ended", attempt.task.id, attempt.task.kind)
                self.metrics.incr("step_cancelled")
                self.end(attempt, "lost")

    async def finish(self, timeout: float, at_once: asyncio.Event) -> None:
        """Waits for what is under way; after `timeout` seconds, or `at_once`, gives the rest back."""
        if self.running:
            all_of_them = asyncio.gather(*self._coroutines(), return_exceptions=True)
            hurry = asyncio.create_task(at_once.wait())
            await asyncio.wait(
                (asyncio.shield(all_of_them), hurry), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            hurry.cancel()
        for attempt in list(self.running):
            self.end(attempt, "stopped")
        if self.running:
            await asyncio.wait(self._coroutines(), timeout=GRACE)

    def _coroutines(self) -> list[asyncio.Task[None]]:
        return [attempt.coroutine for attempt in self.running if attempt.coroutine is not None]

    async def _run(self, attempt: Attempt) -> None:
        task = attempt.task
        bind(run=task.run_id, item=task.item_id, task=task.id, attempt=task.attempt, kind=task.kind)
        self.metrics.incr("step_started", kind=task.kind)
        try:
            attempt.policy = await self.performer.policy(task)
            self._bound(attempt)
            with tracing.span(task) as traced:
                outcome = await self.performer.perform(task, alone=attempt.alone)
                traced.ended(outcome.name)
        except ChildCrashed as crashed:
            log.warning("task %d (%s): %s", task.id, task.kind, crashed)
            name = type(crashed).__name__
            state = await self._record(
                attempt, "error", queue.crash, self.claimer, task, redact(str(crashed)), crashed.code, name
            )
            if state is not None:
                self.metrics.incr("step_failed" if state == "quarantined" else "step_error", kind=task.kind)
        except GeneratorExit:
            raise
        except BaseException as error:
            await self._failed(attempt, error)
        else:
            attempt.recorded = True
            self.settler.put(traced.task, outcome)
        finally:
            self.metrics.observe("step_duration", time.monotonic() - attempt.began, kind=task.kind)
            self._ended(attempt)

    def _ended(self, attempt: Attempt) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
        if attempt in self.running:
            self.running.discard(attempt)
            self.on_end(attempt)

    async def _failed(self, attempt: Attempt, error: BaseException) -> None:
        task = attempt.task
        match attempt.why:
            case "lost":
                return
            case "stopped":
                await self._release(attempt, 0.0, "its worker was stopped")
                return
            case "timeout" | "deadline":
                error = too_late(attempt.why, time.monotonic() - attempt.began)
        # A CancelledError that nobody here has asked for, or a SystemExit, is the operator's own failure.
        verdict = attempt.policy.judge(error)
        if isinstance(verdict, Busy):
            attempt.sent_away = verdict.delay if isinstance(verdict, LimitReached) else None
            await self._release(attempt, verdict.delay, verdict.reason)
            return
        log.log(logging.INFO if isinstance(error, TaskError) else logging.ERROR, "task %d (%s) failed: %s: %s",
                task.id, task.kind, verdict.error, verdict.message,
                exc_info=None if isinstance(error, GristmillError) else error)  # fmt: skip
        await self._fail(attempt, replace(verdict, message=redact(verdict.message)))

    async def _fail(self, attempt: Attempt, failure: Failure) -> None:
        state = await self._record(attempt, "error", queue.fail, self.claimer, attempt.task, failure)
        if state is not None:
            self.metrics.incr("step_failed" if state == "failed" else "step_error", kind=attempt.task.kind)

    async def _release(self, attempt: Attempt, delay: float, reason: str) -> None:
        if await self._record(attempt, "release", queue.release, [(attempt.task, delay, reason)]):
            self.metrics.incr("step_released", kind=attempt.task.kind)

    async def _record(self, attempt: Attempt, phase: str, write: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """One write that names the token, so it may be sent again until the database answers.

        If the database refuses what we have to say, it hears that: a task without an end would keep its run open.
        """
        if attempt.recorded:
            return None
        attempt.recorded = True
        task = attempt.task
        async for _ in reconnecting():
            try:
                async with transaction(self.settler.pool) as connection:
                    answer = await write(connection, *arguments)
            except (*RECONNECT, *REPEAT):
                if self.give_up_recording:
                    return None
            except Exception as error:
                log.exception("task %d: its end cannot be recorded", task.id)
                failure = Failure("T700", type(error).__name__, "its end cannot be recorded", retry=False)
                if arguments[-1] == failure:
                    return None
                write, arguments = queue.fail, (self.claimer, task, failure)
            else:
                if not answer:
                    self.metrics.incr("lease_lost", phase=phase)
                return answer
        raise AssertionError

    def _leave_behind(self, attempt: Attempt) -> None:
        """It ignores its cancellation: its task ends without it, and its slot is free again."""
        if attempt not in self.running:
            return
        self.lost += 1
        log.error("task %d (%s) does not end although it was cancelled (%s); its slot is taken from it",
                  attempt.task.id, attempt.task.kind, attempt.why)  # fmt: skip
        self._ended(attempt)
        if attempt.why != "lost":
            error = too_late(attempt.why, time.monotonic() - attempt.began)
            verdict = attempt.policy.judge(error)
            assert isinstance(verdict, Failure)  # noqa: S101
            attempt.timer = None
            recording = asyncio.ensure_future(self._fail(attempt, verdict))
            recording.add_done_callback(lambda _: None)


def too_late(why: str, seconds: float) -> TaskError:
    """The error of an attempt that took too long: T310 may be tried again, T311 (its deadline has passed) not."""
    if why == "deadline":
        return InputError("its deadline has passed", code="T311")
    return TransientError(f"it took longer than its limit ({seconds:.1f} s)", code="T310")
