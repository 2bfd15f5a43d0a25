"""The family of a child process: what it has started is found by a mark in its environment, and ends with it.

A process group is not enough, for a program may leave it; the mark is inherited whatever it does. Run as a program
(`python -I -S kin.py MARK`) this file is the guard of a worker: it waits until its standard input ends, which happens
when the worker dies in whatever way, and then ends everything that bears the worker's mark. It imports nothing of ours,
so that it starts in 20 ms and needs little memory.
"""

import contextlib
import os
import signal
import sys
import time

VARIABLE = "GRISTMILL_KIN"


def end_family(mark: str, group: int = 0) -> None:
    """Kills the process group and every process of this machine that bears the mark, until none is left (5 s)."""
    if group:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    until = time.monotonic() + 5
    while found := family(mark):
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > until:
            return
        time.sleep(0.02)


def family(mark: str) -> list[int]:
    """Pids of the living processes whose environment holds the mark, or one that begins with it and a slash."""
    entry = f"{VARIABLE}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:
            continue  # it has ended, or belongs to somebody else
        if any(one == entry or one.startswith(entry + b"/") for one in variables):  # a zombie has none
            found.append(int(name))
    return found


def living_children() -> int:
    """How many processes this one has started, directly or through others that ended, and that still run."""
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return 1  # there are some, and none of them has ended
    except ChildProcessError:
        return 0  # the common case, in one system call
    me = str(os.getpid())
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
                count += parent == me and state not in ("Z", "X")
    return count


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it ends when its worker does, and not before
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 1024):
        pass
    end_family(sys.argv[1])


if __name__ == "__main__":
    main()
