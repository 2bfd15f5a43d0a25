"""Records in the database: saved with their work, loaded with their ancestors, never changed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import asyncpg
from pydantic import BaseModel

from gristmill.data.kinds import BODY_LIMIT, canonical_json, content_hash, kind_of
from gristmill.db.statements import statements
from gristmill.errors import InputError

SQL = statements("records")
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # an escaped NUL, and not a backslash that somebody wrote before "u0000"


@dataclass(frozen=True, slots=True)
class Record:
    """A stored body: `hash` is its content hash (32 bytes), `body` its JSON text."""

    id: int
    kind: str
    hash: bytes
    body: str


@dataclass(frozen=True)
class NewRecord:
    """A body to save, with the ids of its parents in order. Its text and hash are made once, when they are wanted."""

    body: BaseModel
    parents: tuple[int, ...]

    @cached_property
    def text(self) -> str:
        return body_text(self.body)

    @cached_property
    def hash(self) -> bytes:
        return content_hash(self.body)


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of finished work: its key (32 bytes), its operator, and what it made."""

    key: bytes
    kind: str
    outcome: str
    task_id: int
    records: tuple[NewRecord, ...]
    notes: str | None = None


@dataclass(frozen=True, slots=True)
class Membership:
    """A record as part of a run's result; `place` is the path of ordinals that led to it from its input."""

    run_id: int
    step: int
    record_id: int
    item_id: int | None
    task_id: int
    place: tuple[int, ...] = ()


def body_text(body: BaseModel) -> str:
    """The JSON that is stored. Raises `InputError` T601 above 1 MiB, T602 for text that PostgreSQL refuses, T603 for
    what JSON cannot say."""
    try:
        text = canonical_json(body.model_dump(mode="json"))
    except (ValueError, TypeError, RecursionError) as error:  # NaN, or nested too deep
        raise InputError(f"a {kind_of(body)} cannot be written as JSON: {error}", code="T603") from None
    if _NUL.search(text):
        raise InputError(f"a {kind_of(body)} holds a NUL character", code="T602", hint="remove it in the operator")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InputError(f"a {kind_of(body)} holds half of a surrogate pair", code="T602") from None
    if size > BODY_LIMIT:
        raise InputError(
            f"a {kind_of(body)} of {size:,} bytes is over the limit of {BODY_LIMIT:,}", code="T601",
            hint="keep large content in a blob: digest = await ctx.blobs.write(data)",
        )  # fmt: skip
    return text


async def load(connection: asyncpg.Connection[Any] | asyncpg.Pool[Any], ids: Sequence[int]) -> dict[int, Record]:
    """Records by id; an id that does not exist is absent."""
    return {row["id"]: Record(*row) for row in await connection.fetch(SQL["load"], list(ids))}


async def load_families(
    connection: asyncpg.Connection[Any] | asyncpg.Pool[Any], ids: Sequence[int]
) -> dict[int, list[Record]]:
    """Each record with all its ancestors, nearest first, by its id; one that does not exist is absent."""
    families: dict[int, list[tuple[int, int, Record]]] = {}
    for row in await connection.fetch(SQL["load_families"], list(ids)):
        record = Record(row["id"], row["kind"], row["hash"], row["body"])
        for root, distance in zip(row["roots"], row["distances"], strict=True):
            families.setdefault(root, []).append((distance, record.id, record))
    return {root: [record for *_, record in sorted(members)] for root, members in families.items()}


async def load_family(connection: asyncpg.Connection[Any] | asyncpg.Pool[Any], ids: Sequence[int]) -> list[Record]:
    """The records and all their ancestors, each once, nearest first."""
    rows = await connection.fetch(SQL["load_families"], list(ids))
    rows.sort(key=lambda row: (min(row["distances"]), row["id"]))
    return [Record(row["id"], row["kind"], row["hash"], row["body"]) for row in rows]


async def outputs_of(
    connection: asyncpg.Connection[Any] | asyncpg.Pool[Any], keys: Sequence[bytes]
) -> dict[bytes, tuple[str, list[int]]]:
    """Outcome and record ids of work that was done before, by key; what was never done is absent."""
    known = await connection.fetch(SQL["known_work"], list(keys))
    made: dict[bytes, tuple[str, list[int]]] = {row["key"]: (row["outcome"], []) for row in known}
    for row in await connection.fetch(SQL["records_of_work"], list(made)) if made else ():
        made[row["work_key"]][1].append(row["id"])
    return made


async def save(connection: asyncpg.Connection[Any], works: Sequence[Work]) -> Mapping[bytes, list[int]]:
    """Saves finished work inside the caller's transaction; returns work key -> record ids in order.

    Work that somebody else saved first is not saved again: the first answer wins, and its ids are returned.
    """
    works = list({work.key: work for work in works}.values())
    if not works:
        return {}
    ours = {row["key"] for row in await connection.fetch(
        SQL["save_work"], [w.key for w in works], [w.kind for w in works], [w.outcome for w in works],
        [w.notes for w in works], [w.task_id for w in works],
    )}  # fmt: skip
    flat = [(work, ordinal, new) for work in works if work.key in ours for ordinal, new in enumerate(work.records)]
    made = await connection.fetch(
        SQL["save_records"], [kind_of(new.body) for _, _, new in flat], [new.hash for _, _, new in flat],
        [work.key for work, _, _ in flat], [ordinal for _, ordinal, _ in flat], [new.text for _, _, new in flat],
    ) if flat else []  # fmt: skip
    fresh = {(row["work_key"], row["ordinal"]): row["id"] for row in made}
    links = [
        (fresh[work.key, ordinal], parent, place)
        for work, ordinal, new in flat
        if (work.key, ordinal) in fresh
        for place, parent in enumerate(new.parents)
    ]
    if links:
        await connection.execute(SQL["save_lineage"], *map(list, zip(*links, strict=True)))
    ids: dict[bytes, list[int]] = {work.key: [] for work in works}
    for (key, _), record_id in sorted(fresh.items(), key=lambda entry: entry[0]):
        ids[key].append(record_id)
    if others := [work.key for work in works if work.key not in ours]:
        for row in await connection.fetch(SQL["records_of_work"], others):
            ids[row["work_key"]].append(row["id"])
    return ids


async def join_run(connection: asyncpg.Connection[Any], members: Sequence[Membership]) -> None:
    """Makes records part of a run's result."""
    if members:
        rows = (
            (m.run_id, m.step, m.record_id, m.item_id, m.task_id, f"{{{','.join(map(str, m.place))}}}") for m in members
        )
        columns = zip(*rows, strict=True)
        await connection.execute(SQL["join_run"], *map(list, columns))
