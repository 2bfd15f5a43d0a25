"""What we ship for the tests of others."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from gristmill.data.kinds import Chunk
from gristmill.errors import Busy, UsageError
from gristmill.operators.operator import Context, operator
from gristmill.testing import MemoryBlobs, ScriptedModel, perform


class Card(BaseModel):
    front: str
    back: str


class Deck(BaseModel):
    size: int


@operator("test_cards", model=True)
async def cards(chunk: Chunk, ctx: Context, mark: str = "") -> list[Card]:
    made: list[Card] = await ctx.model.generate(f"Cards for: {chunk.text}", list[Card])
    return [Card(front=card.front + mark, back=card.back) for card in made]


@operator("test_count", barrier=True)
async def count(found: list[Card], chunk: Chunk) -> Deck:
    return Deck(size=len(found) + len(chunk.text))


@operator("test_store")
async def store(card: Card, ctx: Context) -> Card:
    digest = await ctx.blobs.write(card.back.encode())
    return Card(front=card.front, back=digest)


async def test_an_operator_is_performed_with_a_scripted_model_and_options() -> None:
    model = ScriptedModel([[{"front": "a", "back": "b"}]])
    assert await perform(cards, Chunk(text="t"), model=model, options={"mark": "!"}) == [Card(front="a!", back="b")]
    assert model.requests[0].messages[-1].content == "Cards for: t"
    again = ScriptedModel(["no JSON", [Card(front="a", back="b")]])
    assert await perform(cards.using(mark="?"), Chunk(text="t"), model=again) == [Card(front="a?", back="b")]


async def test_a_scripted_model_raises_computes_and_ends() -> None:
    with pytest.raises(Busy):
        await perform(cards, Chunk(text="t"), model=ScriptedModel([Busy("later", delay=1)]))
    model = ScriptedModel([lambda request: [{"front": str(request.attempt), "back": ""}]])
    assert (await perform(cards, Chunk(text="t"), model=model))[0] == Card(front="0", back="")
    with pytest.raises(UsageError, match="0 answers"):
        await perform(cards, Chunk(text="t"), model=ScriptedModel([]))


async def test_a_barrier_gets_all_inputs_and_its_ancestors() -> None:
    card = Card(front="a", back="b")
    assert await perform(count, card, card, Chunk(text="xyz")) == [Deck(size=5)]


async def test_what_is_missing_or_useless_is_named() -> None:
    with pytest.raises(UsageError, match="needs a model"):
        await perform(cards, Chunk(text="t"))
    with pytest.raises(UsageError, match="Chunk"):
        await perform(count, Card(front="a", back="b"))
    with pytest.raises(UsageError, match="no use for"):
        await perform(store, Card(front="a", back="b"), Chunk(text="t"))
    with pytest.raises(UsageError, match="Chunk first"):
        await perform(cards, Card(front="a", back="b"), model=ScriptedModel([]))


async def test_blobs_are_kept_in_memory() -> None:
    blobs = MemoryBlobs()
    (card,) = await perform(store, Card(front="a", back="b"), blobs=blobs)
    assert isinstance(card, Card)
    assert await blobs.read(card.back) == b"b"
