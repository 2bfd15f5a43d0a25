"""What holds the work up, in one honest sentence."""

from __future__ import annotations

import re
from typing import Any, Literal

from gristmill.api.shapes import Answer
from gristmill.app import App
from gristmill.db.statements import statements

SQL, WHY = statements("api_live"), statements("why")
MOST_RUNS = 5  # the newest that go on: looking at more of them tells little more
Code = Literal[
    "nothing",
    "paused",
    "quota",
    "budget",
    "lock",
    "no_worker",
    "no_slot",
    "pool",
    "upstream",
    "later",
    "going",
    "other",
]
RULES: tuple[tuple[Code, str, bool | None], ...] = (
    ("budget", r"^budget: ", False),
    ("paused", r"paused$", False),
    ("quota", r"^(quota: |provider |rate limit)", False),
    ("lock", r"^lock ", False),
    ("no_worker", r"^no worker", True),
    ("no_slot", r"^no free slot", True),
    ("pool", r"^the limit of pool", False),
    ("upstream", r"^waits for", False),
    ("going", r"^about to", None),
    ("later", r".", False),
)
TEXTS: dict[Code, str] = {
    "nothing": "Nothing waits: more workers would have nothing to do.",
    "paused": "More workers will not help: what waits is paused.",
    "quota": "More workers will not help: a provider's limit decides how fast it goes.",
    "budget": "More workers will not help: the budget is spent.",
    "lock": "More workers will not help: what waits needs a lock that somebody holds.",
    "no_worker": "A worker is missing: nobody works on what waits.",
    "no_slot": "More workers would help: every slot is taken, and no limit is reached.",
    "pool": "More workers will not help: a pool has a limit over all workers.",
    "upstream": "More workers will not help: what waits needs the step before it.",
    "later": "More workers will not help: what waits is due later.",
    "going": "Everything that can go on does.",
    "other": "See what holds each run up.",
}


class Reason(Answer):
    run: str
    stage: str
    reason: str
    tasks: int


class Sentence(Answer):
    """`code` is stable, `text` is for people; `help`: whether more workers would (null: it makes no difference).
    `because`: the largest groups of what waits."""

    code: Code
    text: str
    help: bool | None
    waiting: int
    because: list[Reason]


def kind_of(reason: str) -> tuple[Code, bool | None]:
    """The kind of a reason as `held_by` gives it."""
    return next((code, helps) for code, pattern, helps in RULES if re.search(pattern, reason))


async def sentence_of(app: App) -> Sentence:
    """Looks at the newest runs that have not ended: the reason of most of what waits decides."""
    rows: list[Any] = await app.pool.fetch(SQL["runs_in"], app.settings.project, ["running", "paused", "waiting"])
    found = [
        Reason(run=row["name"], stage=step, reason=reason, tasks=tasks)
        for row in rows[-MOST_RUNS:]
        for step, reason, tasks in await app.pool.fetch(WHY["held_by"], row["id"], None)
    ]
    sums: dict[tuple[Code, bool | None], int] = {}
    for one in found:
        kind = kind_of(one.reason)
        sums[kind] = sums.get(kind, 0) + one.tasks
    heaviest = max(sums.items(), key=lambda entry: entry[1], default=None)
    code, helps = ("nothing", False) if heaviest is None or not heaviest[1] else heaviest[0]
    largest = sorted(found, key=lambda one: -one.tasks)[:5]
    return Sentence(code=code, text=TEXTS[code], help=helps, waiting=sum(sums.values()), because=largest)
