"""What two attempts of a task got back: answers of models, raw output of programs, and how they ended, line by line."""

from __future__ import annotations

import asyncio
import difflib
import json
import re

from gristmill.api.problems import NotFound
from gristmill.api.stories import attempts_of, task_row
from gristmill.api.story_shapes import AttemptDifference, AttemptRow
from gristmill.app import App
from gristmill.errors import GristmillError
from gristmill.llm import calls

LONGEST = 200_000  # characters of an attempt that are compared
LINES = 5_000  # of a difference
CALLS = 50  # of an attempt
_OUTPUT = re.compile(r"\b[0-9a-f]{64}\b")  # by which the message of a failure names what a program wrote


async def attempt_difference(app: App, task_id: int, of: int, to: int) -> AttemptDifference:
    """Attempt `to` compared with attempt `of` of the same task. Raises `NotFound` A404."""
    attempts = {one.n: one for one in await attempts_of(app.pool, await task_row(app, task_id))}
    for n in (of, to):
        if n not in attempts:
            known = ", ".join(map(str, sorted(attempts)))
            raise NotFound(f"task {task_id} has no attempt {n}", hint=f"attempts: {known or 'none yet'}")
    before, now = await _text(app, attempts[of]), await _text(app, attempts[to])
    lines = await asyncio.to_thread(_lines, before[:LONGEST], now[:LONGEST], of, to)
    return AttemptDifference(
        of=of, to=to, same=before == now, diff="\n".join(lines[:LINES]),
        cut=max(len(before), len(now)) > LONGEST or len(lines) > LINES,
    )  # fmt: skip


def _lines(before: str, now: str, of: int, to: int) -> list[str]:
    # Without the automatic junk rule, and bounded: it is quadratic in the number of lines.
    old, new = before.splitlines()[:LINES], now.splitlines()[:LINES]
    return list(difflib.unified_diff(old, new, f"attempt {of}", f"attempt {to}", lineterm="", n=3))


async def _text(app: App, attempt: AttemptRow) -> str:
    parts = []
    for call in attempt.calls[:CALLS]:
        found = await calls.find(app.pool, call.id)
        asked = f", asked again ({found['request']['attempt']})" if (found["request"] or {}).get("attempt") else ""
        parts.append(f"answer of {call.model} to {call.prompt or 'a question'}{asked}\n{_pretty(found['response'])}")
    parts.append(" ".join(filter(None, (attempt.outcome, attempt.code, attempt.message))))
    for digest in _OUTPUT.findall(attempt.message or "")[:3]:
        try:
            parts.append((await app.blobs.read(digest))[:LONGEST].decode("utf-8", "replace"))
        except GristmillError:  # somebody has tidied up
            continue
    return "\n\n".join(parts)


def _pretty(body: bytes | None) -> str:
    """An answer with a line for each value, so that a difference is small."""
    text = (body or b"").decode("utf-8", "replace")
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=1).replace("\\n", "\n")
    except (ValueError, RecursionError):
        return text
