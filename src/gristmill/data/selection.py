"""Which inputs a user means: files, folders, globs and URLs, and what of them is wanted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gristmill.errors import UsageError

MAGIC = re.compile(r"[*?\[]")
URL = re.compile(r"https?://", re.I)
_SECRET = re.compile(r"https?://[^/?#]*@", re.I)
_WORDS = ("--include=", "--exclude=", "--max-bytes=")


def is_url(place: Path | str) -> bool:
    """Whether it is fetched instead of read."""
    return isinstance(place, str) and URL.match(place) is not None


def is_glob(place: Path | str) -> bool:
    """Whether it is a pattern; a file that is really called so wins."""
    return not is_url(place) and MAGIC.search(str(place)) is not None and not os.path.lexists(place)


def folder_of(place: str) -> str:
    """The path itself, or the folder below which a glob looks."""
    if not is_glob(place):
        return place
    parts = Path(place).parts
    return str(Path(*parts[: next(at for at, part in enumerate(parts) if MAGIC.search(part))]))


_PARTS = re.compile(r"(?:(?<![^/])(?:\*\*/)+)|\*\*+|\*|\?|\[(!?)([^\]]+)\]")
_STARS = {"*": "[^/]*", "**": ".*", "**/": "(?:[^/]+/)*"}


@cache
def pattern(glob: str) -> re.Pattern[str]:
    """A glob over names with "/" between folders: `*`, `?` and `[a-z]` within a folder, `**` across folders.

    Whoever writes globs and names cannot make it search for long: what a star has found is not looked for again."""
    pieces: list[tuple[str, str]] = [("", "")]  # a star, and what has to come behind it
    position = 0
    for found in _PARTS.finditer(glob):
        star, words = pieces[-1]
        words += re.escape(glob[position : found.start()])
        position = found.end()
        if found.group(2) is not None:
            inner = found.group(2).replace("\\", "\\\\").replace("[", "\\[")
            words += f"(?!/)[{'^/' if found.group(1) else ''}{inner}]"
        elif found.group() == "?":
            words += "[^/]"
        pieces[-1] = (star, words)
        if found.group()[0] == "*":
            pieces.append(("**/" if found.group()[-1] == "/" else found.group()[:2], ""))
    pieces[-1] = (pieces[-1][0], pieces[-1][1] + re.escape(glob[position:]))
    try:
        return re.compile(_joined(pieces), re.DOTALL)
    except re.error:  # a range that runs backwards: the words as they are
        return re.compile(re.escape(glob))


def _joined(pieces: Sequence[tuple[str, str]]) -> str:
    """One expression. A star takes as little as it can, once and for all, if another one follows that can take the
    rest: a `*` before any, all from a `**` on before the next `**`."""
    last = len(pieces) - 1
    wide = max((at for at, (star, _) in enumerate(pieces) if len(star) > 1), default=0)
    made, open_group = [], ""
    for at, (star, words) in enumerate(pieces):
        if len(star) > 1:
            made.append(open_group)
            made.append(f"(?>{_STARS[star]}?{words}" if at < wide else _STARS[star] + words)
            open_group = ")" if at < wide else ""
        elif star:
            made.append(f"(?>[^/]*?{words})" if at < last else f"[^/]*{words}")
        else:
            made.append(words)
    return "".join(made)


def matches(name: str, globs: Iterable[str]) -> bool:
    """Whether a name, or a folder above it, matches one of them. A glob without "/" is held against each part."""
    parts = name.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(any(map(pattern(glob).fullmatch, above if "/" in glob else parts)) for glob in globs)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Places (absolute paths, globs, URLs), and globs over names that narrow them; `max_bytes` bounds each file."""

    places: tuple[str, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_bytes: int | None = None

    @classmethod
    def of(
        cls, sources: Sequence[Path | str] | Inputs, *, include: Sequence[str] = (), exclude: Sequence[str] = (),
        max_bytes: int | None = None,
    ) -> Inputs:  # fmt: skip
        """From what a user wrote; relative paths are below the working folder.

        Raises `UsageError` U102 for a URL with a password in it: it would be kept with the run.
        """
        if isinstance(sources, Inputs):
            return sources
        if any(_SECRET.match(source) for source in sources if isinstance(source, str)):
            raise UsageError("a URL with a user or a password in it is not taken: it would be kept", code="U102")
        places = (str(source) if is_url(source) else str(Path.cwd() / source) for source in sources)
        return cls(tuple(places), tuple(include), tuple(exclude), max_bytes)

    @property
    def paths(self) -> list[Path]:
        return [Path(place) for place in self.places if not is_url(place)]

    @property
    def urls(self) -> list[str]:
        return list(dict.fromkeys(place for place in self.places if is_url(place)))

    def plain(self) -> list[str]:
        """As a run keeps it, so that it can look again; `from_plain` reads it."""
        narrowed = [f"--include={glob}" for glob in self.include] + [f"--exclude={glob}" for glob in self.exclude]
        bound = [f"--max-bytes={self.max_bytes}"] if self.max_bytes is not None else []
        return [*self.places, *narrowed, *bound]

    @classmethod
    def from_plain(cls, plain: Sequence[str]) -> Inputs:
        given: dict[str, list[str]] = {word: [] for word in _WORDS}
        places = []
        for entry in plain:
            word = next((word for word in _WORDS if entry.startswith(word)), None)
            if word is None:
                places.append(entry)
            else:
                given[word].append(entry.removeprefix(word))
        include, exclude, bound = given.values()
        return cls(tuple(places), tuple(include), tuple(exclude), int(bound[0]) if bound else None)

    def wants(self, name: str) -> bool:
        return not self.excludes(name) and (not self.include or matches(name, self.include))

    def excludes(self, name: str) -> bool:
        return bool(self.exclude) and matches(name, self.exclude)
