"""Runs one program: bounded, in a session of its own, and gone with everything it has started when this returns."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gristmill.engine.kin import VARIABLE
from gristmill.errors import Busy, TransientError
from gristmill.packs import launch
from gristmill.packs.capture import Capture
from gristmill.packs.pack import MIB, Bounds
from gristmill.packs.relatives import Process, Relatives, children, memory_of

LINGER = 0.5  # seconds for which output is still read when the program has ended and something else holds its pipe
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
LOOK = 0.1  # seconds between two looks at what it uses
PIECE = 2**16
Why = Literal["", "timeout", "processes", "memory"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: exit code, or the name of a signal. `why`: what it was ended for, "" when it ended by itself."""

    exit_code: int | None
    signal: str
    stdout: Capture
    stderr: Capture
    seconds: float
    why: Why = ""


async def run_program(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path, given: bytes, bounds: Bounds,
    timeout: float, edge: int = 0,
) -> Ended:  # fmt: skip
    """Runs a command (an absolute path and its arguments) to its end, with `given` on its standard input.

    Its environment is `environment` and the mark by which its family is found, nothing else; its working folder is
    `folder`. After `timeout` seconds it gets SIGTERM, 2 s later SIGKILL; so it does when this is cancelled. Raises
    `TransientError` K212 when it cannot be started, `Busy` T420 when the machine starts no process.
    """
    running = _Running(bounds, edge)
    try:
        await running.start(command, environment, folder, given)
        why = await running.wait(timeout)
    finally:
        await running.end()
    return running.ended(why)


class _Running:
    def __init__(self, bounds: Bounds, edge: int) -> None:
        self.bounds = bounds
        self.stdout = Capture(bounds.output * MIB, edge)
        self.stderr = Capture(bounds.output * MIB, edge)
        self._process: subprocess.Popen[bytes] | None = None
        self._family: Relatives
        self._gone: asyncio.Future[None]
        self._reading: list[asyncio.Task[None]] = []
        self._pipes: list[asyncio.ReadTransport] = []
        self._handle = -1
        self._began = self._took = 0.0
        self._caught = False  # it is stopped already

    async def start(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, given: bytes
    ) -> None:  # fmt: skip
        mark = f"{os.environ.get(VARIABLE, os.getpid())}/{secrets.token_hex(8)}"
        before = children()
        told, telling = os.pipe()
        content = os.memfd_create("input")
        try:
            _write(content, given)
            self._began = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(launch.__file__), self._limits(telling), *command], stdin=content,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env={**environment, VARIABLE: mark},
                start_new_session=True, pass_fds=(telling,),
            )  # fmt: skip
        except OSError as error:
            os.close(told)
            raise _no_process(error) from None
        finally:
            os.close(telling)
            os.close(content)
        loop = asyncio.get_running_loop()
        self._family = Relatives(self._process.pid, mark, before)
        self._gone = loop.create_future()
        self._handle = os.pidfd_open(self._process.pid)
        loop.add_reader(self._handle, self._on_exit)
        await self._connect(loop)
        reader, pipe = await _reader(loop, os.fdopen(told, "rb", 0))
        try:
            problem = await reader.read()
        finally:
            pipe.close()
        if problem:
            name = Path(command[0]).name
            raise TransientError(f"{name} cannot be started: {problem.decode('utf-8', 'replace')}", code="K212")

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._process is not None  # noqa: S101
        for pipe, capture in ((self._process.stdout, self.stdout), (self._process.stderr, self.stderr)):
            reader, transport = await _reader(loop, pipe)
            self._pipes.append(transport)
            self._reading.append(asyncio.create_task(_read(reader, capture)))

    async def wait(self, timeout: float) -> Why:
        """Until it has ended, or has to be ended."""
        watching = asyncio.create_task(self._watch())
        try:
            both: set[asyncio.Future[Any]] = {self._gone, watching}
            await asyncio.wait(both, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if self._gone.done():
                await asyncio.wait(self._reading, timeout=LINGER)
                return ""
            if not watching.done():
                return "timeout"
            self._caught = True
            return watching.result()
        finally:
            watching.cancel()

    async def _watch(self) -> Why:
        pause = LOOK
        while True:
            await asyncio.sleep(pause)
            began = time.monotonic()
            family = self._family.living()
            if len(family) > self.bounds.processes:
                self._family.halt()  # before anything else: it may double while we think
                return "processes"
            # Twice: while we count, some may end, and what they shared is then counted for those that are left.
            if self._uses_too_much(family) and self._uses_too_much(self._family.living()):
                self._family.halt()
                return "memory"
            many = len(family) > self.bounds.processes // 4
            # A machine with many processes has a long table; a family that grows is looked at more often.
            pause = max(LOOK / 5 if many else LOOK, 5 * (time.monotonic() - began))

    def _uses_too_much(self, family: list[Process]) -> bool:
        most = self.bounds.memory * MIB
        return memory_of(family, most) > most

    async def end(self) -> None:
        """Ends the program, if it runs still, and everything it has started. Its last words are read."""
        if self._process is None:
            return
        if not self._gone.done() and not self._caught:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            await asyncio.wait([self._gone], timeout=GRACE)
        await self._family.end()
        await asyncio.wait([self._gone], timeout=GRACE)  # it was killed
        self._took = time.monotonic() - self._began
        if self._reading:
            await asyncio.wait(self._reading, timeout=LINGER)
        for task in self._reading:
            task.cancel()
        for pipe in self._pipes:
            pipe.close()
        self._process.poll()
        if self._handle >= 0:
            asyncio.get_running_loop().remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1

    def ended(self, why: Why) -> Ended:
        assert self._process is not None  # noqa: S101
        code = self._process.poll()
        name = signal.Signals(-code).name if code is not None and code < 0 else ""
        number = code if code is not None and code >= 0 else None
        return Ended(number, name, self.stdout, self.stderr, self._took, why)

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._handle)
        if not self._gone.done():
            self._gone.set_result(None)

    def _limits(self, status: int) -> str:
        limits = {
            "status": status, "core": 0, "as": self.bounds.memory * MIB, "fsize": self.bounds.file_size * MIB,
        }  # fmt: skip
        if self.bounds.cpu is not None:
            limits["cpu"] = self.bounds.cpu
        return json.dumps(limits)


async def _reader(loop: asyncio.AbstractEventLoop, pipe: Any) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader(limit=PIECE)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader, transport


async def _read(reader: asyncio.StreamReader, capture: Capture) -> None:
    while piece := await reader.read(PIECE):
        capture.feed(piece)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)


def _no_process(error: OSError) -> Busy:
    reason = "the machine starts no process"
    return Busy(f"{reason}: {error.strerror}", delay=2.0, reason=reason, code="T420")
