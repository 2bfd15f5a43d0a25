"""What a provider's headers tell of its limits, as far as it can be believed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_MOST = 1e9  # a minute; more is nonsense
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True)
class Told:
    """Per minute; None where nothing plausible was said. `near`: less than a fifth of either is left."""

    requests: float | None = None
    tokens: float | None = None
    near: bool = False

    def __bool__(self) -> bool:
        return self.requests is not None or self.tokens is not None


def told(headers: Mapping[str, str]) -> Told:
    """Reads the headers of OpenAI and those who follow it, and Anthropic's. Names are in lower case.

    -1, 0 and words are ignored; so is a limit whose reset is more than a minute away: it is one of a day.
    """
    requests, near = _pair(headers, "requests")
    tokens, nearer = _pair(headers, "tokens")
    return Told(requests, tokens, near or nearer)


def _pair(headers: Mapping[str, str], what: str) -> tuple[float | None, bool]:
    for before, after in ((f"x-ratelimit-{{}}-{what}", ""), (f"anthropic-ratelimit-{what}-{{}}", "")):
        limit = _number(headers.get(before.format("limit") + after))
        if not limit:
            continue
        reset = headers.get(before.format("reset") + after, "")
        left = _number(headers.get(before.format("remaining") + after))
        if _seconds(reset) > 60.5:
            return None, False
        return limit, left is not None and left < limit / 5
    return None, False


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value <= _MOST else None


def _seconds(text: str) -> float:
    """Of "6m0s", "20ms" or "59.7"; 0 for anything else, such as a date."""
    plain = _number(text)
    if plain is not None:
        return plain
    parts = _PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text.strip():
        return 0.0
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
