"""The bodies of annotations: what a model, a detector, a panel or a person says about one record.

Spans are code points of the annotated text (`text_of`), ends exclusive. Boxes are fractions of the upright picture, so
they fit every size that it is shown in. Ids are unique within their annotation and no further.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from gristmill.data.body import Body

DIGITS = 9  # of a fraction: less than a millionth of a pixel, and a way to percent and back that changes nothing
DROPPED_LIMIT = 100  # things that were left out, and are remembered

Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), AfterValidator(lambda value: round(value, DIGITS))]
Degrees = Annotated[float, Field(ge=-360, le=360, allow_inf_nan=False)]
Label = Annotated[str, Field(min_length=1)]


class Dropped(Body):
    """What the annotator said and code left out."""

    what: str
    label: str
    reason: str  # a word: "not_found", "unknown_label", "overlaps", "repeated", "no_area", "unknown_end", "wrong_ends"


class Annotation(Body):
    """What all annotations carry."""

    subject: str  # content hash of the record that was annotated, 64 hex digits
    annotator: str  # who: a model's binding, the name of a panel's member, "panel", or a person's name
    by: Literal["model", "detector", "panel", "person"] = "model"
    model: str | None = None  # the binding or the file that answered, where one did
    outcome: Literal["ok", "empty", "degraded", "tie"] = "ok"
    reason: str | None = None  # why it is degraded, or how the votes of a tie fell
    score: Score | None = None  # how sure its least sure part is; of a panel the share that agrees; None: nobody knows
    dropped: tuple[Dropped, ...] = ()
    comment: str | None = None

    @property
    def undecided(self) -> bool:
        """Whether only a person can say: nothing stands in it, and that is no finding."""
        return self.outcome in ("degraded", "tie")


class Classes(Annotation):
    """The classes of a text or a picture."""

    kind: ClassVar[str] = "classes"
    labels: tuple[Label, ...] = ()  # none: "empty", nothing fits; or nobody decided

    @model_validator(mode="after")
    def _once(self) -> Self:
        _check_once(self.labels, "label")
        return self


class Rating(Annotation):
    """Where a record stands on a scale: one code, several, or a list of short texts."""

    kind: ClassVar[str] = "rating"
    scale: Label
    values: tuple[Label, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> Self:
        _check_once(self.values, "value")
        return self


class Entity(Body):
    """A labelled span. `text` is the slice of the annotated text, letter by letter."""

    id: Label
    start: int = Field(ge=0)
    end: int
    text: Label
    label: Label
    score: Score | None = None
    match: Literal["exact", "normalized", "fuzzy"] | None = None  # how it was found; None: set by a person

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        if self.end - self.start != len(self.text):
            raise ValueError(f"{self.id} spans {self.end - self.start} characters, and its text has {len(self.text)}")
        return self


class Entities(Annotation):
    """Labelled spans of a text, in the order in which they begin."""

    kind: ClassVar[str] = "entities"
    entities: tuple[Entity, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> Self:
        _check_once([one.id for one in self.entities], "id")
        return self


class Relation(Body):
    """From one entity to another, both by id. Of a symmetric one either may be the head."""

    head: Label
    tail: Label
    label: Label
    symmetric: bool = False
    score: Score | None = None


class Relations(Annotation):
    """Relations between spans of a text, with the spans, so that nothing else is needed to read them."""

    kind: ClassVar[str] = "relations"
    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()

    @model_validator(mode="after")
    def _joined(self) -> Self:
        known = {one.id for one in self.entities}
        for one in self.relations:
            for end in (one.head, one.tail):
                if end not in known:
                    raise ValueError(f"the relation {one.label} has an end {end} that is none of the entities")
        _check_once([(one.head, one.tail, one.label) for one in self.relations], "relation")
        _check_once([one.id for one in self.entities], "id")
        return self


class Box(Body):
    """A labelled rectangle: its upper left corner, width and height as fractions of the upright picture, 0 to 1.

    `rotation` turns it about that corner, clockwise, in degrees.
    """

    id: Label
    label: Label
    x: Fraction
    y: Fraction
    width: Fraction
    height: Fraction
    rotation: Degrees = 0.0
    score: Score | None = None

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if not (self.width and self.height):
            raise ValueError(f"{self.id} has no area")
        if not self.rotation and max(self.x + self.width, self.y + self.height) > 1 + 10**-DIGITS:
            raise ValueError(f"{self.id} sticks out of the picture")
        return self

    def pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in a picture of that size, before `rotation`."""
        right, bottom = (self.x + self.width) * width, (self.y + self.height) * height
        return self.x * width, self.y * height, min(right, width), min(bottom, height)


class Boxes(Annotation):
    """Labelled rectangles of a picture."""

    kind: ClassVar[str] = "boxes"
    width: int = Field(ge=1)  # of the upright picture, pixels
    height: int = Field(ge=1)
    boxes: tuple[Box, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> Self:
        _check_once([one.id for one in self.boxes], "id")
        return self


class Measure(Body):
    """One figure; None where it is not defined for what was counted."""

    name: str
    value: float | None


class Agreement(Body):
    """How far the annotators of a step agree, over everything that at least two of them annotated."""

    kind: ClassVar[str] = "agreement"
    about: str  # the kind of annotation, for ratings with the scale: "classes", "rating:urgency"
    annotators: tuple[str, ...]
    subjects: int  # annotated by at least two of them
    ties: int  # of these, the ones without a majority
    undecided: int  # annotations that say nothing: degraded ones
    measures: tuple[Measure, ...]


ANNOTATIONS: dict[str, type[Annotation]] = {one.kind: one for one in (Classes, Rating, Entities, Relations, Boxes)}


def problems_of(annotation: BaseModel, text: str) -> list[str]:
    """What of its spans does not fit the annotated text, a sentence each; [] for what has no spans."""
    found = []
    for one in getattr(annotation, "entities", ()):
        if one.end > len(text):
            found.append(f"{one.id} ends at {one.end}, and the text has {len(text)} characters")
        elif text[one.start : one.end] != one.text:
            found.append(f"{one.id} says {one.text!r}, and the text has {text[one.start : one.end]!r} there")
    return found


def _check_once(parts: Sequence[object], what: str) -> None:
    if len(set(parts)) < len(parts):
        twice = next(part for at, part in enumerate(parts) if part in parts[:at])
        raise ValueError(f"the {what} {twice!r} stands twice")
