"""What a model's server said, as far as all protocols share it: answers, refusals, errors, how long to wait."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from gristmill.errors import InvalidOutput
from gristmill.llm.model import Answer, Reply, UnusableAnswer

TOO_LARGE = "too_large"  # the finish reason that we note for a body over the limit; only its start is kept
_MESSAGE_LIMIT = 500  # characters of a server's message that go into an error
_SCAN = 65_536  # bytes of a body that `glance` looks at, from the finish reason or the usage on
_BROKEN = re.compile("[\x00\ud800-\udfff]")  # what PostgreSQL text cannot hold
_LONGEST_DELAY = 86_400.0  # seconds; a Retry-After beyond a day is taken for nonsense
LONGEST_WAIT = 900.0  # seconds; then it is tried again, whatever the server said
_TELLING = ("x-ratelimit-", "anthropic-ratelimit-", "ratelimit", "retry-after", "date")
_OF_THE_DAY = re.compile(rb"per[ _-]?day|daily|\b[rt]pd\b", re.IGNORECASE)
_DELAY = re.compile(rb'"retryDelay"\s*:\s*"(\d+(?:\.\d+)?)s"|try again in (\d+(?:\.\d+)?) ?(ms|s)\b')
_MONEY = (b"credit balance is too low", b"spend_limit_reached", b"insufficient balance")
_TOO_LONG = (
    b"context_length_exceeded", b"maximum context length", b"prompt is too long", b"context window",
    b"exceeds the maximum number of tokens", b"exceed_context_size", b"exceeds the available context",
    b"string_above_max_length",
)  # fmt: skip


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


def scan(body: bytes, facts: re.Pattern[bytes], marks: tuple[bytes, ...]) -> dict[bytes, bytes]:
    """What a pattern of (key, number, word) finds from the last of each mark on. Cannot fail."""
    places = [place for word in marks if (place := body.rfind(word)) >= 0]
    start = min(places, default=0)
    return {name: number or word for name, number, word in facts.findall(body, start, start + _SCAN)}


def facts(*names: str) -> re.Pattern[bytes]:
    """The pattern for `scan`. A quote inside a JSON string is written \\", so `name":` can only be the end of a key."""
    pattern = rf'"({"|".join(names)})"\s*:\s*(?:(\d{{1,9}})(?!\d)|"([A-Za-z_]{{1,40}})")'
    return re.compile(pattern.encode())


def count(found: Mapping[bytes, bytes], *names: bytes) -> int:
    """The sum of the numbers under these names."""
    return sum(int(value) for name in names if (value := found.get(name, b"0")).isdigit())


def no_answer(body: bytes) -> UnusableAnswer:
    start = clean_text(body[:80].decode("utf-8", "replace"))
    return UnusableAnswer(f"the server answered 200 without an answer; it starts with: {start}")


@dataclass(frozen=True, slots=True)
class Said:
    """What a protocol found in the body of an answer.

    `finish` is "stop", "length" (cut at the limit of tokens), "filter" (the provider took the answer away), "refusal",
    "" for an answer that never ended, or the provider's own word. `refusal` are the words in which a model refused.
    """

    text: str
    model: str = ""
    finish: str = "stop"
    reasoning: str = ""
    refusal: str = ""


def made(said: Said, reply: Reply, model: str) -> Answer:
    """The answer. Raises `InvalidOutput` M205 when it was cut at the limit of tokens: half an answer may look whole,
    so it is never repaired. Raises `UnusableAnswer`: M204 never ended, M209 refused, M210 filtered."""
    if said.finish == "length":
        raise InvalidOutput(
            "the answer was cut at the limit of tokens", hint="raise max_tokens, or ask for less at once", code="M205"
        )
    if said.finish == "filter":
        raise UnusableAnswer("the provider's filter took the answer away", code="M210")
    if said.finish == "refusal" or (said.refusal and not said.text):
        words = clean_text(said.refusal or said.text)[:_MESSAGE_LIMIT]
        raise UnusableAnswer(f"the model refused: {words}", code="M209")
    if not said.finish:
        raise UnusableAnswer("the stream of the answer stopped before its end")
    return Answer(
        clean_text(said.text), said.model or model, said.finish, reply.usage, reply.body,
        reasoning=clean_text(said.reasoning),
    )  # fmt: skip


def error_message(body: bytes) -> tuple[str, str]:
    """The server's own words (at most 500 characters, one line) and its code ("" when it has none)."""
    text = body[:20_000].decode("utf-8", "replace")
    code = ""
    try:
        error = json.loads(text)
        error = error[0] if isinstance(error, list) and error else error  # as Gemini's compatible endpoint writes it
        error = error.get("error", error)
        if isinstance(error, dict):
            code = str(error.get("code") or error.get("type") or "")
            if code.isdigit():  # some write the status once more
                code = str(error.get("type") or error.get("status") or code)
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
    words = (
        b"response_format", b"json_schema", b"json_object", b"structured output", b"grammar", b"guided", b"text.format",
        b"output_config", b"output_format", b"tool_choice", b"tools", b"responsejsonschema", b"response_json_schema",
        b"responsemimetype", b"response_mime_type", b"response_schema", b"json mode",
    )  # fmt: skip
    return any(word in text for word in words)


def rejects_schema(body: bytes) -> bool:
    """True when the server knows schemas and dislikes this one."""
    text = body[:20_000].lower()
    return any(word in text for word in (b"invalid schema", b"output_config.format.schema"))


def is_out_of_money(body: bytes, code: str) -> bool:
    """True when a refusal is about money: waiting does not help."""
    text = body[:20_000].lower()
    return code in ("insufficient_quota", "billing_error") or any(word in text for word in _MONEY)


def is_of_the_day(body: bytes) -> bool:
    """True when a 429 speaks of a quota per day."""
    return _OF_THE_DAY.search(body, 0, 20_000) is not None


def is_too_long(body: bytes) -> bool:
    """True when a 400 says that the question does not fit into the model."""
    text = body[:20_000].lower()
    return any(word in text for word in _TOO_LONG)


def telling(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that say how much of the limits is left and how long to wait, in lower case."""
    return {name: value for name, value in headers.items() if name.startswith(_TELLING)}


def delay_in_body(body: bytes) -> float | None:
    """Seconds to wait, between 0.5 and 900, where the words of a 429 say so; else None."""
    found = _DELAY.search(body, 0, 20_000)
    if found is None:
        return None
    seconds = float(found[1] or found[2]) / (1000 if found[3] == b"ms" else 1)
    return min(max(seconds, 0.5), LONGEST_WAIT)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, between 0.5 and 900; None when the server does not say or what it says is not plausible.

    A date is compared with the server's own Date, so that a wrong clock on either side does no harm.
    """
    value = (headers.get("retry-after") or "").strip()
    exact = (headers.get("retry-after-ms") or "").strip()
    if not value and not exact:
        return None
    try:
        seconds = float(exact) / 1000 if exact else float(value)
    except ValueError:
        try:
            then = parsedate_to_datetime(value)
            seconds = (then - parsedate_to_datetime(headers.get("date") or "")).total_seconds()
        except (ValueError, TypeError):
            return None
    if not math.isfinite(seconds) or seconds < 0 or seconds > _LONGEST_DELAY:
        return None
    return min(max(seconds, 0.5), LONGEST_WAIT)
