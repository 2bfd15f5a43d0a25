"""Who calls, and what he may do.

Without a token the API is open to callers on this machine, and to nobody else. As soon as there is a token, everybody
needs one: as a bearer, or once for a session whose cookie the browser keeps. Secrets are kept as hashes only.
"""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import asyncpg
from starlette.requests import HTTPConnection

from gristmill.api.problems import Refused
from gristmill.db.statements import statements

SQL = statements("api")
Role: TypeAlias = Literal["viewer", "reviewer", "operator", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "reviewer", "operator", "admin")  # each may do what those before it may
COOKIE = "gristmill_session"
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
FAILURES = 20  # wrong secrets of an address within a minute
RATE = 100  # requests of a caller a second
KEPT = 10_000  # addresses and callers that are remembered


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `how`: open (this machine, no token exists), token, session, or proxy."""

    name: str
    role: Role
    how: Literal["open", "token", "session", "proxy"]
    address: str
    secret: str = ""  # of the session; its CSRF token is made from it

    def may(self, role: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


def hashed(secret: str) -> bytes:
    """What is kept of a secret. It has 256 random bits, so one round is enough."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def csrf_of(secret: str) -> str:
    """What a page has to send along with its cookie: another site cannot read it."""
    return hashlib.sha256(b"csrf:" + secret.encode()).hexdigest()


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.split("%")[0]).is_loopback
    except ValueError:
        return address == "localhost"


class Throttle:
    """`rate` a second on the average, `most` at once, for each key. In memory, of this process."""

    def __init__(self, rate: float, most: float) -> None:
        self.rate, self.most = rate, most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, key: str, cost: float = 1.0) -> float:
        """Takes `cost` and returns 0, or takes nothing and returns the seconds until it can be had."""
        now = time.monotonic()
        left, at = self._left.pop(key, (self.most, now))
        left = min(self.most, left + (now - at) * self.rate)
        short = cost - left
        self._left[key] = (left if short > 0 else left - cost, now)
        while len(self._left) > KEPT:
            self._left.popitem(last=False)
        return max(0.0, short / self.rate)


@dataclass
class Access:
    """The rules of one application. `hosts` are further names that it is called by, `proxies` networks whose
    X-Forwarded-User, -Role, -Host and -Proto are believed. `open_locally` False: a token is needed here too."""

    pool: asyncpg.Pool[Any] | None = None
    hosts: Sequence[str] = ()
    proxies: Sequence[str] = ()
    open_locally: bool = True
    failures: Throttle = field(default_factory=lambda: Throttle(FAILURES / 60, FAILURES))
    requests: Throttle = field(default_factory=lambda: Throttle(RATE, 3 * RATE))

    def __post_init__(self) -> None:
        self._networks = [ipaddress.ip_network(text, strict=False) for text in self.proxies]

    def trusted(self, connection: HTTPConnection) -> bool:
        """Whether a proxy of ours sends this."""
        try:
            address = ipaddress.ip_address(peer(connection).split("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def check_host(self, connection: HTTPConnection) -> None:
        """Raises `Refused` 421 for a name that is not ours: a site that points its name at this machine gets nothing.

        An address is no name, so nobody can point it elsewhere."""
        given = self._host(connection)
        name = _name(given)
        if name is None or not (_is_address(name) or name == "localhost" or name in {h.casefold() for h in self.hosts}):
            raise Refused(
                421, "this server is not known by that name", code="A421",
                hint="call it by its address, or add the name: setting api_hosts",
            )  # fmt: skip

    def _host(self, connection: HTTPConnection) -> str:
        named = connection.headers.get("x-forwarded-host") if self.trusted(connection) else None
        return named or connection.headers.get("host", "")

    def check_origin(self, connection: HTTPConnection, *, needed: bool = False) -> None:
        """Raises `Refused` 403 when another site's page asks; `needed`: also when nobody says whose page it is."""
        origin = connection.headers.get("origin")
        site = connection.headers.get("sec-fetch-site")
        if origin is None:
            wrong = needed or site in ("cross-site", "same-site")
        else:
            wrong = _place(origin) != self._host(connection).casefold()
        if wrong:
            raise Refused(
                403, "this came from a page of another site", code="A403", safe="nothing was changed",
                hint="open the page of this server itself; programs send a token and no Origin",
            )  # fmt: skip

    async def identify(self, connection: HTTPConnection, bearer: str | None = None) -> Caller:
        """Who asks. `bearer` is a token that came otherwise than in the header. Raises `Refused` 401, 429."""
        address = self.address(connection)
        if proxied := self._proxied(connection, address):
            return proxied
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme and scheme.casefold() != "bearer":
            raise unknown("the only way to log in is a bearer token")
        secret = bearer or given.strip() or None
        cookie = connection.cookies.get(COOKIE)
        assert self.pool is not None  # noqa: S101
        row = await self.pool.fetchrow(SQL["identify"], secret and hashed(secret), cookie and hashed(cookie))
        assert row is not None  # noqa: S101
        if secret:
            if row["token_name"] is None:
                self.count_failure(address)
                raise unknown("that token is not in force")
            await self.pool.execute(SQL["touch_token"], hashed(secret))
            return Caller(row["token_name"], row["token_role"], "token", address)
        if cookie and row["session_name"] is not None:
            return Caller(row["session_name"], row["session_role"], "session", address, cookie)
        if not row["guarded"] and self.open_locally and self._local(connection):
            return Caller("local", "admin", "open", address)
        if row["guarded"]:
            raise unknown("a token is needed")
        raise unknown("only programs on this machine may ask until there is a token")

    def _proxied(self, connection: HTTPConnection, address: str) -> Caller | None:
        if not self.trusted(connection):
            return None
        name = connection.headers.get("x-forwarded-user", "").strip()
        role = connection.headers.get("x-forwarded-role", "viewer").strip().casefold()
        if not name or not name.isprintable() or len(name) > 200:
            return None
        known: Role = next((one for one in ROLES if one == role), "viewer")
        return Caller(name, known, "proxy", address)

    def _local(self, connection: HTTPConnection) -> bool:
        """From this machine and to it, and through nobody else: what a proxy hands on came from elsewhere."""
        server = connection.scope.get("server")
        here = bool(server) and is_loopback(str(server[0])) and is_loopback(peer(connection))  # type: ignore[index]
        return here and not any(name in connection.headers for name in FORWARDED)

    def address(self, connection: HTTPConnection) -> str:
        """Of whoever asks: behind a proxy of ours what that says."""
        if self.trusted(connection):
            last = connection.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
            if _is_address(last):
                return last
        return peer(connection)

    def count_failure(self, address: str) -> None:
        """Raises `Refused` 429 for an address that has tried too many secrets."""
        if wait := self.failures.wait(address):
            raise too_many("too many wrong tokens from this address", wait)

    async def count_login(self, address: str) -> None:
        """The same for a login, over all processes of the fleet; it is written down. Raises `Refused` 429."""
        self.count_failure(address)
        assert self.pool is not None  # noqa: S101
        if await self.pool.fetchval(SQL["failed_login"], address[:100]) > FAILURES:
            raise too_many("too many wrong tokens from this address", 60 / FAILURES)

    def check_rate(self, caller: Caller) -> None:
        """Raises `Refused` 429."""
        if wait := self.requests.wait(f"{caller.how} {caller.name} {caller.address}"):
            raise too_many(f"more than {RATE} requests a second", wait)


def peer(connection: HTTPConnection) -> str:
    """The address at the other end of the connection."""
    return connection.client.host if connection.client else ""


def too_many(message: str, wait: float) -> Refused:
    return Refused(
        429, message, code="A429", hint=f"wait {wait:.1f} s", safe="nothing was changed",
        headers={"Retry-After": str(max(1, round(wait)))},
    )  # fmt: skip


def unknown(message: str) -> Refused:
    return Refused(
        401, message, code="A401", headers={"WWW-Authenticate": "Bearer"}, safe="nothing was changed",
        hint="make one on the server: gristmill token add NAME --role viewer; send it as Authorization: Bearer TOKEN",
    )  # fmt: skip


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]").split("%")[0])
    except ValueError:
        return False
    return True


def _place(origin: str) -> str | None:
    """Host and port of an Origin header; None for what is no such header."""
    try:
        return urlsplit(origin).netloc.casefold()
    except ValueError:
        return None


def _name(host: str) -> str | None:
    """The name in a Host header, without port; None for what is no such header."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or not parts.hostname:
        return None
    return parts.hostname.casefold().rstrip(".")
