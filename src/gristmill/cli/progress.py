"""Progress in the terminal: a live block of one bar a step, or plain lines when nobody looks at a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import deque
from typing import Any

from gristmill.cli.options import say
from gristmill.run import Progress, Run, StepProgress

LINES_EVERY = 10.0  # seconds between two plain lines
REFRESH = 0.25  # seconds between two looks at the counters
WINDOW = 20.0  # seconds that a rate is taken over


class Rates:
    """Pieces per second of each step over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, tuple[int, ...]]] = deque()

    def note(self, progress: Progress) -> None:
        now = time.monotonic()
        self._seen.append((now, tuple(step.completed for step in progress.steps)))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW:
            self._seen.popleft()

    def of(self, place: int) -> float:
        """Pieces per second; 0.0 while nothing is known."""
        if len(self._seen) < 2:
            return 0.0
        (then, before), (now, after) = self._seen[0], self._seen[-1]
        return (after[place] - before[place]) / (now - then) if now > then else 0.0


def rate_text(rate: float) -> str:
    """The unit grows until the number says something: 12/s, 34/min, 5/h."""
    if rate <= 0:
        return ""
    for factor, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if rate * factor >= 1:
            return f"{rate * factor:.0f}/{unit}"
    return "<1/h"


def left_text(step: StepProgress, rate: float) -> str:
    """Time until what is known of a step is done."""
    left = step.total - step.completed - step.failed
    if not left or rate <= 0:
        return ""
    return duration(left / rate) + " left"


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def plain_line(progress: Progress, rates: Rates) -> str:
    """All steps in one line."""
    parts = []
    for place, step in enumerate(progress.steps):
        text = f"{step.name} {step.completed}/{step.total}"
        if step.failed:
            text += f" ({step.failed} failed)"
        if rate := rate_text(rates.of(place)):
            text += f" {rate}"
        parts.append(text)
    return f"{progress.name} {progress.state}: " + " · ".join(parts)


def live_table(progress: Progress, rates: Rates, talk: str) -> Any:
    """The block that is drawn anew four times a second."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    for width in (9, 26, 13, 11, 8, 16, 12):
        table.add_column(width=width, no_wrap=True)
    for place, step in enumerate(progress.steps):
        rate = rates.of(place)
        bar = ProgressBar(total=max(step.total, 1), completed=step.completed + step.failed, width=26)
        table.add_row(
            f"  {step.name}", bar, f"{step.completed}/{step.total}",
            f"{step.running} running" if step.running else "", rate_text(rate), left_text(step, rate),
            Text(f"{step.failed} failed", style="red") if step.failed else "",
        )  # fmt: skip
    parts: list[Any] = [table]
    if talk:
        parts.append(Text(f"  {talk}", style="dim"))
    return Group(*parts)


async def follow(
    run: Run, stop: asyncio.Event, *, quiet: bool = False, talk: deque[str] | None = None, paused: bool = False
) -> Progress:
    """Shows progress until the run has ended or `stop` is set; returns the last progress. With `paused` a pause ends it
    too: who keeps workers for a run that nobody wants to go on, would wait for ever."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    rates = Rates()
    talk = talk if talk is not None else deque(maxlen=1)
    live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal and not quiet else None
    said = time.monotonic() - LINES_EVERY + 2
    if live is not None:
        live.start()
    try:
        while True:
            progress = await run.progress()
            rates.note(progress)
            if live is not None:
                live.update(live_table(progress, rates, talk[-1] if talk else ""))
            elif not quiet and (progress.ended or time.monotonic() - said > LINES_EVERY):
                said = time.monotonic()
                say(plain_line(progress, rates))
            if progress.ended or stop.is_set() or (paused and progress.state == "paused"):
                final = await run.wait() if progress.ended else progress
                if live is not None:
                    live.update(live_table(final, rates, ""))
                return final
            run.app.check_crew()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), REFRESH)
    finally:
        if live is not None:
            live.stop()
        sys.stderr.flush()


def told_step(step: StepProgress) -> str:
    """What a step has done: "12 extract (1 empty, 2 degraded)"."""
    besides = ", ".join(f"{n:,} {what}" for n, what in ((step.empty, "empty"), (step.degraded, "degraded")) if n)
    return f"{step.completed:,} {step.name}" + (f" ({besides})" if besides else "")


def say_degraded(progress: Progress) -> None:
    """What to do about pieces for which something stands in, if there are any."""
    if pieces := sum(step.degraded for step in progress.steps):
        again = f"gristmill retry --degraded {progress.name}"
        say(f"  {pieces:,} degraded: something stands in for an answer; ask again: {again}")
