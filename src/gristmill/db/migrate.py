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

_LOCK = 0x6772_6973  # "gris": only one process migrates at a time


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations in order; the numbers start at 1 and have no gaps."""
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
    applied: list[Migration] = []
    if await _known(connection) == {migration.version: migration.checksum for migration in migrations()}:
        return applied  # without a lock and without a write: what every process finds that starts later
    async with connection.transaction():
        # Another process may be at a long migration, and so may we.
        await connection.execute("set local lock_timeout = 0; set local statement_timeout = 0")
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK, timeout=LONG)
        await connection.execute(f"create schema if not exists {SCHEMA}")
        await connection.execute(
            f"create table if not exists {SCHEMA}.schema_migration (version integer primary key, name text not null,"
            " checksum text not null, applied_at timestamptz not null default clock_timestamp())"
        )
        known = await _known(connection)
        if known and max(known) > newest():
            raise newer_schema(max(known))
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
                f"insert into {SCHEMA}.schema_migration (version, name, checksum) values ($1, $2, $3)",  # noqa: S608
                migration.version, migration.name, migration.checksum,
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
    """Raises `DatabaseProblem` when the schema is not the one this version works on (D120 newer, D123 older)."""
    version = await schema_version(connection)
    if version > newest():
        raise newer_schema(version)
    if version < newest():
        raise DatabaseProblem(
            f"the database has schema version {version}, this version needs {newest()}", code="D123",
            hint="run: gristmill db migrate", safe="nothing was changed",
        )  # fmt: skip


def newer_schema(version: int) -> DatabaseProblem:
    return DatabaseProblem(
        f"the database has schema version {version}, this version of Gristmill knows {newest()}", code="D120",
        hint="upgrade gristmill on this machine: pip install --upgrade gristmill", safe="nothing was changed",
    )  # fmt: skip
