"""Many small statements as one: what arrives while a statement is under way goes out together with the next.

Nothing waits for a batch to fill up. At one call a second each goes out alone; at a thousand they share round trips,
commits and the disk's flush.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from gristmill.db.database import RECONNECT

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batches(Generic[Item, Result]):
    """Hands items to `send` in batches and each result to its caller.

    `send` gets at most `most` items of about `limit` weight in total, all with different keys, and returns a result for
    each, in order. `orphan` gets a result whose caller was cancelled meanwhile. A batch that the database refuses is
    cut in half until the one that it cannot take is alone.
    """

    def __init__(
        self, send: Callable[[list[Item]], Awaitable[list[Result]]], *, key: Callable[[Item], Hashable],
        weight: Callable[[Item], int] = lambda item: 0, orphan: Callable[[Item, Result], None] | None = None,
        most: int = 100, limit: int = 4 * 1024 * 1024,
    ) -> None:  # fmt: skip
        self._send, self._key, self._weight, self._orphan = send, key, weight, orphan
        self._most, self._limit = most, limit
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._runner: asyncio.Task[None] | None = None

    async def add(self, item: Item) -> Result:
        """The result for the item. Raises what `send` raises."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._deliver(self._take())
        finally:
            self._runner = None

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """The next batch. A second item with the same key waits for the one after: a statement meets a row once."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        later: list[tuple[Item, asyncio.Future[Result]]] = []
        keys: set[Hashable] = set()
        weight = 0
        for item, future in self._waiting:
            if future.done():  # cancelled before it was sent
                continue
            key = self._key(item)
            if key in keys or len(batch) >= self._most or (batch and weight + self._weight(item) > self._limit):
                later.append((item, future))
                continue
            keys.add(key)
            weight += self._weight(item)
            batch.append((item, future))
        self._waiting = later
        return batch

    async def _deliver(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        if not batch:
            return
        try:
            results = await self._send([item for item, _ in batch])
        except RECONNECT as error:
            _fail(batch, error)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            await self._deliver(batch[: len(batch) // 2])
            await self._deliver(batch[len(batch) // 2 :])
        except BaseException as error:
            _fail(batch, asyncio.CancelledError())
            raise error
        else:
            for (item, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
                elif self._orphan is not None:
                    self._orphan(item, result)


def _fail(batch: list[tuple[Item, asyncio.Future[Result]]], error: BaseException) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
