"""Child processes for operators that block, crash or eat memory: one task at a time each, so blame is exact."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from gristmill.engine.worker import ChildCrashed
from gristmill.llm.model import Answer, Request
from gristmill.operators import protocol

ERRORS_KEPT = 64 * 1024  # bytes of standard error that a crash story may hold
BOOT_LIMIT = 30.0  # seconds until a child must say that it is ready
TASKS_PER_CHILD = 500  # then a fresh one: leaks of native parsers stay bounded
Ask = Callable[[Request], Awaitable[Answer]]


class Child:
    """One process. `run` may be called again after it has returned; after `ChildCrashed` the child is gone."""

    def __init__(self) -> None:
        self.tasks = 0
        self.started = False
        self._tail: deque[bytes] = deque()
        self._kept = 0  # bytes in the tail
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        # Started by exec in a group of its own: it inherits no database socket, and its own children die with it.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gristmill.operators.child", str(os.getpid()),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            start_new_session=True, limit=protocol.LINE_LIMIT, env=_environment(),
        )  # fmt: skip
        self._errors = asyncio.create_task(self._keep_errors())
        try:
            async with asyncio.timeout(BOOT_LIMIT):
                await self._receive()
        except TimeoutError:
            await self.kill()
            raise ChildCrashed(f"a child process was not ready after {BOOT_LIMIT:.0f} s") from None
        self.started = True

    async def run(self, message: dict[str, Any], ask: Ask) -> dict[str, Any]:
        """One task. Raises `ChildCrashed` when the process dies on the way."""
        self.tasks += 1
        self._tail.clear()
        self._kept = 0
        await self._send(message)
        while True:
            reply = await self._receive()
            if "call" not in reply:
                return reply
            try:
                answer = {"answer": protocol.answer_to_json(await ask(protocol.request_from_json(reply["call"])))}
            except Exception as error:
                answer = {"error": protocol.error_to_json(error)}
            await self._send(answer)

    async def kill(self) -> None:
        """Ends the process and everything it started."""
        if self._process is None:
            return
        self._kill_group()
        await self._process.wait()
        self._errors.cancel()

    def _kill_group(self) -> None:
        assert self._process is not None  # noqa: S101
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(protocol.encode(message))
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise ChildCrashed(await self._story()) from None

    async def _receive(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None  # noqa: S101
        try:
            line = await self._process.stdout.readline()
        except ValueError:
            await self.kill()
            raise ChildCrashed(f"its result is over {protocol.LINE_LIMIT // 2**20} MiB") from None
        if not line:
            raise ChildCrashed(await self._story())
        reply: dict[str, Any] = json.loads(line)
        return reply

    async def _story(self) -> str:
        assert self._process is not None  # noqa: S101
        self._kill_group()  # it has ended; what it started may still hold its pipes, and `wait` waits for those too
        code = await self._process.wait()
        await asyncio.wait([self._errors], timeout=1)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        said = b"".join(self._tail).decode("utf-8", "replace").strip()
        return f"its process died ({how})" + (f"; it last said: {said[-2000:]}" if said else "")

    async def _keep_errors(self) -> None:
        assert self._process is not None and self._process.stderr is not None  # noqa: S101
        while piece := await self._process.stderr.read(8192):
            self._tail.append(piece)
            self._kept += len(piece)
            while self._kept > ERRORS_KEPT:
                self._kept -= len(self._tail.popleft())


class Children:
    """Keeps idle children for the next task; starts one when none is idle. The worker's slots bound their number."""

    def __init__(self) -> None:
        self._idle: list[Child] = []
        self._all: set[Child] = set()

    async def run(self, message: dict[str, Any], ask: Ask, *, fresh: bool = False) -> dict[str, Any]:
        """Runs one task in a child; `fresh` asks for a process that no other task has touched or will touch."""
        child = self._idle.pop() if self._idle and not fresh else None
        if child is None:
            child = Child()
            self._all.add(child)
        keep = False
        try:
            if not child.started:
                await child.start()
            reply = await child.run(message, ask)
            keep = not fresh and child.tasks < TASKS_PER_CHILD
            return reply
        finally:
            if keep:
                self._idle.append(child)
            else:  # also when we were cancelled: a child that is still at work must not live on
                self._all.discard(child)
                await asyncio.shield(child.kill())

    async def warm(self) -> None:
        """Starts one child before the first task needs it; what it imports takes most of a second."""
        child = Child()
        self._all.add(child)
        try:
            await child.start()
        except (ChildCrashed, asyncio.CancelledError):
            self._all.discard(child)
            await asyncio.shield(child.kill())
        else:
            self._idle.append(child)

    async def close(self) -> None:
        """Ends all children, busy ones too."""
        for child in list(self._all):
            await child.kill()
        self._all.clear()
        self._idle.clear()


def _environment() -> dict[str, str]:
    """Without the database's address and without keys: a child has no business there."""
    hidden = ("PGPASSWORD", "PGPASSFILE", "GRISTMILL_HANDED_ON")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in hidden and not name.endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "DATABASE_URL"))
    }
