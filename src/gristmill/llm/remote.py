"""A model behind a server: what all wire protocols share. Each protocol adds how to ask and how to read."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar
from urllib.parse import urlsplit

from gristmill.errors import ModelRefused, ModelSetupError, ModelUnavailable
from gristmill.llm import responses, streams
from gristmill.llm.exchange import Exchange, Limits, Received
from gristmill.llm.model import Answer, Binding, Message, Reply, Request, UnusableAnswer, Usage
from gristmill.llm.responses import Said
from gristmill.llm.schemas import schema_forms

TEXT = "text"
encode = json.JSONEncoder(allow_nan=False).encode  # `json.dumps` would make an encoder for every call
_known_modes: dict[tuple[str, str, str, str], int] = {}  # (provider, URL, model, schema or "") -> place, per process


class HttpModel(ABC):
    """One model of one server.

    `base_url` is what stands before the protocol's own path. `parameters` are sent as they are (0 and "" are values);
    a few common names are translated by protocols that call them otherwise. `key_name` is the setting or environment
    variable that held the key; only this name is ever shown. `timeout` is for the whole call, `first_byte` for the
    start of the answer and `idle` for a pause within it, in seconds. `stream` asks for the answer in pieces, so that
    `idle` notices a server that stands still. `structured` is the form in which schemas are asked for, where the first
    one that the server takes is not wanted. `spec` and `limit`: see `Binding`.

    Raises `ModelSetupError`: M103 the URL, M104 a parameter or header that the client sets itself, M107 the key.
    """

    provider = ""
    default_url = ""
    key_header = ("authorization", "Bearer ")
    headers: ClassVar[Mapping[str, str]] = {}
    modes: tuple[str, ...] = ("json_schema", "json_object", TEXT)  # forms of asking for a schema, best first
    reserved: tuple[str, ...] = ("model", "stream", "stream_options", "n")  # parameters that are not the user's to set
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self, model: str, *, base_url: str | None = None, api_key: str | None = None, key_name: str = "",
        parameters: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None,
        timeout: float = 300.0, first_byte: float = 120.0, idle: float = 60.0, max_connections: int = 100,
        stream: bool = False, structured: str | None = None, provider: str = "", spec: str = "", limit: str = "",
    ) -> None:  # fmt: skip
        provider = provider or self.provider
        base_url = (self.default_url if base_url is None else base_url).rstrip("/")
        given = {**self.defaults, **(parameters or {})}
        self._check(given, headers or {}, structured)
        headers = {name.lower(): value for name, value in (headers or {}).items()}
        self._exchange = Exchange(
            base_url, model, api_key=api_key, key_name=key_name, key_header=self.key_header,
            headers={**self.headers, **headers},
            limits=Limits(timeout, first_byte, idle, max_connections),
        )  # fmt: skip
        self._binding = Binding(
            spec=spec or f"{provider}:{model}", provider=provider, model=model, base_url=base_url, parameters=given,
            limit=limit or f"{provider}:{(key_name if api_key else '') or urlsplit(base_url).netloc}",
            headers=headers,
        )  # fmt: skip
        self._stream = stream
        self._lowest = self.modes.index(structured) if structured else 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._binding.model!r}, base_url={self._binding.base_url!r})"

    @property
    def binding(self) -> Binding:
        return self._binding

    @property
    def exchange(self) -> Exchange:
        return self._exchange

    async def complete(self, request: Request, on_text: Callable[[str], None] | None = None) -> Answer:
        """The answer. `on_text` hears its words as they come in."""
        return self.read(await self.fetch(request, on_text))

    async def close(self) -> None:
        """Closes all connections. The model may be used again; it then opens new ones."""
        await self._exchange.close()

    async def fetch(self, request: Request, on_text: Callable[[str], None] | None = None) -> Reply:
        """Sends the request; falls back to a lesser form of asking for the schema where the server knows no better.

        Raises `ModelRefused` (M201, M206..M208, M210, M211), `Busy` (429) or `ModelUnavailable` (M301 unreachable, M302
        too slow, M303 server error, M304 the connection broke while the answer came in).
        """
        stream = self._stream or on_text is not None
        while True:
            data, place = self.question(request, stream=stream)
            received = await self._exchange.post(self.path(stream=stream), data, self._listener(stream, on_text))
            reply = self.reply(request, place, received)
            if reply is not None:
                return reply

    def path(self, *, stream: bool = False) -> str:
        """What follows the base URL."""
        return self._path(stream)

    def question(self, request: Request, *, stream: bool = False) -> tuple[bytes, int]:
        """The body to send, and the place in `modes` of the form in which it asks for the schema."""
        if not request.parameters.keys().isdisjoint(self.reserved):
            self._check(request.parameters, {}, None)
        place = self._mode(_digest(request)) if request.schema is not None else len(self.modes) - 1
        body = self._body(request, self.modes[place], stream)
        return body if isinstance(body, bytes) else encode(body).encode(), place

    def reply(self, request: Request, place: int, received: Received) -> Reply | None:
        """The reply in what came back; None: ask again, in a lesser form. Raises what `fetch` raises."""
        if received.status == 200:
            return self.kept(received)
        form = received.status in (400, 422, 501) and responses.rejects_format(received.body)
        if form and place < len(self.modes) - 1:
            self._lower(place, _digest(request) if responses.rejects_schema(received.body) else "")
            return None
        raise self._exchange.failure(received)

    def read(self, reply: Reply) -> Answer:
        """See `RemoteModel.read`. M203 is a body over 16 MiB, M209 a refusal, M210 what the provider filtered."""
        if reply.finish_reason == responses.TOO_LARGE:
            raise UnusableAnswer("the answer is larger than 16 MiB", code="M203")
        try:
            if streams.is_stream(reply.body):
                said = self._fold(streams.events(reply.body))
            else:
                said = self._said(json.loads(reply.body))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise responses.no_answer(reply.body) from None
        return responses.made(said, reply, self._binding.model)

    @abstractmethod
    def _path(self, stream: bool) -> str:
        """What follows the base URL."""

    @abstractmethod
    def _body(self, request: Request, mode: str, stream: bool) -> dict[str, Any] | bytes:
        """The request in the protocol's form; `mode` is one of `modes`, the last one when there is no schema."""

    @abstractmethod
    def _said(self, document: dict[str, Any]) -> Said:
        """What the body of an answer says. May raise what indexing raises."""

    @abstractmethod
    def _fold(self, events: list[dict[str, Any]]) -> Said:
        """The same from a stream of events."""

    @abstractmethod
    def _piece(self, event: dict[str, Any]) -> str:
        """The words that one event of a stream brings; mostly some, often none."""

    @abstractmethod
    def _glance(self, body: bytes) -> tuple[str, Usage]:
        """Finish reason and tokens by a scan that cannot fail: the ledger notes them before a parser runs."""

    def _parameters(self, request: Request) -> dict[str, Any]:
        return {**self._binding.parameters, **request.parameters}

    def _check(self, parameters: Mapping[str, Any], headers: Mapping[str, str], structured: str | None) -> None:
        for name in parameters:
            if name in self.reserved:
                raise ModelSetupError(f"the parameter {name} is set by Gristmill itself", code="M104")
        for name, value in headers.items():
            if not _is_plain_header(name, value):
                raise ModelSetupError(
                    f"the header {name[:60]} is not the user's to set, or holds what no header can hold", code="M104",
                    hint="a key is given by reference: key = \"env:NAME\"",
                )  # fmt: skip
        if structured is not None and structured not in self.modes:
            raise ModelSetupError(
                f"{self.provider} has no form {structured} of asking for a schema", code="M104",
                hint=f"one of: {', '.join(self.modes)}",
            )  # fmt: skip

    def _mode(self, schema_digest: str) -> int:
        key = (self._binding.provider, self._binding.base_url, self._binding.model)
        return max(self._lowest, _known_modes.get((*key, ""), 0), _known_modes.get((*key, schema_digest), 0))

    def _lower(self, place: int, schema_digest: str) -> None:
        key = (self._binding.provider, self._binding.base_url, self._binding.model, schema_digest)
        _known_modes[key] = max(_known_modes.get(key, 0), place + 1)

    def kept(self, received: Received) -> Reply:
        """What the ledger keeps of an answer 200. Raises `ModelUnavailable` or `ModelRefused` for a broken stream."""
        if received.too_large:
            return Reply(received.body, responses.TOO_LARGE, latency=received.latency, limits=received.headers)
        failed = streams.failure(received.body)
        if failed is not None:
            said, code = responses.error_message(failed)
            text = f"{self._binding.base_url} broke off its answer: {self._exchange.redact(said)}"
            if code in ("content_filter", "invalid_request_error", "invalid_prompt"):
                raise ModelRefused(text)
            raise ModelUnavailable(text, code="M303")
        reason, usage = self._glance(received.body)
        return Reply(received.body, reason, usage, received.latency, received.headers)

    def _listener(self, stream: bool, on_text: Callable[[str], None] | None) -> Callable[[bytes], None] | None:
        """Who hears the parts of the body; None where it may come as one."""
        if on_text is None:
            return (lambda part: None) if stream else None
        events = streams.Events()

        def hear(part: bytes) -> None:
            try:
                for event in events.feed(part):
                    if piece := self._piece(event):
                        on_text(piece)
            except (ValueError, LookupError, TypeError, AttributeError):
                return  # whoever reads the whole of it will say what is wrong

        return hear


def _digest(request: Request) -> str:
    return schema_forms(request.schema).digest if request.schema is not None else ""


def told_schema(request: Request) -> Message:
    """The words that a model gets where its server knows no schemas. OpenAI also insists on the word JSON in them."""
    assert request.schema is not None  # noqa: S101 - for the type checker
    return Message(
        "system", f"Answer only with JSON that follows this JSON schema:\n{schema_forms(request.schema).text}"
    )


def with_schema_told(request: Request) -> Request:
    """The request with the schema as its first message."""
    return replace(request, messages=(told_schema(request), *request.messages))


def _is_plain_header(name: str, value: str) -> bool:
    if name.lower() in ("content-type", "content-length", "transfer-encoding", "host", "connection"):
        return False
    secret = any(word in name.lower() for word in ("auth", "key", "token", "cookie", "secret"))
    plain = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return plain and not secret and isinstance(value, str) and value.isascii() and value.isprintable()
