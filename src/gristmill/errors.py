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
        |   +-- LimitReached        a provider's quota is used up for the moment, or for the day
        |   +-- LockHeld            somebody else holds the lock; says who, and since when
        |   `-- BudgetSpent         the next call could pass a budget; its run is paused
        `-- ModelError              the model answered, and the answer is of no use
            +-- ModelRefused        401, 403, 404, 400: asking again the same way cannot help
            `-- InvalidOutput       still malformed after the re-asks; the raw text is kept in the ledger

An exception of any other type raised inside an operator counts as transient: it is retried, and its type is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """`problems` are the wrong settings one by one, where several may have been found."""

    code = "U200"

    def __init__(
        self, message: str, *, hint: str = "", safe: str = "", code: str | None = None, problems: Sequence[str] = ()
    ) -> None:
        super().__init__(message, hint=hint, safe=safe, code=code)
        self.problems = tuple(problems)


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
    """Ask again after `delay` seconds; neither a failure nor an attempt is charged.

    `limits` are the headers in which a provider told how much of its limits is left, in lower case.
    """

    code = "T400"

    def __init__(
        self, message: str, *, delay: float, reason: str = "busy", code: str | None = None,
        limits: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message, code=code)
        self.delay = delay
        self.reason = reason
        self.limits = dict(limits or {})


class LimitReached(Busy):
    """Everything that calls the same model waits: a worker claims less of that kind for a while."""

    code = "T430"


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


class BudgetSpent(Busy):
    """`cap` and `spent` are exact amounts (`Decimal`) in `currency`; `scope` is run, day or project."""

    code = "M420"

    def __init__(
        self, message: str, *, reason: str, scope: str, cap: Any, spent: Any, currency: str, delay: float = 5.0,
        code: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message, delay=delay, reason=reason, code=code)
        self.scope, self.cap, self.spent, self.currency = scope, cap, spent, currency
        self.hint = f"raise it: gristmill budget set {scope} AMOUNT, then gristmill resume"
        self.safe = "nothing was sent; what was finished is kept"


class ModelError(TaskError):
    code = "M200"


class ModelRefused(ModelError):
    code = "M201"


class InvalidOutput(ModelError):
    """`raw` is the last text that the model gave, "" where there was none."""

    code = "M202"

    def __init__(
        self, message: str, *, hint: str = "", safe: str = "", code: str | None = None, raw: str = ""
    ) -> None:  # fmt: skip
        super().__init__(message, hint=hint, safe=safe, code=code)
        self.raw = raw
