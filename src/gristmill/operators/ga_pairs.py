"""Genre-audience pairs: for whom, and in which kind of text, questions of a document are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

from gristmill.data.kinds import Chunk, Document, GaPair
from gristmill.operators.operator import Context, Derived, operator
from gristmill.operators.wording import fold

NAME_LIMIT = 120  # characters; more is a description, or a model that lost its way

Few = TypeAliasType("Few", Annotated[int, Field(ge=1, le=20)])
Characters = TypeAliasType("Characters", Annotated[int, Field(ge=100, le=1_000_000)])


class GivenPair(BaseModel):
    """One pair as the model gives it."""

    genre: str
    genre_description: str
    audience: str
    audience_description: str


@operator("ga_pairs", version=1, pool="model", model=True, prompts=("ga_pairs",))
async def ga_pairs(
    document: Document, ctx: Context, n: Few = 5, max_chars: Characters = 50_000, prompt: str | None = None
) -> list[GaPair]:
    """At most `n` (default 5) pairs of a kind of text and an audience that suit a document.

    The model sees the first `max_chars` characters (default 50,000). Pairs without a genre or an audience and
    repetitions are dropped; when fewer are left than were asked for, that is all there are: nothing is filled up, and
    `ctx.notes` counts them. `prompt` names a prompt of the project that stands in for ours.

    Raises whatever the model raises.
    """
    data = await ctx.blobs.read(document.text_blob)
    text = data[: 4 * max_chars].decode("utf-8", "ignore")[:max_chars]
    filled = ctx.prompt(
        prompt or "ga_pairs", text=text, count=str(n), title=document.title or "", language=ctx.language
    )  # fmt: skip
    given: list[GivenPair] = await ctx.model.generate(filled, list[GivenPair])
    kept = _choose(given, n)
    ctx.notes.update(asked=n, returned=len(given))
    if len(kept) < len(given):
        ctx.notes["dropped"] = len(given) - len(kept)
    if not kept:
        ctx.notes["empty"] = "the model gave no pair that can be used"
    return [
        GaPair(
            genre=pair.genre.strip(), genre_description=pair.genre_description.strip(),
            audience=pair.audience.strip(), audience_description=pair.audience_description.strip(), ordinal=ordinal,
        )
        for ordinal, pair in enumerate(kept)
    ]  # fmt: skip


@operator("pair_chunks", version=1, barrier=True)
async def pair_chunks(
    parts: list[Chunk | GaPair], ctx: Context, numbers: list[int] | None = None
) -> list[Derived[Chunk]]:
    """Brings the chunks of a document together with its pairs, so that `ask` finds them; use it with `per="item"`.

    Each chunk is passed on with the pairs as parents besides the chunk itself. `numbers` are the pairs to use, from 0
    (default: all). A document without pairs passes its chunks on as they are, and the outcome is "degraded".
    """
    chunks = [at for at, part in enumerate(parts) if isinstance(part, Chunk)]
    pairs = [
        at for at, part in enumerate(parts)
        if isinstance(part, GaPair) and (numbers is None or part.ordinal in numbers)
    ]  # fmt: skip
    if chunks and not pairs:
        ctx.notes["degraded"] = "there are no genre-audience pairs: questions are asked without"
    bodies = [(at, parts[at]) for at in chunks]
    return [Derived(body, (at, *pairs)) for at, body in bodies if isinstance(body, Chunk)]


def _choose(given: Sequence[GivenPair], most: int) -> list[GivenPair]:
    kept: list[GivenPair] = []
    seen: set[tuple[str, str]] = set()
    for pair in given:
        key = (fold(pair.genre), fold(pair.audience))
        if all(key) and max(map(len, key)) <= NAME_LIMIT and key not in seen and len(kept) < most:
            seen.add(key)
            kept.append(pair)
    return kept
