"""What a panel says together: everything that more than half of its annotators say, and nothing by chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gristmill.data.annotation_units import boxes_matched, ends_of
from gristmill.data.annotations import (
    DROPPED_LIMIT,
    Annotation,
    Box,
    Boxes,
    Classes,
    Dropped,
    Entities,
    Entity,
    Rating,
    Relation,
    Relations,
)
from gristmill.operators.wording import fold

QUORUM = 2  # annotators that must have said something


@dataclass(slots=True)
class Tally:
    """Votes for one piece: who said it, what it is called, and the pieces themselves."""

    label: str
    what: str
    votes: int = 0
    parts: list[Any] = field(default_factory=list)


def agreed(votes: Sequence[Annotation], annotator: str) -> Annotation:
    """The panel's annotation out of those of its members, all of one kind and about one thing.

    A piece (a class, a value, a span, a relation, a box) stands when more than half of those who decided have it. It is
    a "tie", for a person, when a piece has exactly half, or when most said something and nothing stands; what was voted
    on and does not stand is in `dropped`. "degraded": fewer than two decided. `score` is the mean share of the majority
    over all pieces. A box that stands is the mean of its votes.
    """
    decided = [vote for vote in votes if not vote.undecided]
    first = votes[0]
    about: dict[str, Any] = {
        "subject": first.subject, "annotator": annotator, "by": "panel", **_whole(first)
    }  # fmt: skip
    if len(decided) < QUORUM:
        reason = f"{len(decided)} of {len(votes)} annotators decided, at least {QUORUM} are needed"
        return type(first)(**about, outcome="degraded", reason=reason)
    tallies = _tallies(decided)
    standing = [one for one in tallies if 2 * one.votes > len(decided)]
    even = [one for one in tallies if 2 * one.votes == len(decided)]
    spoke = sum(1 for vote in decided if vote.outcome != "empty")
    tie = bool(even) or (not standing and 2 * spoke > len(decided))
    fell = [
        Dropped(what=one.what[:500], label=one.label, reason="tie" if one in even else "outvoted")
        for one in tallies if one not in standing
    ]  # fmt: skip
    shares = [max(one.votes, len(decided) - one.votes) / len(decided) for one in tallies]
    return type(first)(
        **about | _parts(first, standing, decided), outcome="tie" if tie else "ok" if standing else "empty",
        reason=_told(tallies, decided) if tie else None, dropped=tuple(fell[:DROPPED_LIMIT]),
        score=round(sum(shares) / len(shares), 4) if shares else 1.0,
    )  # fmt: skip


def _whole(first: Annotation) -> dict[str, Any]:
    if isinstance(first, Rating):
        return {"scale": first.scale}
    return {"width": first.width, "height": first.height} if isinstance(first, Boxes) else {}


def _tallies(decided: Sequence[Annotation]) -> list[Tally]:
    """All pieces that were said, in the order of the first who did."""
    if isinstance(decided[0], Boxes):
        return _box_tallies([vote for vote in decided if isinstance(vote, Boxes)])
    found: dict[Any, Tally] = {}
    for vote in decided:
        for key, label, what, part in _pieces(vote):
            tally = found.setdefault(key, Tally(label, what))
            tally.votes += 1
            tally.parts.append(part)
    return list(found.values())


def _pieces(vote: Annotation) -> list[tuple[Any, str, str, Any]]:
    """Key, label, words and the piece itself; each key once."""
    if isinstance(vote, Classes):
        return [(label, label, label, label) for label in vote.labels]
    if isinstance(vote, Rating):
        return [(fold(value), value, value, value) for value in vote.values]
    if isinstance(vote, Entities):
        return [((one.start, one.end, one.label), one.label, one.text, one) for one in vote.entities]
    if isinstance(vote, Relations):
        spans = {one.id: one for one in vote.entities}
        pieces = {}
        for one in vote.relations:
            head, tail = spans[one.head], spans[one.tail]
            key = (one.label, ends_of(one, head, tail))
            pieces[key] = (key, one.label, f"{head.text} -> {tail.text}", (one, head, tail))
        return list(pieces.values())
    return []


def _box_tallies(decided: Sequence[Boxes]) -> list[Tally]:
    """Boxes that are the same box: each annotator's are matched with the means of what was said before."""
    found: list[Tally] = []
    for vote in decided:
        known = [_mean(tally.parts, str(at)) for at, tally in enumerate(found)]
        pairs = boxes_matched(vote.boxes, known, vote.width, vote.height)
        for at, box in enumerate(vote.boxes):
            if at in pairs:
                tally = found[pairs[at]]
            else:
                where = f"{box.x:.3f}, {box.y:.3f}, {box.x + box.width:.3f}, {box.y + box.height:.3f}"
                found.append(tally := Tally(box.label, where))
            tally.votes += 1
            tally.parts.append(box)
    return found


def _mean(boxes: Sequence[Box], id_: str) -> Box:
    def mean(name: str) -> float:
        return float(sum(getattr(box, name) for box in boxes)) / len(boxes)

    turned = {box.rotation for box in boxes}
    if len(turned) > 1:  # angles have no mean that is a box
        return boxes[0].model_copy(update={"id": id_})
    x, y = mean("x"), mean("y")
    wide, high = min(mean("width"), 1 - x), min(mean("height"), 1 - y)
    if turned != {0.0}:
        wide, high = mean("width"), mean("height")
    return Box(id=id_, label=boxes[0].label, x=x, y=y, width=wide, height=high, rotation=boxes[0].rotation)


def _parts(first: Annotation, standing: Sequence[Tally], decided: Sequence[Annotation]) -> dict[str, Any]:
    share = {id(one): round(one.votes / len(decided), 4) for one in standing}
    if isinstance(first, Classes):
        return {"labels": tuple(one.label for one in standing)}
    if isinstance(first, Rating):
        return {"values": tuple(one.label for one in standing)}
    if isinstance(first, Boxes):
        boxes = [_mean(one.parts, f"b{at}").model_copy(update={"score": share[id(one)]})
                 for at, one in enumerate(standing, 1)]  # fmt: skip
        return {"boxes": tuple(boxes)}
    if isinstance(first, Entities):
        return {"entities": _numbered([(one.parts[0], share[id(one)]) for one in standing])}
    return _relations(standing, decided, share)


def _relations(standing: Sequence[Tally], decided: Sequence[Annotation], share: dict[int, float]) -> dict[str, Any]:
    """The relations that stand, the entities that most have, and those that the relations join."""
    counted: Counter[tuple[int, int, str]] = Counter()
    known: dict[tuple[int, int, str], Entity] = {}
    for vote in decided:
        for entity in getattr(vote, "entities", ()):
            counted[_span(entity)] += 1
            known.setdefault(_span(entity), entity)
    ends = {_span(end) for one in standing for end in one.parts[0][1:]}
    kept = [known[span] for span, count in counted.items() if 2 * count > len(decided) or span in ends]
    entities = _numbered([(entity, entity.score) for entity in kept])
    ids = {_span(entity): entity.id for entity in entities}
    relations = []
    for one in standing:
        relation, head, tail = one.parts[0]
        relations.append(
            Relation(
                head=ids[_span(head)], tail=ids[_span(tail)], label=relation.label, symmetric=relation.symmetric,
                score=share[id(one)],
            )
        )  # fmt: skip
    return {"entities": entities, "relations": tuple(relations)}


def _span(entity: Entity) -> tuple[int, int, str]:
    return entity.start, entity.end, entity.label


def _numbered(entities: Sequence[tuple[Entity, float | None]]) -> tuple[Entity, ...]:
    in_order = sorted(entities, key=lambda entry: _span(entry[0]))
    return tuple(one.model_copy(update={"id": f"e{at}", "score": score}) for at, (one, score) in enumerate(in_order, 1))


def _told(tallies: Sequence[Tally], decided: Sequence[Annotation]) -> str:
    said = ", ".join(f"{one.what[:80]} {one.votes}" for one in sorted(tallies, key=lambda one: -one.votes)[:5])
    return f"{len(decided)} votes: {said}"
