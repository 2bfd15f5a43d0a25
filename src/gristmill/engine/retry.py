"""What an error means for its task: tried again after a back-off, given up at once, or put off without a charge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gristmill.engine.task import Failure
from gristmill.errors import Busy, GristmillError, InvalidOutput, TransientError, UsageError


@dataclass(frozen=True, slots=True)
class Rule:
    """For one class of errors: "retry" (with a back-off of its own, if given), "fail" at once, or "snooze": the attempt
    is given back uncharged and the task waits `backoff` seconds. Raises `UsageError` for any other word."""

    action: Literal["retry", "fail", "snooze"] = "retry"
    backoff: float | None = None
    longest: float | None = None

    def __post_init__(self) -> None:
        if self.action not in ("retry", "fail", "snooze"):
            raise UsageError(f'"{self.action}" is no action of a retry rule', hint="retry, fail or snooze")


@dataclass(frozen=True, slots=True)
class Policy:
    """How the attempts of a task are bounded and judged. All times in seconds.

    `timeout` None: no bound. The back-off doubles from `backoff` up to `longest`, with jitter, on database time.
    `rules` go by the name of an error's class or of one of its bases; the nearest class wins:
    `{"ConnectionError": Rule("snooze", 30), "ValueError": Rule("fail")}`. Without a rule our own errors say themselves
    what they mean, and all others are retried.
    """

    timeout: float | None = None
    backoff: float = 1.0
    longest: float = 300.0
    rules: Mapping[str, Rule] = field(default_factory=dict)

    def judge(self, error: BaseException) -> Failure | Busy:
        """How the error is charged: as a failure, or not at all."""
        if isinstance(error, Busy):
            return error
        # An error that came out of a child process brings the names of its classes along (engine/carried.py).
        names = getattr(error, "origins", ()) or [cls.__name__ for cls in type(error).__mro__]
        rule = next((self.rules[name] for name in names if name in self.rules), None)
        if rule is not None and rule.action == "snooze":
            name = names[0]
            return Busy(f"{name}: {error}", delay=rule.backoff or self.backoff, reason=f"{name}: {error}")
        retry = isinstance(error, TransientError | InvalidOutput) or not isinstance(error, GristmillError)
        if isinstance(error, GristmillError):
            message, code = error.message, error.code
        else:
            message, code = str(error) or type(error).__name__, "T300"
        return Failure(
            code, names[0], message, retry if rule is None else rule.action == "retry",
            (rule and rule.backoff) or self.backoff, (rule and rule.longest) or self.longest,
        )  # fmt: skip


DEFAULT = Policy()
