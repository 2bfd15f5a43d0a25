"""Inputs behind a URL: fetched once, with bounds on size, time and redirects, and never from where it should not be.

A URL may come from anywhere, so no address of this machine or of a private network is asked unless the settings allow
it. The check is made on the very address that is connected to, for every redirect anew.
"""

from __future__ import annotations

import asyncio
import ipaddress
import posixpath
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote, urljoin, urlsplit

from gristmill.data.intake import found_in, narrowed
from gristmill.data.media import EXTENSIONS, UNKNOWN, extension, media_type
from gristmill.data.scan import Found, Unreadable, told
from gristmill.data.selection import Inputs
from gristmill.errors import InputError, TransientError
from gristmill.webhook import forbidden

LIMIT = 300_000_000  # bytes, where nothing else is said
REDIRECTS = 5
AT_ONCE = 8  # URLs that are fetched at the same time
IN_MEMORY = 8 * 2**20  # bytes; larger ones wait in a temporary file
_VAGUE = ("", "text/plain", UNKNOWN, "binary/octet-stream")  # types that say less than a name does


async def fetch(
    url: str, *, private: bool = False, max_bytes: int = LIMIT, timeout: float = 60.0
) -> Found | Unreadable:
    """The content of an http or https URL as an input. `timeout` is in seconds, for all of it, redirects included.

    Codes of `Unreadable`: F120 an address that is not allowed, F121 no connection, or too slow, F122 the server
    refused, or redirects too often, F123 the URL itself; F109 larger than `max_bytes`. Nothing is sent but the request
    itself: no cookies, no keys; no proxy of the environment is used.
    """
    name = _name(url, "")
    file = cast(BinaryIO, tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115  # read by whoever takes the input
    try:
        async with asyncio.timeout(timeout):
            kind = await _follow(url, file, private, max_bytes)
    except TimeoutError:
        return Unreadable(name, Path(name), "F121", f"{_shown(url)} did not answer within {timeout:.0f} s", url)
    except InputError as error:
        file.close()
        return Unreadable(name, Path(name), error.code, told(error), url)
    name = _name(url, kind)
    size = file.tell()

    def opener() -> BinaryIO:
        file.seek(0)
        return file

    return Found(name, Path(name), size, media_type(name, file), url, opener)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered: header names in lower case, `url` after redirects."""

    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes


async def request(
    method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes = b"", private: bool = False,
    max_bytes: int = LIMIT, timeout: float = 60.0,
) -> Answer:  # fmt: skip
    """One request under the same rules as `fetch`; GET and HEAD follow redirects, without `headers` to another server.

    Any status is an answer. Raises `InputError` F120, F122 (redirects), F123, F109, `TransientError` F121.
    """
    sent = {"user-agent": "gristmill", "accept": "*/*"} | {name.lower(): text for name, text in (headers or {}).items()}
    address = url
    try:
        async with asyncio.timeout(timeout):
            for _ in range(REDIRECTS + 1):
                answer = await _ask(method, address, sent, body, private, max_bytes)
                if method not in ("GET", "HEAD") or not 300 <= answer.status < 400 or "location" not in answer.headers:
                    return answer
                before, address = address, urljoin(address, answer.headers["location"])
                if _parts(address) != _parts(before) or urlsplit(address).scheme != urlsplit(before).scheme:
                    sent = {"user-agent": "gristmill", "accept": "*/*"}
    except TimeoutError:
        raise TransientError(f"{_shown(url)} did not answer within {timeout:.0f} s", code="F121") from None
    raise InputError(f"{_shown(url)} redirects more than {REDIRECTS} times", code="F122")


async def _ask(
    method: str, url: str, headers: Mapping[str, str], body: bytes, private: bool, max_bytes: int
) -> Answer:  # fmt: skip
    from pyreqwest import exceptions as http
    from pyreqwest.client import ClientBuilder

    host, port = _parts(url)
    problem = "no address"
    for address in await _addresses(url, host, port, private):
        builder = ClientBuilder().follow_redirects(False).no_proxy().connect_timeout(timedelta(seconds=10))
        try:
            async with builder.resolve(host, address, port).build() as client:
                asked = client.request(method, url).headers(dict(headers))
                async with (asked.body_bytes(body) if body else asked).build_streamed() as response:
                    kept = bytearray()
                    while (chunk := await response.body_reader.read_chunk()) is not None:
                        kept += chunk.to_bytes()
                        if len(kept) > max_bytes:
                            raise InputError(f"{_shown(url)} answered more than {max_bytes:,} bytes", code="F109")
                    known = {str(name).lower(): str(text) for name, text in response.headers.items()}
                    return Answer(response.status, url, known, bytes(kept))
        except (http.ConnectError, http.ConnectTimeoutError) as error:
            problem = type(error).__name__
        except http.PyreqwestError as error:
            raise TransientError(
                f"the connection to {_shown(url)} broke: {type(error).__name__}", code="F121"
            ) from None
    raise TransientError(f"no connection to {_shown(url)}: {problem}", code="F121")


async def incoming(
    inputs: Inputs, *, known: Collection[str] = (), private: bool = False, timeout: float = 60.0
) -> AsyncIterator[Found | Unreadable]:
    """Every input, those behind URLs last. A URL in `known` is not fetched again."""
    for found in found_in(inputs):
        yield found
    urls = [url for url in inputs.urls if url not in known]
    limit = LIMIT if inputs.max_bytes is None else inputs.max_bytes
    for first in range(0, len(urls), AT_ONCE):
        group = (fetch(url, private=private, max_bytes=limit, timeout=timeout) for url in urls[first : first + AT_ONCE])
        for fetched in await asyncio.gather(*group):
            for found in narrowed(inputs, fetched):
                yield found


async def _follow(url: str, file: BinaryIO, private: bool, max_bytes: int) -> str:
    """Writes the content into the file and returns its media type, as the server names it."""
    address = url
    for _ in range(REDIRECTS + 1):
        status, kind, location = await _get(address, file, private, max_bytes)
        if not location:
            if status != 200:
                raise InputError(f"{_shown(address)} answered {status}", code="F122")
            return kind
        try:
            address = urljoin(address, location)
        except ValueError:
            raise InputError(f"{_shown(address)} redirects to what is no URL", code="F122") from None
    raise InputError(f"{_shown(url)} redirects more than {REDIRECTS} times", code="F122")


async def _get(url: str, file: BinaryIO, private: bool, max_bytes: int) -> tuple[int, str, str]:
    """(status, media type, where it redirects to)"""
    from pyreqwest import exceptions as http

    host, port = _parts(url)
    problem = "no address"
    for address in await _addresses(url, host, port, private):
        try:
            return await _read(url, host, port, address, file, max_bytes)
        except (http.ConnectError, http.ConnectTimeoutError) as error:
            problem = type(error).__name__
        except http.PyreqwestError as error:
            raise InputError(f"the connection to {_shown(url)} broke: {type(error).__name__}", code="F121") from None
    raise InputError(f"no connection to {_shown(url)}: {problem}", code="F121")


async def _read(
    url: str, host: str, port: int, address: str, file: BinaryIO, max_bytes: int
) -> tuple[int, str, str]:  # fmt: skip
    """Connects to the very address that was checked: a second look-up could give another one."""
    from pyreqwest.client import ClientBuilder

    builder = ClientBuilder().follow_redirects(False).no_proxy().connect_timeout(timedelta(seconds=10))
    async with (
        builder.resolve(host, address, port).build() as client,
        client.get(url).headers({"user-agent": "gristmill", "accept": "*/*"}).build_streamed() as response,
    ):
        if 300 <= response.status < 400 and response.headers.get("location"):
            return response.status, "", str(response.headers["location"])
        kind = str(response.headers.get("content-type") or "").partition(";")[0].strip().lower()
        if response.status != 200:
            return response.status, kind, ""
        while (chunk := await response.body_reader.read_chunk()) is not None:
            file.write(chunk.to_bytes())
            if file.tell() > max_bytes:
                raise InputError(f"it has more than {max_bytes:,} bytes, which is more than is wanted", code="F109")
        return 200, kind, ""


def _parts(url: str) -> tuple[str, int]:
    """Host and port. Raises `InputError` F123."""
    from pyreqwest.http import Url

    try:
        parts = Url(url)
        host = parts.host_str or ""
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https"):
        raise InputError(f"{_shown(url)} is no http or https URL", code="F123")
    if parts.username or parts.password:
        raise InputError("a URL with a user or a password in it is not fetched: it would be kept", code="F123")
    return host, parts.port_or_known_default or 443


async def _addresses(url: str, host: str, port: int, private: bool) -> list[str]:
    """The addresses of the host, all of them allowed. Raises `InputError` F120 or F121."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host can be so long
        why = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        raise InputError(f"no address is known for {_shown(url)}: {why}", code="F121") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for text in addresses:
        given = ipaddress.ip_address(text.partition("%")[0])
        if forbidden(given, private=True):
            raise InputError(f"{_shown(url)} leads to {text}, where nothing is ever fetched from", code="F120")
        if forbidden(given, private=private):
            raise InputError(
                f"{_shown(url)} leads to {text}, an address of this machine or of a private network", code="F120",
                hint="the setting allow_private_urls allows them", safe="nothing was sent",
            )  # fmt: skip
    return addresses


def _name(url: str, kind: str) -> str:
    """`host/path`, with an extension that says what the server said."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "url"
    path = posixpath.normpath("/" + unquote(parts.path)).lstrip("/")
    name = "/".join(part for part in (parts.hostname or "url", path) if part and part != ".")
    name = "".join(mark if mark.isprintable() else "_" for mark in name)
    if kind not in _VAGUE and EXTENSIONS.get(extension(name)) != kind:
        name += next((suffix for suffix, known in EXTENSIONS.items() if known == kind), "")
    return name


def _shown(url: str) -> str:
    """The URL without its query, which may hold a secret."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])[:200]
