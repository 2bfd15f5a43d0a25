"""A POST that names a key is done once: the same call again, also after a broken connection, gets the same answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from fastapi import Response

from gristmill.api.access import SQL
from gristmill.api.problems import Refused

LEASE = 30.0  # seconds after which a call whose process died may be done again
LONGEST_KEY = 200
LARGEST = 2**20  # bytes of an answer that is kept
REPLAYED = "Idempotency-Replayed"


async def once(
    pool: asyncpg.Pool[Any], caller: str, key: str, request: bytes, perform: Callable[[], Awaitable[Response]]
) -> Response:  # fmt: skip
    """The answer that is kept under the key, or that of `perform`, which is kept for a day unless it is a 5xx.

    Raises `Refused` 409 while the first call is under way, 422 when the key was used for another call.
    """
    if not 1 <= len(key) <= LONGEST_KEY or not key.isprintable():
        raise Refused(422, f"an Idempotency-Key has 1 to {LONGEST_KEY} printable characters", code="A422")
    row = await pool.fetchrow(SQL["claim_answer"], caller, key, request, LEASE)
    if row is None or (not row["mine"] and row["status"] is None and row["request"] == request):
        raise Refused(
            409, "the same call is under way", code="A409", hint="ask again in a moment", headers={"Retry-After": "1"}
        )
    if not row["mine"]:
        if row["request"] != request:
            raise Refused(
                422, "this Idempotency-Key was used for another call", code="A423", safe="nothing was changed",
                hint="a new call takes a new key",
            )  # fmt: skip
        return Response(row["body"], row["status"], {REPLAYED: "true"}, row["media_type"])
    return await _first(pool, caller, key, perform)


async def _first(
    pool: asyncpg.Pool[Any], caller: str, key: str, perform: Callable[[], Awaitable[Response]]
) -> Response:  # fmt: skip
    renewing = asyncio.create_task(_renew(pool, caller, key))
    kept = False
    try:
        response = await perform()
        body = getattr(response, "body", None)
        if response.status_code < 500 and body is not None and len(body) <= LARGEST:
            media_type = response.headers.get("content-type", "application/json")
            await pool.execute(SQL["keep_answer"], caller, key, response.status_code, media_type, bytes(body))
            kept = True
        return response
    finally:
        renewing.cancel()
        if not kept:
            await asyncio.shield(pool.execute(SQL["drop_answer"], caller, key))
        await pool.execute(SQL["forget_answers"])


async def _renew(pool: asyncpg.Pool[Any], caller: str, key: str) -> None:
    while True:
        await asyncio.sleep(LEASE / 3)
        await pool.execute(SQL["renew_answer"], caller, key, LEASE)
