"""Relations between the entities of a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model

from gristmill.data.annotated import text_of
from gristmill.data.annotations import Dropped, Entities, Entity, Relation, Relations
from gristmill.data.kinds import Chunk, Conversation, Example, Question
from gristmill.errors import InputError
from gristmill.operators.annotation_asking import Confidence, OnFailure, asked, least_sure, left_out, subject_of
from gristmill.operators.annotation_options import (
    Count,
    RelationType,
    RelationTypes,
    Sample,
    label_type,
)
from gristmill.operators.operator import Context, operator
from gristmill.operators.wording import fold


class NamedRelation(BaseModel):
    """One relation as the model gives it, between two entities by their ids."""

    head: str = Field(min_length=1, max_length=500)
    relation: str
    tail: str = Field(min_length=1, max_length=500)
    confidence: float | None = None


@operator("relate", version=1, pool="model", model=True, prompts=("relate",))
async def relate(
    found: Entities, ctx: Context, chunk: Chunk | None, question: Question | None, example: Example | None,
    conversation: Conversation | None, relations: RelationTypes, unknown: Literal["drop", "reject"] = "drop",
    most: Count = 100, annotator: str | None = None, sample: Sample = 0, on_failure: OnFailure = "degrade",
    prompt: str | None = None,
) -> Relations:  # fmt: skip
    """The relations between entities that `extract` found; follows it in a workflow.

    `relations` is a list of names, or names with `meaning`, `heads`, `tails` (the labels of the entities that they may
    join) and `symmetric`. The model is shown the text with a mark before each entity and names pairs of marks. Left out
    and remembered are: a relation of an entity that is not there, one between labels that its type does not join, one
    of an entity with itself, a repeated one, what is more than `most` (default 100), and a type that is not in the
    list; `unknown="reject"` asks again instead. Where there are fewer than two entities nothing is asked.

    The other options are those of `classify`. Raises `InputError` T226 when the annotated text is not above the
    entities, and what the model raises when it cannot be reached.
    """
    text = _text_of(found, (example, question, conversation, chunk))
    about: dict[str, Any] = {
        "subject": found.subject, "annotator": annotator or ctx.model.name, "model": ctx.model.name,
        "entities": found.entities,
    }  # fmt: skip
    if found.undecided:
        ctx.notes["degraded"] = "the entities are degraded"
        return Relations(**about, outcome="degraded", reason=f"its entities: {found.reason or found.outcome}"[:600])
    if len(found.entities) < 2:
        return Relations(**about, outcome="empty", reason="there are fewer than two entities")
    filled = ctx.prompt(
        prompt or "relate", text=marked(text, found.entities), relations=_told(relations), most=str(most),
        entities="\n".join(f"{one.id} ({one.label}): {' '.join(one.text.split())}" for one in found.entities),
        language=ctx.language,
    )  # fmt: skip
    schema = _schema(tuple(one.name for one in relations), unknown == "reject")
    given = await asked(ctx, filled, list[schema], sample, on_failure)  # type: ignore[valid-type]
    if given.value is None:
        return Relations(**about, outcome="degraded", reason=given.reason)
    kept, dropped = check_relations(given.value, found.entities, relations, most)
    ctx.notes.update(named=len(given.value), relations=len(kept))
    return Relations(
        **about, relations=tuple(kept), outcome="ok" if kept else "empty",
        reason=None if kept or not given.value else "nothing of what the model named could be used",
        score=least_sure(one.score for one in kept), dropped=left_out(ctx, dropped),
    )  # fmt: skip


def _text_of(found: Entities, above: Sequence[BaseModel | None]) -> str:
    for one in above:
        if one is not None and subject_of(one) == found.subject and (text := text_of(one)) is not None:
            return text
    raise InputError("the text that the entities were found in is not above them", code="T226")


def marked(text: str, entities: Sequence[Entity]) -> str:
    """The text with the id of each entity before it: "⟦e1⟧Ada met ⟦e2⟧Charles"."""
    pieces, position = [], 0
    for one in sorted(entities, key=lambda entity: entity.start):
        pieces += [text[position : one.start], f"⟦{one.id}⟧"]
        position = one.start
    return "".join([*pieces, text[position:]])


def check_relations(
    named: Sequence[NamedRelation], entities: Sequence[Entity], types: Sequence[RelationType], most: int
) -> tuple[list[Relation], list[Dropped]]:
    """What of it is allowed, and what was left out with the reason.

    An end may be given as an id, in its brackets too, or as words that only one entity has.
    """
    ends = _ends(entities)
    known = {one.name: one for one in types}
    kept: dict[tuple[str, str, str], Relation] = {}
    dropped: list[Dropped] = []
    for one in named:
        head, tail = ends.get(_plain(one.head)), ends.get(_plain(one.tail))
        type_ = known.get(one.relation)
        key = _key(type_, head, tail)
        reason = _refusal(type_, head, tail) or ("repeated" if key in kept else "too_many" if len(kept) >= most else "")
        if reason or type_ is None or head is None or tail is None:
            dropped.append(Dropped(what=f"{one.head} -> {one.tail}", label=one.relation[:200], reason=reason))
            continue
        kept[key] = Relation(
            head=head.id, tail=tail.id, label=type_.name, symmetric=type_.symmetric, score=one.confidence
        )
    return list(kept.values()), dropped


def _refusal(type_: RelationType | None, head: Entity | None, tail: Entity | None) -> str:
    if type_ is None:
        return "unknown_label"
    if head is None or tail is None:
        return "unknown_end"
    if head.id == tail.id:
        return "same_end"
    return "" if type_.allows(head.label, tail.label) else "wrong_ends"


def _key(type_: RelationType | None, head: Entity | None, tail: Entity | None) -> tuple[str, str, str]:
    if type_ is None or head is None or tail is None:
        return "", "", ""
    first, second = sorted((head.id, tail.id)) if type_.symmetric else (head.id, tail.id)
    return type_.name, first, second


def _ends(entities: Sequence[Entity]) -> dict[str, Entity]:
    counted = Counter(_plain(one.text) for one in entities)
    by_words = {_plain(one.text): one for one in entities if counted[_plain(one.text)] == 1}
    return by_words | {one.id: one for one in entities}


def _plain(end: str) -> str:
    return fold(end.strip(" \t\n⟦⟧[]()"))


def _told(types: Sequence[RelationType]) -> str:
    """A line a type: "- works_for (PERSON -> COMPANY): ..."."""
    lines = []
    for one in types:
        ends = f"{' | '.join(one.heads) or '*'} {'<->' if one.symmetric else '->'} {' | '.join(one.tails) or '*'}"
        lines.append(f"- {one.name} ({ends})" + (f": {one.meaning}" if one.meaning else ""))
    return "\n".join(lines)


@lru_cache(maxsize=64)
def _schema(names: tuple[str, ...], strict: bool) -> type[NamedRelation]:
    return create_model(
        "Relation", __base__=NamedRelation, relation=(label_type(names, strict), ...), confidence=(Confidence, None)
    )
