"""Documents that say nearly the same: which are kept back, and which are not."""

from __future__ import annotations

import random

import pytest

from gristmill.data.kinds import Document, Duplicate
from gristmill.errors import UsageError
from gristmill.operators import dedup_documents
from gristmill.operators.calling import run_operator
from gristmill.operators.dedup_documents import Texts, shingles
from gristmill.operators.operator import Context

MILL = (
    "The mill stands at the river since 1843. Its two stones came from France. Water turns the wheel, the wheel turns "
    "the shaft, and the shaft turns the upper stone; the lower one rests. Flour runs into sacks of 50 kg each."
)


class Kept:
    """Texts by name, as a store of blobs."""

    def __init__(self, **texts: str) -> None:
        self.texts = texts

    async def read(self, digest: str) -> bytes:
        return self.texts[digest].encode()


async def marks(threshold: float = 0.8, **texts: str) -> dict[str, tuple[str, float, str]]:
    """Of each text that is kept back: the one that is kept, how alike, and by what it was found."""
    documents = [
        Document(text_blob=name, characters=len(text), media_type="text/plain") for name, text in texts.items()
    ]
    made = await run_operator(
        dedup_documents, documents, {}, {"threshold": threshold}, Context(blobs=Kept(**texts))  # type: ignore[arg-type]
    )  # fmt: skip
    assert sorted(entry.parents[0] for entry in made) == list(range(len(documents)))  # each is kept or marked, once
    names = list(texts)
    return {
        names[entry.parents[0]]: (names[entry.parents[1]], entry.body.similarity, entry.body.method)
        for entry in made if isinstance(entry.body, Duplicate)
    }  # fmt: skip


async def test_what_says_nearly_the_same_is_marked_and_what_is_new_goes_on() -> None:
    shout = MILL.upper().replace(". ", ".\n\n  ").replace(";", " -")
    longer = MILL + " Nobody lives there any more."
    found = await marks(
        mill=MILL, again=shout, longer=longer, other=MILL.replace("stone", "roll").replace("turns", "drives"),
        none="", nothing="...", short="Two stones.", shorter="two stones",
    )  # fmt: skip
    assert found.pop("again") == ("mill", 1.0, "shingles")
    kept, share, _ = found.pop("longer")
    assert (kept, 0.8 <= share < 1) == ("mill", True)
    assert found == {"shorter": ("short", 1.0, "shingles")}
    assert set(await marks(1.0, mill=MILL, again=shout, longer=longer)) == {"again"}


async def test_texts_without_spaces_between_words_are_compared_too() -> None:
    text = "水车在河边已经有一百八十年了。两块磨石来自法国。水推动轮子，轮子转动轴，轴转动上面的石头。"
    assert set(await marks(a=text, b=text.replace("。", "．"), c=text[::-1])) == {"b"}


@pytest.mark.parametrize("length", [12, 60, 130, 600])
async def test_no_pair_that_shares_enough_is_overlooked(length: int) -> None:
    dice = random.Random(length)
    for _ in range(20):
        own = [f"w{dice.randrange(3000)}" for _ in range(length)]
        other = [*own, *(f"x{number}" for number in range(length // 8))]
        one, two = set(shingles(" ".join(own))), set(shingles(" ".join(other)))
        share = len(one & two) / len(one | two)
        known = Texts(Kept(own=" ".join(own), other=" ".join(other)), 0.8)
        assert await known.add(0, "own") is None
        mark = await known.add(1, "other")
        assert (mark is not None) == (share >= 0.8)


async def test_a_threshold_that_would_join_everything_is_refused() -> None:
    with pytest.raises(UsageError):
        dedup_documents.using(threshold=0.2)
