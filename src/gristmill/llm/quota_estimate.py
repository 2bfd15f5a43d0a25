"""How many tokens a request will take: from its length, and from what such requests took before."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from gristmill.llm.model import Request, Text, Usage

UNKNOWN_OUTPUT = 1000.0  # tokens, until there is a limit on them or some experience
PICTURE = 1000.0  # tokens, until there is some experience
_BYTES = 4.0  # of text for a token
_CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_KEPT, _ENOUGH = 200, 10


class Estimate:
    """Learns from each answer. Reserves what 95 of 100 answers stay below, so that few come out too small."""

    def __init__(self) -> None:
        self._outputs: deque[int] = deque(maxlen=_KEPT)
        self._high: float | None = None
        self._news = 0
        self._input = 1.0  # real tokens of a question for each guessed one

    def of(self, request: Request, parameters: Mapping[str, Any]) -> float:
        """Tokens to reserve: of the question and of its answer. `parameters` are the binding's."""
        cap = self._cap(request, parameters)
        output = self._high if self._high is not None else cap or UNKNOWN_OUTPUT
        return max(1.0, question(request) * self._input + min(output, cap or output))

    def most(self, request: Request, parameters: Mapping[str, Any]) -> tuple[int, int]:
        """Tokens in, and the most that may come out; without a cap, twice what nearly all answers stay below."""
        output = self._cap(request, parameters) or max(UNKNOWN_OUTPUT, 2 * (self._high or 0.0))
        return math.ceil(question(request) * max(1.0, self._input)), math.ceil(output)

    def _cap(self, request: Request, parameters: Mapping[str, Any]) -> float | None:
        for name in _CAPS:
            value = request.parameters.get(name, parameters.get(name))
            if isinstance(value, int | float) and value > 0:
                return float(value)
        return None

    def learn(self, request: Request, usage: Usage) -> None:
        """From an answer; one without any usage teaches nothing."""
        if not usage.input and not usage.output:
            return
        guess = question(request)
        if guess > 0 and usage.input:
            self._input += 0.1 * (min(20.0, usage.input / guess) - self._input)
        self._outputs.append(usage.output)
        self._news += 1
        if self._news >= _ENOUGH:
            self._news = 0
            self._high = float(sorted(self._outputs)[int(len(self._outputs) * 0.95)])


def question(request: Request) -> float:
    """Tokens of a question by its length: four bytes each, which suits English, code and Chinese alike."""
    size = pictures = 0
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, Text):
                size += len(part.text.encode("utf-8", "replace"))
            else:
                pictures += 1
    return size / _BYTES + pictures * PICTURE
