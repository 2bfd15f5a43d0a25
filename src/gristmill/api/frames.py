"""What live views are sent: frames of what happened, and of how far runs are, the same over every pipe.

A message is {"frames": [...], "next": SEQ}: all of it arrives, or nothing. Who was cut off asks again with `after=SEQ`
and misses nothing. A frame of kind "run" carries the totals of its run, so each replaces the one before; what happened
(a pause, an end, a death) is told once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from gristmill.api.shapes import Answer
from gristmill.engine.events import CATALOGUE, Event

Kind = Literal["run", "worker", "limit", "lock", "review", "event", "reset"]
ROLLED = ("item", "step")  # told as totals of their run, never one by one
TOLD = sorted({f"{name.partition('.')[0]}.*" for name in CATALOGUE} - {f"{one}.*" for one in ROLLED})
OF_RUNS = ("run", "budget")
KINDS: tuple[Kind, ...] = ("worker", "limit", "lock", "review")


class Stage(Answer):
    """One stage of a run, in numbers of tasks."""

    name: str
    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    empty: int = 0
    reused: int = 0


class Told(Answer):
    """An event as it was told: docs/reference/events.md."""

    seq: int
    name: str
    at: str
    item: int | None = None
    task: int | None = None
    worker: int | None = None
    body: dict[str, Any] = Field({})


class Frame(Answer):
    """`data` of kind run: name, state, epoch, stages, totals, events; of the others: the event; of reset: nothing, and
    everything has to be asked for anew. `at` is the time of the event; of totals alone it is null."""

    seq: int
    at: str | None
    kind: Kind
    run: int | None = None
    data: dict[str, Any] = Field({})


class Frames(Answer):
    """A message. `next` is what is given as `after` to go on behind it."""

    frames: list[Frame]
    next: int = Field(ge=0)


@dataclass(slots=True)
class RollUp:
    """How far a run is, from the folded counters."""

    run: int
    data: dict[str, Any]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> RollUp:
        """From a row of `roll_ups`."""
        stages = [_stage(name, counts or {}) for _, name, counts in json.loads(row["stages"])]
        totals = {key: sum(getattr(stage, key) for stage in stages) for key in ("waiting", "running", "done", "failed")}
        data = {
            "name": row["name"], "state": row["state"], "epoch": row["epoch"],
            "stages": [stage.model_dump() for stage in stages], "totals": totals,
        }  # fmt: skip
        return cls(row["id"], data)


@dataclass(slots=True)
class Message:
    """Frames as plain data, and as the text that is sent to everybody who wants all of it."""

    frames: list[dict[str, Any]]
    next: int
    _texts: dict[int | None, str] = field(default_factory=dict)

    def text(self, run: int | None = None) -> str:
        """As JSON; `run`: only that run's frames and those of no run. Made once for all who want the same."""
        if run not in self._texts:
            self._texts[run] = json.dumps({"frames": self.only(run), "next": self.next}, ensure_ascii=False)
        return self._texts[run]

    def only(self, run: int | None) -> list[dict[str, Any]]:
        return [one for one in self.frames if run is None or one["run"] in (None, run)]

    def behind(self, seq: int) -> Message:
        """Without what somebody has seen already."""
        return Message([one for frame in self.frames if (one := _behind(frame, seq))], self.next)


def compose(events: Iterable[Event], roll_ups: Sequence[RollUp], seq: int) -> Message:
    """A message of what happened up to `seq`, in order; the totals of a run stand in one frame with its events."""
    frames: list[dict[str, Any]] = []
    of_run: dict[int, dict[str, Any]] = {}
    for one in roll_ups:
        of_run[one.run] = _frame(seq, None, "run", one.run, {**one.data, "events": []})
        frames.append(of_run[one.run])
    for event in events:
        told = Told(
            seq=event.seq, name=event.name, at=event.at, item=event.item_id, task=event.task_id,
            worker=event.worker_id, body=event.body,
        ).model_dump()  # fmt: skip
        frame = of_run.get(event.run_id) if event.run_id is not None else None
        if frame is not None and event.name.partition(".")[0] in OF_RUNS:
            frame["data"]["events"].append(told)
            frame["at"] = event.at
        else:
            frames.append(_frame(event.seq, event.at, kind_of(event.name), event.run_id, told))
    return Message(frames, seq)


def reset(seq: int) -> Message:
    """For a cursor that is ahead of everything: it belongs to a database that is no more."""
    return Message([_frame(seq, None, "reset", None, {})], seq)


def kind_of(name: str) -> Kind:
    first = name.partition(".")[0]
    return next((kind for kind in KINDS if kind == first), "event")


def _frame(seq: int, at: str | None, kind: Kind, run: int | None, data: dict[str, Any]) -> dict[str, Any]:
    return {"seq": seq, "at": at, "kind": kind, "run": run, "data": data}


def _behind(frame: dict[str, Any], seq: int) -> dict[str, Any] | None:
    if frame["kind"] == "run":
        events = [one for one in frame["data"]["events"] if one["seq"] > seq]
        return {**frame, "data": {**frame["data"], "events": events}}
    return frame if frame["seq"] > seq else None


def _stage(name: str, counts: Mapping[str, int]) -> Stage:
    def n(*names: str) -> int:
        return max(0, sum(counts.get(one, 0) for one in names))

    return Stage(
        name=name, waiting=n("waiting", "available"), running=n("running"), done=n("completed"),
        failed=n("failed", "quarantined"), cancelled=n("cancelled"), empty=n("empty"), reused=n("reused"),
    )  # fmt: skip
