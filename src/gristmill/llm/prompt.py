"""Prompts are Markdown files: prompts/<language>/<name>.md, with a small header and one heading per message.

    ---
    name: ask
    version: 1
    fields: passage, count
    also: headings
    ---
    # system
    ...
    # user
    Write {count} questions about: {passage}

Only `{field}` with a declared field is replaced. Every other brace is text, also in what is put in. `also` names the
fields that a prompt of a user's own may take besides.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from gristmill.errors import UsageError
from gristmill.llm.model import Image, Message, Text

_HEADER = re.compile(r"\A---\n(.*?)\n---\n(.*)\Z", re.DOTALL)
_PART = re.compile(r"^# (system|user|assistant)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages that are ready to send, and what they were made from."""

    messages: tuple[Message, ...]
    name: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    def showing(self, *images: Image) -> Prompt:
        """The same prompt with pictures in front of the words of its last message."""
        *before, last = self.messages
        return replace(self, messages=(*before, Message(last.role, (*images, Text(last.text)))))

    def going_on(self, *turns: Message) -> Prompt:
        """The same prompt with more messages behind it."""
        return replace(self, messages=(*self.messages, *turns))


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    name: str
    version: int
    fields: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]  # role, text with places
    text: str
    also: tuple[str, ...] = ()  # what else the operator has to offer

    def fingerprint(self) -> bytes:
        """sha256 (32 bytes) of the file: changing a word of a prompt redoes what was made with it."""
        return hashlib.sha256(self.text.encode()).digest()

    def render(self, **fields: Any) -> Prompt:
        """The prompt with every field put in. Raises `UsageError` for a field that is missing or not declared."""
        missing = [name for name in self.fields if name not in fields]
        unknown = [name for name in fields if name not in self.fields]
        if missing or unknown:
            wrong = f"is missing {missing[0]}" if missing else f"has no field {unknown[0]}"
            raise UsageError(f'the prompt "{self.name}" {wrong}', hint=f"its fields are: {', '.join(self.fields)}")
        # One pass over the template: what is put in is never looked at again.
        places = re.compile("|".join(re.escape(f"{{{name}}}") for name in self.fields) or r"(?!)")
        messages = tuple(
            Message(role, places.sub(lambda place: str(fields[place.group()[1:-1]]), text)) for role, text in self.parts
        )
        return Prompt(messages, self.name, dict(fields))


def parse_prompt(text: str) -> PromptTemplate:
    """A prompt file. Raises `UsageError` for a header or a body that is not as described above."""
    text = text.replace("\r\n", "\n")
    match = _HEADER.match(text)
    if match is None:
        raise UsageError("a prompt file starts with a header between two lines ---")
    header = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in match[1].splitlines())}
    name, version = header.get("name", ""), header.get("version", "")
    if not name or not version.isdigit():
        raise UsageError("the header of a prompt file gives a name and a version (a whole number)")
    fields, also = (
        tuple(part.strip() for part in header.get(key, "").split(",") if part.strip()) for key in ("fields", "also")
    )
    pieces = _PART.split(match[2])
    parts = tuple((role, body.strip()) for role, body in zip(pieces[1::2], pieces[2::2], strict=True))
    if not parts:
        raise UsageError(f'the prompt "{name}" has no heading "# user"')
    whole = "".join(body for _, body in parts)
    unused = [field for field in fields if f"{{{field}}}" not in whole]
    if unused:
        raise UsageError(f'the prompt "{name}" declares {unused[0]} and does not use it')
    return PromptTemplate(name, int(version), fields, parts, text, also)


def load_prompt(name: str, language: str = "en", *, folder: Path | None = None) -> PromptTemplate:
    """The prompt of that name in a language ("zh-CN", then "zh", then "en").

    `folder` holds prompts of the user's own, laid out in the same way; they win over the built-in ones. Raises
    `UsageError` for a name that does not exist.
    """
    for place in (folder, None) if folder is not None else (None,):
        for code in dict.fromkeys((language, language.split("-")[0], "en")):
            found = _read(name, code, place)
            if found is not None:
                return found
    known = sorted(
        entry.name.removesuffix(".md") for entry in resources.files("gristmill.llm").joinpath("prompts", "en").iterdir()
    )
    near = difflib.get_close_matches(name, known, 1)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known)}"
    raise UsageError(f'there is no prompt "{name}"', hint=hint)


def _read(name: str, language: str, folder: Path | None) -> PromptTemplate | None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not re.fullmatch(r"[A-Za-z0-9_-]+", language):
        return None
    if folder is None:
        return _read_builtin(name, language)
    path = folder / language / f"{name}.md"
    if not path.is_file():
        return None
    try:
        return parse_prompt(path.read_text("utf-8"))
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="a prompt is a text file in UTF-8") from None


@cache
def _read_builtin(name: str, language: str) -> PromptTemplate | None:
    entry = resources.files("gristmill.llm").joinpath("prompts", language, f"{name}.md")
    return parse_prompt(entry.read_text("utf-8")) if entry.is_file() else None
