"""What two runs of a workflow have set differently: steps, options, models, prompts, inputs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from gristmill.api.run_shapes import Change, Difference
from gristmill.api.run_views import PAGES
from gristmill.app import App
from gristmill.errors import GristmillError

MOST = 200  # inputs that are named
LONGEST = 50_000  # characters of a difference
_WORDS = {
    "operator": "operator", "operator_version": "version", "model": "model", "pool": "option", "attempts": "option",
    "timeout": "option", "after": "option", "per": "option", "memory": "option", "cpu": "option",
}  # fmt: skip


async def difference(app: App, row: Any) -> Difference:
    """What was changed since the run of the same workflow before the one of that row."""
    before = await app.pool.fetchrow(PAGES["run_before"], row["id"])
    if before is None:
        return Difference(previous=None)
    was, now = set(json.loads(before["inputs"])), set(json.loads(row["inputs"]))
    old, new = json.loads(before["definition"]), json.loads(row["definition"])
    return Difference(
        previous=before["id"], previous_name=before["name"],
        changes=[*changes(old, new), *await _of_prompts(app, old.get("prompts", {}), new.get("prompts", {}))],
        inputs_added=sorted(now - was)[:MOST], inputs_removed=sorted(was - now)[:MOST],
    )  # fmt: skip


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    """What two definitions of a workflow do not have in common, in the order of the steps."""
    if before.get("version") != now.get("version"):
        yield Change(stage="", what="version", name="workflow", before=before.get("version"), now=now.get("version"))
    steps = {step["name"]: step for step in before.get("steps", [])}
    for step in now.get("steps", []):
        old = steps.pop(step["name"], None)
        if old is None:
            yield Change(stage=step["name"], what="step", name=step["name"], before=None, now=step["operator"])
            continue
        yield from _of_step(step["name"], old, step)
    for name, old in steps.items():
        yield Change(stage=name, what="step", name=name, before=old["operator"], now=None)


async def _of_prompts(app: App, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Prompts that have other words by now; runs of older versions do not know which words theirs had."""
    made = []
    for step in before.keys() & now.keys():
        for name in sorted(before[step].keys() & now[step].keys()):
            was, new = before[step][name], now[step][name]
            if was != new:
                old, latest = (await _text(app, was)).splitlines(), (await _text(app, new)).splitlines()
                lines = difflib.unified_diff(old, latest, "before", "now", lineterm="", n=2)
                diff = "\n".join(lines)[:LONGEST]
                made.append(Change(stage=step, what="prompt", name=name, before=was, now=new, diff=diff))
    return sorted(made, key=lambda one: (one.stage, one.name))


async def _text(app: App, digest: str) -> str:
    try:
        return (await app.blobs.read(digest)).decode("utf-8", "replace")
    except GristmillError:  # somebody has tidied up
        return ""


def _of_step(stage: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for word, what in _WORDS.items():
        if old.get(word) != new.get(word):
            yield Change(stage=stage, what=what, name=word, before=old.get(word), now=new.get(word))
    was, now = old.get("options", {}), new.get("options", {})
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            what = "prompt" if "prompt" in name else "option"
            yield Change(stage=stage, what=what, name=name, before=was.get(name), now=now.get(name))
