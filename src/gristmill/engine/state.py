"""The states of a task, and every change between them. SQL, tests and the diagram are checked against this table."""

from __future__ import annotations

from typing import Final

WAITING: Final = "waiting"
AVAILABLE: Final = "available"
RUNNING: Final = "running"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
QUARANTINED: Final = "quarantined"

STATES: Final = (WAITING, AVAILABLE, RUNNING, COMPLETED, FAILED, CANCELLED, QUARANTINED)
OPEN: Final = frozenset({WAITING, AVAILABLE, RUNNING})

# (statement in sql/queue.sql, state before, state after); "" before means that the task is made.
TRANSITIONS: Final = frozenset(
    {
        ("enqueue", "", AVAILABLE),
        ("enqueue", "", WAITING),
        ("claim", AVAILABLE, RUNNING),
        ("settle", RUNNING, COMPLETED),
        ("fail", RUNNING, AVAILABLE),
        ("fail", RUNNING, FAILED),
        ("release", RUNNING, AVAILABLE),
        ("give_back", RUNNING, AVAILABLE),
        ("crash", RUNNING, AVAILABLE),
        ("crash", RUNNING, QUARANTINED),
        ("rescue", RUNNING, AVAILABLE),
        ("rescue", RUNNING, QUARANTINED),
        ("reopen", FAILED, AVAILABLE),
        ("reopen", QUARANTINED, AVAILABLE),
        ("revive", CANCELLED, WAITING),
        ("unblock", WAITING, AVAILABLE),
        ("park", AVAILABLE, WAITING),
        ("expire", WAITING, FAILED),
        ("expire", AVAILABLE, FAILED),
        ("cancel", WAITING, CANCELLED),
        ("cancel", AVAILABLE, CANCELLED),
        ("cancel", RUNNING, CANCELLED),
        ("cancel", FAILED, CANCELLED),
        ("cancel", QUARANTINED, CANCELLED),
    }
)


def allowed(before: str, after: str) -> bool:
    """Whether some statement may change a task from `before` to `after`."""
    return any(change[1:] == (before, after) for change in TRANSITIONS)
