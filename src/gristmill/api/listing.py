"""Pages of lists that are filtered: rows are read in the order of an index and held against the filter one by one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from gristmill.api.shapes import Page, cursor, place
from gristmill.data.filter import Kind, holds, parse_filter

T = TypeVar("T")


class _HasId(Protocol):
    @property
    def id(self) -> int | None: ...


Numbered = TypeVar("Numbered", bound=_HasId)
AT_ONCE = 1_000  # rows read at once where a filter may drop most of them
MOST = 20_000  # rows looked at for one page: a filter that fits nothing must not read a whole table

Place = tuple[Any, ...]
Read = Callable[[Place | None, int], Awaitable[Sequence[T]]]


def condition(text: str | None, columns: Mapping[str, Kind]) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a row is wanted, by the filter grammar of docs/guides/export.md. Raises `UsageError` U420."""
    if text is None or not text.strip():
        return lambda row: True
    node = parse_filter(text, columns)
    return lambda row: holds(node, row.get) is True


async def newest_first(
    read: Callable[[int | None, int], Awaitable[list[Numbered]]], after: str | None, limit: int
) -> Page[Numbered]:
    """A page of what has a number, from the largest on. `read(before, n)` gives the next n below a number."""
    behind = place(after, int)
    found = await read(behind[0] if behind else None, limit + 1)
    return Page(items=found[:limit], next=cursor(found[limit - 1].id) if len(found) > limit else None)


async def page_of(
    read: Read[T], after: Place | None, limit: int, place_of: Callable[[T], Place],
    keep: Callable[[T], bool] | None = None,
) -> tuple[list[T], str | None]:  # fmt: skip
    """At most `limit` rows behind `after` that `keep` wants, and the cursor of the next page (None: that was all).

    `read(place, n)` gives the next n rows behind a place. A page may be short, even empty, and have a next one: after
    20,000 rows that nobody wanted it ends, so that every answer comes soon.
    """
    found: list[T] = []
    size = limit + 1 if keep is None else max(limit + 1, AT_ONCE)
    looked = 0
    last = after
    while True:
        rows = await read(last, size)
        for row in rows:
            if keep is None or keep(row):
                if len(found) == limit:
                    return found, cursor(*last) if last is not None else None
                found.append(row)
            last = place_of(row)
        looked += len(rows)
        if len(rows) < size:
            return found, None
        if looked >= MOST and last is not None:
            return found, cursor(*last)
