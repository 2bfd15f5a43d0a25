"""Judges a history of the soak: pure functions, each of them one promise, each with a test that breaks it.

`check` knows nothing of how the history came about. A claim is (task, token); its `fence` orders the claims of a task.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.chaos_history import History, Row

ENDED = ("completed", "failed", "quarantined", "cancelled")
BROKEN = ("failed", "quarantined")
STATES = ("waiting", "available", "running", *ENDED)
END_LATER = 0.001  # seconds; a run ends after its last task, on the same clock


@dataclass(frozen=True, slots=True)
class Violation:
    """`rule` names the promise, `text` says who broke it."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


def check(history: History, *, over: bool = True) -> list[Violation]:
    """Every broken promise; none: it held. Of a history that is not `over` only those that hold at any moment."""
    rules = [rule for rule in RULES if over or rule in ANY_TIME]
    return [Violation(rule, text) for rule in rules for text in RULES[rule](history)]


def nothing_lost(history: History) -> Iterator[str]:
    """A task whose enqueue was answered is in the database."""
    known = {task["id"] for task in history.tasks}
    for line in history.of("enqueued"):
        for task in line["tasks"]:
            if task not in known:
                yield f"task {task} of run {line['run']} was enqueued and is gone"


def nothing_stuck(history: History) -> Iterator[str]:
    """With all faults off, everything comes to an end, no slot is left behind, and every worker goes on working."""
    for task in history.tasks:
        if task["state"] not in ENDED:
            yield f"task {task['id']} is still {task['state']}"
    for run in history.runs:
        if run["sealed"] and run["state"] not in ("completed", "partial", "failed", "cancelled"):
            yield f"run {run['id']} is still {run['state']}"
    for row in history.locks:
        yield f"slot {row['slot']} of lock {row['key']} is still held by task {row['task_id']}"
    for line in history.of("silent"):
        yield f"worker process {line['worker_pid']} was alive and claimed nothing for {line['seconds']} s"


def recorded_once(history: History) -> Iterator[str]:
    """A completed task has one result and one completed attempt; any other task has none."""
    results = Counter(row["task_id"] for row in history.results)
    attempts = Counter(row["task_id"] for row in history.attempts if row["outcome"] == "completed")
    for task in history.tasks:
        want = int(task["state"] == "completed")
        for count, of in ((results.pop(task["id"], 0), "results"), (attempts[task["id"]], "completed attempts")):
            if count != want:
                yield f"task {task['id']} is {task['state']} and has {count} {of}"
    for number, count in results.items():
        yield f"task {number} does not exist and has {count} results"


def finished_by_its_holder(history: History) -> Iterator[str]:
    """A result carries the token that its actor presented; that has to be the token of the task's last claim."""
    claims = defaultdict(list)
    for line in history.of("claimed"):
        claims[line["task"]].append(line)
    presented = {(line["task"], line["token"]) for line in history.of("presents") if line["how"] == "settle"}
    for row in history.results:
        mine = [line for line in claims[row["task_id"]] if line["token"] == row["token"]]
        if not mine or mine[0]["worker"] != row["worker_id"] or mine[0]["fence"] != row["fence"]:
            yield f"task {row['task_id']}: worker {row['worker_id']} recorded a result of a claim it did not have"
        if (row["task_id"], row["token"]) not in presented:
            yield f"task {row['task_id']}: a result that nobody presented"
        for line in claims[row["task_id"]]:
            if line["fence"] > row["fence"]:
                yield (
                    f"task {row['task_id']}: the result of claim {row['fence']} was recorded although "
                    f"worker {line['worker']} held claim {line['fence']}"
                )


def ends_charged_to_their_claim(history: History) -> Iterator[str]:
    """The end of an attempt stands under the number under which its token was claimed."""
    numbers = {(line["task"], line["token"]): line["attempt"] for line in history.of("claimed")}
    for row in history.attempts:
        number = numbers.get((row["task_id"], row["token"]))  # none: killed before it could write the line
        if number is not None and number != row["attempt"]:
            yield f"task {row['task_id']}: attempt {row['attempt']} was ended with the token of attempt {number}"


def claimed_one_at_a_time(history: History) -> Iterator[str]:
    """No claim is given out twice, and the claims of a task are numbered upwards with their fences."""
    claims = defaultdict(list)
    for line in history.of("claimed"):
        claims[line["task"]].append((line["fence"], line["attempt"], line["token"]))
    fences = Counter(fence for mine in claims.values() for fence, _, _ in mine)
    for fence, count in fences.items():
        if count > 1:
            yield f"claim {fence} was given out {count} times"
    for task, mine in claims.items():
        mine.sort()
        for (_, before, one), (fence, number, other) in pairwise(mine):
            if number <= before or one == other:
                yield f"task {task}: claim {fence} is attempt {number} after attempt {before}, or has its token"


def slots_have_one_holder(history: History) -> Iterator[str]:
    """At no moment more holders of a lock than it has slots."""
    locked = {task["id"]: task for task in history.tasks if task["lock_key"] is not None}
    holds = defaultdict(list)
    for row in history.attempts:
        if row["task_id"] in locked and row["started"] is not None:
            holds[locked[row["task_id"]]["lock_key"]].append(row)
    for key, rows in holds.items():
        slots = max(locked[row["task_id"]]["lock_slots"] for row in rows)
        yield from _crowds(key, slots, rows)
    for line in history.of("crowded"):
        yield f"lock {line['key']}: {line['holders']} tasks ran in {line['slots']} slots"


def _crowds(key: str, slots: int, rows: list[Row]) -> Iterator[str]:
    """Moments at which one more began than there are slots; an end and a begin at the same moment do not meet."""
    moments = sorted([(row["started"], 1, row["task_id"]) for row in rows] + [(row["ended"], 0, 0) for row in rows])
    held = 0
    for _, begins, task in moments:
        held += 1 if begins else -1
        if begins and held > slots:
            yield f"lock {key}: task {task} began while {held - 1} others held its {slots} slots"


def stores_see_no_older_fence(history: History) -> Iterator[str]:
    """What is recorded under a lock with one slot is recorded in the order of the fences."""
    alone = {task["id"]: task["lock_key"] for task in history.tasks if task["lock_key"] and task["lock_slots"] == 1}
    last: dict[str, int] = {}
    for row in history.results:
        key = alone.get(row["task_id"])
        if key is not None:
            if row["fence"] < last.get(key, 0):
                yield f"lock {key}: fence {row['fence']} was recorded after fence {last[key]}"
            last[key] = row["fence"]


def ends_once(history: History) -> Iterator[str]:
    """Whoever listens hears the end of each run once, with the state that the run has, after its last task."""
    heard = defaultdict(list)
    seqs = [line["seq"] for line in history.of("heard")]
    if seqs != sorted(set(seqs)):
        yield "events were heard twice or out of order"
    for line in history.of("heard"):
        heard[line["run"], line["epoch"]].append(line["state"])
    for run in history.runs:
        if not run["sealed"]:
            continue
        mine = heard.pop((run["id"], run["epoch"]), [])
        if mine != [run["state"]]:
            yield f"run {run['id']} is {run['state']}; its end was heard {len(mine)} times: {mine}"
        if run["ended"] is not None and run["last_task"] is not None and run["ended"] < run["last_task"] - END_LATER:
            yield f"run {run['id']} ended before its last task"
    for (run_id, epoch), states in heard.items():
        yield f"run {run_id} has no epoch {epoch}, and its end was heard: {states}"


def the_guilty_are_found(history: History) -> Iterator[str]:
    """A poison ends broken, with an attempt on record that says how; an innocent task completes."""
    reasons = {row["task_id"] for row in history.attempts if row["outcome"] in ("failed", "crashed")}
    for task in history.tasks:
        if task["state"] not in ENDED:
            continue
        if task["wish"].get("poison"):
            if task["state"] not in BROKEN or task["id"] not in reasons:
                yield f"task {task['id']} is a poison ({task['wish'].get('do')}) and is {task['state']}"
        elif task["state"] != "completed":
            yield f"task {task['id']} ({task['wish'].get('do')}) did nothing wrong and is {task['state']}"


def followers_once(history: History) -> Iterator[str]:
    """A completed task has the tasks that follow from it, each once; a broken one has none."""
    following = Counter(task["wish"]["parent"] for task in history.tasks if "parent" in task["wish"])
    for task in history.tasks:
        want = task["wish"].get("children", 0) if task["state"] == "completed" else 0
        if following[task["id"]] != want:
            yield f"task {task['id']} is {task['state']} and is followed by {following[task['id']]} tasks, not {want}"


def counters_true(history: History) -> Iterator[str]:
    """The counters of a run say how many of its tasks are in each state."""
    counted = {(row["run_id"], row["name"]): row["n"] for row in history.counters if row["name"] in STATES}
    tasks = Counter((task["run_id"], task["state"]) for task in history.tasks)
    for key in sorted(counted.keys() | tasks.keys()):
        if counted.get(key, 0) != tasks[key]:
            yield f"run {key[0]} has {tasks[key]} tasks that are {key[1]}, its counter says {counted.get(key, 0)}"


RULES: dict[str, Callable[[History], Iterator[str]]] = {
    "nothing is lost": nothing_lost,
    "nothing is stuck": nothing_stuck,
    "recorded exactly once": recorded_once,
    "finished by the holder of the lease": finished_by_its_holder,
    "an end is charged to its own claim": ends_charged_to_their_claim,
    "claimed one at a time": claimed_one_at_a_time,
    "no two holders of one slot": slots_have_one_holder,
    "no older fence is recorded": stores_see_no_older_fence,
    "the end exactly once": ends_once,
    "poisons end, innocents complete": the_guilty_are_found,
    "what follows, exactly once": followers_once,
    "counters are true": counters_true,
}
ANY_TIME = (
    "recorded exactly once", "finished by the holder of the lease", "an end is charged to its own claim",
    "claimed one at a time", "no two holders of one slot", "no older fence is recorded",
)  # fmt: skip
