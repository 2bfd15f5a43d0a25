"""Which process a worker is, beyond its pid: pids and boots come again, and containers have pids of their own."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


@cache
def machine() -> str:
    """The boot and the space of pids that this process lives in; two processes with the same one may judge each other
    by /proc. "" where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def ended(pid: int, since: int) -> bool:
    """Whether the process that had this pid and start has surely ended. Where /proc hides it, it counts as alive."""
    if not since or started(pid) == since:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # somebody else's process: it is there, and we may not look at it
    return started(pid) != since


def started(pid: int) -> int:
    """When a process began, in clock ticks since boot; 0 when it has ended or the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in ("Z", "X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0
