"""The filter grammar: `score >= 4 and label like "physics/%"`. Written once, used wherever rows are chosen.

    expression := expression "or" expression | expression "and" expression | "not" expression | "(" expression ")"
                | column ("=" | "!=" | "<" | "<=" | ">" | ">=") value
                | column ["not"] "in" "(" value ("," value)* ")"
                | column ["not"] "like" text            -- % any characters, _ one, a backslash before one of them
                | column "is" ["not"] "null"
    value      := number | 'text' | "text" | true | false        -- a quote inside of its own kind is doubled

"not" binds closest, then "and". A comparison with a missing value is neither true nor false, as in SQL, and such a row
is not taken: `not (score < 4)` takes no row without a score. Words may be in any case, text is compared exactly.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from gristmill.errors import UsageError

Kind = Literal["text", "number", "truth"]
Get = Callable[[str], Any]  # the value of a column; None where there is none
LIMIT = 10_000  # characters
DEPTH = 100  # parentheses and negations in each other

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<word>[^\W\d]\w*)
      | (?P<sign><=|>=|!=|<>|==|[=<>(),])
    )""",
    re.VERBOSE | re.DOTALL,
)
_SPACE = re.compile(r"\s*")
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_SPELLINGS = {"==": "=", "<>": "!="}
_WORDS = ("and", "or", "not", "in", "like", "is", "null", "true", "false")


@dataclass(frozen=True, slots=True)
class Compare:
    column: str
    sign: str
    value: str | float | bool


@dataclass(frozen=True, slots=True)
class In:
    column: str
    values: tuple[str | float | bool, ...]


@dataclass(frozen=True, slots=True)
class Like:
    column: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Null:
    column: str


@dataclass(frozen=True, slots=True)
class Not:
    inner: Node


@dataclass(frozen=True, slots=True)
class Both:
    """`all` of them ("and"), or any."""

    parts: tuple[Node, ...]
    all: bool


Node = Compare | In | Like | Null | Not | Both


def parse_filter(text: str, columns: Mapping[str, Kind]) -> Node:
    """The checked expression. `columns` says what there is, and what each holds.

    Raises `UsageError` U420, with the place, for what the grammar does not know, a column that does not exist, and a
    value of another kind than its column's.
    """
    if len(text) > LIMIT:
        raise UsageError(f"the filter has {len(text):,} characters; at most {LIMIT:,} are read", code="U420")
    return _Parser(text, columns).whole()


def holds(node: Node, get: Get) -> bool | None:
    """Whether it is true of what `get` gives; None where a missing value leaves that open."""
    if isinstance(node, Both):
        found: bool | None = node.all
        for part in node.parts:
            one = holds(part, get)
            if one is (not node.all):
                return one
            found = None if one is None else found
        return found
    if isinstance(node, Not):
        inner = holds(node.inner, get)
        return None if inner is None else not inner
    value = get(node.column)
    if isinstance(node, Null):
        return value is None
    if value is None:
        return None
    if isinstance(node, Compare):
        return _COMPARISONS[node.sign](value, node.value)
    if isinstance(node, In):
        return value in node.values
    return _pattern(node.pattern).fullmatch(value) is not None


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    wild = {"%": ".*", "_": "."}
    parts = re.findall(r"\\.|.", text, re.DOTALL)
    return re.compile("".join(wild.get(part) or re.escape(part[-1]) for part in parts), re.DOTALL)


class _Token(NamedTuple):
    kind: str  # number, text, word, sign, or "" at the end
    text: str
    at: int


class _Parser:
    def __init__(self, text: str, columns: Mapping[str, Kind]) -> None:
        self._text = text
        self._columns = columns
        self._tokens = list(self._split())
        self._next = 0
        self._depth = 0

    def _split(self) -> list[_Token]:
        found, at = [], 0
        while (at := _end(_SPACE.match(self._text, at))) < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None:
                what = (
                    "this text has no end" if self._text[at] in "'\"" else f"{self._text[at : at + 10]!r} is not known"
                )
                raise self._wrong(what, at)
            found.append(_Token(str(match.lastgroup), match[str(match.lastgroup)], at))
            at = match.end()
        return [*found, _Token("", "", len(self._text))]

    def whole(self) -> Node:
        node = self._either()
        if self._here.kind:
            raise self._wrong(f'"{self._here.text}" is not expected', self._here.at, 'join conditions by "and" or "or"')
        return node

    @property
    def _here(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> bool:
        if self._here.kind in ("word", "sign") and self._here.text.lower() in texts:
            self._next += 1
            return True
        return False

    def _either(self) -> Node:
        parts = [self._every()]
        while self._take("or"):
            parts.append(self._every())
        return parts[0] if len(parts) == 1 else Both(tuple(parts), all=False)

    def _every(self) -> Node:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else Both(tuple(parts), all=True)

    def _one(self) -> Node:
        token = self._here
        if not self._take("not", "("):
            return self._condition()
        self._depth += 1
        if self._depth > DEPTH:
            raise self._wrong(f"more than {DEPTH} levels", token.at)
        if token.text == "(":
            node = self._either()
            self._expect(")")
        else:
            node = Not(self._one())
        self._depth -= 1
        return node

    def _condition(self) -> Node:
        token = self._here
        column = self._column()
        here = self._here
        if self._take("is"):
            turned = self._take("not")
            self._expect("null")
            return _turned(Null(column), turned)
        if here.kind == "sign" and _SPELLINGS.get(here.text, here.text) in _COMPARISONS:
            self._next += 1
            sign = _SPELLINGS.get(here.text, here.text)
            if self._columns[column] == "truth" and sign not in ("=", "!="):
                raise self._wrong(f'"{column}" is true or false; "{here.text}" says nothing about it', here.at)
            return Compare(column, sign, self._value(column))
        turned = self._take("not")
        if self._take("in"):
            return _turned(In(column, self._values(column)), turned)
        if self._take("like"):
            if self._columns[column] != "text":
                raise self._wrong(f'"like" compares texts; "{column}" is a {self._columns[column]}', token.at)
            return _turned(Like(column, str(self._value(column))), turned)
        raise self._wrong(f'what about "{column}"?', self._here.at, "one of: = != < <= > >= in like is")

    def _column(self) -> str:
        token = self._here
        if token.kind != "word" or token.text.lower() in _WORDS:
            what = f'"{token.text}" is not a column' if token.kind else "the filter ends where a column is expected"
            raise self._wrong(what, token.at, f"columns: {', '.join(self._columns)}")
        if token.text not in self._columns:
            near = difflib.get_close_matches(token.text.lower(), self._columns, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"columns: {', '.join(self._columns)}"
            raise self._wrong(f'there is no column "{token.text}"', token.at, hint)
        self._next += 1
        return token.text

    def _values(self, column: str) -> tuple[str | float | bool, ...]:
        self._expect("(")
        values = [self._value(column)]
        while self._take(","):
            values.append(self._value(column))
        self._expect(")")
        return tuple(values)

    def _value(self, column: str) -> str | float | bool:
        token, kind = self._here, self._columns[column]
        lower = token.text.lower()
        found: Kind | None = (
            "text" if token.kind == "text" else "number" if token.kind == "number"
            else "truth" if token.kind == "word" and lower in ("true", "false") else None
        )  # fmt: skip
        if found is None:
            null = token.kind == "word" and lower == "null"
            hint = f'"{column} is null"' if null else 'a number, "text", true or false; text stands in quotes'
            what = f'"{token.text}" is not a value' if token.kind else "the filter ends where a value is expected"
            raise self._wrong(what, token.at, hint)
        if found != kind:
            raise self._wrong(f'"{column}" is a {kind}, and {token.text} is a {found}', token.at)
        self._next += 1
        return _text(token.text) if found == "text" else float(token.text) if found == "number" else lower == "true"

    def _expect(self, text: str) -> None:
        if not self._take(text):
            found = f'"{self._here.text}"' if self._here.kind else "the end"
            raise self._wrong(f'"{text}" is expected, not {found}', self._here.at)

    def _wrong(self, what: str, at: int, hint: str = "") -> UsageError:
        before, after = self._text[max(0, at - 30) : at], self._text[at : at + 30]
        place = f"{before}>>>{after}"
        return UsageError(
            f"the filter, at character {at + 1}: {what}", code="U420", hint=f"{hint}; here: {place}".removeprefix("; ")
        )


def _turned(node: Node, turned: bool) -> Node:
    return Not(node) if turned else node


def _end(match: re.Match[str] | None) -> int:
    return match.end() if match else 0


def _text(token: str) -> str:
    return token[1:-1].replace(token[0] * 2, token[0])
