"""What the annotations of an operator's function say: which records it takes, what comes with them, what it makes."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from gristmill.data.kinds import Body, kind_of
from gristmill.errors import UsageError


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A parameter that is filled with what the input came from: the nearest of a kind, or all of them."""

    kind: str
    type: type[BaseModel]
    how: Literal["one", "maybe", "all"] = "one"


def _is_body(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def ancestor_of(annotation: Any) -> Ancestor | None:
    """What a parameter asks for; None for an option. A list, or what may be missing, has to be of a built-in kind (or
    one made from `Body`): options may be lists of models too."""
    if _is_body(annotation):
        return Ancestor(kind_of(annotation), annotation)
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType) and len(parts) == 2 and type(None) in parts:
        inner, how = next(part for part in parts if part is not type(None)), "maybe"
    elif typing.get_origin(annotation) is list and len(parts) == 1:
        inner, how = parts[0], "all"
    else:
        return None
    kind = isinstance(inner, type) and issubclass(inner, Body) and bool(inner.kind)
    return Ancestor(kind_of(inner), inner, typing.cast(Any, how)) if kind else None


def record_types(annotation: Any, barrier: bool, name: str) -> tuple[type[BaseModel], ...]:
    """What the first parameter of the operator `name` takes: one model, or those of `A | B`, in a list for a barrier.
    Raises `UsageError` for anything else."""
    wanted: Any = annotation
    if barrier:
        inner = typing.get_args(annotation)
        wanted = inner[0] if typing.get_origin(annotation) in (list, Sequence) and inner else None
    several = typing.get_args(wanted) if typing.get_origin(wanted) in (typing.Union, types.UnionType) else (wanted,)
    if all(_is_body(part) for part in several):
        return several
    needed = "list[SomeModel]" if barrier else "a pydantic model"
    raise UsageError(f'operator "{name}": annotate its first parameter with {needed}')


def outputs(annotation: Any, name: str) -> tuple[type[BaseModel], ...]:
    """Every model in what the operator `name` returns. Raises `UsageError` where there is none."""
    found: list[type[BaseModel]] = []

    def walk(part: Any) -> None:
        if _is_body(part):
            found.append(part)
        for inner in typing.get_args(part):
            walk(inner)

    walk(annotation)
    if not found:
        raise UsageError(f'operator "{name}": annotate what it returns, for example -> list[Question]')
    return tuple(found)
