"""Whether two annotations, or two results of Label Studio, say the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gristmill.data.annotations import Annotation, Boxes, Classes, Entities, Entity, Rating, Relations


def same(one: Annotation, other: Annotation) -> bool:
    """Whether both say the same, whoever says it, however sure, and in whatever order. Ids do not matter."""
    return _said(one) == _said(other)


def digest_of(result: Any) -> bytes:
    """What two results have in common that say the same (32 bytes), whatever an editor did to order, ids, the way
    numbers are written, and what it noted beside them."""
    items = [item for item in result if isinstance(item, dict)] if isinstance(result, list) else [{"value": result}]
    regions = {str(item.get("id")): _region(item) for item in items if item.get("type") != "relation"}
    parts = [_region(item) for item in items if item.get("type") != "relation"]
    parts += [_relation(item, regions) for item in items if item.get("type") == "relation"]
    text = json.dumps(sorted(parts), ensure_ascii=True)
    return hashlib.sha256(text.encode()).digest()


def _region(item: Mapping[str, Any]) -> str:
    return _text([item.get("type"), item.get("from_name"), item.get("value")])


def _relation(item: Mapping[str, Any], regions: Mapping[str, str]) -> str:
    ends = [regions.get(str(item.get(end)), "") for end in ("from_id", "to_id")]
    direction = item.get("direction", "right")
    ends = sorted(ends) if direction == "bi" else ends[::-1] if direction == "left" else ends
    return _text([*ends, direction == "bi", item.get("labels")])


def _text(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=True)


def _plain(value: Any) -> Any:
    """Numbers as text with 6 digits: 0 and 0.0 are one."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return f"{value:.6f}" if abs(value) < 1e15 else str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, Sequence) else str(value)


def _said(annotation: Annotation) -> tuple[Any, ...]:
    if isinstance(annotation, Classes):
        return (frozenset(annotation.labels),)
    if isinstance(annotation, Rating):
        return annotation.scale, frozenset(annotation.values)
    if isinstance(annotation, Entities):
        return (frozenset(_spot(one) for one in annotation.entities),)
    if isinstance(annotation, Relations):
        spots = {one.id: _spot(one) for one in annotation.entities}
        ends = frozenset(
            (frozenset((spots[r.head], spots[r.tail])) if r.symmetric else (spots[r.head], spots[r.tail]), r.label)
            for r in annotation.relations
        )
        return frozenset(spots.values()), ends
    if isinstance(annotation, Boxes):
        sides = ("label", "x", "y", "width", "height", "rotation")
        return (frozenset(tuple(getattr(one, name) for name in sides) for one in annotation.boxes),)
    raise TypeError(type(annotation))


def _spot(one: Entity) -> tuple[int, int, str]:
    return one.start, one.end, one.label
