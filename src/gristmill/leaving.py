"""What the end of the process has to wait for.

The HTTP library's threads take the interpreter's lock once more after an answer was handed over. One that still does so
when the interpreter goes away aborts the process (exit code 134) after all was done: 6 of 25 short scripts.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time

LONGEST = 1.0  # seconds


@atexit.register
def wait_for_foreign_threads() -> None:
    """Waits until no thread that Python has not started is inside of the interpreter, at most a second."""
    if "pyreqwest" not in sys.modules:
        return
    until = time.monotonic() + LONGEST
    while time.monotonic() < until and not _inside() <= {thread.ident for thread in threading.enumerate()}:
        time.sleep(0.002)


def _inside() -> set[int | None]:
    """Threads that have a state in the interpreter, those without a frame of Python too."""
    return set(sys._current_exceptions())
