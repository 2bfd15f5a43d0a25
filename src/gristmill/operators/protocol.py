"""What a worker and its child processes say to each other about operators: plain values, sent by `engine/child.py`.

worker -> child   {"operator", "module", "path", "inputs", "ancestors", "options", "context"}
child  -> worker  {"result": [[kind, body, parents], ...], "notes": {...}} or {"error": {...}, "notes": {...}}
child  -> worker  a question: a request to the model, which the worker asks: the child holds no key and no connection
"""

from __future__ import annotations

import base64
from typing import Any

from pydantic import BaseModel

from gristmill.data.kinds import BODY_LIMIT, canonical_json, kind_of
from gristmill.engine import carried
from gristmill.errors import InputError
from gristmill.llm.model import Answer, Image, Message, Request, Text, UnusableAnswer, Usage

LINE_LIMIT = 64 * 1024 * 1024  # bytes of one message; a body is at most 1 MiB, a barrier's inputs are many


def body_to_json(body: BaseModel) -> str:
    """The JSON of a body that goes back to the worker. Raises `InputError` T601, T602 or T603, as saving it would."""
    kind = kind_of(body)
    try:
        text = canonical_json(body.model_dump(mode="json"))
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InputError(f"a {kind} holds half of a surrogate pair", code="T602") from None
    except (ValueError, TypeError, RecursionError) as error:  # NaN, a number of 5,000 digits, or nested too deep
        raise InputError(f"a {kind} cannot be written as JSON: {error}", code="T603") from None
    if size > BODY_LIMIT:
        raise InputError(
            f"a {kind} of {size:,} bytes is over the limit of {BODY_LIMIT:,}", code="T601",
            hint="keep large content in a blob: digest = await ctx.blobs.write(data)",
        )  # fmt: skip
    return text


def request_to_json(request: Request) -> dict[str, Any]:
    return {
        "messages": [[m.role, _content_to_json(m)] for m in request.messages],
        "schema": request.schema, "schema_name": request.schema_name, "parameters": dict(request.parameters),
        "sample": request.sample, "attempt": request.attempt, "prompt": request.prompt,
        "fields": dict(request.fields), "task": request.task, "run": request.run,
    }  # fmt: skip


def request_from_json(plain: dict[str, Any]) -> Request:
    messages = tuple(Message(role, _content_from_json(content)) for role, content in plain.pop("messages"))
    return Request(messages=messages, **plain)


def _content_to_json(message: Message) -> str | list[list[str]]:
    if isinstance(message.content, str):
        return message.content
    return [
        [part.text] if isinstance(part, Text) else [part.media_type, base64.b64encode(part.data).decode()]
        for part in message.content
    ]


def _content_from_json(content: str | list[list[str]]) -> str | tuple[Text | Image, ...]:
    if isinstance(content, str):
        return content
    return tuple(Text(part[0]) if len(part) == 1 else Image(base64.b64decode(part[1]), part[0]) for part in content)


def answer_to_json(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    return {
        "text": answer.text, "model": answer.model, "finish_reason": answer.finish_reason,
        "usage": [usage.input, usage.output, usage.cached, usage.reasoning],
        "raw": base64.b64encode(answer.raw).decode(), "from_ledger": answer.from_ledger,
        "reasoning": answer.reasoning, "key": answer.key,
    }  # fmt: skip


def answer_from_json(plain: dict[str, Any]) -> Answer:
    return Answer(
        text=plain["text"], model=plain["model"], finish_reason=plain["finish_reason"], usage=Usage(*plain["usage"]),
        raw=base64.b64decode(plain["raw"]), from_ledger=plain["from_ledger"], reasoning=plain["reasoning"],
        key=plain["key"],
    )  # fmt: skip


def error_to_json(error: BaseException) -> dict[str, Any]:
    """An exception as data; only its words travel, never the object."""
    plain = carried.error_to_json(error)
    if isinstance(error, UnusableAnswer):
        plain |= {"type": "UnusableAnswer", "from_ledger": error.from_ledger}
    return plain


def error_from_json(plain: dict[str, Any]) -> Exception:
    """Our own errors come back as themselves, any other as a `TransientError` that names its type."""
    if plain["type"] == "UnusableAnswer":
        return UnusableAnswer(
            plain["message"], hint=plain["hint"], from_ledger=plain["from_ledger"], code=plain["code"]
        )
    return carried.error_from_json(plain)
