"""One request over HTTP and its answer: time limits, a cap on the size, the key, and the error for every failure.

A client of our own on a fast HTTP library: a fraction of a millisecond of CPU a call, where SDKs need 7 to 18. It
retries nothing, follows no redirect and uses no proxy; waiting and asking again are decided by the engine, which sees
all calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from gristmill.errors import Busy, ModelRefused, ModelSetupError, ModelUnavailable
from gristmill.llm import responses

if TYPE_CHECKING:
    from pyreqwest.client import Client
    from pyreqwest.request import RequestBuilder
    from pyreqwest.response import Response

SECRET_LENGTH = 8  # characters; shorter (some local servers want any word) is no secret, and stands in every text
BODY_LIMIT = 16 * 1024 * 1024  # bytes of an answer after decompression; a server that sends more is broken or hostile
SPENT_DAY = "provider's quota of the day"  # reason of a `Busy`
SPENT = "provider's rate limit"
_SMALL = 256 * 1024
_KEPT = 65_536  # bytes that are kept of a body over the limit


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


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: for the whole call, for the start of the answer, for a pause within it. `connections` at once."""

    timeout: float = 300.0
    first_byte: float = 120.0
    idle: float = 60.0
    connections: int = 100


@dataclass(frozen=True, slots=True)
class Received:
    """What came back, before anyone has parsed it. `headers` are those of `responses.telling`."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    latency: float
    too_large: bool = False


class Exchange:
    """Sends JSON to one server.

    `base_url` has no slash at its end. `key_header` is the header that carries the key and what stands before the key
    in it. `key_name` is the setting or environment variable that held the key; only this name is ever shown.
    Raises `ModelSetupError` M103 for a URL that is none or has a password in it, M107 for a key that cannot be one.
    """

    def __init__(
        self, base_url: str, model: str, *, api_key: str | None, key_name: str, key_header: tuple[str, str],
        headers: Mapping[str, str], limits: Limits,
    ) -> None:  # fmt: skip
        check_url(base_url)
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ModelSetupError(
                f"the key in {key_name} has a line end or another character that no key has", code="M107",
                hint="copy it again, without quotes and spaces around it",
            )  # fmt: skip
        self.base_url, self._model = base_url, model
        self._secret = Secret(api_key) if api_key else None
        self._key_name, self._key_header, self._headers = key_name, key_header, dict(headers)
        self._limits = limits
        self._refusals = 0  # answers 429 in a row that did not say how long to wait
        self._client: Client | None = None

    async def close(self) -> None:
        """Closes all connections. It may be used again; it then opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def post(self, path: str, body: bytes, hear: Callable[[bytes], None] | None = None) -> Received:
        """The answer, whatever its status. `hear` gets each part of the body as it comes in. Raises as `send` does."""
        return await self.send("POST", path, body, hear=hear)

    async def send(
        self, method: str, path: str, body: bytes = b"", *, content_type: str = "application/json",
        hear: Callable[[bytes], None] | None = None,
    ) -> Received:  # fmt: skip
        """The answer to any request, whatever its status.

        Raises `ModelUnavailable`: M301 unreachable, M302 too slow, M304 the connection broke.
        """
        from pyreqwest import exceptions as http

        loop = asyncio.get_running_loop()
        started = loop.time()
        limits = self._limits
        try:
            async with asyncio.timeout(min(limits.first_byte, limits.timeout)) as limit:
                request = self._request(method, path, content_type)
                if hear is not None:
                    request = request.streamed_read_buffer_limit(0)  # or the first 64 KiB come as one part
                async with request.body_bytes(body).build_streamed() as response:
                    data = await self._receive(response, limit, started + limits.timeout, hear)
                    status, headers = response.status, responses.telling(response.headers)
        except (http.ConnectError, http.ConnectTimeoutError) as error:
            raise self._unreachable(error) from None
        except (TimeoutError, http.RequestTimeoutError):
            waited = loop.time() - started
            raise ModelUnavailable(
                f"{self.base_url} did not finish its answer within {waited:.0f} s",
                hint="raise the model's timeout, or ask for shorter answers", code="M302",
            ) from None  # fmt: skip
        except http.PyreqwestError as error:
            text = f"the connection to {self.base_url} broke: {self.redact(str(error))}"
            raise ModelUnavailable(text, code="M304") from None
        if status == 200:
            self._refusals = 0
        if len(data) > BODY_LIMIT:
            return Received(status, headers, data[:_KEPT], loop.time() - started, too_large=True)
        return Received(status, headers, data, loop.time() - started)

    async def lines(self, path: str) -> AsyncIterator[bytes]:
        """The lines of a document of any size, one after the other. Raises what `send` raises, `failure` of a status
        that is not 200, and M304 for a line over 16 MiB."""
        from pyreqwest import exceptions as http

        try:
            async with asyncio.timeout(self._limits.first_byte) as limit:
                async with self._request("GET", path).streamed_read_buffer_limit(0).build_streamed() as response:
                    if response.status != 200:
                        body = await self._receive(response, limit, limit.when() or 0.0, None)
                        raise self.failure(Received(response.status, responses.telling(response.headers), body, 0.0))
                    rest = b""
                    while (part := await response.body_reader.read_chunk()) is not None:
                        limit.reschedule(None)  # whoever works on a line may take its time
                        *whole, rest = (rest + part.to_bytes()).split(b"\n")
                        if len(rest) > BODY_LIMIT:
                            raise ModelUnavailable(f"{self.base_url} sends a line without an end", code="M304")
                        for line in whole:
                            yield self._cleared(line)
                        limit.reschedule(asyncio.get_running_loop().time() + self._limits.idle)
                    if rest.strip():
                        yield self._cleared(rest)
        except (http.ConnectError, http.ConnectTimeoutError) as error:
            raise self._unreachable(error) from None
        except (TimeoutError, http.PyreqwestError) as error:
            text = f"the connection to {self.base_url} broke: {self.redact(str(error) or 'too slow')}"
            raise ModelUnavailable(text, code="M304") from None

    def _request(self, method: str, path: str, content_type: str = "") -> RequestBuilder:
        request = self._http().request(method, self.base_url + path)
        if content_type:
            request = request.header("content-type", content_type)
        for name, value in self._headers.items():
            request = request.header(name, value)
        if self._secret is not None:
            name, before = self._key_header
            request = request.header(name, before + self._secret.reveal(), is_sensitive=True)
        return request

    def _cleared(self, data: bytes) -> bytes:
        """Without the key: some servers echo it, and it must not reach the ledger."""
        secret = self._secret.reveal().encode() if self._secret is not None else b""
        return data.replace(secret, b"[redacted]") if len(secret) >= SECRET_LENGTH and secret in data else data

    async def _receive(
        self, response: Response, limit: asyncio.Timeout, end: float, hear: Callable[[bytes], None] | None
    ) -> bytes:
        """The body, read in parts so that neither its size nor a pause within it is unbounded."""
        loop = asyncio.get_running_loop()
        limit.reschedule(min(end, loop.time() + self._limits.idle))
        length = response.get_header("content-length") or ""
        if hear is None and length.isdigit() and int(length) <= _SMALL:  # the common case, in one step instead of three
            data = (await response.bytes()).to_bytes()
        else:
            reader, parts, size = response.body_reader, [], 0
            while size <= BODY_LIMIT and (part := await reader.read_chunk()) is not None:
                limit.reschedule(min(end, loop.time() + self._limits.idle))
                parts.append(part.to_bytes())
                size += len(parts[-1])
                if hear is not None and response.status == 200:
                    hear(parts[-1])
            data = b"".join(parts)
        return self._cleared(data)

    def _http(self) -> Client:
        if self._client is None:
            from pyreqwest.client import ClientBuilder

            self._client = (
                ClientBuilder()
                .follow_redirects(False)
                .no_proxy()
                .max_connections(self._limits.connections)
                .pool_max_idle_per_host(self._limits.connections)
                .connect_timeout(timedelta(seconds=10))
                .user_agent("gristmill")
                .build()
            )
        return self._client

    def failure(self, received: Received) -> Exception:
        """The error for an answer that is not 200. Nothing of the key but its last four characters is in it."""
        status, body, where = received.status, received.body, self.base_url
        said, code = responses.error_message(body)
        said = self.redact(said)
        if status in (401, 403):
            held = f"{self._key_name} is not set" if self._key_name else "no key is set"
            if self._secret:
                held = f"the key in {self._key_name} ends in {self._secret}"
            return ModelRefused(f"{where} refused the key ({status}): {said}", hint=held, code="M207")
        if status == 402 or responses.is_out_of_money(body, code):
            return ModelRefused(f"{where}: the account has no money left: {said}", hint="top it up", code="M208")
        if status == 429:
            return self._busy(received, said)
        if status == 404:
            hint = f'is the model called "{self._model}", and is {where} the right base URL?'
            return ModelRefused(f"{where} does not know this ({status}): {said}", hint=hint, code="M206")
        if status in (408, 409, 425) or status >= 500:
            return ModelUnavailable(f"{where} answered {status}: {said}", code="M303")
        if status == 413 or responses.is_too_long(body):
            hint = "split the text, or ask a model with a larger context"
            return ModelRefused(f"{where} says that the question is too long: {said}", hint=hint, code="M211")
        if code in ("content_filter", "content_policy_violation"):
            return ModelRefused(f"{where} filtered the question: {said}", code="M210")
        hint = "the server redirects; use the address that it points to" if 300 <= status < 400 else ""
        return ModelRefused(f"{where} refused the request ({status}): {said}", hint=hint)

    def _busy(self, received: Received, said: str) -> Busy:
        day = responses.is_of_the_day(received.body)
        delay = responses.retry_after(received.headers)
        if delay is None and day:
            delay = responses.LONGEST_WAIT  # what the body says of seconds is not meant for a day's quota
        if delay is None:
            delay = responses.delay_in_body(received.body)
        if delay is None:
            self._refusals = min(self._refusals + 1, 7)
            delay = 2.0 ** (self._refusals - 1)
        reason = SPENT_DAY if day else SPENT
        return Busy(f"{self.base_url} asks to wait: {said}", delay=delay, reason=reason, limits=received.headers)

    def _unreachable(self, error: Exception) -> ModelUnavailable:
        if "SendRequest" in str(error):  # there was a connection, and it closed before an answer came: perhaps paid
            return ModelUnavailable(f"the connection to {self.base_url} broke: {self.redact(str(error))}", code="M304")
        text = f"no connection to {self.base_url}: {self.redact(str(error))}"
        return ModelUnavailable(text, hint="is the base URL right, and does the server run?", code="M301")

    def redact(self, text: str) -> str:
        """The text with the key cut to its last four characters."""
        secret = self._secret.reveal() if self._secret is not None else ""
        return text.replace(secret, str(self._secret)) if len(secret) >= SECRET_LENGTH else text


def check_url(base_url: str) -> None:
    """Raises `ModelSetupError` M103 for what is no base URL, or holds a user, a password or a query."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(base_url)
        _ = parts.port
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        parts, good = None, False
    if not good or parts is None or " " in base_url or not base_url.isprintable():
        raise ModelSetupError("the base URL of a model starts with http:// or https://", code="M103",
                              hint="write it as https://name:port/path, without spaces")  # fmt: skip
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ModelSetupError("the base URL of a model holds no user, password or query",
                              hint="give the key separately", code="M103")  # fmt: skip
