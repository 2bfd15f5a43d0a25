"""Everything that a program has started, found in the table of processes and ended to the last one."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

from gristmill.engine import kin

PATIENCE = 5.0  # seconds until what cannot be ended is left to the guard of the worker
_PAGE = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the table: ids as the kernel has them, resident memory in bytes."""

    pid: int
    parent: int
    session: int
    zombie: bool
    memory: int


def table() -> dict[int, Process]:
    """All processes of this machine by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
            pid = int(name)
            found[pid] = Process(pid, int(words[1]), int(words[3]), words[0] in (b"Z", b"X"), int(words[21]) * _PAGE)
    return found


class Relatives:
    """The family of one program: its session, what descends from it, what bears its mark, and what was left to us.

    A process that leaves the session, loses its parent and hides its environment is still given to the nearest
    subreaper, which a worker's child process is; `adopts` says whether we are one.
    """

    def __init__(self, root: int, mark: str, before: frozenset[int]) -> None:
        self.root = root
        self.mark = mark
        self._before = before  # our children that have nothing to do with it
        self._adopts = is_subreaper()

    def living(self) -> list[Process]:
        """Those of the family that run, the program itself included."""
        processes = table()
        me = os.getpid()
        born: dict[int, list[int]] = {}
        waiting = [self.root]
        for process in processes.values():
            born.setdefault(process.parent, []).append(process.pid)
            adopted = self._adopts and process.parent == me and process.pid not in self._before
            if process.session == self.root or adopted:
                waiting.append(process.pid)
        family: set[int] = set()
        while waiting:
            pid = waiting.pop()
            if pid not in family:
                family.add(pid)
                waiting += born.get(pid, ())
        return [processes[pid] for pid in family if pid in processes and not processes[pid].zombie]

    def halt(self) -> set[int]:
        """Stops all of them, at once and without a pause, so that none starts another; returns their pids.

        A family that doubles faster than we can look is caught all the same, while most of it waits for the processor.
        """
        halted: set[int] = set()
        until = time.monotonic() + PATIENCE
        while (new := {one.pid for one in self.living()} - halted) and time.monotonic() < until:
            for pid in new:
                _send(pid, signal.SIGSTOP)
            halted |= new
        return halted

    async def end(self) -> bool:
        """Stops all of them, and then kills them, until none is left. False: some could not be ended."""
        until = time.monotonic() + PATIENCE
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.root, signal.SIGKILL)
        while left := (self.halt() or set(kin.family(self.mark))):
            for pid in left:
                _send(pid, signal.SIGKILL)
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.005)
        self._reap()
        return True

    def _reap(self) -> None:
        """Takes the dead ones that were left to us off the table of processes."""
        if not self._adopts or not _has_children():
            return
        me = os.getpid()
        for process in table().values():
            if process.zombie and process.parent == me and process.pid not in (self.root, *self._before):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)


def memory_of(family: Iterable[Process], limit: int) -> int:
    """Bytes that they use together. Resident memory counts pages that several share in each of them; only where that
    sum is over the limit each page is counted once, which takes the kernel milliseconds a process."""
    known = list(family)
    total = sum(one.memory for one in known)
    if total <= limit:
        return total
    return sum(map(_proportional, known))


def _proportional(process: Process) -> int:
    try:
        with open(f"/proc/{process.pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except ProcessLookupError:
        return 0  # it is ending: its memory is given back before its line leaves the table
    except (OSError, StopIteration, ValueError):
        return process.memory if os.path.exists(f"/proc/{process.pid}") else 0


def children() -> frozenset[int]:
    """Pids of the processes that this one has started and that are on the table."""
    if not _has_children():
        return frozenset()
    me = os.getpid()
    return frozenset(one.pid for one in table().values() if one.parent == me)


def _has_children() -> bool:
    """In one system call, where the table takes milliseconds."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def is_subreaper() -> bool:
    """Whether orphans among the descendants of this process become its children."""
    answer = ctypes.c_int(0)
    ctypes.CDLL(None, use_errno=True).prctl(37, ctypes.byref(answer), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
    return bool(answer.value)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
