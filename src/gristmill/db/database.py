"""One pool of connections per process, set up the same way everywhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg

from gristmill.errors import DatabaseProblem

T = TypeVar("T")
C = TypeVar("C", bound="asyncpg.Connection[Any] | asyncpg.Pool[Any]")
SCHEMA = "gristmill"

# reliability 3.2.1 (g): a statement that hangs must not hang its worker; a session that hangs must not hold its locks.
SESSION = {
    "search_path": f"{SCHEMA},public",
    "application_name": "gristmill",
    "statement_timeout": "30s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",
    "timezone": "UTC",
    "jit": "off",  # the hot statements take under a millisecond; compiling them takes ten
}

# Seconds until a client stops waiting for an answer: the server's own limit has passed by then, so the network is gone.
ANSWER_WITHIN = 45.0
LONG = 86_400.0  # `timeout=` of the few statements that may take longer

# Errors after which the same statement may simply be sent again: the server restarts, or the connection went away.
RECONNECT = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # it starts, stops, crashed, or cancelled a statement that took too long
    asyncpg.InsufficientResourcesError,  # no connection, memory or disk left: nobody's fault, and it passes
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what asyncpg raises when the server is killed in the middle of a reply
    ConnectionError,
    TimeoutError,
    OSError,
)
# Errors after which the transaction may be run again as it is.
REPEAT = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)


_pooled: set[str] = set()  # URLs behind a PgBouncer in transaction mode, as far as this process has seen


async def connect(url: str, **settings: str) -> asyncpg.Connection[Any]:
    """A connection outside of any pool. Raises `DatabaseProblem` D110 when there is no server at `url`, D137 when a
    pooler is in between and the database does not know our settings."""

    async def opened(wanted: dict[str, str]) -> asyncpg.Connection[Any]:
        return await asyncpg.connect(url, server_settings=wanted, timeout=10, command_timeout=ANSWER_WITHIN)

    return await _connected(url, opened, SESSION | settings)


async def open_pool(url: str, *, size: int = 4, name: str = "gristmill") -> asyncpg.Pool[Any]:
    """A pool of at most `size` connections, the first of them opened. Raises `DatabaseProblem` as `connect` does."""

    async def opened(wanted: dict[str, str]) -> asyncpg.Pool[Any]:
        return await asyncpg.create_pool(
            url, min_size=0, init_size=1, max_size=size, server_settings=wanted,
            timeout=10, max_inactive_connection_lifetime=0, reset=_keep, command_timeout=ANSWER_WITHIN,
        )  # fmt: skip

    return await _connected(url, opened, SESSION | {"application_name": name})


def pooled(url: str) -> bool:
    """Whether sessions are shared there: nothing that belongs to a session works (locks, LISTEN, `set`). Known once
    this process has connected."""
    return url in _pooled


async def _connected(url: str, opened: Callable[[dict[str, str]], Awaitable[C]], settings: dict[str, str]) -> C:
    """Opens with our settings, or behind a PgBouncer without them: it takes none, and the database must have them."""
    try:
        if url not in _pooled:
            try:
                return await opened(settings)
            except asyncpg.ProtocolViolationError as error:
                if "startup parameter" not in str(error):
                    raise
                _pooled.add(url)
        connection = await opened({"application_name": settings["application_name"]})
        if not str(await connection.fetchval("show search_path")).startswith(SCHEMA):
            raise DatabaseProblem(
                f"a connection pooler is in front of {without_password(url)}", code="D137", safe="nothing was changed",
                hint="tell the database our settings, on a direct connection: gristmill db pooler | psql",
            )  # fmt: skip
        return connection
    except (*RECONNECT, asyncpg.PostgresError) as error:
        raise unreachable(url, error) from error


def pooler_settings(database: str) -> str:
    """SQL after which a database can be used through a PgBouncer in transaction mode: our settings become its own."""
    name = database.replace('"', '""')
    kept = {key: value for key, value in SESSION.items() if key != "application_name"}
    return "".join(
        f'alter database "{name}" set {key} = {value if "," in value else f"{value!r}"};\n'
        for key, value in kept.items()
    )


async def close_pool(pool: asyncpg.Pool[Any], patience: float = 5.0) -> None:
    """Closes a pool. A connection that nobody has given back after `patience` seconds is cut: it holds nobody up."""
    try:
        async with asyncio.timeout(patience):
            await pool.close()
    except TimeoutError:
        pool.terminate()


async def _keep(connection: asyncpg.Connection[Any]) -> None:
    """Nothing of ours outlives its transaction, so a returned connection needs no cleaning: one round trip less."""


def unreachable(url: str, error: Exception) -> DatabaseProblem:
    """The error for a server that does not let us in; never shows the password."""
    return DatabaseProblem(
        f"cannot open the database {without_password(url)}: {error or type(error).__name__}",
        code="D110",
        hint="check that the server runs and that GRISTMILL_DATABASE_URL is right; without it the embedded one is used",
        safe="nothing was changed",
    )


def without_password(url: str) -> str:
    """The URL with its password blotted out."""
    head, at, tail = url.rpartition("@")
    if not at or "://" not in head:
        return url
    scheme, _, user = head.partition("://")
    return f"{scheme}://{user.split(':')[0]}:***@{tail}" if ":" in user else url


async def reconnecting(first: float = 0.05, most: float = 2.0) -> AsyncIterator[float]:
    """Endless delays with jitter for a loop that waits until the database is back; sleeps before each but the first."""
    delay = 0.0
    while True:
        yield delay
        delay = min(most, max(first, delay * 2))
        await asyncio.sleep(delay * (0.5 + random.random() / 2))


@asynccontextmanager
async def transaction(
    database: asyncpg.Pool[Any] | asyncpg.Connection[Any],
) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection of the pool, or this one, inside a READ COMMITTED transaction."""
    if hasattr(database, "acquire"):  # a pool, or what somebody has wrapped around one
        async with database.acquire() as connection, connection.transaction():
            yield connection
    else:
        async with database.transaction():
            yield database


async def repeating(pool: asyncpg.Pool[Any], change: Callable[[asyncpg.Connection[Any]], Awaitable[T]]) -> T:
    """`change` in a transaction of its own, sent again when it ran into somebody else's."""
    async for _ in reconnecting():
        try:
            async with transaction(pool) as connection:
                return await change(connection)
        except REPEAT:
            continue
    raise AssertionError
