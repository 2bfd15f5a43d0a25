"""A process of a crew: started behind a gate, watched through a pidfd: no end is missed, and no reused pid is believed.

The gate: a process that was started waits, as a bare interpreter, until its pid has been recorded. Whoever started it
may die at any moment: then the gate closes and the process ends without having begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gristmill.engine import processes

GATE = "import os, sys\nif os.read(0, 1) != b'g': os._exit(0)\nos.execv(sys.argv[1], sys.argv[1:])"
LOOK = 0.2  # seconds between two looks where there are no pidfds


class CrewProcess:
    """A process and the end of it. `code`: exit code, negative for a signal, None for a process of somebody else's.

    Adopt one with `adopt`, start one with `spawn`; `on_end` is called once, in the event loop.
    """

    def __init__(self, pid: int, since: int, child: subprocess.Popen[bytes] | None, on_end: Callable[[], None]) -> None:
        self.pid = pid
        self.since = since
        self.ended = False
        self.code: int | None = None
        self._child = child
        self._on_end = on_end
        self._pidfd: int | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def age(self) -> float:
        """Seconds since it began, by a clock that nobody sets."""
        ticks = os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.since / ticks if self.since else 0.0

    def watch(self) -> bool:
        """Begins to watch; False when the process is not there, or is another one with the same pid."""
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        except (OSError, AttributeError):  # an old kernel, or one that forbids it
            self._watching = asyncio.create_task(self._look())
        if self._child is None and processes.started(self.pid) != self.since:
            self.forget()
            return False
        if self._pidfd is not None:
            asyncio.get_running_loop().add_reader(self._pidfd, self._end)
        return True

    def open_gate(self) -> None:
        """Lets a process that was started begin its work."""
        assert self._child is not None and self._child.stdin is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(b"g")
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()

    def shut_gate(self) -> None:
        """Ends a process that has not begun."""
        assert self._child is not None and self._child.stdin is not None  # noqa: S101
        self._child.stdin.close()
        self._child.wait()
        self.forget()

    def terminate(self) -> None:
        """SIGTERM to the process alone: its children are its own business."""
        self._send(signal.SIGTERM)

    def drain(self) -> None:
        """SIGUSR1: a worker finishes all that it has begun, however long it takes."""
        self._send(signal.SIGUSR1)

    def kill(self) -> None:
        """SIGKILL to its whole process group."""
        if not self.ended and processes.started(self.pid) == self.since:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self._send(signal.SIGKILL)

    def forget(self) -> None:
        """Watches no more; the process goes on."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _send(self, number: signal.Signals) -> None:
        if self.ended:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif processes.started(self.pid) == self.since:
                os.kill(self.pid, number)

    async def _look(self) -> None:
        while True:
            if processes.started(self.pid) != self.since or (
                self._child is not None and self._child.poll() is not None
            ):
                break
            await asyncio.sleep(LOOK)
        self._watching = None
        self._end()

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        if self._child is not None:
            self.code = self._child.wait()
        self.forget()
        self._on_end()


def spawn(
    command: Sequence[str], log: Path, environment: Mapping[str, str], on_end: Callable[[], None]
) -> CrewProcess:  # fmt: skip
    """Starts a program (by its path) behind its gate, in a session of its own. Raises `OSError`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", GATE, *command], stdin=subprocess.PIPE, stdout=output, stderr=output,
            start_new_session=True, env=dict(environment),
        )  # fmt: skip
    process = CrewProcess(child.pid, processes.started(child.pid), child, on_end)
    process.watch()
    return process


def adopt(pid: int, since: int, on_end: Callable[[], None]) -> CrewProcess | None:
    """A process that somebody else has started; None when it has ended, even if its pid is in use again."""
    process = CrewProcess(pid, since, None, on_end)
    return process if process.watch() else None
