"""The chaos soak: its checker refuses every kind of bad history, and a small soak of real processes passes it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.chaos import Plan, judge, soak
from benchmarks.chaos_checker import RULES, check
from benchmarks.chaos_history import History, Pen, Tail
from benchmarks.chaos_report import figures, recoveries
from benchmarks.chaos_worker import MUTANTS, sow

from gristmill.engine import queue
from gristmill.errors import UsageError

RUN = 7


def task(number: int, state: str = "completed", lock: str | None = None, **wish: Any) -> dict[str, Any]:
    return {"id": number, "run_id": RUN, "kind": "chaos", "state": state, "attempt": 1, "lock_key": lock,
            "lock_slots": 1, "wish": {"do": "sleep", **wish}}  # fmt: skip


def claim(number: int, fence: int, attempt: int = 1, worker: int = 1, at: float = 0.0) -> dict[str, Any]:
    return {"what": "claimed", "at": at, "pid": 100 + worker, "task": number, "token": f"t{fence}", "fence": fence,
            "attempt": attempt, "worker": worker, "lock": None}  # fmt: skip


def presents(number: int, fence: int, how: str = "settle") -> dict[str, Any]:
    return {"what": "presents", "at": 0.0, "pid": 1, "task": number, "token": f"t{fence}", "fence": fence, "how": how}


def result(number: int, fence: int, worker: int = 1) -> dict[str, Any]:
    return {"id": fence, "task_id": number, "token": f"t{fence}", "fence": fence, "worker_id": worker, "pid": 1}


def attempt(number: int, fence: int, outcome: str = "completed", *, place: int = 1, worker: int = 1,
            started: float = 0.0, ended: float = 1.0) -> dict[str, Any]:  # fmt: skip
    return {"task_id": number, "attempt": place, "token": f"t{fence}", "worker_id": worker, "outcome": outcome,
            "code": None, "started": started, "ended": ended}  # fmt: skip


def sound() -> History:
    """Task 1 was begun twice and has a follower 2; 3 and 4 share a slot, one after the other; 5 is a poison."""
    return History(
        lines=[
            {"what": "enqueued", "at": 0.0, "pid": 1, "run": RUN, "tasks": [1, 3, 4, 5]},
            claim(1, 10, worker=1, at=1.0), claim(1, 11, attempt=2, worker=2, at=3.0), claim(2, 12), claim(3, 13),
            claim(4, 14), claim(5, 15), presents(1, 10), presents(1, 11), presents(2, 12), presents(3, 13),
            presents(4, 14), presents(5, 15, "crash"),
            {"what": "fault", "at": 1.6, "pid": 1, "kind": "kill", "victim": 101, "hit_at": 1.5},
            {"what": "heard", "at": 9.0, "pid": 1, "seq": 1, "run": RUN, "state": "partial", "epoch": 1},
        ],
        tasks=[task(1, children=1), task(2, parent=1), task(3, lock="a"), task(4, lock="a"),
               task(5, "quarantined", poison=True)],
        results=[result(1, 11, worker=2), result(2, 12), result(3, 13), result(4, 14)],
        attempts=[
            attempt(1, 10, "crashed", started=1.0, ended=2.0), attempt(1, 11, place=2, worker=2), attempt(2, 12),
            attempt(3, 13, started=1.0, ended=2.0), attempt(4, 14, started=2.0, ended=3.0), attempt(5, 15, "crashed"),
        ],
        runs=[{"id": RUN, "state": "partial", "sealed": True, "epoch": 1, "ended": 8.0, "last_task": 7.0}],
        counters=[{"run_id": RUN, "name": "completed", "n": 4}, {"run_id": RUN, "name": "quarantined", "n": 1},
                  {"run_id": RUN, "name": "crashes", "n": 2}],
    )  # fmt: skip


def lose(history: History) -> None:
    history.tasks = [task for task in history.tasks if task["id"] != 4]


def lose_a_result(history: History) -> None:
    history.results = [row for row in history.results if row["task_id"] != 3]


def end_before_a_task(history: History) -> None:
    history.runs[0]["ended"] = 6.0


BAD: list[tuple[str, str, Callable[[History], Any]]] = [
    ("an answered task is gone", "nothing is lost", lose),
    ("a task is open", "nothing is stuck", lambda h: h.tasks.append(task(6, "running"))),
    ("a run is open", "nothing is stuck", lambda h: h.runs[0].update(state="running")),
    ("a worker is silent", "nothing is stuck",
     lambda h: h.lines.append({"what": "silent", "worker_pid": 9, "seconds": 30, "at": 0.0, "pid": 1})),
    ("a result is there twice", "recorded exactly once", lambda h: h.results.append(result(3, 13))),
    ("a result is missing", "recorded exactly once", lose_a_result),
    ("a broken task has a result", "recorded exactly once", lambda h: h.results.append(result(5, 15))),
    ("a result without a task", "recorded exactly once", lambda h: h.results.append(result(99, 99))),
    ("two completed attempts", "recorded exactly once", lambda h: h.attempts.append(attempt(3, 16))),
    ("an older claim has finished", "finished by the holder of the lease",
     lambda h: h.results.__setitem__(0, result(1, 10))),
    ("a result of another worker", "finished by the holder of the lease",
     lambda h: h.results[1].update(worker_id=4)),
    ("a result that nobody presented", "finished by the holder of the lease",
     lambda h: h.lines.remove(presents(3, 13))),
    ("a failure with the token of an earlier claim", "an end is charged to its own claim",
     lambda h: h.attempts[0].update(attempt=2)),
    ("a fence is given out twice", "claimed one at a time", lambda h: h.lines.append(claim(3, 12))),
    ("an attempt is claimed twice", "claimed one at a time", lambda h: h.lines.append(claim(4, 17))),
    ("two hold one slot", "no two holders of one slot", lambda h: h.attempts[4].update(started=1.5)),
    ("two were seen in one slot", "no two holders of one slot",
     lambda h: h.lines.append({"what": "crowded", "at": 0.0, "pid": 1, "key": "a", "holders": 2, "slots": 1})),
    ("a slot is left behind", "nothing is stuck",
     lambda h: h.locks.append({"key": "a", "slot": 1, "task_id": 4})),
    ("an older fence is recorded later", "no older fence is recorded", lambda h: h.results.reverse()),
    ("the end is heard twice", "the end exactly once", lambda h: h.lines.append({**h.lines[-1], "seq": 2})),
    ("the end is not heard", "the end exactly once", lambda h: h.lines.pop()),
    ("an event is heard again", "the end exactly once", lambda h: h.lines.append(h.lines[-1])),
    ("another end is heard", "the end exactly once", lambda h: h.lines[-1].update(state="failed")),
    ("the end comes too early", "the end exactly once", end_before_a_task),
    ("an innocent is quarantined", "poisons end, innocents complete", lambda h: h.tasks[2].update(state="quarantined")),
    ("a poison completes", "poisons end, innocents complete", lambda h: h.tasks[4].update(state="completed")),
    ("a poison ends without a reason", "poisons end, innocents complete", lambda h: h.attempts.pop()),
    ("a follower is missing", "what follows, exactly once", lambda h: h.tasks.pop(1)),
    ("a follower is there twice", "what follows, exactly once", lambda h: h.tasks.append(task(8, parent=1))),
    ("a counter is wrong", "counters are true", lambda h: h.counters[0].update(n=5)),
]  # fmt: skip


def test_a_sound_history_is_accepted() -> None:
    assert check(sound()) == []


@pytest.mark.parametrize(("rule", "harm"), [entry[1:] for entry in BAD], ids=[entry[0] for entry in BAD])
def test_a_bad_history_is_refused(rule: str, harm: Callable[[History], Any]) -> None:
    history = copy.deepcopy(sound())
    harm(history)
    assert rule in {violation.rule for violation in check(history)}


def test_every_rule_has_a_history_that_breaks_it() -> None:
    assert {rule for _, rule, _ in BAD} == set(RULES)


def test_recovery_is_the_time_from_the_kill_to_the_queue_and_to_the_next_claim() -> None:
    assert recoveries(sound()) == {
        "SIGKILL to requeued, with the server there": [0.5],
        "SIGKILL to running again, with the server there": [1.5],
    }
    again = sound()
    again.lines.append(claim(2, 12, worker=7, at=99.0) | {"pid": 101})  # the system gave the number of the dead again
    assert recoveries(again) == recoveries(sound())
    without = sound()
    without.lines.append({"what": "outage", "at": 1.0, "pid": 1, "begin": 0.0})
    assert "SIGKILL to requeued, while the server was away" in recoveries(without)
    assert figures([])["n"] == 0


def test_a_history_is_read_in_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.touch()
    tail = Tail(file)
    Pen(file, pid=5).write("one", number=1)
    with file.open("ab") as more:
        more.write(b'{"what": "tw')
        more.flush()
        assert [(line["what"], line["pid"], line["number"]) for line in tail.new()] == [("one", 5, 1)]
        more.write(b'o"}\n')
    assert [line["what"] for line in tail.new()] == ["two"]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_still_finds_what_it_takes_away(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sound_sql = queue.SQL
    monkeypatch.setattr(queue, "SQL", sound_sql)  # put back afterwards
    sow(name)
    assert sound_sql != queue.SQL


@pytest.mark.parametrize("wrong", [{"faults": ("flood",)}, {"mutant": "none"}, {"workers": 1}, {"minutes": 0}])
def test_a_soak_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no such soak"):
        Plan(**wrong)


async def test_a_small_soak_keeps_every_promise(tmp_path: Path) -> None:
    made = await soak(Plan(minutes=0.13, workers=3, seed=5, pace=0.4), tmp_path)
    print(made.text())
    assert made.violations == []
    assert made.tasks > 50
    assert sum(made.faults.values()) >= 10
    assert (await judge(tmp_path)).as_json() == made.as_json()
    with pytest.raises(UsageError, match="no soak"):
        await judge(tmp_path / "nowhere")


@pytest.mark.thorough
async def test_a_soak_without_the_check_of_the_token_is_caught(tmp_path: Path) -> None:
    plan = Plan(minutes=1.5, workers=3, seed=5, pace=0.4, faults=("freeze",), mutant="token")
    made = await soak(plan, tmp_path)
    assert "finished by the holder of the lease" in {violation.rule for violation in made.violations}
