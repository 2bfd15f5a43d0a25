"""Holding a lock for as long as a body of code runs: renewed in the background, and the body ends when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg

from gristmill.db.database import RECONNECT
from gristmill.engine.locks import TTL, Held, HolderKind, acquire, lost, refresh, release, sure_for
from gristmill.errors import LockLost

RENEW_EVERY = 2.0  # seconds at most between two renewals: so soon a holder learns that it was forced out
LOOK_EVERY = 0.5  # seconds between two looks at our own clock: after a suspend it has jumped
log = logging.getLogger("gristmill.locks")


@contextlib.asynccontextmanager
async def hold(
    pool: asyncpg.Pool[Any], key: str | Sequence[str], *, holder_kind: HolderKind, holder: str, slots: int = 1,
    ttl: float = TTL, wait: float | None = None, worker_id: int | None = None,
) -> AsyncIterator[Held]:  # fmt: skip
    """`async with hold(pool, key, ...) as held:` keeps the lock for as long as the body runs, and gives it back.

    Renews in the background, every third of `ttl` and at least every 2 s; leave it a connection of the pool. The body
    is cancelled as soon as the lock is lost (somebody forced it), or as no renewal has come through for `ttl` less a
    margin, and `LockLost` T310 is raised in its place. Arguments and other errors: `acquire`.
    """
    held = await acquire(
        pool, key, holder_kind=holder_kind, holder=holder, slots=slots, ttl=ttl, wait=wait, worker_id=worker_id
    )
    body = asyncio.current_task()
    assert body is not None  # noqa: S101
    before = body.cancelling()
    why: list[str] = []
    ended = False

    def lose(reason: str) -> None:
        if not ended:
            why.append(reason)
            body.cancel()

    renewal = asyncio.create_task(_renew(pool, held, lose))
    try:
        yield held
    except BaseException as error:
        if not why:
            raise
        raise await _verdict(held, why[0], body, before, delivered=isinstance(error, asyncio.CancelledError)) from error
    else:
        if why:
            raise await _verdict(held, why[0], body, before, delivered=False)
    finally:
        ended = True
        renewal.cancel()
        await asyncio.wait([renewal])
        with contextlib.suppress(*RECONNECT, asyncpg.PostgresError):  # then it expires
            async with asyncio.timeout(max(1.0, min(5.0, ttl))):
                await release(pool, held)


async def _verdict(
    held: Held, why: str, body: asyncio.Task[Any], before: int, *, delivered: bool
) -> LockLost | asyncio.CancelledError:
    """Takes our cancellation of the body back. `LockLost`, unless somebody else wants the body to end as well."""
    if not delivered:  # the body ended in that very moment: its cancellation is still ahead of it
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
    return asyncio.CancelledError() if body.uncancel() > before else lost(held.keys, why)


async def _renew(pool: asyncpg.Pool[Any], held: Held, lose: Callable[[str], None]) -> None:
    every = min(held.ttl / 3, RENEW_EVERY)
    due = time.monotonic() + every
    while True:
        await asyncio.sleep(max(0.0, min(every, LOOK_EVERY, held.left)))
        if held.left <= 0:  # also after a suspend, or when somebody blocked the event loop
            lose(f"no renewal came through for {sure_for(held.ttl):.1f} s")
            return
        if time.monotonic() < due:
            continue
        try:
            async with asyncio.timeout(held.left):
                renewed = await refresh(pool, held)
        except (*RECONNECT, asyncpg.PostgresError) as error:
            log.warning("lock %s: renewing again: %s", held.keys[0], error or type(error).__name__)
            continue
        if not renewed:
            lose("somebody forced it, or it had expired")
            return
        due = time.monotonic() + every
