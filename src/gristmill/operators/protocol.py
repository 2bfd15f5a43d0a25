"""What a worker and its child processes say to each other: one JSON document a line, both ways.

worker -> child   {"operator", "module", "path", "inputs", "ancestors", "options", "context"}
child  -> worker  {"call": request}      the model is asked by the worker: the child holds no key and no connection
worker -> child   {"answer": ...} or {"error": ...}
child  -> worker  {"result": [[kind, body, parents], ...], "notes": {...}} or {"error": {...}}
"""

from __future__ import annotations

import base64
import json
from typing import Any

from gristmill import errors
from gristmill.errors import Busy, GristmillError, TransientError
from gristmill.llm.model import Answer, Message, Request, UnusableAnswer, Usage

LINE_LIMIT = 64 * 1024 * 1024  # bytes of one message; a body is at most 1 MiB, a barrier's inputs are many


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def request_to_json(request: Request) -> dict[str, Any]:
    return {
        "messages": [[m.role, m.content] for m in request.messages],
        "schema": request.schema, "schema_name": request.schema_name, "parameters": dict(request.parameters),
        "sample": request.sample, "attempt": request.attempt, "prompt": request.prompt,
        "fields": dict(request.fields), "task": request.task, "run": request.run,
    }  # fmt: skip


def request_from_json(plain: dict[str, Any]) -> Request:
    messages = tuple(Message(role, content) for role, content in plain.pop("messages"))
    return Request(messages=messages, **plain)


def answer_to_json(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    return {
        "text": answer.text, "model": answer.model, "finish_reason": answer.finish_reason,
        "usage": [usage.input, usage.output, usage.cached, usage.reasoning],
        "raw": base64.b64encode(answer.raw).decode(), "from_ledger": answer.from_ledger,
    }  # fmt: skip


def answer_from_json(plain: dict[str, Any]) -> Answer:
    return Answer(
        text=plain["text"], model=plain["model"], finish_reason=plain["finish_reason"], usage=Usage(*plain["usage"]),
        raw=base64.b64decode(plain["raw"]), from_ledger=plain["from_ledger"],
    )  # fmt: skip


def error_to_json(error: BaseException) -> dict[str, Any]:
    """An exception as data; only its words travel, never the object."""
    plain: dict[str, Any] = {"type": type(error).__name__, "message": str(error) or type(error).__name__}
    if isinstance(error, GristmillError):  # a subclass of somebody else's travels as the nearest of ours
        known = (cls.__name__ for cls in type(error).__mro__ if cls is UnusableAnswer or hasattr(errors, cls.__name__))
        plain["type"] = next(known)
        plain |= {"code": error.code, "hint": error.hint}
    if isinstance(error, Busy):
        plain |= {"delay": error.delay, "reason": error.reason}
    if isinstance(error, UnusableAnswer):
        plain |= {"from_ledger": error.from_ledger}
    return plain


def error_from_json(plain: dict[str, Any]) -> Exception:
    """Our own errors come back as themselves, any other as a `TransientError` that names its type."""
    if plain["type"] == "UnusableAnswer":
        return UnusableAnswer(
            plain["message"], hint=plain["hint"], from_ledger=plain["from_ledger"], code=plain["code"]
        )
    cls = getattr(errors, plain["type"], None)
    if cls is Busy:
        return Busy(plain["message"], delay=plain["delay"], reason=plain["reason"], code=plain["code"])
    if isinstance(cls, type) and issubclass(cls, GristmillError):
        return cls(plain["message"], hint=plain.get("hint", ""), code=plain.get("code"))
    return TransientError(f"{plain['type']}: {plain['message']}")
