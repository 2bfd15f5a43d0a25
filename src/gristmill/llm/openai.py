"""Chat completions of OpenAI and of the many servers that speak the same protocol.

A client of our own on a fast HTTP library: a fraction of a millisecond of CPU a call, where SDKs need 7 to 18. It
retries nothing, follows no redirect and uses no proxy; waiting and asking again are decided by the engine, which sees
all calls.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gristmill.errors import Busy, ModelRefused, ModelSetupError, ModelUnavailable
from gristmill.llm import responses
from gristmill.llm.model import Answer, Binding, Reply, Request
from gristmill.llm.schemas import schema_forms

if TYPE_CHECKING:
    from pyreqwest.client import Client
    from pyreqwest.response import Response

DEFAULT_URL = "https://api.openai.com/v1"
SECRET_LENGTH = 8  # characters; shorter (some local servers want any word) is no secret, and stands in every text
BODY_LIMIT = 16 * 1024 * 1024  # bytes of an answer after decompression; a server that sends more is broken or hostile
_SMALL = 256 * 1024
_RESERVED = ("model", "messages", "stream", "response_format")
_MODES = ("json_schema", "json_object", "text")  # how a schema is asked for, best first
_known_modes: dict[tuple[str, str, str], int] = {}  # (base URL, model, schema or "") -> place in _MODES, per process


class Secret:
    """A key that shows its last four characters and nothing else, wherever it is printed."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __str__(self) -> str:
        return f"...{self._value[-4:]}" if len(self._value) >= 12 else "..."

    __repr__ = __str__


class OpenAIModel:
    """One model of one server.

    `base_url` ends before `/chat/completions`. `parameters` are sent as they are (0 and "" are values). `timeout` is
    for the whole call, `first_byte` for the start of the answer and `idle` for a pause within it, all in seconds.
    `key_name` is the setting or environment variable that held the key; only this name is ever shown.
    Raises `ModelSetupError` for a URL with a password in it and for parameters that the client sets itself.
    """

    def __init__(
        self, model: str, *, base_url: str = DEFAULT_URL, api_key: str | None = None,
        parameters: Mapping[str, Any] | None = None, timeout: float = 300.0, first_byte: float = 120.0,
        idle: float = 60.0, max_connections: int = 100, key_name: str = "OPENAI_API_KEY",
    ) -> None:  # fmt: skip
        _check_url(base_url)
        taken = [name for name in _RESERVED if name in (parameters or {})]
        if taken:
            raise ModelSetupError(f"the parameter {taken[0]} is set by Gristmill itself", code="M104")
        base_url = base_url.rstrip("/")
        self._binding = Binding(
            spec=f"openai:{model}", provider="openai", model=model, base_url=base_url, parameters=dict(parameters or {})
        )
        self._url = f"{base_url}/chat/completions"
        self._secret = Secret(api_key) if api_key else None
        self._key_name = key_name
        self._timeout, self._first_byte, self._idle = timeout, first_byte, idle
        self._max_connections = max_connections
        self._refusals = 0  # answers 429 in a row without a Retry-After
        self._client: Client | None = None

    def __repr__(self) -> str:
        return f"OpenAIModel({self._binding.model!r}, base_url={self._binding.base_url!r})"

    @property
    def binding(self) -> Binding:
        return self._binding

    async def complete(self, request: Request) -> Answer:
        return self.read(await self.fetch(request))

    async def close(self) -> None:
        """Closes all connections. The model may be used again; it then opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def read(self, reply: Reply) -> Answer:
        return responses.read_completion(reply, self._binding.model)

    async def fetch(self, request: Request) -> Reply:
        """Sends the request; falls back from json_schema to json_object to text where the server knows no better.

        Raises `ModelRefused` (M201, M206, M207, M208), `Busy` (429) or `ModelUnavailable` (M301 unreachable, M302 too
        slow, M303 server error, M304 the connection broke while the answer came in).
        """
        digest = schema_forms(request.schema).digest if request.schema is not None else ""
        while True:
            mode = self._mode(digest) if request.schema is not None else len(_MODES) - 1
            status, headers, reply = await self._exchange(self._body(request, _MODES[mode]))
            if status == 200:
                self._refusals = 0
                return reply
            if status in (400, 422, 501) and mode < len(_MODES) - 1 and responses.rejects_format(reply.body):
                self._lower(mode, digest if responses.rejects_schema(reply.body) else "")
                continue
            raise self._failure(status, headers, reply.body)

    def _mode(self, schema_digest: str) -> int:
        url, model = self._binding.base_url, self._binding.model
        return max(_known_modes.get((url, model, ""), 0), _known_modes.get((url, model, schema_digest), 0))

    def _lower(self, mode: int, schema_digest: str) -> None:
        key = (self._binding.base_url, self._binding.model, schema_digest)
        _known_modes[key] = max(_known_modes.get(key, 0), mode + 1)

    def _body(self, request: Request, mode: str) -> bytes:
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        body: dict[str, Any] = {"model": self._binding.model, "messages": messages}
        body.update(self._binding.parameters)
        body.update(request.parameters)
        wanted = ""
        if request.schema is not None and mode == "json_schema":
            forms = schema_forms(request.schema)
            name = json.dumps(re.sub(r"[^A-Za-z0-9_-]", "_", request.schema_name)[:64])
            named = f'{{"name":{name},"strict":{json.dumps(forms.strict)},"schema":{forms.strict_text}}}'
            wanted = f',"response_format":{{"type":"json_schema","json_schema":{named}}}'
        elif request.schema is not None:
            # Without schema mode the model has to be told; OpenAI also insists on the word JSON in json_object mode.
            told = f"Answer only with JSON that follows this JSON schema:\n{schema_forms(request.schema).text}"
            messages.insert(0, {"role": "system", "content": told})
            wanted = ',"response_format":{"type":"json_object"}' if mode == "json_object" else ""
        return (json.dumps(body, allow_nan=False)[:-1] + wanted + "}").encode()

    async def _exchange(self, body: bytes) -> tuple[int, Mapping[str, str], Reply]:
        from pyreqwest import exceptions as http

        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(min(self._first_byte, self._timeout)) as limit:
                post = self._http().post(self._url).header("content-type", "application/json").body_bytes(body)
                if self._secret is not None:
                    post = post.header("authorization", f"Bearer {self._secret.reveal()}", is_sensitive=True)
                async with post.build_streamed() as response:
                    data = await self._receive(response, limit, started + self._timeout)
                    status, headers = response.status, response.headers
        except (http.ConnectError, http.ConnectTimeoutError) as error:
            raise self._unreachable(error) from None
        except (TimeoutError, http.RequestTimeoutError):
            waited = loop.time() - started
            raise ModelUnavailable(
                f"{self._binding.base_url} did not finish its answer within {waited:.0f} s",
                hint="raise the model's timeout, or ask for shorter answers", code="M302",
            ) from None  # fmt: skip
        except http.PyreqwestError as error:
            text = f"the connection to {self._binding.base_url} broke: {self._redact(str(error))}"
            raise ModelUnavailable(text, code="M304") from None
        if len(data) > BODY_LIMIT:
            return (
                status,
                headers,
                Reply(data[:65536], finish_reason=responses.TOO_LARGE, latency=loop.time() - started),
            )
        finish_reason, usage = responses.glance(data)
        return status, headers, Reply(data, finish_reason, usage, loop.time() - started)

    async def _receive(self, response: Response, limit: asyncio.Timeout, end: float) -> bytes:
        """The body, read in parts so that neither its size nor a pause within it is unbounded."""
        loop = asyncio.get_running_loop()
        limit.reschedule(min(end, loop.time() + self._idle))
        length = response.get_header("content-length") or ""
        if length.isdigit() and int(length) <= _SMALL:  # the common case, in one step instead of three
            data = (await response.bytes()).to_bytes()
        else:
            reader, parts, size = response.body_reader, [], 0
            while size <= BODY_LIMIT and (part := await reader.read_chunk()) is not None:
                limit.reschedule(min(end, loop.time() + self._idle))
                parts.append(part.to_bytes())
                size += len(parts[-1])
            data = b"".join(parts)
        secret = self._secret.reveal().encode() if self._secret is not None else b""
        if len(secret) >= SECRET_LENGTH and secret in data:
            data = data.replace(secret, b"[redacted]")  # some servers echo the key; it must not reach the ledger
        return data

    def _http(self) -> Client:
        if self._client is None:
            from pyreqwest.client import ClientBuilder

            self._client = (
                ClientBuilder()
                .follow_redirects(False)
                .no_proxy()
                .max_connections(self._max_connections)
                .pool_max_idle_per_host(self._max_connections)
                .connect_timeout(timedelta(seconds=10))
                .user_agent("gristmill")
                .build()
            )
        return self._client

    def _failure(self, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        """The error for an answer that is not 200. Nothing of the key but its last four characters is in it."""
        said, code = responses.error_message(body)
        said = self._redact(said)
        where = self._binding.base_url
        if status in (401, 403):
            held = (
                f"the key in {self._key_name} ends in {self._secret}"
                if self._secret
                else f"{self._key_name} is not set"
            )
            return ModelRefused(f"{where} refused the key ({status}): {said}", hint=held, code="M207")
        if status == 402 or (status == 429 and code == "insufficient_quota"):
            return ModelRefused(f"{where}: the account has no money left: {said}", hint="top it up", code="M208")
        if status == 429:
            self._refusals = min(self._refusals + 1, 7)
            delay = responses.retry_after(headers) or 2.0 ** (self._refusals - 1)
            return Busy(f"{where} asks to wait: {said}", delay=delay, reason="provider's rate limit")
        if status == 404:
            hint = f'is the model called "{self._binding.model}", and is {where} the right base URL?'
            return ModelRefused(f"{where} does not know this ({status}): {said}", hint=hint, code="M206")
        if status in (408, 409, 425) or status >= 500:
            return ModelUnavailable(f"{where} answered {status}: {said}", code="M303")
        hint = "the server redirects; use the address that it points to" if 300 <= status < 400 else ""
        return ModelRefused(f"{where} refused the request ({status}): {said}", hint=hint)

    def _unreachable(self, error: Exception) -> ModelUnavailable:
        text = f"no connection to {self._binding.base_url}: {self._redact(str(error))}"
        return ModelUnavailable(text, hint="is the base URL right, and does the server run?", code="M301")

    def _redact(self, text: str) -> str:
        secret = self._secret.reveal() if self._secret is not None else ""
        return text.replace(secret, str(self._secret)) if len(secret) >= SECRET_LENGTH else text


def _check_url(base_url: str) -> None:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(base_url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        parts, good = None, False
    if not good or parts is None:
        raise ModelSetupError("the base URL of a model starts with http:// or https://", code="M103")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ModelSetupError("the base URL of a model holds no user, password or query",
                              hint="give the key separately", code="M103")  # fmt: skip
