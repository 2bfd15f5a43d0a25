"""What a soak comes to: faults, tasks, recovery, and the verdict of the checker."""

from __future__ import annotations

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.chaos_checker import Violation
from benchmarks.chaos_history import History
from benchmarks.measure import percentile, table

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Report:
    """`recovery` is name -> seconds. `lost`, `doubled` and `stuck` count tasks."""

    seed: int
    minutes: float
    faults: Mapping[str, int]
    tasks: int
    claims: int
    refused: int
    lost: int
    doubled: int
    stuck: int
    quiet: int
    exits: Mapping[int, int]
    liveness: float
    recovery: Mapping[str, Sequence[float]]
    violations: Sequence[Violation]
    notes: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Plain values; of each recovery its number, p50, p99 and largest."""
        return {
            **asdict(self), "recovery": {name: figures(times) for name, times in self.recovery.items()},
            "violations": [str(violation) for violation in self.violations],
        }  # fmt: skip

    def text(self) -> str:
        """Two tables in Markdown, and the first violations."""
        numbers = [
            ["faults injected", f"{sum(self.faults.values()):,}"],
            *[[f"&nbsp; {kind}", f"{count:,}"] for kind, count in sorted(self.faults.items())],
            ["tasks ended / claims", f"{self.tasks:,} / {self.claims:,}"],
            ["stale finishes refused", f"{self.refused:,}"],
            ["lost / recorded twice / stuck", f"{self.lost} / {self.doubled} / {self.stuck}"],
            ["workers that were quiet for 25 s", str(self.quiet)],
            ["faults off until everything was over", f"{self.liveness:.1f} s"],
            *([["ends of worker processes (exit code: times)", _said(self.exits)]] if self.exits else []),
            ["violations", str(len(self.violations))],
        ]
        rows = []
        for name, times in self.recovery.items():
            of = figures(times)
            rows.append([name, str(of["n"]), *(f"{of[each]:.2f}" for each in ("p50", "p99", "max"))])
        parts = [
            table(["figure", f"{self.minutes:g} min, seed {self.seed}"], numbers),
            table(["seconds", "samples", "p50", "p99", "max"], rows),
            *self.notes,
        ]
        if self.violations:
            parts.append("\n".join(f"- {violation}" for violation in self.violations[:SHOWN]))
        return "\n\n".join(parts)


def _said(exits: Mapping[int, int]) -> str:
    return ", ".join(f"{code}: {count}" for code, count in sorted(exits.items()))


def figures(times: Sequence[float]) -> dict[str, float]:
    """Number, p50, p99 and largest."""
    if not times:
        return {"n": 0, "p50": 0.0, "p99": 0.0, "max": 0.0}
    return {"n": len(times), "p50": percentile(times, 0.5), "p99": percentile(times, 0.99), "max": max(times)}


def report(history: History, violations: Sequence[Violation], *, notes: Sequence[str]) -> Report:
    """Counts a history that has been judged. All of it stands in the history, so that it can be made again."""
    plan = history.of("soak")[0]
    calm = [line["at"] for line in history.of("calm", "over")]
    faults = Counter(_kind(line) for line in history.of("fault", "dies"))
    faults["poison"] += sum(bool(task["wish"].get("poison")) for task in history.tasks)
    results = Counter(row["task_id"] for row in history.results)
    return Report(
        plan["seed"], plan["minutes"], dict(+faults),
        sum(task["state"] in ("completed", "failed", "quarantined") for task in history.tasks),
        len(history.of("claimed")), len(history.of("refused")),
        sum(v.rule == "nothing is lost" for v in violations), sum(count > 1 for count in results.values()),
        sum(v.rule == "nothing is stuck" for v in violations), len(history.of("quiet")),
        Counter(line["code"] for line in history.of("exit")), calm[-1] - calm[0] if calm else 0.0,
        recoveries(history), violations, notes,
    )  # fmt: skip


def _kind(line: dict[str, Any]) -> str:
    if line["what"] == "dies":
        return "kill of itself" if line["how"].startswith("SIGKILL") else "death by a poison"
    return f"{line['kind']}, {line['how']}" if "how" in line else str(line["kind"])


def recoveries(history: History) -> dict[str, list[float]]:
    """Seconds from the death of a worker, or from its last moment before a freeze, until its tasks were back in the
    queue, and until they ran again.

    Hits within two seconds of a time without a server are counted apart.
    """
    dead, frozen = _hits(history)
    outages = [(line["begin"], line["at"]) for line in history.of("outage")]
    locked = {task["id"] for task in history.tasks if task["lock_key"] is not None}
    claims: dict[int, list[float]] = defaultdict(list)
    for line in history.of("claimed"):
        claims[line["task"]].append(line["at"])
    found: dict[str, list[float]] = defaultdict(list)
    for row in history.attempts:
        worker = row["worker_id"] or 0
        if row["outcome"] not in ("crashed", "stalled"):
            continue
        if worker in dead and row["ended"] > dead[worker]:
            at, what = dead[worker], "SIGKILL"
        elif worker in frozen and frozen[worker][0] < row["ended"] < frozen[worker][1]:
            at, what = frozen[worker][0], "frozen"
        else:
            continue
        away = any(begin - 2 < at < end + 2 for begin, end in outages)
        where = "while the server was away" if away else "with the server there"
        found[f"{what} to requeued, {where}"].append(row["ended"] - at)
        again = [time - at for time in claims[row["task_id"]] if time > row["ended"]]
        if again:
            which = " (a task with a lock)" if row["task_id"] in locked else ""
            found[f"{what} to running again{which}, {where}"].append(min(again))
    times = sorted(line["at"] for line in history.of("claimed"))
    for begin, end in outages:
        found["the server's end to its first connection"].append(end - begin)
        if later := times[bisect(times, end) :]:
            found["the server's first connection to the next claim"].append(later[0] - end)
    return {name: found[name] for name in sorted(found)}


def _hits(history: History) -> tuple[dict[int, float], dict[int, tuple[float, float]]]:
    """When each worker was killed, and from when to when it was frozen."""
    claims: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for line in sorted(history.of("claimed"), key=lambda line: float(line["at"])):
        claims[line["pid"]].append((line["at"], line["worker"]))

    def worker(pid: int, at: float) -> int:
        """Who had claimed last under this number: in an hour the system gives numbers again."""
        before = bisect(claims[pid], at, key=lambda claim: claim[0])
        return claims[pid][before - 1][1] if before else 0

    dead: dict[int, float] = {}
    frozen: dict[int, tuple[float, float]] = {}
    for line in history.of("fault", "dies"):
        if line["what"] == "dies" and line["how"].startswith("SIGKILL"):
            dead.setdefault(worker(line["pid"], line["at"]), line["at"])
        elif line.get("kind") == "kill":
            dead.setdefault(worker(line["victim"], line["hit_at"]), line["hit_at"])
        elif line.get("kind") in ("stop", "freeze"):
            frozen[worker(line["victim"], line["hit_at"])] = line["hit_at"], line["hit_at"] + line["seconds"]
    return dead, frozen
