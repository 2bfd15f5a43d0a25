"""What an action has printed, read as it declares: text fills `stdout`, structured output fills `result`."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from typing import Any, NoReturn

from gristmill.packs.yaml_text import DEEPEST, NotYaml, read_yaml

LONGEST_TEXT = 640 * 1024  # bytes as JSON: a record is at most 1 MiB
LONGEST_ERROR = 8 * 1024  # bytes of standard error that a record keeps


class Unparsable(ValueError):
    """Why a structured output cannot be read."""


def as_text(data: bytes) -> str:
    """Any bytes as text that can be stored: what is no UTF-8, and NUL, become U+FFFD."""
    return data.decode("utf-8", "replace").replace("\0", "\ufffd")


def fitting(text: str, limit: int = LONGEST_TEXT) -> tuple[str, bool]:
    """The text, cut so that it takes at most `limit` bytes as JSON, with a mark; and whether it was cut."""
    if len(text) * 6 <= limit or _size(text) <= limit:
        return text, False
    kept = limit
    while _size(text[:kept]) > limit - 100:
        kept = kept * 3 // 4
    return f"{text[:kept]}\n[truncated: {len(text) - kept:,} characters are left out here]\n", True


def ending(text: str, limit: int = LONGEST_ERROR) -> str:
    """The end of a text, with a mark where something is left out."""
    return text if len(text) <= limit else f"[truncated: {len(text) - limit:,} characters before this]\n{text[-limit:]}"


def parse(form: str, data: bytes) -> Any:
    """The value of an output `json`, `yaml` or `jsonl` (a list of its objects). Raises `Unparsable`."""
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unparsable(f"it is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}") from None
    value = _PARSERS[form](text)
    _check_depth(value)
    return value


def _json(text: str) -> Any:
    if not text.strip():
        raise Unparsable("it is empty")
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise Unparsable(f"it is nested deeper than {DEEPEST} levels") from None
    except json.JSONDecodeError as error:
        raise Unparsable(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError as error:  # a number of 5,000 digits
        raise Unparsable(str(error)) from None


def _jsonl(text: str) -> list[Any]:
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                value = _json(line)
            except Unparsable as error:
                raise Unparsable(f"line {number}: {str(error).removeprefix('line 1, ')}") from None
            if not isinstance(value, dict):
                raise Unparsable(f"line {number} is no object")
            found.append(value)
    return found


def _yaml(text: str) -> Any:
    try:
        return read_yaml(text)[0]
    except NotYaml as error:
        raise Unparsable(str(error)) from None


_PARSERS: dict[str, Callable[[str], Any]] = {"json": _json, "jsonl": _jsonl, "yaml": _yaml}


def _refuse(name: str) -> NoReturn:
    raise Unparsable(f"{name} is a number that JSON does not have")


def _check_depth(value: Any) -> None:
    """Without recursion: a value may be nested as deep as its text is long."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            inner for one in level if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]  # fmt: skip
        if not level:
            return
    raise Unparsable(f"it is nested deeper than {DEEPEST} levels")


def _size(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace"))
