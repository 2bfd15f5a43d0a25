"""Topics instead of documents: what a model is to be questioned about where there is no source text.

topics.txt   one topic a line; "Physics > Optics" is a topic below another
topics.yaml  the same as a tree: {Physics: {Optics: , Mechanics: [Statics]}, Chemistry: }
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

from gristmill.data.kinds import Question, Source, Topic
from gristmill.errors import InputError
from gristmill.operators.label_tree import BETWEEN, LABEL_LIMIT, read_paths
from gristmill.operators.operator import Context, operator
from gristmill.operators.wording import fold, question_key
from gristmill.operators.wording_close import Asked

BATCH = 5  # that one call asks for: with a higher number the first calls are the same, and paid for
TOPICS_LIMIT = 1_000_000  # bytes of a file with topics
TOPICS_MOST = 50_000  # topics of a file: a short one that repeats itself by references can stand for any number
DEPTH_LIMIT = 8  # levels of a file with topics
QUESTION_LIMIT = 500  # characters

Levels = TypeAliasType("Levels", Annotated[int, Field(ge=0, le=5)])
Number = TypeAliasType("Number", Annotated[int, Field(ge=1, le=200)])


class GivenTopic(BaseModel):
    topic: str


class GivenQuestion(BaseModel):
    question: str


@operator("read_topics", version=1)
async def read_topics(source: Source, ctx: Context) -> list[Topic]:
    """The topics of a file of lines, or of YAML or JSON: one for each main topic, which knows what was given below it.

    Raises `InputError` T240 for a file without a topic, one that cannot be read, or that has more than 50,000 or
    8 levels of them.
    """
    if source.size > TOPICS_LIMIT:
        raise InputError(f"{source.name} is larger than {TOPICS_LIMIT:,} bytes", code="T240")
    try:
        text = (await ctx.blobs.read(source.blob)).decode("utf-8-sig")
        plain = source.name.lower().endswith((".yaml", ".yml", ".json"))
        paths = list(islice(_below(yaml.safe_load(text), ()), TOPICS_MOST + 1)) if plain else read_paths(_lines(text))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{source.name} cannot be read: {error}", code="T240") from None
    if len(paths) > TOPICS_MOST or any(len(path) > DEPTH_LIMIT for path in paths):
        raise InputError(f"{source.name} holds over {TOPICS_MOST:,} topics, or over {DEPTH_LIMIT} levels", code="T240")
    main: dict[str, str] = {}
    below: dict[str, dict[tuple[str, ...], tuple[str, ...]]] = {}
    for path in paths:
        key = fold(path[0])
        name = main.setdefault(key, path[0])
        for end in range(2, len(path) + 1):
            below.setdefault(key, {}).setdefault(tuple(map(fold, path[:end])), (name, *path[1:end]))
    if not main:
        raise InputError(f"{source.name} names no topic", code="T240", hint="one a line, for example: Physics > Optics")
    return [
        Topic(path=(name,), ordinal=ordinal, known=tuple(below[key].values()) if key in below else None)
        for ordinal, (key, name) in enumerate(main.items())
    ]


@operator("topics", version=1, pool="model", model=True, prompts=("topics",), timeout=3600)
async def topics(
    topic: Topic, ctx: Context, levels: Levels = 2, per_level: Number = 5, prompt: str | None = None
) -> list[Topic]:
    """The topics at the end of the tree below a topic, `levels` deep (default 2; 0: the topic itself).

    Each topic above the last level gets `per_level` (default 5) below it; what was given counts, and only what is
    missing is asked for. The model is shown what there is. Where it gives nothing of use, that part of the tree ends
    there, and the outcome is "degraded". `prompt` names a prompt of the project that stands in for ours.
    """
    given = topic.known or ()
    nodes = [topic.path]
    for depth in range(levels):
        following: list[tuple[str, ...]] = []
        for node in nodes:
            if len(node) < len(topic.path) + depth:  # it has come to an end before
                following.append(node)
                continue
            children = await _children(node, given, per_level, prompt, ctx)
            following += children or [node]
        nodes = following
    ctx.notes["topics"] = len(nodes)
    return [Topic(path=path, ordinal=ordinal) for ordinal, path in enumerate(nodes)]


@operator("distill_questions", version=1, pool="model", model=True, prompts=("distill_questions",), timeout=3600)
async def distill_questions(
    topic: Topic, ctx: Context, count: Number = 5, near_duplicates: float = 0.9, prompt: str | None = None
) -> list[Question]:
    """`count` questions (default 5) about a topic, for the model's own knowledge to answer; never more.

    They are asked for a few at a time, and the model is shown those it gave: what repeats one, or is at least as
    similar as `near_duplicates` (default 0.9), is dropped, and asked for again. A higher `count` in another run pays
    for what is more. `label` of a question is the path of its topic. Raises whatever the model raises.
    """
    if not 0.5 <= near_duplicates <= 1:
        raise InputError(f"distill_questions: near_duplicates is {near_duplicates}, it is between 0.5 and 1")

    async def more(wanted: int, known: Sequence[str]) -> list[str]:
        filled = ctx.prompt(
            prompt or "distill_questions", topic=BETWEEN.join(topic.path), count=str(wanted), language=ctx.language,
            avoid=_listed(known),
        )  # fmt: skip
        given: list[GivenQuestion] = await ctx.model.generate(filled, list[GivenQuestion])
        return [entry.question for entry in given]

    kept = await _gather(count, [], more, Asked(near_duplicates, ctx.language), QUESTION_LIMIT)
    ctx.notes["asked"] = count
    if not kept:
        ctx.notes["empty"] = "the model gave no question that can be used"
    return [Question(text=text, ordinal=ordinal, label=topic.path) for ordinal, text in enumerate(kept)]


async def _children(
    node: tuple[str, ...], given: Sequence[tuple[str, ...]], wanted: int, prompt: str | None, ctx: Context
) -> list[tuple[str, ...]]:
    """What stands right below a topic: what was given, and what the model adds until there are enough."""

    async def more(missing: int, known: Sequence[str]) -> list[str]:
        filled = ctx.prompt(
            prompt or "topics", topic=BETWEEN.join(node), count=str(missing), language=ctx.language,
            avoid=_listed(known),
        )  # fmt: skip
        made: list[GivenTopic] = await ctx.model.generate(filled, list[GivenTopic], otherwise=[])
        return [entry.topic for entry in made]

    own = [path[-1] for path in given if tuple(map(fold, path[:-1])) == tuple(map(fold, node))]
    names = await _gather(wanted, own, more, Asked(1.0, ctx.language), LABEL_LIMIT)
    return [(*node, name) for name in names]


async def _gather(
    wanted: int, have: Sequence[str], ask: Callable[[int, Sequence[str]], Awaitable[list[str]]], known: Asked,
    longest: int,
) -> list[str]:  # fmt: skip
    """What there is and what is missing until `wanted`, a few at a time; ends early when nothing new comes."""
    for text in have:
        known.add(text)
    while (missing := wanted - len(known.texts)) > 0:
        before, few = len(known.texts), min(BATCH, missing)
        for text in await ask(few, known.texts):
            usable = any(map(str.isalnum, question_key(text))) and len(text.strip()) <= longest
            if usable and len(known.texts) < before + few and not known.has(text):
                known.add(text)
        if len(known.texts) == before:
            break
    return known.texts


def _listed(known: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in known) or "-"


def _lines(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _below(plain: Any, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The paths of a tree: mappings go down, lists stay, everything else is a name."""
    if len(above) > DEPTH_LIMIT:
        yield above
    elif isinstance(plain, dict):
        for name, inner in plain.items():
            path = (*above, str(name).strip())
            yield path
            yield from _below(inner, path)
    elif isinstance(plain, list):
        for entry in plain:
            yield from _below(entry, above)
    elif plain is not None and str(plain).strip():
        yield (*above, str(plain).strip())
