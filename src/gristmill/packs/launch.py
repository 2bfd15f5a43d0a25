"""Run as a program (`python -I -S launch.py LIMITS PROGRAM ARGUMENTS...`): takes its limits, then becomes the program.

It imports nothing of ours, so that it starts in 20 ms. LIMITS is JSON: `status`, the descriptor that is told why the
program could not be started, and the kernel's limits by name.
"""

import ctypes
import json
import os
import resource
import signal
import sys


def main() -> None:
    limits = json.loads(sys.argv[1])
    status = limits.pop("status")
    os.set_inheritable(status, False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: it ends with the process that started it
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS: no set-user-id program gives it more rights
    os.umask(0o077)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and that would be inherited
        signal.signal(number, signal.SIG_DFL)
    try:
        for name, wanted in limits.items():
            which = getattr(resource, f"RLIMIT_{name.upper()}")
            most = resource.getrlimit(which)[1]
            value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
            hard = value + 1 if name == "cpu" and most == resource.RLIM_INFINITY else value  # SIGXCPU, then SIGKILL
            resource.setrlimit(which, (value, hard))
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
    except (OSError, ValueError, MemoryError) as error:
        os.write(status, f"{error}".encode())
        os._exit(127)


if __name__ == "__main__":
    main()
