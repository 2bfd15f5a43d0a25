"""Which rows an export takes, and which file each goes to: a stream in, a stream out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Mapping

from gristmill.data.export_shapes import Entry, Pair, row_of, several
from gristmill.data.filter import holds, parse_filter
from gristmill.data.rows import FILTER_COLUMNS, REVIEWED, Row, filter_value


async def filtered(rows: AsyncIterable[Row], where: str | None, *, reviewed: bool = False) -> AsyncIterator[Row]:
    """The rows of which the filter is true; all of them without one; with `reviewed` only what a person has accepted or
    edited. Raises `UsageError` U420."""
    condition = parse_filter(where, FILTER_COLUMNS) if where is not None else None
    async for row in rows:
        if reviewed and row.review not in REVIEWED:
            continue
        if condition is None or holds(condition, lambda name, row=row: filter_value(row, name)):  # type: ignore[misc]
            yield row


async def paired(rows: AsyncIterable[Row]) -> AsyncIterator[Pair]:
    """Of the rows that answer the same question and follow each other: the best and the worst by score. None where all
    that have a score have the same. Raises `UsageError` U411 for a conversation."""
    group: list[Row] = []
    async for row in rows:
        if row.turns:
            raise several(row, "preference")
        if group and _question(group[0]) != _question(row):
            for pair in _pair(group):
                yield pair
            group = []
        if row.score is not None:
            group = _ends([*group, row])
    for pair in _pair(group):
        yield pair


def _question(row: Row) -> tuple[str, ...]:
    return (row.question_id,) if row.question_id else (row.document, row.image or "", row.question)


def _ends(group: list[Row]) -> list[Row]:
    """The first of the best and the last of the worst: nothing else can become a pair."""
    return sorted(group, key=lambda row: -(row.score or 0.0))[:: max(1, len(group) - 1)]


def _pair(group: list[Row]) -> list[Pair]:
    if len(group) < 2 or group[0].score == group[-1].score:
        return []
    return [Pair(group[0], group[-1])]


async def balanced(entries: AsyncIterable[Entry], most: int | None) -> AsyncIterator[Entry]:
    """At most so many of each label, the first ones; what has no label counts as one label."""
    seen: Counter[tuple[str, ...]] = Counter()
    async for entry in entries:
        label = row_of(entry).label
        seen[label] += 1
        if most is None or seen[label] <= most:
            yield entry


def split_of(row: Row, shares: Mapping[str, float], seed: int) -> str:
    """The split of the row's document: by hash, so that it depends on nothing but the document and the seed."""
    belongs = row.document or row.source or row.question_id or row.record_id or row.question
    digest = hashlib.sha256(f"{seed}\0{belongs}".encode("utf-8", "backslashreplace")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64 * sum(shares.values())
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return list(shares)[-1]
