"""Choosing from a whitelist: what the model is asked for, and how its words are read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, create_model, model_validator

from gristmill.operators.annotation_asking import Confidence
from gristmill.operators.annotation_options import Named, known_label, spellings
from gristmill.operators.wording import fold

TEXT_LIMIT = 500  # characters of one text of a list
_TAGS = re.compile(r"<<(.+?)>>|\[\[(.+?)\]\]", re.DOTALL)
_BETWEEN = re.compile(r"[,;|\n]")


class Chosen(BaseModel):
    """What an annotator chose. Its fields are added for each question, in the order in which they are to be said: why,
    where that is asked for, before what."""

    if TYPE_CHECKING:
        labels: list[str]
        confidence: float | None

    @property
    def why(self) -> str | None:
        """What it said about its choice; None where it was not asked, or said nothing."""
        return str(getattr(self, "comment", "")).strip() or None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        """Small models answer {"label": "A"}, or the list alone."""
        if isinstance(given, list | str):
            return {"labels": given}
        if isinstance(given, dict) and "labels" not in given and "label" in given:
            return {**given, "labels": given["label"]}
        return given


def choice_schema(
    offered: Sequence[Named], least: int, most: int, *, none: str | None = None, explain: bool = False
) -> type[Chosen]:
    """What is asked for: at least `least` and at most `most` of the labels, each once, in the order of `offered`.

    `none` is the one that stands alone. Without `offered` any short texts, which are kept in their own order.
    """
    return _schema(tuple(one.name for one in offered), least, most, none, explain)


_Why = Annotated[str, Field(description="why, in one sentence; say this before you choose")]


@lru_cache(maxsize=64)
def _schema(names: tuple[str, ...], least: int, most: int, none: str | None, explain: bool) -> type[Chosen]:
    known = spellings(Named(name=name) for name in names)

    def spread(given: Any) -> Any:
        if isinstance(given, str):
            given = [given] if known_label(given, known) in names or not names else _BETWEEN.split(given)
        if not isinstance(given, list):
            return [] if given is None else given
        unique: dict[Any, Any] = {}
        for one in given:
            label = known_label(one, known) if names else one.strip() if isinstance(one, str) else one
            unique.setdefault(fold(label) if isinstance(label, str) else repr(label), label)
        return [label for label in unique.values() if label != ""]

    def in_order(given: list[str]) -> list[str]:
        if none is not None and none in given and len(given) > 1:
            raise ValueError(f"{none} stands alone")
        if len(given) < least and given != [none]:
            raise ValueError(f"choose at least {least}")
        return sorted(given, key=names.index) if names else given

    bounds = Field(min_length=least if none is None else min(least, 1), max_length=most)
    one: Any = Literal[names] if names else Annotated[str, Field(min_length=1, max_length=TEXT_LIMIT)]
    fields: dict[str, Any] = {"comment": (_Why, "")} if explain else {}
    fields["labels"] = (Annotated[list[one], BeforeValidator(spread), bounds, AfterValidator(in_order)], ...)
    return create_model("Choice", __base__=Chosen, **fields, confidence=(Confidence, None))


def chosen_in_tags(raw: str, schema: type[Chosen]) -> Chosen | None:
    """What an answer in prose says between <<...>> or [[...]]: codes with commas between them, or a JSON list; None
    where that is missing or not allowed."""
    found: list[Any] = []
    for match in _TAGS.finditer(raw):
        inner = (match[1] or match[2]).strip()
        try:
            parsed = json.loads(inner)
            found += parsed if isinstance(parsed, list) else [str(parsed)]
        except ValueError:
            found += [part.strip() for part in _BETWEEN.split(inner)]
    if not found:
        return None
    try:
        return schema.model_validate({"labels": found})
    except ValidationError:
        return None
