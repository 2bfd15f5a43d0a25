"""One signed POST to an address that an administrator named, and that must not lead where it should not.

Signed as Standard Webhooks says (standardwebhooks.com), so receivers can check it with a library of their language.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import socket
import time
from datetime import timedelta

from gristmill.errors import InputError, TransientError, UsageError

SHOWN = 2000  # bytes of a refusal that are read
_LATER = frozenset({408, 425, 429})  # of the 4xx: what may succeed another time
_METADATA = frozenset(map(ipaddress.ip_address, (  # where clouds hand out credentials, besides link-local ones
    "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254",
)))  # fmt: skip
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_url(url: str) -> tuple[str, int, str]:
    """(host, port, what may be shown of it) of an http or https URL. Raises `UsageError` U354; shows no secret part."""
    from pyreqwest.http import Url

    try:
        parts = Url(url)
        host = parts.host_str or ""
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https") or parts.username or parts.password:
        raise UsageError(
            "the URL of a webhook starts with http:// or https:// and holds no user and no password", code="U354",
            hint="a URL that is a secret itself: --webhook env:NAME",
        )  # fmt: skip
    port = parts.port_or_known_default or 443
    return host, port, f"{parts.scheme}://{host}:{port}"


def signature(secret: str, key: str, at: int, body: bytes) -> str:
    """The value of `webhook-signature`: HMAC-SHA256 over id, time and body; the secret is text or `whsec_`, base64."""
    raw = secret.encode()
    if secret.startswith("whsec_"):
        try:
            raw = base64.b64decode(secret[6:], validate=True)
        except binascii.Error:
            raise InputError("the secret of the webhook begins with whsec_ and is not base64", code="N202") from None
    digest = hmac.new(raw, f"{key}.{at}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


async def post(
    url: str, body: bytes, key: str, *, secret: str | None = None, private: bool = False, timeout: float = 10.0
) -> int:
    """Sends JSON once, follows nothing, and returns the status (2xx). `timeout` is in seconds, for all of it.

    Raises `InputError` when asking again cannot help: N203 the address is not allowed, N204 the receiver refused;
    `TransientError` when it may: N301 no connection, N302 too slow, N303 the receiver is busy or broken.
    """
    try:
        host, port, shown = check_url(url)
    except UsageError as error:
        raise InputError(error.message, code="N202", hint=error.hint) from None
    headers = {
        "content-type": "application/json", "idempotency-key": key, "webhook-id": key, "user-agent": "gristmill",
    }  # fmt: skip
    if secret is not None:
        at = int(time.time())  # for the receiver, which refuses what is old; nothing here is decided by it
        headers |= {"webhook-timestamp": str(at), "webhook-signature": signature(secret, key, at, body)}
    try:
        async with asyncio.timeout(timeout):
            status, said = await _first_that_answers(url, host, port, private, headers, body, shown)
    except TimeoutError:
        raise TransientError(f"{shown} did not answer within {timeout:.0f} s", code="N302") from None
    if 200 <= status < 300:
        return status
    if status in _LATER or status >= 500:
        raise TransientError(f"{shown} answered {status}: {said}", code="N303")
    hint = "it redirects; use the address that it points to" if 300 <= status < 400 else ""
    raise InputError(f"{shown} answered {status}: {said}", code="N204", hint=hint)


async def _first_that_answers(
    url: str, host: str, port: int, private: bool, headers: dict[str, str], body: bytes, shown: str
) -> tuple[int, str]:
    from pyreqwest import exceptions as http

    problem = "no address"
    for address in await resolve(host, port, private=private, shown=shown):
        try:
            return await _send(url, host, port, address, headers, body)
        except (http.ConnectError, http.ConnectTimeoutError) as error:
            problem = _plain(error, url)
        except http.PyreqwestError as error:  # it may have arrived: another address would get it a second time
            raise TransientError(f"the connection to {shown} broke: {_plain(error, url)}", code="N301") from None
    raise TransientError(f"no connection to {shown}: {problem}", code="N301")


async def _send(url: str, host: str, port: int, address: str, headers: dict[str, str], body: bytes) -> tuple[int, str]:
    """Connects to the very address that was checked: a second look-up could give another one."""
    from pyreqwest.client import ClientBuilder

    builder = ClientBuilder().follow_redirects(False).no_proxy().connect_timeout(timedelta(seconds=10))
    async with (
        builder.resolve(host, address, port).build() as client,
        client.post(url).headers(headers).body_bytes(body).build_streamed() as response,
    ):
        if 200 <= response.status < 300:
            return response.status, ""
        chunk = await response.body_reader.read_chunk()
        said = chunk.to_bytes()[:SHOWN].decode("utf-8", "replace") if chunk is not None else ""
        return response.status, " ".join(said.split())[:300] or "(nothing more)"


def _plain(error: Exception, url: str) -> str:
    """The innermost cause, without the URL: it may be a secret."""
    causes = error.args[1].get("causes") if len(error.args) > 1 and isinstance(error.args[1], dict) else None
    return str(causes[-1]["message"] if causes else error).replace(url, "the URL")[:300]


async def resolve(host: str, port: int, *, private: bool, shown: str) -> list[str]:
    """The addresses of a host, all of them allowed. Raises `InputError` N202, N203, `TransientError` N301."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise TransientError(f"no address is known for {shown}: {error.strerror}", code="N301") from None
    except UnicodeError:  # no host can have so long a name
        raise InputError(f"{shown[:300]} has no name of a host", code="N202") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for text in addresses:
        verdict = forbidden(ipaddress.ip_address(text), private=private)
        if verdict:
            raise InputError(
                f"{shown} leads to {text}, {verdict}", code="N203", safe="nothing was sent",
                hint="" if verdict.startswith("where") else "allow it with: gristmill hooks add ... --allow-private",
            )  # fmt: skip
    return addresses


def forbidden(address: Address, *, private: bool) -> str:
    """Why nothing is sent to this address; "" when it may be. Link-local and metadata addresses are never allowed."""
    inner = _inner(address)
    if inner is not None:
        return forbidden(inner, private=private)
    if address.is_link_local or address in _METADATA or address.is_multicast or address.is_unspecified:
        return "where no webhook may go"
    return "" if private or address.is_global else "an address of this machine or of a private network"


def _inner(address: Address) -> Address | None:
    """The IPv4 address that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None
