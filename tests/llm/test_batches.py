"""Small writes that share a statement."""

from __future__ import annotations

import asyncio

import pytest

from gristmill.llm.batches import Batches


class Store:
    """Notes what was sent, and refuses what is called bad."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.began = asyncio.Event()
        self.open = asyncio.Event()
        self.orphans: list[tuple[str, str]] = []
        self.batches: Batches[str, str] = Batches(
            self.send, key=lambda item: item.rstrip("'").encode(), weight=len, most=4, limit=100,
            orphan=lambda item, result: self.orphans.append((item, result)),
        )  # fmt: skip

    async def send(self, items: list[str]) -> list[str]:
        self.sent.append(items)
        self.began.set()
        await self.open.wait()
        if "bad" in items:
            raise ValueError("bad")
        return [item.upper() for item in items]

    def add(self, *items: str) -> list[asyncio.Task[str]]:
        return [asyncio.create_task(self.batches.add(item)) for item in items]


async def test_what_arrives_together_goes_out_together_and_the_rest_with_the_next() -> None:
    store = Store()
    tasks = store.add("a", "b", "c", "d", "e")
    await store.began.wait()
    tasks += store.add("f")
    await asyncio.sleep(0)
    store.open.set()
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D", "E", "F"]
    assert store.sent == [["a", "b", "c", "d"], ["e", "f"]]


async def test_two_items_with_one_key_never_meet_and_heavy_ones_go_apart() -> None:
    store = Store()
    store.open.set()
    heavy = "h" * 70
    assert await asyncio.gather(*store.add("a", "a'", "b")) == ["A", "A'", "B"]
    assert store.sent == [["a", "b"], ["a'"]]
    await asyncio.gather(*store.add(heavy, "i" * 70))
    assert [len(batch) for batch in store.sent[2:]] == [1, 1]


async def test_one_bad_item_does_not_take_its_neighbours_with_it() -> None:
    store = Store()
    store.open.set()
    results = await asyncio.gather(*store.add("a", "bad", "c", "d"), return_exceptions=True)
    assert [results[0], *results[2:]] == ["A", "C", "D"]
    assert isinstance(results[1], ValueError)


async def test_a_result_whose_caller_is_gone_is_handed_over() -> None:
    store = Store()
    kept, gone = store.add("kept", "gone")
    await store.began.wait()
    gone.cancel()
    (unsent,) = store.add("unsent")
    await asyncio.sleep(0)
    unsent.cancel()
    store.open.set()
    assert await kept == "KEPT"
    for task in (gone, unsent):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert store.orphans == [("gone", "GONE")]
    assert store.sent == [["kept", "gone"]]
