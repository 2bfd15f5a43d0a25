"""What every reader of documents makes: one text, and a map of its pages and headings in code points of that text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gristmill.data.kinds import Heading, Page

# Everything below U+0020 but tab and line feed, the delete character, and the two "not a character" code points that
# PDF fonts produce. They mean nothing in a text, and NUL cannot be stored in PostgreSQL at all.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")
DATA_URL = re.compile(r"data:image/([\w.+-]{1,40});base64,([A-Za-z0-9+/=\s]+)", re.I)
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Extract:
    text: str
    title: str | None = None
    pages: tuple[Page, ...] = ()
    headings: tuple[Heading, ...] = ()
    artifact: bytes | None = None  # what the reader knows beyond the text, as JSON


@dataclass(slots=True)
class Assembly:
    """Puts a text together block by block and keeps count of where each page and heading begins."""

    parts: list[str] = field(default_factory=list)
    length: int = 0
    pages: list[Page] = field(default_factory=list)
    headings: list[Heading] = field(default_factory=list)

    def add(self, block: str, *, gap: str = "\n\n") -> int:
        """Appends a block, `gap` after the one before it, and returns where it starts."""
        block = block.strip("\n")
        if not block.strip():
            return self.length
        if self.parts:
            self.parts.append(gap)
            self.length += len(gap)
        start = self.length
        self.parts.append(block)
        self.length += len(block)
        return start

    def add_heading(self, level: int, title: str) -> None:
        title = " ".join(title.split())
        if title:
            level = min(max(level, 1), 6)
            start = self.add(f"{'#' * level} {title}")
            self.headings.append(Heading(level=level, title=title, start=start))

    def end_page(self, number: int, count_before: int) -> None:
        """Notes a page that consists of the blocks added since `len(parts)` was `count_before`."""
        start = self.length - sum(map(len, self.parts[count_before + (count_before > 0) :]))
        self.pages.append(Page(number=number, start=start, end=self.length))

    def finish(self, title: str | None) -> Extract:
        text = "".join(self.parts) + ("\n" if self.parts else "")
        return Extract(text, title, tuple(self.pages), tuple(self.headings))


def without_data_urls(text: str) -> str:
    """The text with pictures that are written into it taken out; what they are called stays."""
    return DATA_URL.sub(lambda found: f"picture.{found.group(1).partition('+')[0].lower()}", text)


def storable(text: str) -> str:
    """Line ends as LF; NULs and lone surrogates, which no database takes, as U+FFFD. Nothing else is changed."""
    return UNSTORABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def printable(text: str) -> str:
    """`storable`, and without the control characters that readers of binary formats leave behind."""
    return CONTROL.sub("", storable(text))
