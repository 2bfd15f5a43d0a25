"""The states of a record under review, and every change between them. SQL, tests and the diagram follow this table."""

from __future__ import annotations

from typing import Final

from gristmill.data.rows import REVIEWED
from gristmill.errors import UsageError

__all__ = ["DECIDED", "DECISIONS", "REVIEWED", "STANDING", "STATES", "TRANSITIONS", "state_after"]

PROPOSED: Final = "proposed"
ACCEPTED: Final = "accepted"
EDITED: Final = "edited"
REJECTED: Final = "rejected"
SKIPPED: Final = "skipped"

STATES: Final = (PROPOSED, ACCEPTED, EDITED, REJECTED, SKIPPED)
DECIDED: Final = frozenset({ACCEPTED, EDITED, REJECTED})
DECISIONS: Final = ("accept", "edit", "reject", "skip")

_FORWARD: Final = frozenset(
    {
        ("accept", PROPOSED, ACCEPTED),
        ("accept", SKIPPED, ACCEPTED),
        ("accept", REJECTED, ACCEPTED),
        ("edit", PROPOSED, EDITED),
        ("edit", SKIPPED, EDITED),
        ("edit", ACCEPTED, EDITED),
        ("edit", REJECTED, EDITED),
        ("edit", EDITED, EDITED),
        ("reject", PROPOSED, REJECTED),
        ("reject", SKIPPED, REJECTED),
        ("reject", ACCEPTED, REJECTED),
        ("reject", EDITED, REJECTED),
        ("skip", PROPOSED, SKIPPED),
        ("dispute", ACCEPTED, PROPOSED),
        ("dispute", EDITED, PROPOSED),
        ("dispute", REJECTED, PROPOSED),
    }
)
# (act, state before, state after). A dispute is a second opinion that differs; an undo takes any other change back.
TRANSITIONS: Final = _FORWARD | {("undo", after, before) for _, before, after in _FORWARD}
# Decisions that say what is so already: nothing changes, and nobody is told.
STANDING: Final = frozenset({("accept", ACCEPTED), ("accept", EDITED), ("reject", REJECTED), ("skip", SKIPPED)})


def state_after(decision: str, before: str) -> str:
    """The state that a decision leads to; `before` itself where that is what was decided already.

    Raises `UsageError` V131 for a decision that is not known, V130 for one that this state does not allow.
    """
    if decision not in DECISIONS:
        raise UsageError(
            f'"{decision}" is no decision', code="V131", hint=f"one of: {', '.join(DECISIONS)}",
            safe="nothing was changed",
        )  # fmt: skip
    if (decision, before) in STANDING:
        return before
    for act, start, after in _FORWARD:
        if (act, start) == (decision, before):
            return after
    raise UsageError(
        f"what is {before} cannot be left aside", code="V130",
        hint="take the decision back first: gristmill review undo", safe="nothing was changed",
    )  # fmt: skip
