"""What a child process may use, set by the kernel's resource limits and read back before any work starts."""

from __future__ import annotations

import math
import os
import resource
from dataclasses import dataclass, replace

from gristmill.errors import UsageError

MIB = 2**20
LEAST_MEMORY = 128 * MIB  # an empty child with pydantic needs 70 MiB of address space


@dataclass(frozen=True, slots=True)
class Limits:
    """What one task in a child may use. None: no limit of ours.

    `memory` is in bytes of address space (RLIMIT_AS, at least 128 MiB), for the process and for each program that it
    starts; `cpu` is in seconds of CPU time a task; `files` is how many files may be open; `result` is in bytes of JSON.
    Raises `UsageError` U210 for a limit that makes no sense.
    """

    memory: int | None = None
    cpu: float | None = None
    files: int = 1024
    result: int = MIB

    def __post_init__(self) -> None:
        for name, value, least in (
            ("memory", self.memory, LEAST_MEMORY), ("cpu", self.cpu, 1), ("files", self.files, 16),
            ("result", self.result, 1),
        ):  # fmt: skip
            if value is not None and not (isinstance(value, int | float) and least <= value < 2**62):
                units = {"memory": "bytes (128 MiB)", "cpu": "seconds", "result": "bytes"}.get(name, "")
                raise UsageError(
                    f"the limit {name}={value!r} is out of range", code="U210", hint=f"at least {least} {units}".strip()
                )

    def doubled(self) -> Limits:
        """Twice the memory: what a task gets once, when it runs alone after a crash."""
        return self if self.memory is None else replace(self, memory=2 * self.memory)


def bound_process(memory: int, files: int) -> dict[str, int]:
    """Sets the limits of this process for good and returns what the kernel says they are. `memory` 0: none."""
    if memory:
        _set(resource.RLIMIT_AS, memory, memory)
    _set(resource.RLIMIT_CORE, 0, 0)
    _set(resource.RLIMIT_NOFILE, files, files)
    held = resource.getrlimit(resource.RLIMIT_AS)[0] if memory else 0
    return {"memory": held, "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "core": resource.getrlimit(resource.RLIMIT_CORE)[0]}  # fmt: skip


def bound_task(cpu: float | None) -> int:
    """Lets this process use `cpu` more seconds from here on; returns the limit as the kernel has it, 0 without one.

    Only the soft limit moves, for the next task has to raise it again; reaching it ends the process by SIGXCPU.
    """
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = hard if cpu is None else math.ceil(usage.ru_utime + usage.ru_stime + cpu)
    _set(resource.RLIMIT_CPU, soft, hard)
    return resource.getrlimit(resource.RLIMIT_CPU)[0] if cpu is not None else 0


def vitals() -> dict[str, int]:
    """What tells a leak: resident memory in bytes, threads, open files of this process."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {
        "rss": pages * resource.getpagesize(), "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
    }  # fmt: skip


def _set(which: int, soft: int, hard: int) -> None:
    most = resource.getrlimit(which)[1]
    if most != resource.RLIM_INFINITY:  # never above what we were given ourselves
        hard = most if hard == resource.RLIM_INFINITY else min(hard, most)
        soft = hard if soft == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(which, (soft, hard))
