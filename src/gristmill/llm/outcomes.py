"""What became of asking a model: one word for people, reports and filters."""

from __future__ import annotations

from gristmill.errors import InvalidOutput, ModelError

OUTCOMES = {
    "ok": "there is an answer",
    "empty": "the answer is valid, and there is nothing in it",
    "degraded": "something else stands in for the answer; the reason is noted",
    "invalid_output": "no answer could be read, also after asking again; the raw text is kept",
    "refused": "the model refused",
    "too_long": "the question does not fit into the model, or the answer not into its limit of tokens",
    "rejected": "the provider's filter took the question or the answer away",
    "failed": "anything else: the server, the network, the key",
}
_BY_CODE = {"M205": "too_long", "M211": "too_long", "M209": "refused", "M210": "rejected"}


def outcome_of(error: BaseException) -> str:
    """The outcome that an error stands for, one of `OUTCOMES`."""
    if not isinstance(error, ModelError):
        return "failed"
    return _BY_CODE.get(error.code, "invalid_output" if isinstance(error, InvalidOutput) else "failed")
