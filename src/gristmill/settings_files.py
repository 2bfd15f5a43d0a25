"""TOML files of settings, with the line of every key: errors and `doctor --config` say where a value stands."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gristmill.errors import ConfigurationError

FILE = "gristmill.toml"
PROJECT = "pyproject.toml"  # its table [tool.gristmill]
_PART = re.compile(r"""[ \t]*(?:([A-Za-z0-9_-]+)|"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)')[ \t]*""")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' r"'''.*?'{3,5}|" r'"(?:[^"\\\n]|\\.)*"|' r"'[^'\n]*'", re.DOTALL
)  # fmt: skip


@dataclass(frozen=True)
class SettingsFile:
    """What a file says. `lines`: path of a key -> its line, from 1."""

    path: Path
    values: dict[str, Any]
    lines: dict[tuple[str, ...], int] = field(repr=False)

    def place(self, path: tuple[str, ...]) -> str:
        """ "FILE:LINE" of a key, or of the nearest one above it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return f"{self.path}:{self.lines[path[:length]]}"
        return str(self.path)


def find_files(start: Path, home: Path) -> list[Path]:
    """The files that count for a folder, the least first: the user's own, then those of the nearest folder above that
    has any."""
    found = [own] if (own := home / ".config/gristmill/config.toml").is_file() else []
    for folder in (start, *start.parents):
        near = [file for file in (folder / PROJECT, folder / FILE) if file.is_file() and _is_ours(file)]
        if near:
            return found + near
    return found


def read_file(file: Path) -> SettingsFile:
    """Raises `ConfigurationError` U203 for a file that is not TOML or cannot be read."""
    text = _text(file)
    try:
        values: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}", code="U203") from None
    prefix = ("tool", "gristmill") if file.name == PROJECT else ()
    for name in prefix:
        values = values.get(name, {})
    if not isinstance(values, dict):
        raise ConfigurationError(f"{file}: [tool.gristmill] has to be a table", code="U203")
    found = lines_of(text)
    return SettingsFile(file, values, {p[len(prefix) :]: n for p, n in found.items() if p[: len(prefix)] == prefix})


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}", code="U203") from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}", code="U203") from None


def _is_ours(file: Path) -> bool:
    return (
        file.name != PROJECT
        or re.search(r"^[ \t]*\[+[ \t]*tool[ \t]*\.[ \t]*gristmill\b", _text(file), re.M) is not None
    )


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    """Path of each table and key -> line, of a text that is known to be TOML. Inside of values nothing is looked at."""
    text = text.replace("\r\n", "\n")
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    at, line = 0, 1
    while at < len(text):
        if text[at] in " \t\n":
            line += text[at] == "\n"
            at += 1
        elif text[at] == "#":
            at = _end_of_line(text, at)
        elif text[at] == "[":
            opening = 2 if text.startswith("[[", at) else 1
            table, at = _key(text, at + opening)
            found.setdefault(table, line)
            at = _end_of_line(text, at)
        else:
            key, at = _key(text, at)
            for length in range(1, len(key) + 1):
                found.setdefault((*table, *key[:length]), line)
            end = _end_of_value(text, at + 1)
            line += text.count("\n", at, end)
            at = end
    return found


def _key(text: str, at: int) -> tuple[tuple[str, ...], int]:
    parts: list[str] = []
    while found := _PART.match(text, at):
        bare, basic, literal = found.groups()
        parts.append(bare or literal or (tomllib.loads(f'x = "{basic}"')["x"] if basic else ""))
        at = found.end()
        if not text.startswith(".", at):
            break
        at += 1
    return tuple(parts), at


def _end_of_value(text: str, at: int) -> int:
    depth = 0
    while at < len(text) and (depth or text[at] != "\n"):
        if text[at] in "\"'" and (string := _STRING.match(text, at)):
            at = string.end()
            continue
        if text[at] == "#":
            at = _end_of_line(text, at)
            continue
        depth += (text[at] in "[{") - (text[at] in "]}")
        at += 1
    return at


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end
