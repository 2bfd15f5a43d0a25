"""The typed bodies of records.

A body is immutable; a record is a body with an id, a content hash and parents (see `records`). Offsets are code points
in the document's text, ends are exclusive, and that text has LF line ends only.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

BODY_LIMIT = (
    1024 * 1024
)  # bytes of JSON; anything larger belongs in a blob (reliability: a row must stay cheap to read)


class Body(BaseModel):
    """Base of the built-in kinds. A user's own kind may be any pydantic model; its class name is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str] = ""


class Source(Body):
    """One input file as it was handed in."""

    kind: ClassVar[str] = "source"
    name: str  # path below the input that was given, with "/" between folders
    blob: str  # sha256 of the bytes, 64 hex digits
    size: int  # bytes
    media_type: str


class Page(Body):
    number: int  # from 1
    start: int
    end: int


class Heading(Body):
    level: int  # 1 to 6
    title: str
    start: int


class Document(Body):
    """The text of a source. The text itself is a blob in UTF-8; offsets count its code points."""

    kind: ClassVar[str] = "document"
    text_blob: str
    characters: int
    media_type: str
    title: str | None = None
    pages: tuple[Page, ...] = ()  # empty where the format has no pages
    headings: tuple[Heading, ...] = ()
    backend: str = "text"  # what read it: "text" or "kreuzberg"


class Chunk(Body):
    kind: ClassVar[str] = "chunk"
    text: str
    ordinal: int = 0  # place in the document, from 0
    start: int = 0
    end: int = 0
    page_start: int | None = None
    page_end: int | None = None
    heading_path: tuple[str, ...] = ()
    oversize: bool = False  # a protected block (table, code) longer than the maximum


class Question(Body):
    kind: ClassVar[str] = "question"
    text: str
    ordinal: int = 0  # place among the questions of its chunk
    evidence_start: int | None = None  # where the document supports it, if that was found
    evidence_end: int | None = None


class Example(Body):
    kind: ClassVar[str] = "example"
    question: str
    answer: str
    quote: str | None = None  # words of the document that support the answer, when they were found in it
    evidence_start: int | None = None
    evidence_end: int | None = None
    model: str = ""


class Duplicate(Body):
    """Marks its first parent as a near-duplicate of its second; nothing is deleted."""

    kind: ClassVar[str] = "duplicate"
    similarity: float  # 0 to 1
    method: str


KINDS: dict[str, type[BaseModel]] = {
    body.kind: body for body in (Source, Document, Chunk, Question, Example, Duplicate)
}


def kind_of(body: type[BaseModel] | BaseModel) -> str:
    """The stored name of a kind: the built-in name, or the class name in lower case."""
    cls = body if isinstance(body, type) else type(body)
    return getattr(cls, "kind", "") or cls.__name__.lower()


def canonical_json(value: Any) -> str:
    """One spelling per value: sorted keys, no spaces, no NaN. Hashes are made over this text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(body: BaseModel) -> bytes:
    """sha256 over kind and canonical JSON of the body (32 bytes)."""
    text = canonical_json([kind_of(body), body.model_dump(mode="json")])
    return hashlib.sha256(text.encode()).digest()
