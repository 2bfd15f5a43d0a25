"""What a chat completions server said: its answers, its refusals, and the schemas that it takes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from gristmill.errors import InvalidOutput
from gristmill.llm.model import Answer, Reply, UnusableAnswer, Usage

TOO_LARGE = "too_large"  # the finish reason that we note for a body over the limit; only its start is kept
_MESSAGE_LIMIT = 500  # characters of a server's message that go into an error
_SCAN = 65_536  # bytes of a body that `glance` looks at, from the finish reason or the usage on
# A quote inside a JSON string is written \", so `name":` can only be the end of a real key.
_FACT = re.compile(
    rb'"(prompt_tokens|completion_tokens|cached_tokens|reasoning_tokens|finish_reason)"\s*:\s*'
    rb'(?:(\d{1,9})(?!\d)|"([A-Za-z_]{1,40})")'
)
_BROKEN = re.compile("[\x00\ud800-\udfff]")  # what PostgreSQL text cannot hold
_LONGEST_DELAY = 86_400.0  # seconds; a Retry-After beyond a day is taken for nonsense


def clean_text(text: str) -> str:
    """The text with U+FFFD for every NUL and lone surrogate, which no PostgreSQL column can hold."""
    if "\x00" not in text:
        try:
            text.encode()  # six times faster than the pattern, and nearly every text passes
        except UnicodeEncodeError:
            pass
        else:
            return text
    return _BROKEN.sub("\ufffd", text)


def glance(body: bytes) -> tuple[str, Usage]:
    """Finish reason and tokens by a scan that cannot fail, so that the ledger can note them before a parser runs."""
    marks = [place for word in (b'"finish_reason"', b'"usage"') if (place := body.rfind(word)) >= 0]
    start = min(marks, default=0)
    found = {name: number or word for name, number, word in _FACT.findall(body, start, start + _SCAN)}

    def count(name: bytes) -> int:
        value = found.get(name, b"0")
        return int(value) if value.isdigit() else 0

    reason = found.get(b"finish_reason", b"").decode()
    usage = Usage(
        count(b"prompt_tokens"), count(b"completion_tokens"), count(b"cached_tokens"), count(b"reasoning_tokens")
    )
    return reason, usage


def read_completion(reply: Reply, model: str) -> Answer:
    """The answer in the body of a chat completion.

    Raises `UnusableAnswer` when there is none, and `InvalidOutput` M205 when it was cut at the limit of tokens: half
    an answer may look whole, so it is never repaired.
    """
    if reply.finish_reason == TOO_LARGE:
        raise UnusableAnswer("the answer is larger than 16 MiB", code="M203")
    try:
        body = json.loads(reply.body)
        choice = body["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        named = str(body.get("model") or model)
        reason = str(choice.get("finish_reason") or "stop")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        start = clean_text(reply.body[:80].decode("utf-8", "replace"))
        raise UnusableAnswer(f"the server answered 200 without an answer; it starts with: {start}") from None
    if reason == "length":
        raise InvalidOutput(
            "the answer was cut at the limit of tokens", hint="raise max_tokens, or ask for less at once", code="M205"
        )
    if isinstance(text, list):  # some servers answer with a list of parts
        text = "".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
    if message.get("refusal") and not text:
        raise UnusableAnswer(f"the model refused: {clean_text(str(message['refusal']))[:_MESSAGE_LIMIT]}")
    return Answer(clean_text(str(text)), named, reason, reply.usage, reply.body)


def error_message(body: bytes) -> tuple[str, str]:
    """The server's own words (at most 500 characters, one line) and its code ("" when it has none)."""
    text = body[:20_000].decode("utf-8", "replace")
    code = ""
    try:
        error = json.loads(text)
        error = error.get("error", error)
        if isinstance(error, dict):
            code = str(error.get("code") or error.get("type") or "")
            if "insufficient_quota" in (error.get("code"), error.get("type")):
                code = "insufficient_quota"
            text = str(error.get("message") or error.get("detail") or text)
        else:
            text = str(error)
    except (ValueError, AttributeError, RecursionError):
        pass
    text = " ".join(clean_text(text).split())
    return (text if len(text) <= _MESSAGE_LIMIT else f"{text[:_MESSAGE_LIMIT]}...") or "no message", code


def rejects_format(body: bytes) -> bool:
    """True when a 400 is about the form in which a schema was sent, not about the question."""
    text = body[:20_000].lower()
    words = (b"response_format", b"json_schema", b"json_object", b"structured output", b"grammar", b"guided")
    return any(word in text for word in words)


def rejects_schema(body: bytes) -> bool:
    """True when the server knows schemas and dislikes this one."""
    return b"invalid schema" in body[:20_000].lower()


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, between 0.5 and 900; None when the server does not say or what it says is not plausible.

    A date is compared with the server's own Date, so that a wrong clock on either side does no harm.
    """
    value = (headers.get("retry-after") or "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            then = parsedate_to_datetime(value)
            seconds = (then - parsedate_to_datetime(headers.get("date") or "")).total_seconds()
        except (ValueError, TypeError):
            return None
    if not math.isfinite(seconds) or seconds < 0 or seconds > _LONGEST_DELAY:
        return None
    return min(max(seconds, 0.5), 900.0)
