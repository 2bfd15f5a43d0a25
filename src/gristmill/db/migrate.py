"""Migrations go forward: numbered SQL files, each in one transaction, each with its checksum kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import asyncpg

from gristmill.db.database import LONG, SCHEMA
from gristmill.errors import DatabaseProblem

_EARLY = "-- expand early\n"
_LOCK = 0x6772_6973  # "gris": only one process migrates at a time


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def expands(self) -> bool:
        """Whether its first line begins with `-- expand`: it only adds, and the release before goes on with it."""
        return self.text.startswith(("-- expand\n", _EARLY))

    @property
    def early(self) -> bool:
        """Whether its first line is `-- expand early`: the release that brings it works without it, too."""
        return self.text.startswith(_EARLY)


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations in order. A number that was never used is left out."""
    folder = resources.files("gristmill.db").joinpath("migrations")
    found = []
    for entry in sorted(folder.iterdir(), key=lambda file: file.name):
        if entry.name.endswith(".sql"):
            number, _, name = entry.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, entry.read_text("utf-8")))
    return tuple(found)


def newest() -> int:
    return migrations()[-1].version


async def schema_version(connection: asyncpg.Connection[Any] | asyncpg.Pool[Any]) -> int:
    """The version of the schema in the database, 0 where there is none."""
    if await connection.fetchval("select to_regclass($1)", f"{SCHEMA}.schema_migration") is None:
        return 0
    return int(await connection.fetchval(f"select coalesce(max(version), 0) from {SCHEMA}.schema_migration"))  # noqa: S608


async def migrate(connection: asyncpg.Connection[Any]) -> list[Migration]:
    """Brings the schema up to date and returns what was applied. Raises `DatabaseProblem`.

    D120: the schema is newer than this version of Gristmill. D121: an applied migration is not the one that is shipped.
    D122: the server is older than PostgreSQL 14.
    """
    if connection.get_server_version().major < 14:
        raise DatabaseProblem(
            f"the server is PostgreSQL {connection.get_server_version().major}", code="D122",
            hint="Gristmill needs PostgreSQL 14 or newer", safe="nothing was changed",
        )  # fmt: skip
    known = await _known(connection)
    if {migration.version: migration.checksum for migration in migrations()}.items() <= known.items():
        await check_schema(connection)
        return []  # without a lock and without a write: what every process finds that starts later
    try:
        return await _apply(connection)
    except asyncpg.InsufficientPrivilegeError:
        if not known:
            raise
        await check_schema(connection)  # the owner has yet to migrate
        return []


async def _apply(connection: asyncpg.Connection[Any]) -> list[Migration]:
    applied: list[Migration] = []
    async with connection.transaction():
        # Another process may be at a long migration, and so may we.
        await connection.execute("set local lock_timeout = 0; set local statement_timeout = 0")
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK, timeout=LONG)
        await connection.execute(f"create schema if not exists {SCHEMA}")
        await connection.execute(
            f"create table if not exists {SCHEMA}.schema_migration (version integer primary key, name text not null,"
            " checksum text not null, applied_at timestamptz not null default clock_timestamp())"
        )
        await connection.execute(
            f"alter table {SCHEMA}.schema_migration add column if not exists expands boolean not null default false"
        )
        known = await _known(connection)
        if known and max(known) > newest():
            await check_schema(connection)
        for migration in migrations():
            if migration.version in known:
                if known[migration.version] != migration.checksum:
                    raise DatabaseProblem(
                        f"migration {migration.version} ({migration.name}) was applied with another text", code="D121",
                        hint="this database was made by a development version; start a new one",
                        safe="nothing was changed",
                    )  # fmt: skip
                continue
            await connection.execute(f"set local search_path = {SCHEMA}, public")
            await connection.execute(migration.text, timeout=LONG)
            await connection.execute(
                f"insert into {SCHEMA}.schema_migration (version, name, checksum, expands) "  # noqa: S608
                "values ($1, $2, $3, $4)",
                migration.version, migration.name, migration.checksum, migration.expands,
            )  # fmt: skip
            applied.append(migration)
    return applied


async def _known(connection: asyncpg.Connection[Any]) -> dict[int, str]:
    """Version -> checksum of what was applied."""
    if not await schema_version(connection):
        return {}
    rows = await connection.fetch(f"select version, checksum from {SCHEMA}.schema_migration")  # noqa: S608
    return {row["version"]: row["checksum"] for row in rows}


async def check_schema(connection: asyncpg.Connection[Any] | asyncpg.Pool[Any]) -> None:
    """Raises `DatabaseProblem` when the schema is not one that this version works on: D120 newer, D123 older.

    A newer one is fine while all that came after our own only adds, an older one while we need none of what is missing:
    a fleet is upgraded one host after the other.
    """
    version = await schema_version(connection)
    if version > newest():
        foreign = f"select bool_and(expands) from {SCHEMA}.schema_migration where version > $1"  # noqa: S608
        if not await connection.fetchval(foreign, newest()):
            raise newer_schema(version)
    if not all(migration.early for migration in migrations() if migration.version > version):
        raise DatabaseProblem(
            f"the database has schema version {version}, this version needs {newest()}", code="D123",
            hint="run: gristmill db migrate", safe="nothing was changed",
        )  # fmt: skip


def newer_schema(version: int) -> DatabaseProblem:
    return DatabaseProblem(
        f"the database has schema version {version}, this version of Gristmill knows {newest()}", code="D120",
        hint="upgrade gristmill on this machine: pip install --upgrade gristmill", safe="nothing was changed",
    )  # fmt: skip
