"""Tokens: made, rotated and removed by whoever can reach the database. Only hashes are kept."""

from __future__ import annotations

import secrets
from typing import Any

import asyncpg

from gristmill.api.access import ROLES, SQL, hashed
from gristmill.db.database import transaction
from gristmill.errors import EnvironmentProblem, ModelSetupError, UsageError
from gristmill.llm.model_settings import read_key

OF_SETTINGS = "api_token"  # the name of the token that the setting of that name refers to
SHORTEST = 20  # characters of such a token
PREFIX = "gm_"  # so that scanners of secrets find one that was left lying about


async def add(pool: asyncpg.Pool[Any], name: str, role: str, *, by: str, seconds: float | None = None) -> str:
    """Makes a token and returns its secret (256 random bits), which nobody reads again. `seconds`: how long it holds.

    Raises `UsageError` U470 for a name or role that is none, U471 when a token of that name is in force.
    """
    if not 1 <= len(name) <= 100 or not name.isprintable() or name != name.strip():
        raise UsageError(f"{name[:60]!r} is no name for a token", code="U470", hint="1 to 100 printable characters")
    if role not in ROLES:
        raise UsageError(f'there is no role "{role[:60]}"', code="U470", hint=f"one of {', '.join(ROLES)}")
    if seconds is not None and not 0 < seconds <= 3.2e9:
        raise UsageError("a token holds for more than nothing and less than a century", code="U470")
    secret = PREFIX + secrets.token_urlsafe(32)
    async with transaction(pool) as connection:
        await connection.execute(SQL["lock_tokens"])
        if await connection.fetchval(SQL["add_token"], name, role, hashed(secret), by, seconds) is None:
            raise UsageError(
                f'there is a token "{name}" already', code="U471", safe="it stays as it is",
                hint=f"a new secret for it: gristmill token rotate {name}",
            )  # fmt: skip
    return secret


async def take_setting(pool: asyncpg.Pool[Any], reference: str | None) -> None:
    """Makes the secret that the setting `api_token` refers to a token of an admin, called "api_token".

    Whatever had that name before ends at once, with its sessions. Raises `EnvironmentProblem` E142 when the secret is
    not there or too short.
    """
    if reference is None:
        return
    try:
        secret = read_key(reference)
    except ModelSetupError as error:
        raise _no_secret(reference, error.message) from error
    if secret is None or len(secret) < SHORTEST:
        why = "is not set" if secret is None else f"has less than {SHORTEST} characters"
        raise _no_secret(reference, f"{reference.partition(':')[2]} {why}")
    async with transaction(pool) as connection:
        await connection.execute(SQL["lock_tokens"])
        if not await connection.fetchval(SQL["is_token"], OF_SETTINGS, hashed(secret)):
            await connection.execute(SQL["revoke_tokens"], OF_SETTINGS)
            await connection.execute(SQL["set_token"], OF_SETTINGS, "admin", hashed(secret), "settings")


def _no_secret(reference: str, why: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"setting api_token = {reference!r}: {why}", code="E142", safe="nothing was opened",
        hint="put a long random text there: openssl rand -hex 24",
    )  # fmt: skip


async def rotate(pool: asyncpg.Pool[Any], name: str, *, by: str, keep: float) -> tuple[str, str]:
    """A new secret for a token: (role, secret). The former one holds for `keep` more seconds.

    A token that would have ended gets a successor that does not. Raises `UsageError` U472 when there is none.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    async with transaction(pool) as connection:
        await connection.execute(SQL["lock_tokens"])
        former = await connection.fetch(SQL["retire_token"], name, float(keep))
        if not former:
            raise _missing(name)
        role: str = max(former, key=lambda row: row["made_at"])["role"]
        await connection.execute(SQL["succeed_token"], name, role, hashed(secret), by)
    return role, secret


async def remove(pool: asyncpg.Pool[Any], name: str) -> None:
    """Takes a token out of force, with its sessions. Raises `UsageError` U472 when there is none."""
    if not await pool.fetch(SQL["revoke_tokens"], name):
        raise _missing(name)


async def listed(pool: asyncpg.Pool[Any]) -> list[dict[str, Any]]:
    """All that were ever made, by name."""
    return [dict(row) for row in await pool.fetch(SQL["tokens"])]


def _missing(name: str) -> UsageError:
    return UsageError(f'there is no token "{name[:100]}" in force', code="U472", hint="list them: gristmill token")
