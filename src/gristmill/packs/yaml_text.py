"""YAML from strangers, as plain JSON values: no aliases, no tags, no key twice, bounded in size and depth.

The values are built from the parser's events, so that nothing can grow beyond its text (aliases are how nine lines
become a billion), and so that the line of every value is known.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

MOST = 2**20  # bytes; YAML is read 50 times slower than JSON
DEEPEST = 64
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_JSON_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")), **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}  # fmt: skip
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
Path = tuple[str | int, ...]


class NotYaml(ValueError):
    """What is wrong with a text, and in which line (from 1) that is; 0 where no line is known."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {problem}" if line else problem)
        self.problem = problem
        self.line = line


def read_yaml(text: str) -> tuple[Any, dict[Path, int]]:
    """The value of a YAML text of one document, and the line (from 1) of every value in it by its path.

    Words are read as YAML 1.2 has them: `yes`, `12:30` and dates stay text; numbers as keys become text. Raises
    `NotYaml` for more than 1 MiB, more than 64 levels, aliases, tags, keys that stand twice, numbers that JSON does not
    have, several documents, and what is no YAML.
    """
    if len(text) > MOST:
        raise NotYaml(f"it has more than {MOST:,} characters")
    try:
        reader = _Reader(text)
        return reader.document(), reader.lines
    except UnicodeError as error:
        raise NotYaml(f"it is not Unicode text: {error.reason if hasattr(error, 'reason') else error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise NotYaml(problem, mark.line + 1 if mark is not None else 0) from None


class _Reader:
    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)

    def document(self) -> Any:
        value = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise NotYaml("a second document begins here", _line(event))
            elif isinstance(event, yaml.NodeEvent):
                value = self._value(event, ())
        return value

    def _value(self, event: Any, path: Path) -> Any:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            raise NotYaml("aliases (*name) are not read here", line)
        if len(path) > DEEPEST:
            raise NotYaml(f"it is nested deeper than {DEEPEST} levels", line)
        self.lines[path] = line
        if event.tag is not None and event.tag not in _JSON_TAGS:
            raise NotYaml(f"the tag {event.tag} is not read here", line)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, line)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path)
        return self._mapping(path)

    def _list(self, path: Path) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            found.append(self._value(event, (*path, len(found))))
        return found

    def _mapping(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise NotYaml("a key is text here", _line(event))
            plain = self._scalar(event, _line(event))
            key = plain if isinstance(plain, str) else json.dumps(plain)
            if key in found:
                raise NotYaml(f"the key {key[:60]!r} stands here a second time", _line(event))
            found[key] = self._value(next(self._events), (*path, key))
            self.lines[*path, key] = _line(event)
        return found

    def _scalar(self, event: Any, line: int) -> Any:
        """Text, unless it is written plainly and looks like a number, true, false or null, as YAML 1.2 has them."""
        text: str = event.value
        if event.tag is None and not event.implicit[0]:
            return text  # in quotes, or a block
        if event.tag is not None and event.tag.endswith(":str"):
            return text
        if text in _WORDS:
            return _WORDS[text]
        try:
            if _INT.fullmatch(text):
                return int(text)
            value = float(text.lower().replace(".i", "i").replace(".n", "n")) if _FLOAT.fullmatch(text) else text
        except ValueError as error:
            raise NotYaml(f"{text[:60]!r}: {error}", line) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise NotYaml(f"{text[:60]} is a number that JSON does not have", line)
        return value


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
