"""Child processes for functions that block, crash or eat memory: one task at a time each, so blame is exact.

    children = Children()
    text = await children.call("package.module:function", '{"n": 3}', limits=Limits(memory=512 * 2**20, cpu=60))

The function, `def` or `async def`, gets the decoded payload and returns what JSON can say. How the two processes talk:
`engine/child.py`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from gristmill.engine import kin
from gristmill.engine.child_limits import Limits
from gristmill.engine.child_process import Child, Order, no_process
from gristmill.engine.child_stories import ChildStory, OutOfMemory, OutOfTime, TookTooLongToStart
from gristmill.engine.performer import ChildCrashed

__all__ = ["ChildCrashed", "ChildStory", "Children", "Limits", "OutOfMemory", "OutOfTime", "TookTooLongToStart"]

TASKS_PER_CHILD = 1000  # then a fresh one: leaks of native parsers stay bounded
GROWTH = 1.5  # times the memory after the first task: then a fresh one
GROWTH_LEAST = 32 * 2**20  # bytes; less growth than this is no leak, whatever it is compared with
THREADS_MORE = 32  # threads, or open files, that tasks have left behind: then a fresh one
BOOT_LIMIT = 30.0  # seconds until a child must be ready, and until it must have imported the function
GRACE = 5.0  # seconds between SIGTERM and SIGKILL
Answer = Callable[[str], Awaitable[str]]


class Children:
    """Keeps idle children for the next task; starts one when none is idle. The worker's slots bound their number."""

    def __init__(self, *, boot_limit: float = BOOT_LIMIT, grace: float = GRACE) -> None:
        self.boot_limit = boot_limit
        self.grace = grace
        self.mark = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._idle: dict[tuple[int | None, int], list[Child]] = {}
        self._all: set[Child] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._guard: subprocess.Popen[bytes] | None = None
        self._closed = False

    async def call(
        self, target: str, payload: str, *, limits: Limits = Limits(), fresh: bool = False,  # noqa: B008 - frozen
        path: Sequence[str] = (), answer: Answer | None = None,
    ) -> str:  # fmt: skip
        """Calls `target` ("module:qualname" or "/path/script.py:qualname", see `target_of`) with a payload of JSON and
        returns its result as JSON.

        `fresh` asks for a process that no other task has touched or will touch. `path` holds folders that the child
        puts in front of its `sys.path`. `answer` is called with each question (JSON) that the function sends by
        `gristmill.engine.child.ask`, and returns the answer (JSON).

        Raises what the function raises: errors of `gristmill.errors` as themselves, others as a `TransientError` that
        names the type; `InputError` T601, T603 or T605 for a result over `limits.result`, one that JSON cannot say, or
        a payload that cannot be read; `ChildCrashed` T500 when the process dies in whatever way, `OutOfMemory` T501,
        `OutOfTime` T502 (of CPU), `TookTooLongToStart` T503; `Busy` T420 when the machine starts no process.
        Cancelled, it sends SIGTERM, and SIGKILL 5 s later.
        """
        child = self._take(limits, fresh)
        try:
            await child.start()
            return await child.run(Order(target, payload, tuple(path)), limits, answer)
        finally:
            if child.fit and not fresh and not _worn(child) and not self._closed:
                self._idle.setdefault((limits.memory, limits.files), []).append(child)
            else:  # also when we were cancelled: a child that is still at work must not live on
                await asyncio.shield(self._end(child))

    async def warm(self, target: str, limits: Limits = Limits()) -> None:  # noqa: B008
        """Starts one child and calls `target` in it with null, before a task needs it; what that raises is lost."""
        child = self._take(limits, fresh=True)
        try:
            await child.start()
            await child.run(Order(target, "null", ()), limits, None)
        except Exception:  # noqa: S110 - the first task will meet it, and tell
            pass
        finally:
            if child.fit and not self._closed:
                self._idle.setdefault((limits.memory, limits.files), []).append(child)
            else:
                await asyncio.shield(self._end(child))

    async def close(self) -> None:
        """Kills all children, busy ones too, and what they have started; the guard ends by itself."""
        self._closed = True
        await asyncio.gather(*(child.kill() for child in list(self._all)))
        self._all.clear()
        self._idle.clear()
        if self._guard is not None:
            assert self._guard.stdin is not None  # noqa: S101
            self._guard.stdin.close()
            await asyncio.to_thread(self._guard.wait)
            self._guard = None

    def _take(self, limits: Limits, fresh: bool) -> Child:
        idle = self._idle.get((limits.memory, limits.files), [])
        while idle and not fresh:
            child = idle.pop()
            if child.fit:
                return child
            self._all.discard(child)  # it was killed while it waited
        self._watch()
        child = Child(limits, f"{self.mark}/{len(self._all)}-{secrets.token_hex(4)}", self.boot_limit, self.grace)
        self._all.add(child)
        return child

    def _end(self, child: Child) -> asyncio.Task[None]:
        """Ends a child in a task that goes on when its caller is cancelled once more."""

        async def end() -> None:
            await child.stop()
            self._all.discard(child)

        ending = asyncio.create_task(end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        return ending

    def _watch(self) -> None:
        """Starts the guard, which outlives this process by a moment and ends what children have left behind."""
        if self._guard is not None and self._guard.poll() is None:
            return
        file = str(Path(kin.__file__))
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", file, self.mark], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True, env={},
            )  # fmt: skip
        except OSError as error:
            raise no_process(error) from None


def _worn(child: Child) -> bool:
    """Whether a child has done its service, or has grown, or has left something running."""
    now, first = child.vitals, child.first_vitals
    return (
        child.tasks >= TASKS_PER_CHILD
        or now["left"] > 0
        or now["rss"] > max(GROWTH * first["rss"], first["rss"] + GROWTH_LEAST)
        or now["threads"] > first["threads"] + THREADS_MORE
        or now["files"] > first["files"] + THREADS_MORE
    )
