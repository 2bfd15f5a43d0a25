"""The typed bodies of records.

A body is immutable; a record is a body with an id, a content hash and parents (see `records`). Offsets are code points
in the document's text, ends are exclusive, and that text has LF line ends only.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from gristmill.data.action_result import ActionResult as ActionResult
from gristmill.data.annotations import ANNOTATIONS, Agreement
from gristmill.data.body import Body as Body

BODY_LIMIT = (
    1024 * 1024
)  # bytes of JSON; anything larger belongs in a blob (reliability: a row must stay cheap to read)


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
    backend: str = "text"  # what read it: "text", "kreuzberg" or "docling"
    artifact_blob: str | None = None  # docling's own JSON of it (layout, tables, places), or a list of its parts


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
    cleaned: bool | None = None  # True: its text was rewritten, and is no longer the document's

    def place(self, start: int, end: int) -> tuple[int | None, int | None]:
        """Where these characters of the chunk stand in the document; None for a text that was rewritten."""
        return (None, None) if self.cleaned else (self.start + start, self.start + end)


class Question(Body):
    kind: ClassVar[str] = "question"
    text: str
    ordinal: int = 0  # place among the questions of its chunk
    evidence_start: int | None = None  # where the document supports it, if that was found
    evidence_end: int | None = None
    answer_type: Literal["label", "json"] | None = None  # what its answer has to be; None: free text
    labels: tuple[str, ...] | None = None  # the answers to choose from
    json_schema: str | None = None  # JSON text: the shape of the answer
    template: str | None = None  # name of the template that it was made from
    image: str | None = None  # sha256 of the picture that it is about
    genre: str | None = None  # in which kind of text, and for whom, it was asked
    audience: str | None = None
    label: tuple[str, ...] | None = None  # its place in the label tree


class Example(Body):
    """One row of training data. A cleaned or polished one is a new example whose parent is the old one."""

    kind: ClassVar[str] = "example"
    question: str
    answer: str
    quote: str | None = None  # words of the document that support the answer, when they were found in it
    evidence_start: int | None = None
    evidence_end: int | None = None
    model: str = ""
    reasoning: str | None = None  # the chain of thought that led to the answer
    reasoning_origin: Literal["native", "inline", "synthesized"] | None = None  # None: there is none, or it was dropped
    answer_type: Literal["label", "json"] | None = None  # None: free text
    grounded: bool | None = None  # whether the passage supports the answer; None: nobody looked
    system: str | None = None
    image: str | None = None  # sha256 of the picture that is asked about
    label: tuple[str, ...] | None = None  # its place in the label tree


class GaPair(Body):
    """For whom, and in which kind of text, questions of a document are asked."""

    kind: ClassVar[str] = "ga_pair"
    genre: str
    genre_description: str
    audience: str
    audience_description: str
    ordinal: int = 0


class LabelTree(Body):
    """What a collection is about: paths from a main subject down, each once, parents before their children."""

    kind: ClassVar[str] = "label_tree"
    paths: tuple[tuple[str, ...], ...]
    origin: Literal["model", "import", "kept"] = "model"


class Turn(Body):
    role: Literal["system", "user", "assistant"]
    content: str
    reasoning: str | None = None


class Conversation(Body):
    """Several turns about one subject. Its last turn is always the assistant's."""

    kind: ClassVar[str] = "conversation"
    turns: tuple[Turn, ...]
    rounds: int  # exchanges that were planned; a refusal on the way may leave fewer
    scenario: str = ""
    model: str = ""
    label: tuple[str, ...] | None = None


class Image(Body):
    """A picture as it was handed in, or taken out of a document; upright, in pixels."""

    kind: ClassVar[str] = "image"
    blob: str  # sha256 of the bytes, 64 hex digits
    media_type: str
    width: int
    height: int
    name: str
    page: int | None = None
    perceptual_hash: str | None = None  # 16 hex digits; close pictures differ in few bits


class TestItem(Body):
    """One question of an examination, with its right answer."""

    kind: ClassVar[str] = "test_item"
    question: str
    type: Literal["true_false", "single_choice", "multiple_choice", "short_answer", "open"]
    correct: tuple[str, ...]  # letters of the right options, "true" or "false", or the expected answer
    options: tuple[str, ...] = ()
    explanation: str | None = None
    label: tuple[str, ...] | None = None


class Judgement(Body):
    """How an answer to a test item fared."""

    kind: ClassVar[str] = "judgement"
    answer: str
    score: float  # 0 to 1
    passed: bool
    by: str  # "rule", or the model that judged
    model: str  # that answered
    comment: str = ""


class Score(Body):
    name: str
    value: float
    comment: str | None = None


class Evaluation(Body):
    """What a rubric says about an example. The overall score is computed from the dimensions, never asked for."""

    kind: ClassVar[str] = "evaluation"
    rubric: str
    scores: tuple[Score, ...]
    overall: float  # in the rubric's scale
    judge: str  # the model, or "rules"
    comment: str = ""
    subject: str | None = None  # content hash of what was evaluated, 64 hex digits


class Rejection(Body):
    """Marks its first parent as unfit by a rule; nothing is deleted."""

    kind: ClassVar[str] = "rejection"
    rule: str
    reason: str
    value: float | None = None


class Topic(Body):
    """What a model is to be questioned about where there is no document."""

    kind: ClassVar[str] = "topic"
    path: tuple[str, ...]
    ordinal: int = 0
    known: tuple[tuple[str, ...], ...] | None = None  # topics below it that were given


class Vector(Body):
    """A text as a point. The numbers are a blob of little-endian 32-bit floats."""

    kind: ClassVar[str] = "vector"
    blob: str
    dimensions: int
    model: str
    text_hash: str  # sha256 of the text, 64 hex digits


class Indexed(Body):
    """Says that chunks stand in a search index: "database", or "lancedb:" and the folder."""

    kind: ClassVar[str] = "indexed"
    store: str
    model: str
    dimensions: int
    entries: int


class Duplicate(Body):
    """Marks its first parent as a near-duplicate of its second; nothing is deleted."""

    kind: ClassVar[str] = "duplicate"
    similarity: float  # 0 to 1
    method: str


_BODIES: tuple[type[Body], ...] = (
    Source,
    Document,
    Chunk,
    Question,
    Example,
    Duplicate,
    GaPair,
    LabelTree,
    Conversation,
    Image,
    TestItem,
    Judgement,
    Evaluation,
    Rejection,
    Topic,
    Vector,
    Indexed,
    ActionResult,
    Agreement,
    *ANNOTATIONS.values(),
)
KINDS: dict[str, type[BaseModel]] = {body.kind: body for body in _BODIES}


def kind_of(body: type[BaseModel] | BaseModel) -> str:
    """The stored name of a kind: the built-in name, or the class name in lower case."""
    cls = body if isinstance(body, type) else type(body)
    return getattr(cls, "kind", "") or cls.__name__.lower()


def canonical_json(value: Any) -> str:
    """One spelling per value: sorted keys, no spaces, no NaN. Hashes are made over this text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(body: BaseModel) -> bytes:
    """sha256 over kind and canonical JSON of the body (32 bytes). A field that is None is left out, so that a kind may
    gain optional fields and its old bodies keep their hashes."""
    fields = {name: value for name, value in body.model_dump(mode="json").items() if value is not None}
    text = canonical_json([kind_of(body), fields])
    return hashlib.sha256(text.encode()).digest()
