"""The worker's end of one child process: starts it, gives it tasks, and knows when and how it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gristmill.engine.carried import error_from_json, error_to_json
from gristmill.engine.child_limits import Limits
from gristmill.engine.child_output import PIECE, Output
from gristmill.engine.child_stories import ChildStory, TookTooLongToStart, crash_of, told
from gristmill.engine.kin import VARIABLE, end_family
from gristmill.engine.performer import ChildCrashed
from gristmill.errors import Busy

HEADER_LIMIT = 2**20  # bytes of a line of JSON; what users make travels as payload
SLACK = 2**16  # bytes by which a child may pass its result limit before it is not believed
PROGRAM = "from gristmill.engine.child import main; main()"
_HIDDEN = re.compile(r"PG[A-Z]+|GRISTMILL_HANDED_ON|GRISTMILL_DATABASE.*|.*(_KEY|_TOKEN|_SECRET|PASSWORD|_CREDENTIALS"
                     r"|_DSN|DATABASE_UR[IL])")  # fmt: skip
_ADDRESS = re.compile(r"\s*postgres(ql)?(\+\w+)?://", re.I)


@dataclass(frozen=True, slots=True)
class Order:
    """One call: which function, its argument as JSON, folders for `sys.path`."""

    target: str
    payload: str
    path: tuple[str, ...]


class Child:
    """One process. `run` may be called again while `fit`; after `ChildCrashed` the child is gone."""

    def __init__(self, limits: Limits, mark: str, boot_limit: float, grace: float) -> None:
        self.limits = limits
        self.mark = mark
        self.boot_limit = boot_limit
        self.grace = grace
        self.tasks = 0
        self.vitals: dict[str, int] = {}
        self.first_vitals: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._idle = False
        self._reaping = threading.Lock()
        self._over_memory = False
        self._kernel_kills = 0
        self._collecting: asyncio.Task[None] | None = None
        self._pipe: asyncio.ReadTransport | None = None
        self._output: Output
        self._reader: asyncio.StreamReader
        self._sending = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None

    @property
    def fit(self) -> bool:
        """Whether it waits for its next task."""
        return self._idle and not self._ended.done()

    @property
    def pid(self) -> int:
        assert self._process is not None  # noqa: S101
        return self._process.pid

    async def start(self) -> None:
        """Does nothing when it runs already. Raises `ChildCrashed`, or `Busy` when the machine starts no process."""
        if self._process is not None:
            return
        try:
            ours = self._spawn()
        except OSError as error:
            raise no_process(error) from None
        assert self._process is not None and self._process.stdout is not None  # noqa: S101
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[tuple[int, int]] = loop.create_future()
        threading.Thread(target=self._wait, args=(loop,), name=f"child {self.pid}", daemon=True).start()
        self._output = Output(self.pid)
        pipe = asyncio.StreamReader(limit=PIECE)
        self._pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(pipe), self._process.stdout)
        self._collecting = asyncio.create_task(self._output.collect(pipe))
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=HEADER_LIMIT)
        abort = self._writer.transport.abort
        self._ended.add_done_callback(lambda _: loop.call_later(1.0, abort))  # somebody may hold a copy of the socket
        ready = (await self._in_time("was not ready"))[0]["ready"]
        if ready["memory"] != (self.limits.memory or 0) or ready["core"]:
            await self.kill()
            raise ChildCrashed(f"its limits could not be set: asked for {self.limits.memory}, the kernel has {ready}")
        self._idle = True

    async def run(self, order: Order, limits: Limits, answer: Callable[[str], Awaitable[str]] | None) -> str:
        """One task. Raises what the function raised, and `ChildCrashed` when the process dies on the way."""
        self.tasks += 1
        self.limits = limits  # memory and files are as they were; the others belong to the task
        self._idle = False
        self._kernel_kills = _kernel_kills()
        self._output.begin_task()
        about = {"run": order.target, "path": order.path, "cpu": limits.cpu, "result": limits.result}
        await self._send(about, order.payload.encode("utf-8", "surrogatepass"))
        answering: set[asyncio.Task[None]] = set()
        try:
            header, payload = await self._in_time(f"had not imported {order.target}")
            while "done" not in header:
                if "ask" in header:
                    task = asyncio.create_task(self._answer(header["ask"], payload, answer))
                    answering.add(task)
                    task.add_done_callback(answering.discard)
                header, payload = await self._receive()
        finally:
            for task in list(answering):
                task.cancel()
        self.vitals = header["done"]
        self.first_vitals = self.first_vitals or self.vitals
        self._idle = True
        if "error" in header:
            raise error_from_json(header["error"])
        return payload.decode("utf-8", "surrogatepass")

    async def stop(self) -> None:
        """SIGTERM if it is at work, and SIGKILL `grace` seconds later; with it ends everything that it has started."""
        if self._process is None:
            return
        if not self._idle and not self._ended.done():
            self._signal(signal.SIGTERM)
            await asyncio.wait([self._ended], timeout=self.grace)
        await self.kill()

    async def kill(self) -> None:
        """Ends the process and everything it started, now."""
        if self._process is None:
            return
        self._idle = False
        self._signal(signal.SIGKILL)
        await asyncio.shield(self._ended)
        if self._collecting is not None:
            await asyncio.wait([self._collecting], timeout=1)  # its last words are in the pipe
            self._collecting.cancel()
        for part in (self._writer, self._pipe):
            if part is not None:
                part.close()

    def _spawn(self) -> socket.socket:
        # By exec and in a group of its own: it inherits no database socket. `pass_fds` closes everything else.
        ours, theirs = socket.socketpair()
        try:
            self._floor = _high_water()
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs.fileno()), str(os.getpid()),
                 str(self.limits.memory or 0), str(self.limits.files)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                pass_fds=(theirs.fileno(),), env=environment() | {VARIABLE: self.mark},
            )  # fmt: skip
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: waits for the end, ends the family while the pid is still ours, and only then reaps."""
        assert self._process is not None  # noqa: S101
        pid = self._process.pid
        code, peak = 255, 0
        with contextlib.suppress(ChildProcessError):  # somebody else reaps all children of this process
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            end_family(self.mark, pid)
            with self._reaping:
                _, status, usage = os.wait4(pid, 0)
                self._process.returncode = code = os.waitstatus_to_exitcode(status)
            peak = usage.ru_maxrss * 1024
        self._process.returncode = code
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(self._ended.set_result, (code, peak))

    def _signal(self, number: signal.Signals) -> None:
        """SIGKILL goes to its whole group. Never to a pid that was reaped and may be another's."""
        assert self._process is not None  # noqa: S101
        with self._reaping, contextlib.suppress(ProcessLookupError, PermissionError):
            if self._process.returncode is None:
                (os.killpg if number == signal.SIGKILL else os.kill)(self._process.pid, number)

    async def _answer(self, number: int, question: bytes, answer: Callable[[str], Awaitable[str]] | None) -> None:
        header: dict[str, Any] = {"answer": number}
        payload = b""
        try:
            if answer is None:
                raise ValueError("nobody answers questions here")
            payload = (await answer(question.decode("utf-8", "surrogatepass"))).encode("utf-8", "surrogatepass")
        except Exception as error:
            header["error"] = error_to_json(error)
        with contextlib.suppress(ChildCrashed):  # whoever waits for its result hears of it
            await self._send(header, payload)

    async def _send(self, header: dict[str, Any], payload: bytes) -> None:
        line = json.dumps(header | ({"size": len(payload)} if payload else {})).encode()
        assert self._writer is not None  # noqa: S101
        async with self._sending:
            try:
                self._writer.write(line + b"\n" + payload)
                await self._writer.drain()
            except (ConnectionError, OSError):
                raise await self._crash() from None

    async def _in_time(self, what: str) -> tuple[dict[str, Any], bytes]:
        try:
            async with asyncio.timeout(self.boot_limit) as clock:
                return await self._receive()
        except TimeoutError:
            if not clock.expired():
                raise
            await self.kill()
            why = f"a child process {what} after {self.boot_limit:g} s"
            story = await self._story()
            raise told(TookTooLongToStart(story.text(why)), story) from None

    async def _receive(self) -> tuple[dict[str, Any], bytes]:
        try:
            header = json.loads(await self._reader.readuntil(b"\n"))
            size = header.get("size", 0)
            if not 0 <= size <= max(self.limits.result, HEADER_LIMIT * 64) + SLACK:
                raise ValueError(size)
            payload = await self._reader.readexactly(size) if size else b""
        except (asyncio.IncompleteReadError, ConnectionError):
            raise await self._crash() from None
        except (ValueError, AttributeError, TypeError, asyncio.LimitOverrunError):
            await self.kill()
            story = await self._story()
            raise told(ChildCrashed(story.text("it sent what is no message")), story) from None
        if "over" in header:
            self._over_memory = True
            raise await self._crash()
        return header, payload

    async def _crash(self) -> ChildCrashed:
        """The error for a child that has ended, or that has closed its socket and is ended now."""
        await asyncio.wait([self._ended], timeout=1)
        closed = not self._ended.done()
        await self.kill()
        story = await self._story()
        if closed:
            return told(ChildCrashed(story.text("it closed its connection to the worker")), story)
        killer = _kernel_kills() > self._kernel_kills
        return crash_of(
            story, memory=self.limits.memory, cpu=self.limits.cpu, over_memory=self._over_memory, killer=killer
        )

    async def _story(self) -> ChildStory:
        code, peak = await asyncio.shield(self._ended)
        return ChildStory.of(code, peak, self._floor, self._output.text())


def no_process(error: OSError) -> Busy:
    """The machine has no memory, process or file descriptor left: no fault of the task, which waits."""
    reason = "the machine starts no child process"
    return Busy(f"{reason}: {error.strerror}", delay=2.0, reason=reason, code="T420")


def environment() -> dict[str, str]:
    """The worker's environment without the database's address and without keys: a child has no business there."""
    kept = {
        name: value for name, value in os.environ.items() if not _HIDDEN.fullmatch(name) and not _ADDRESS.match(value)
    }
    kept.setdefault("MALLOC_ARENA_MAX", "2")  # each arena takes 64 MiB of address space, which the limit counts
    return kept


def _high_water() -> int:
    """The most memory that this process had, in bytes; a process that it starts is charged for it by the kernel."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return 0


def _kernel_kills() -> int:
    """How many processes the kernel has killed for want of memory since the machine started."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/vmstat").read_text().split("oom_kill ")[1].split()[0])
    return 0
