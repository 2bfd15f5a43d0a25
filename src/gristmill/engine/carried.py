"""Exceptions as data: what a child process raised comes back with all that decides about a retry."""

from __future__ import annotations

from typing import Any

from gristmill import errors
from gristmill.errors import GristmillError, LockHeld, TransientError

LONGEST = 4000  # characters of a message that travel
MORE = ("delay", "reason", "state")  # what some of our errors hold besides their words


def error_to_json(error: BaseException) -> dict[str, Any]:
    """An exception as plain values; only its words travel, never the object."""
    message = words_of(error)
    plain: dict[str, Any] = {
        "type": type(error).__name__, "message": message,
        "origins": [cls.__name__ for cls in type(error).__mro__ if cls not in (object, BaseException)],
    }  # fmt: skip
    if isinstance(error, GristmillError):  # a subclass of somebody else's travels as the nearest of ours
        plain["type"] = next(cls.__name__ for cls in type(error).__mro__ if hasattr(errors, cls.__name__))
        plain |= {"code": error.code, "hint": error.hint[:LONGEST], "safe": error.safe[:LONGEST]}
        plain["more"] = {name: value for name in MORE if (value := getattr(error, name, None)) is not None}
    return plain


def error_from_json(plain: dict[str, Any]) -> Exception:
    """Our own errors come back as themselves, any other as a `TransientError` that names its type.

    `origins` of the returned error holds the names of the classes that the original was an instance of, nearest first.
    """
    cls = getattr(errors, plain["type"], None)
    made: Exception
    if isinstance(cls, type) and issubclass(cls, GristmillError):
        made = cls.__new__(cls, plain["message"])  # not by `cls(...)`: each has arguments of its own
        made.__dict__.update(
            {name: plain.get(name, "") for name in ("message", "code", "hint", "safe")}
            | ({"holders": ()} if issubclass(cls, LockHeld) else {}) | plain["more"]
        )  # fmt: skip
    else:
        made = TransientError(f"{plain['type']}: {plain['message']}")
    made.__dict__["origins"] = tuple(plain.get("origins", ()))
    return made


def words_of(error: BaseException) -> str:
    """The text of an exception, at most 4,000 characters; the name of its class where it has none, or none to give."""
    try:
        return (str(error) or type(error).__name__)[:LONGEST]
    except Exception:  # an exception whose own text raises one
        return type(error).__name__
