"""Moves a whole database to another server, and back: in chunks, verified row by row, gone on with after any kill.

    nobody works, nobody may write -> copy what is missing -> compare -> the old one says where its data is now
    and refuses every write, also of processes that had it open all the time -> the new one is free to be used

How far a copy has come is read from the copy itself: the largest key that has arrived. So nothing has to be noted down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg

from gristmill.db.database import LONG, SCHEMA, connect, pooled, without_password
from gristmill.db.migrate import check_schema, migrate
from gristmill.db.statements import statements
from gristmill.errors import DatabaseProblem

CHUNK = 20_000  # rows of one commit
SQL = statements("moving")
# What a row looks like as text must be the same on both sides, or they cannot be compared.
_PLAIN = {"datestyle": "ISO", "intervalstyle": "postgres", "extra_float_digits": "1", "bytea_output": "hex",
          "statement_timeout": "0", "lock_timeout": "5s", "idle_in_transaction_session_timeout": "0",
          "client_min_messages": "warning", "gristmill.moving": "on"}  # fmt: skip
MOVED = "GM135"  # the SQLSTATE with which a database that has moved away, or is a half copy, refuses to be written
Connection: TypeAlias = "asyncpg.Connection[Any]"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the schema: its stored columns, its primary key (empty: none), and the tables it refers to."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """A table after the move: its rows, and how many this call copied. `left`: the other side has no such table."""

    table: str
    rows: int
    copied: int
    left: bool = False


async def move(
    source_url: str, target_url: str, *, chunk: int = CHUNK, told: Callable[[Moved], None] = lambda _: None
) -> list[Moved]:
    """Copies everything from one database to an empty one, or goes on with a copy that was broken off.

    The source stays as it is, but whoever opens it is told where its data has gone. `told` hears of each table.
    Raises `DatabaseProblem`: D131 workers are alive there, or somebody writes; D132 the target has data of its own;
    D133 the copy is not the same; D134 both are one database; what `connect` and `migrate` raise.
    """
    async with _opened(source_url) as source, _opened(target_url) as target:
        await check_schema(source)
        await migrate(target)
        identity, other = await source.fetchval(SQL["identity"]), await target.fetchval(SQL["identity"])
        if identity == other:
            raise DatabaseProblem("source and target are the same database", code="D134", safe="nothing was changed")
        tables = await _tables(source)
        async with source.transaction():
            await _hush(source, tables)
            number = await _ready(source, target, tables, identity, without_password(source_url))
            found = await _copy_all(source, target, tables, chunk, told)
            await source.execute(SQL["forget"])  # of the same move, killed just before its end
            gone = await source.fetchval(SQL["begin"], "to", without_password(target_url), other)
            await source.execute(SQL["guard"])
            await source.execute(SQL["end"], gone)
        async with target.transaction():  # last: killed before this, neither is in use, and the same call goes on
            await target.execute(SQL["unguard"])
            await target.execute(SQL["end"], number)
    return found


def moved_away(error: BaseException) -> DatabaseProblem | None:
    """What a process is told that had the database open when it moved: D135. None for any other error."""
    if not isinstance(error, asyncpg.PostgresError) or error.sqlstate != MOVED:
        return None
    return DatabaseProblem(
        str(error), code="D135", safe="the data is there; nothing was written here",
        hint="set GRISTMILL_DATABASE_URL to it and start again; or bring it back: gristmill db move --from URL",
    )  # fmt: skip


async def refuse_moved(connection: Connection | asyncpg.Pool[Any]) -> None:
    """Raises `DatabaseProblem` D135 where the data has moved away, and D136 where it has not arrived in full."""
    last = await connection.fetchrow(SQL["last"])
    if last is None or (last["direction"] == "from" and last["ended"]):
        return
    if last["direction"] == "to":
        raise DatabaseProblem(
            f"this database has moved to {last['place']}", code="D135", safe="the data is there; this is an old copy",
            hint="set GRISTMILL_DATABASE_URL to it; or bring it back: gristmill db move --from URL",
        )  # fmt: skip
    raise DatabaseProblem(
        f"the copy from {last['place']} was broken off", code="D136", safe="the data is whole where it came from",
        hint="give the same command again: it goes on",
    )  # fmt: skip


async def stay(url: str) -> bool:
    """Forgets that the data of this database has moved away: it is in use again, as it was then. False: it had not."""
    async with _opened(url) as connection:
        last = await connection.fetchrow(SQL["last"])
        if last is None or last["direction"] != "to":
            return False
        async with connection.transaction():
            await connection.execute(SQL["unguard"])
            await connection.execute(SQL["forget"])
        return True


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Connection]:
    connection = await connect(url)
    try:
        if pooled(url):
            raise DatabaseProblem(
                "a move needs connections of its own, and a pooler is in between", code="D138",
                hint="name the server itself", safe="nothing was changed",
            )  # fmt: skip
        await _speak_plainly(connection)
        yield connection
    finally:
        connection.terminate()


async def _speak_plainly(connection: Connection) -> None:
    for name, value in _PLAIN.items():
        await connection.execute("select set_config($1, $2, false)", name, value)


async def _tables(connection: Connection) -> list[Table]:
    """All tables, those that others refer to first."""
    left = [
        Table(row["name"], tuple(row["columns"]), tuple(row["key"]), tuple(row["needs"]))
        for row in await connection.fetch(SQL["tables"])
    ]
    ordered: list[Table] = []
    while left:
        known = {table.name for table in ordered}
        ready = [table for table in left if known.issuperset(table.needs)] or left
        ordered += ready
        left = [table for table in left if table not in ready]
    return ordered


async def _hush(source: Connection, tables: Sequence[Table]) -> None:
    """Until the end of the transaction nobody can write there; readers are not disturbed."""
    await _none_alive(source)
    names = ", ".join(f'"{table.name}"' for table in tables)
    try:
        await source.execute(f"lock table {names} in share mode")
    except asyncpg.LockNotAvailableError as error:
        raise DatabaseProblem(
            "somebody writes there: their transaction did not end within 5 s", code="D131",
            hint="stop every gristmill command on this project, then try again", safe="nothing was changed",
        ) from error  # fmt: skip
    await _none_alive(source)  # one may have begun just before the lock


async def _none_alive(source: Connection) -> None:
    alive = await source.fetch(SQL["alive"])
    if alive:
        names = ", ".join(f"{row['name']} ({row['host']}, process {row['pid']})" for row in alive)
        raise DatabaseProblem(
            f"workers are at work there: {names}", code="D131", hint="stop them first: gristmill down",
            safe="nothing was changed",
        )  # fmt: skip


async def _ready(source: Connection, target: Connection, tables: Sequence[Table], identity: str, place: str) -> int:
    """The number of the move in the target, which is empty, half copied from here, or an old copy of what went here."""
    last = await target.fetchrow(SQL["last"])
    if last is not None and last["direction"] == "from" and not last["ended"] and last["system"] == identity:
        return int(last["id"])
    old_copy = last is not None and last["direction"] == "to" and last["system"] == identity
    for name in () if old_copy else ("run", "record", "call", "worker", "task"):
        if await target.fetchval(f"select exists (select from {name})"):  # noqa: S608 - names of our own
            raise DatabaseProblem(
                "the target has data of its own", code="D132", safe="nothing was changed",
                hint="name an empty database; two projects can share a server, each in its own database",
            )  # fmt: skip
    async with target.transaction():
        await target.execute(SQL["guard"])
        await target.execute(f"truncate {', '.join(await _there(target, tables))}")
        return int(await target.fetchval(SQL["begin"], "from", place, identity))


async def _there(target: Connection, tables: Sequence[Table]) -> list[str]:
    found = {table.name for table in await _tables(target)}
    return [f'"{table.name}"' for table in tables if table.name in found]


async def _copy_all(
    source: Connection, target: Connection, tables: Sequence[Table], chunk: int, told: Callable[[Moved], None]
) -> list[Moved]:
    for row in await source.fetch(SQL["weeks"]):
        await target.execute(SQL["make_week"], row["monday"])
    there = await _there(target, tables)
    found = []
    for table in tables:
        if f'"{table.name}"' not in there:  # an extension is missing: the search index is made again
            found.append(Moved(table.name, 0, 0, left=True))
        else:
            found.append(await _copied(source, target, table, chunk))
        told(found[-1])
    for row in await source.fetch(SQL["sequences"]):
        if row["last_value"] is not None:
            await target.execute("select setval($1::text::regclass, $2)", f'"{row["name"]}"', row["last_value"])
    return found


async def _copied(source: Connection, target: Connection, table: Table, chunk: int) -> Moved:
    """Copies what is missing; a copy that is not the same then, as of a source that went on, is made once more."""
    copied = 0
    for again in (False, True):
        if again or not table.key:
            await target.execute(f'truncate "{table.name}" cascade')
        copied += await _chunks(source, target, table, chunk)
        rows, here = await _digest(source, table)
        if (rows, here) == await _digest(target, table):
            return Moved(table.name, rows, copied)
    raise DatabaseProblem(
        f"table {table.name} is not the same on both sides after two copies", code="D133",
        hint="is somebody writing into the target? keep it to yourself until the move is over",
        safe="the source is whole and in use as before",
    )  # fmt: skip


async def _chunks(source: Connection, target: Connection, table: Table, chunk: int) -> int:
    """Copies rows behind the largest key of the target, so many in a transaction. Returns how many."""
    columns = ", ".join(f'"{name}"' for name in table.columns)
    total = 0
    while True:
        query, arguments = f'select {columns} from "{table.name}"', []  # noqa: S608 - names out of the catalogue
        if table.key:
            key = ", ".join(f'"{name}"' for name in table.key)
            backwards = ", ".join(f'"{name}" desc' for name in table.key)
            furthest = f'select {key} from "{table.name}" order by {backwards} limit 1'  # noqa: S608
            largest = await target.fetchrow(furthest)
            if largest is not None:
                query += f" where ({key}) > ({', '.join(f'${n + 1}' for n in range(len(table.key)))})"
                arguments = list(largest.values())
            query += f" order by {key} limit {chunk}"
        done = await _pipe(source, target, table, query, arguments)
        total += done
        if not table.key or done < chunk:
            return total


async def _pipe(source: Connection, target: Connection, table: Table, query: str, arguments: Sequence[Any]) -> int:
    """Rows of a query go into the table of the target, in binary form; memory holds a few blocks."""
    blocks: asyncio.Queue[bytes | None] = asyncio.Queue(8)

    async def read() -> None:
        await source.copy_from_query(query, *arguments, output=blocks.put, format="binary", timeout=LONG)
        await blocks.put(None)  # only now: a stream without its end is refused, and nothing of it stays

    async def arriving() -> AsyncIterator[bytes]:
        while (block := await blocks.get()) is not None:
            yield block

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            status = await target.copy_to_table(
                table.name, source=arriving(), columns=list(table.columns), schema_name=SCHEMA, format="binary",
                timeout=LONG,
            )  # fmt: skip
    except BaseExceptionGroup as errors:  # the one that failed; the other was only told to stop
        raise errors.exceptions[0] from errors
    return int(status.split()[-1])


async def _digest(connection: Connection, table: Table) -> tuple[int, str]:
    """How many rows, and the sum of what each of them hashes to: the same for the same rows in any order."""
    columns = ", ".join(f'"{name}"' for name in table.columns)
    each = f"('x' || left(md5(row({columns})::text), 16))::bit(64)::bigint::numeric"
    query = f'select count(*) as rows, coalesce(sum({each}), 0)::text as sum from "{table.name}"'  # noqa: S608
    row = await connection.fetchrow(query, timeout=LONG)
    assert row is not None  # noqa: S101 - an aggregate gives a row
    return row["rows"], row["sum"]
