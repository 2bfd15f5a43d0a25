"""How a child process ended, in words that decide what happens to its task."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from gristmill.engine.performer import ChildCrashed

MIB = 2**20
SHOWN = 2000  # characters of output in the message; the story keeps all of it
_FATAL = frozenset({signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGTRAP, signal.SIGILL})
_NO_MEMORY = re.compile(r"bad_alloc|memory allocation of \d+ bytes failed|out of memory|cannot allocate memory", re.I)


class OutOfMemory(ChildCrashed):
    """It reached its memory limit, or the kernel killed it because the machine had no memory left."""

    code = "T501"


class OutOfTime(ChildCrashed):
    """It reached its limit of CPU time."""

    code = "T502"


class TookTooLongToStart(ChildCrashed):
    """It was not ready, or had not imported its function, in time."""

    code = "T503"


@dataclass(frozen=True, slots=True)
class ChildStory:
    """The end of a child. `peak` is its resident memory in bytes, at most: below `peak_floor`, the memory of the worker
    that started it, the kernel does not tell them apart. `output` is the last 64 KiB it wrote."""

    exit_code: int | None
    signal: str
    peak: int
    peak_floor: int
    output: str

    @classmethod
    def of(cls, code: int, peak: int, peak_floor: int, output: str) -> ChildStory:
        """`code` is below 0 for a signal, as in `subprocess`."""
        return cls(None if code < 0 else code, _name(-code) if code < 0 else "", peak, peak_floor, output)

    def text(self, why: str = "") -> str:
        """One line, then the last of what it said."""
        how = f"signal {self.signal}" if self.signal else f"exit code {self.exit_code}"
        bound = "" if self.peak > self.peak_floor else "at most "
        said = self.output.strip()
        return (
            f"{why or 'its process died'} ({how}, peak memory {bound}{max(1, self.peak // MIB)} MiB)"
            + (f"; it last said: {said[-SHOWN:]}" if said else "")
        )  # fmt: skip


def crash_of(
    story: ChildStory, *, memory: int | None, cpu: float | None, over_memory: bool, killer: bool
) -> ChildCrashed:
    """The error for a child that has died. `over_memory`: it said so itself; `killer`: the kernel killed for memory."""
    fatal = story.signal in {number.name for number in _FATAL}
    limited = memory is not None and fatal and (
        story.peak > max(story.peak_floor, 0.9 * memory) or _NO_MEMORY.search(story.output[-SHOWN:]) is not None
    )  # fmt: skip
    made: ChildCrashed
    if over_memory or limited:
        of = f"its limit of {(memory or 0) // MIB} MiB" if memory else "what the machine has"
        made = OutOfMemory(story.text(f"it needed more than {of} of memory" if memory else f"it needed more than {of}"))
    elif story.signal == "SIGXCPU" and cpu is not None:
        made = OutOfTime(story.text(f"it used more than its limit of {cpu:g} s of CPU time"))
    elif story.signal == "SIGKILL" and killer:
        made = OutOfMemory(story.text("the kernel killed it because the machine was out of memory"))
    else:
        made = ChildCrashed(story.text())
    return told(made, story)


def told(crash: ChildCrashed, story: ChildStory) -> ChildCrashed:
    """The crash with its story: `crash.story`."""
    crash.story = story  # type: ignore[attr-defined]
    return crash


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
