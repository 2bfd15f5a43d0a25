"""The one-method protocol of a language model, and what goes through it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gristmill.errors import InvalidOutput


@dataclass(frozen=True, slots=True)
class Message:
    role: str  # "system", "user" or "assistant"
    content: str


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


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `raw` is the body as received; `finish_reason` is "stop", "length" or the provider's own word.

    `from_ledger` is True when the answer had been paid for before and nothing was sent.
    """

    text: str
    model: str
    finish_reason: str = "stop"
    usage: Usage = field(default_factory=Usage)
    raw: bytes = b""
    from_ledger: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """The bytes of a paid answer before anyone has parsed them, which is the form that the ledger keeps.

    `finish_reason` and `usage` were found by a scan that cannot fail; "" and zeros where it found nothing.
    """

    body: bytes
    finish_reason: str = ""
    usage: Usage = field(default_factory=Usage)
    latency: float = 0.0  # seconds


class UnusableAnswer(InvalidOutput):
    """The server answered 200 and there is no answer in it: an empty list of choices, a web page, cut JSON."""

    code = "M204"

    def __init__(self, message: str, *, hint: str = "", from_ledger: bool = False, code: str | None = None) -> None:
        super().__init__(message, hint=hint, code=code)
        self.from_ledger = from_ledger


@dataclass(frozen=True, slots=True)
class Binding:
    """Which model answers, and with which parameters. Never holds a secret.

    `spec` is what a user writes ("openai:gpt-4.1-mini", "extractive"); `base_url` separates servers that serve
    models of the same name.
    """

    spec: str
    provider: str
    model: str
    base_url: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    paid: bool = True  # False: computed here, needs no ledger

    def fingerprint(self) -> bytes:
        """sha256 (32 bytes) over everything that can change an answer."""
        parts = [self.provider, self.model, self.base_url, dict(self.parameters)]
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
