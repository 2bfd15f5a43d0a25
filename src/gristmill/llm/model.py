"""The one-method protocol of a language model, and what goes through it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gristmill.errors import InvalidOutput


@dataclass(frozen=True, slots=True)
class Text:
    """Words in a message that has other parts too."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in a message. `data` are the bytes of the file, `media_type` says what they are ("image/png")."""

    data: bytes = field(repr=False)
    media_type: str

    def digest(self) -> str:
        """sha256 of the bytes, 64 hex digits."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: text, or a tuple of `Text` and `Image` parts in their order."""

    role: str  # "system", "user" or "assistant"
    content: str | tuple[Text | Image, ...]

    @property
    def parts(self) -> tuple[Text | Image, ...]:
        return (Text(self.content),) if isinstance(self.content, str) else self.content

    @property
    def text(self) -> str:
        """The words alone; several texts are joined by line ends."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, Text))

    def identity(self) -> list[Any]:
        """What a key is made from: role and text; of an image its media type and digest."""
        if isinstance(self.content, str):
            return [self.role, self.content]
        parts = [[part.text] if isinstance(part, Text) else [part.media_type, part.digest()] for part in self.content]
        return [self.role, parts]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call; 0 where the server did not say."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model.

    `schema` is the JSON schema that the answer must follow, or None for plain text. `sample` asks for deliberate
    variety: another sample is another call. `attempt` is raised by a re-ask, so that a bad answer is never replayed
    from the ledger. `prompt` and `fields` say which prompt the messages were made from; they are not sent. `task` and
    `run` say on whose behalf the call is made; they are noted in the ledger, not sent, and not part of its key.
    `reuse_within` (any text, "run 7") asks for an answer that only requests with the same text share.
    """

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None
    schema_name: str = "answer"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0
    attempt: int = 0
    prompt: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    task: int | None = None
    run: int | None = None
    reuse_within: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `raw` is the body as received; `finish_reason` is "stop" or the provider's own word.

    `from_ledger` is True when the answer had been paid for before and nothing was sent; `key` is that of the call then,
    in hex. `reasoning` is what the model thought before it answered, as far as the provider tells.
    """

    text: str
    model: str
    finish_reason: str = "stop"
    usage: Usage = field(default_factory=Usage)
    raw: bytes = b""
    from_ledger: bool = False
    reasoning: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """The bytes of a paid answer before anyone has parsed them, which is the form that the ledger keeps.

    `finish_reason` and `usage` were found by a scan that cannot fail; "" and zeros where it found nothing. `limits`
    are the headers in which the provider tells how much of its limits is left, in lower case.
    """

    body: bytes
    finish_reason: str = ""
    usage: Usage = field(default_factory=Usage)
    latency: float = 0.0  # seconds
    limits: Mapping[str, str] = field(default_factory=dict)


class UnusableAnswer(InvalidOutput):
    """The server answered 200 and there is no answer in it: an empty list of choices, a web page, cut JSON."""

    code = "M204"

    def __init__(self, message: str, *, hint: str = "", from_ledger: bool = False, code: str | None = None) -> None:
        super().__init__(message, hint=hint, code=code)
        self.from_ledger = from_ledger


@dataclass(frozen=True, slots=True)
class Binding:
    """Which model answers, and with which parameters. Never holds a secret.

    `spec` is what a user writes ("openai:gpt-4.1-mini", "extractive", the name of a binding); `base_url` separates
    servers that serve models of the same name. `limit` names the quota that its calls are counted under: without a
    word from the user the provider and the place of the key ("openai:OPENAI_API_KEY"), "" for what is computed here.
    """

    spec: str
    provider: str
    model: str
    base_url: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    paid: bool = True  # False: computed here, needs no ledger
    limit: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self) -> bytes:
        """sha256 (32 bytes) over everything that can change an answer."""
        parts: list[Any] = [self.provider, self.model, self.base_url, dict(self.parameters)]
        if self.headers:
            parts.append(dict(self.headers))
        return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).digest()


class Model(Protocol):
    """Anything that answers requests. Raises `ModelUnavailable`, `ModelRefused`, `InvalidOutput` or `Busy`."""

    @property
    def binding(self) -> Binding: ...

    async def complete(self, request: Request) -> Answer: ...

    async def close(self) -> None: ...


class RemoteModel(Model, Protocol):
    """A model that is paid for. `complete` is `fetch`, then `read`; the ledger keeps the reply in between."""

    async def fetch(self, request: Request) -> Reply:
        """Sends the request. Raises `ModelUnavailable`, `ModelRefused` or `Busy`; parses nothing."""
        ...

    def read(self, reply: Reply) -> Answer:
        """The answer in a reply. Raises `UnusableAnswer`, or `InvalidOutput` M205 when it was cut at the limit."""
        ...
