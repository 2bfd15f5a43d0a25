"""From what a model wrote to a JSON value: strict first, then more and more forgiving, never inventing anything and
never closing what was cut off.

    strict parse -> without reasoning and code fences -> the first whole JSON value in prose -> repaired

Only a value whose brackets all close is repaired. A list that stops in the middle would become a shorter list that
looks right, and nobody would ever know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gristmill.llm.responses import clean_text

_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_REASONING_END = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_REASONING_START = re.compile(r"<(?:think|thinking|reasoning)>", re.IGNORECASE)
_BLOCKS = re.compile(r"\s*<(think|thinking|reasoning)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_SWALLOWED = re.compile(r"(.*?)^[ \t]*</(?:think|thinking|reasoning)>[ \t]*$", re.DOTALL | re.IGNORECASE | re.MULTILINE)
_FENCE = re.compile(r"```[ \t]*[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_LOOKS_LIKE_JSON = re.compile(r"""\{\s*["'}\w]|\[\s*["'{\[\]\d\-tfn]""")


class NoJson(ValueError):
    """There is no whole JSON value in the text; the message says what was found instead."""


@dataclass(frozen=True, slots=True)
class Parsed:
    value: Any
    repaired: bool = False  # json_repair had to change it


def without_reasoning(text: str) -> str:
    """The text without <think> blocks. One that never ends leaves nothing: the model did not get to its answer."""
    text = _REASONING.sub("", text)
    ends = list(_REASONING_END.finditer(text))
    if ends:  # some servers swallow the opening tag
        text = text[ends[-1].end() :]
    start = _REASONING_START.search(text)
    return (text[: start.start()] if start else text).strip()


def inline_reasoning(text: str) -> str:
    """What the model thought at the start of its answer, in <think> blocks; "" when there is none.

    Some servers swallow the opening tag: then the closing one stands on a line of its own. Tags further inside of the
    answer are what the answer speaks about.
    """
    if text.lstrip().startswith(("{", "[")):
        return ""
    pieces, position = [], 0
    while (block := _BLOCKS.match(text, position)) is not None:
        pieces.append(block[2].strip())
        position = block.end()
    if not pieces and (start := _SWALLOWED.match(text)) is not None and not _REASONING_START.search(start[1]):
        pieces.append(start[1].strip())
    return "\n\n".join(piece for piece in pieces if piece)


def parse_answer(text: str) -> list[Parsed]:
    """The JSON values that the text may mean, best first. Raises `NoJson` when there is none that is whole."""
    text = text.strip()
    value = _strict(text)
    if value is not _NOTHING:
        return [Parsed(value)]
    text = without_reasoning(text)
    if not text:
        raise NoJson("there is no answer, only reasoning or nothing at all")
    cut = ""
    for part in [*_FENCE.findall(text), text]:
        value = _strict(part.strip())
        if value is not _NOTHING:
            return [Parsed(value)]
        try:
            found = [_parse_piece(piece) for piece in _pieces(part)]
        except NoJson as error:
            cut = str(error)
        else:
            if found:
                return found
    raise NoJson(cut or "the answer holds no JSON")


_NOTHING = object()


def _strict(text: str) -> Any:
    """The value of the text, or _NOTHING. A bare word or number is not an answer to a question for JSON."""
    if not text.startswith(("{", "[")):
        return _NOTHING
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NOTHING
    return _clean(value) if "\\u" in text else value


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(part) for part in value]
    if isinstance(value, dict):
        return {clean_text(key): _clean(part) for key, part in value.items()}
    return value


def _pieces(text: str) -> Iterator[str]:
    """Every outermost stretch of the text that begins like JSON, up to its closing bracket.

    Raises `NoJson` when one begins and never closes: what lies inside of it is a part of something larger.
    """
    position = 0
    while True:
        begin = _LOOKS_LIKE_JSON.search(text, position)
        if begin is None:
            return
        end = _closing(text, begin.start())
        if end is None:
            raise NoJson("the JSON stops before it is complete")
        yield text[begin.start() : end]
        position = end


def _closing(text: str, start: int) -> int | None:
    """The position after the bracket that closes the one at `start`; None when none does. Strings are skipped."""
    stack: list[str] = []
    in_string = escaped = False
    for position in range(start, len(text)):
        sign = text[position]
        if in_string:
            if escaped:
                escaped = False
            elif sign == "\\":
                escaped = True
            elif sign == '"':
                in_string = False
        elif sign == '"':
            in_string = True
        elif sign in "{[":
            stack.append("}" if sign == "{" else "]")
        elif sign in "}]":
            if stack.pop() != sign:
                return None
            if not stack:
                return position + 1
    return None


def _parse_piece(piece: str) -> Parsed:
    value = _strict(piece)
    if value is not _NOTHING:
        return Parsed(value)
    from json_repair import repair_json  # imported late: most answers never need it

    try:
        value = repair_json(piece, return_objects=True, skip_json_loads=True)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict | list) or not value:
        raise NoJson("the JSON is broken beyond repair")
    return Parsed(_clean(value), repaired=True)
