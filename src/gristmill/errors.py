"""Every error that Gristmill raises on purpose.

    GristmillError                  code, message, hint (what to do), safe (what was not harmed)
    +-- UsageError                  the call or the command line is wrong                            exit code 2
    |   +-- ConfigurationError      a setting is unknown, malformed or out of range
    |   `-- WorkflowError           a workflow does not fit together
    +-- EnvironmentProblem          the machine, the database or a provider is not fit for the work   exit code 3
    |   +-- DatabaseProblem         no database, or not one that this version can work on
    |   `-- ModelSetupError         a model that does not exist, or has no key
    +-- NoResult                    asked for the result of a task that has none (yet)
    `-- TaskError                   raised by operators; decides what happens to the task
        +-- InputError              this input can never succeed: fails at once, no retry
        +-- TransientError          may succeed later: retried with back-off until the attempts are spent
        |   +-- ModelUnavailable    the model's server does not answer, or answers 5xx
        |   `-- LockLost            a lock ended before its holder did: forced, or not renewed in time
        +-- Busy                    nobody's fault (quota, lock): the attempt is given back, the task waits
        |   `-- LockHeld            somebody else holds the lock; says who, and since when
        `-- ModelError              the model answered, and the answer is of no use
            +-- ModelRefused        401, 403, 404, 400: asking again the same way cannot help
            `-- InvalidOutput       still malformed after the re-asks; the raw text is kept in the ledger

An exception of any other type raised inside an operator counts as transient: it is retried, and its type is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class GristmillError(Exception):
    """What went wrong, what to do about it, and what is safe.

    `code` is stable and short (``"D103"``); a subclass gives its default.
    """

    code = "G000"

    def __init__(self, message: str, *, hint: str = "", safe: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.safe = safe
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return self.message


class UsageError(GristmillError):
    code = "U100"


class ConfigurationError(UsageError):
    code = "U200"


class WorkflowError(UsageError):
    code = "U300"


class EnvironmentProblem(GristmillError):
    code = "E100"


class DatabaseProblem(EnvironmentProblem):
    code = "D100"


class ModelSetupError(EnvironmentProblem):
    code = "M100"


class NoResult(GristmillError):
    """`state` is the task's: failed, cancelled, quarantined, or that of an open task; "" where there is none."""

    code = "R100"

    def __init__(self, message: str, *, state: str, hint: str = "", safe: str = "", code: str | None = None) -> None:
        super().__init__(message, hint=hint, safe=safe, code=code)
        self.state = state


class TaskError(GristmillError):
    code = "T100"


class InputError(TaskError):
    code = "T200"


class TransientError(TaskError):
    code = "T300"


class ModelUnavailable(TransientError):
    code = "M300"


class LockLost(TransientError):
    code = "T310"


class Busy(TaskError):
    """Ask again after `delay` seconds; neither a failure nor an attempt is charged."""

    code = "T400"

    def __init__(self, message: str, *, delay: float, reason: str = "busy", code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.delay = delay
        self.reason = reason


class LockHeld(Busy):
    """`holders` are those who hold it (`gristmill.engine.locks.Holder`), as far as they could be read."""

    code = "T410"

    def __init__(
        self, message: str, *, holders: Sequence[Any] = (), delay: float = 5.0, hint: str = "", safe: str = "",
        code: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message, delay=delay, reason=message, code=code)
        self.holders = tuple(holders)
        self.hint, self.safe = hint, safe


class ModelError(TaskError):
    code = "M200"


class ModelRefused(ModelError):
    code = "M201"


class InvalidOutput(ModelError):
    code = "M202"
