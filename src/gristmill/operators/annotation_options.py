"""What annotators are told to look for: labels, types of relations, scales. Every answer is held to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from typing_extensions import TypeAliasType

from gristmill.operators.wording import fold

LABELS_LIMIT = 500
LIST_LIMIT = 50  # texts of an open scale
_MARKS = re.compile(r"^[-*\u2022]\s+|[*_`]{2}")  # of lists and of emphasis
_RANGE = re.compile(r"(.*?)(\d+)\s*\.\.\s*(?:\1)?(\d+)")


class Named(BaseModel):
    """A label and what it means; the meaning is told to the model."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)
    name: str = Field(min_length=1, max_length=200)
    meaning: str = Field(default="", max_length=2000)


class RelationType(Named):
    """A relation. `heads` and `tails` are the labels of the entities that it may join; empty: any. One that is
    `symmetric` reads the same in both directions."""

    heads: list[str] = []
    tails: list[str] = []
    symmetric: bool = False

    def allows(self, head: str, tail: str) -> bool:
        """Whether it may join entities of these labels."""
        forth, back = self._joins(head, tail), self.symmetric and self._joins(tail, head)
        return forth or back

    def _joins(self, head: str, tail: str) -> bool:
        return (not self.heads or head in self.heads) and (not self.tails or tail in self.tails)


N = TypeVar("N", bound=Named)


def _spread(given: Any) -> Any:
    """Labels as people write them, as a list of objects: "LEVEL_0..LEVEL_4", a list of names, or names with what they
    mean behind them."""
    if isinstance(given, str):
        return [{"name": name} for name in _range(given)]
    if isinstance(given, Mapping):
        return [
            {"name": str(name), **more} if isinstance(more, Mapping) else {"name": str(name), "meaning": more or ""}
            for name, more in given.items()
        ]
    if isinstance(given, Sequence):
        return [one if isinstance(one, Mapping | BaseModel) else {"name": str(one)} for one in given]
    return given


def _range(text: str) -> list[str]:
    found = _RANGE.fullmatch(text.strip())
    if found is None:
        return [text]
    first, last = int(found[2]), int(found[3])
    if not first < last < first + LABELS_LIMIT:
        raise ValueError(f"{text} is no range from a number up to a larger one, of at most {LABELS_LIMIT} labels")
    return [f"{found[1]}{number}" for number in range(first, last + 1)]


def _named_once(labels: list[N]) -> list[N]:
    keys: dict[str, str] = {}
    for label in labels:
        key = fold(label.name)
        if key in keys:
            raise ValueError(f"the labels {keys[key]!r} and {label.name!r} are the same to a reader")
        keys[key] = label.name
    return labels


# Under names of their own, so that what they check survives typing.get_type_hints, which drops a bare Annotated.
Labels = TypeAliasType(
    "Labels",
    Annotated[
        list[Named], BeforeValidator(_spread), Field(min_length=1, max_length=LABELS_LIMIT),
        AfterValidator(_named_once),
    ],
)  # fmt: skip
SomeLabels = TypeAliasType(
    "SomeLabels",
    Annotated[list[Named], BeforeValidator(_spread), Field(max_length=LABELS_LIMIT), AfterValidator(_named_once)],
)
RelationTypes = TypeAliasType(
    "RelationTypes",
    Annotated[
        list[RelationType], BeforeValidator(_spread), Field(min_length=1, max_length=LABELS_LIMIT),
        AfterValidator(_named_once),
    ],
)  # fmt: skip
Sample = TypeAliasType("Sample", Annotated[int, Field(ge=0, le=1000)])
Share = TypeAliasType("Share", Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)])
Count = TypeAliasType("Count", Annotated[int, Field(ge=1, le=1000)])


class Scale(BaseModel):
    """How something is rated: by one of `codes`, by `several` of them, or, without codes, by a list of short texts.

    `codes` are written like labels ("LEVEL_0..LEVEL_4"), in order. `none` is the code for "nothing fits": it stands
    alone. A list has at least `least` and at most `most` texts (default 2 and 10).
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)
    name: str = Field(min_length=1, max_length=100)
    about: str = Field(default="", max_length=4000)  # what is asked, told to the model
    codes: SomeLabels = []
    several: bool = False
    none: str | None = Field(default=None, min_length=1, max_length=200)
    least: int | None = Field(default=None, ge=0, le=LIST_LIMIT)
    most: int | None = Field(default=None, ge=1, le=LIST_LIMIT)

    @model_validator(mode="after")
    def _whole(self) -> Scale:
        if not self.codes and (self.several or self.none is not None):
            raise ValueError(f'scale "{self.name}": several and none belong to codes')
        if self.codes and not self.several and (self.least, self.most) != (None, None):
            raise ValueError(f'scale "{self.name}": least and most belong to a list, or to several codes')
        if self.none is not None and fold(self.none) in {fold(code.name) for code in self.codes}:
            raise ValueError(f'scale "{self.name}": none is a code of its own, and {self.none!r} is one of codes')
        least, most = self.bounds
        if least > most:
            raise ValueError(f'scale "{self.name}": least is {least}, and most is {most}')
        return self

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the largest number of values, `none` left aside."""
        if not self.codes:
            return 2 if self.least is None else self.least, 10 if self.most is None else self.most
        if not self.several:
            return 1, 1
        return 1 if self.least is None else self.least, len(self.codes) if self.most is None else self.most

    @property
    def offered(self) -> list[Named]:
        """The codes, and the one for nothing."""
        return [*self.codes, *([Named(name=self.none)] if self.none is not None else [])]


ScaleOption = TypeAliasType("ScaleOption", Annotated[Scale, Field()])  # under a name: a bare model would be an ancestor


def told(labels: Iterable[Named]) -> str:
    """The labels as a prompt lists them: one a line, with what it means."""
    return "\n".join(f"- {one.name}: {one.meaning}" if one.meaning else f"- {one.name}" for one in labels)


def label_type(names: tuple[str, ...], strict: bool) -> Any:
    """The type of a label in a model's answer: the names are told, and `strict` refuses others. Small differences in
    spelling are evened out."""
    known = spellings(Named(name=name) for name in names)
    even = BeforeValidator(lambda given: known_label(given, known))
    if strict:
        return Annotated[Literal[names], even]
    return Annotated[str, even, WithJsonSchema({"enum": list(names), "type": "string"})]


def spellings(labels: Iterable[Named]) -> dict[str, str]:
    """The labels by their folded names, for `known_label`."""
    return {fold(one.name): one.name for one in labels}


def known_label(given: Any, known: Mapping[str, str]) -> Any:
    """The label that is meant: the same but for case, spaces, typography, and the marks that lists put around it; what
    was given, where none is."""
    if not isinstance(given, str):
        return given
    folded = fold(given)
    return known.get(folded) or known.get(_MARKS.sub("", folded).strip(" \"'`.,:;")) or given
