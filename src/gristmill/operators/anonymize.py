"""Takes what names a person or a machine out of a record and puts placeholders there."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator

from gristmill.data.kinds import Chunk, Conversation, Example
from gristmill.operators.operator import Context, operator

Kind = Literal["email", "url", "card", "iban", "ip", "phone"]
KINDS: tuple[Kind, ...] = ("email", "url", "iban", "card", "ip", "phone")  # in this order: what is found first wins
_FIELDS = ("system", "question", "answer", "reasoning", "quote")
_LATIN = "0-9A-Za-z_\u00c0-\u024f"  # a Chinese character beside an address is no part of it
_PATTERNS: dict[Kind, re.Pattern[str]] = {
    "email": re.compile(
        rf"(?<![{_LATIN}.+-])[{_LATIN}.+-]{{1,64}}@"
        rf"(?:[{_LATIN}-]{{1,63}}\.){{1,8}}[A-Za-z\u00c0-\u024f]{{2,24}}(?![{_LATIN}-])"
    ),
    "url": re.compile(
        r"\b(?:(?:https?|ftp|sftp|wss?)://|www\.)[^\s\u00a0\u3000<>\"，。；！？、（）《》【】「」]+(?<![.,;:!?')\]])",
        re.IGNORECASE | re.ASCII,
    ),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", re.ASCII),
    "card": re.compile(r"(?<![\w.,-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\w-]|[.,]\d)", re.ASCII),
    "ip": re.compile(
        r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7})(?![\w:]|\.\d)",
        re.IGNORECASE | re.ASCII,
    ),
    "phone": re.compile(
        r"(?<![\w.,+-])(?<!\d )(?:"
        r"\+\d{1,3}(?:[ ./-]?\(?\d{1,5}\)?){2,6}"  # +49 (0)30 123456
        r"|\(0?\d{2,5}\)[ ./-]?\d{2,5}(?:[ ./-]?\d{2,5}){1,3}"  # (030) 123 456
        r"|0\d{2,5}[ /-]\d{2,8}(?:[ -]?\d{2,5}){0,3}"  # 030 123456
        r"|\d{3}-\d{3}-\d{4}|1[3-9]\d{9}"  # North America; China
        r")(?![\w-]|[.,]\d)",
        re.ASCII,
    ),
}  # fmt: skip


def _check_patterns(patterns: dict[str, str]) -> dict[str, str]:
    for name, pattern in patterns.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(f'the pattern\'s name "{name}" is not made of letters, digits and _')
        check_pattern(pattern)
    return patterns


def check_pattern(pattern: str) -> str:
    """The regular expression as it is. Raises `ValueError` for one that cannot be read, or that matches everywhere."""
    try:
        if re.compile(pattern).fullmatch("") is not None and pattern:
            raise ValueError(f"the regular expression {pattern!r} matches an empty text, so it matches everywhere")
    except re.error as error:
        raise ValueError(f"the regular expression {pattern!r} cannot be read: {error}") from None
    return pattern


@operator("anonymize", version=1, isolate=True, timeout=60)
def anonymize(
    record: Example | Conversation | Chunk,
    ctx: Context,
    kinds: tuple[Kind, ...] = KINDS,
    patterns: Annotated[dict[str, str], AfterValidator(_check_patterns)] = {},  # noqa: B006
) -> Example | Conversation | Chunk:
    """The record without addresses, numbers of phones, cards and accounts: "[EMAIL_1]" stands there instead.

    The same value has the same placeholder everywhere in the record. `kinds` says what to look for (default: email,
    url, iban, card, ip, phone); cards have to pass Luhn's check, accounts (IBAN) theirs. `patterns` are regular
    expressions of your own by name, which go first: {"staff": "S-[0-9]{5}"} makes "[STAFF_1]". An example's question,
    answer, reasoning, system text and quote are looked at. `ctx.notes` counts what was found.

    It runs in a process of its own, since a regular expression can hold one up.
    """
    found = Placeholders(kinds, patterns)
    made = _changed(record, found.put)
    ctx.notes["found"] = found.counts()
    return made


class Placeholders:
    """Gives each value of one record its placeholder, the same one each time."""

    def __init__(self, kinds: tuple[Kind, ...] = KINDS, patterns: dict[str, str] | None = None) -> None:
        self._known: dict[tuple[str, str], str] = {}
        own = [(name, re.compile(pattern)) for name, pattern in (patterns or {}).items()]
        self._patterns = own + [(kind, _PATTERNS[kind]) for kind in KINDS if kind in kinds]
        self._own = {name for name, _ in own}

    def put(self, text: str) -> str:
        """The text with placeholders. Nothing of an earlier kind is looked at by a later one."""
        spans: list[tuple[int, int, str]] = []
        for kind, pattern in self._patterns:
            for start, end in self._matches(kind, pattern, text):
                if all(end <= other or start >= after for other, after, _ in spans):
                    spans.append((start, end, kind))
        pieces, at = [], 0
        for start, end, kind in sorted(spans):
            pieces += [text[at:start], self._name(kind, text[start:end])]
            at = end
        return "".join([*pieces, text[at:]])

    def counts(self) -> dict[str, int]:
        """How many different values of each kind there were."""
        counted: dict[str, int] = {}
        for kind, _ in self._known:
            counted[kind] = counted.get(kind, 0) + 1
        return counted

    def _matches(self, kind: str, pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
        check = None if kind in self._own else _CHECKS.get(kind)
        for match in pattern.finditer(text):
            if match.end() > match.start() and (check is None or check(match[0])):
                yield match.span()

    def _name(self, kind: str, value: str) -> str:
        same = value.casefold() if kind in ("email", "url", "ip") else re.sub(r"[ ./()-]", "", value)
        key = (kind, value if kind in self._own else same)
        if key not in self._known:
            number = 1 + sum(1 for known, _ in self._known if known == kind)
            self._known[key] = f"[{kind.upper()}_{number}]"
        return self._known[key]


def _changed(record: Example | Conversation | Chunk, put: Callable[[str], str]) -> Example | Conversation | Chunk:
    if isinstance(record, Chunk):
        return record.model_copy(
            update={"text": put(record.text), "heading_path": tuple(map(put, record.heading_path))}
        )
    if isinstance(record, Conversation):
        turns = tuple(
            turn.model_copy(
                update={"content": put(turn.content), "reasoning": put(turn.reasoning) if turn.reasoning else None}
            )
            for turn in record.turns
        )
        return record.model_copy(update={"turns": turns, "scenario": put(record.scenario)})
    return record.model_copy(
        update={name: put(value) for name in _FIELDS if (value := getattr(record, name)) is not None}
    )


def passes_luhn(number: str) -> bool:
    """Whether the last digit fits the others, as on every payment card (13 to 19 digits)."""
    digits = [int(character) for character in number if character.isdigit()]
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and sum(doubled) % 10 == 0


def _is_account(text: str) -> bool:
    plain = text.replace(" ", "")
    moved = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def _is_address(text: str) -> bool:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    return found.version == 4 or (any(map(str.isdigit, text)) and sum(map(bool, text.split(":"))) > 1)


def _is_phone(text: str) -> bool:
    return 7 <= sum(map(str.isdigit, text)) <= 15


_CHECKS: dict[str, Callable[[str], bool]] = {
    "card": passes_luhn, "iban": _is_account, "ip": _is_address, "phone": _is_phone,
}  # fmt: skip
