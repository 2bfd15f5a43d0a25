"""Rubrics: what is judged, how much it weighs, and how the overall score is computed from it.

name: brief                                  # rubrics/default.yaml is a whole one
version: 1
scale: {least: 0, most: 5, step: 0.5}
dimensions:
  - name: right
    weight: 0.7
    needs_source: true                       # left out, and the rest weighted anew, where there is no source
    text: The answer is right.               # or one for each language: {en: ..., zh: ...}
  - {name: short, weight: 0.3, text: {en: The answer has no word too many.}}
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gristmill.data.kinds import Score

_TAKEN = ("comment", "reason", "score")  # what a judge's answer is made of besides


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scale(_Part):
    least: float = 0
    most: float = 5
    step: float = Field(0.5, gt=0)  # scores are rounded to it, halves up

    @model_validator(mode="after")
    def _check(self) -> Scale:
        if not self.least < self.most:
            raise ValueError("the scale's least is below its most")
        return self

    def rounded(self, value: float | Decimal) -> float:
        """The nearest step of the scale; the middle between two goes up."""
        step, least = Decimal(str(self.step)), Decimal(str(self.least))
        steps = ((Decimal(str(value)) - least) / step).quantize(Decimal(1), ROUND_HALF_UP)
        return float(min(max(least + steps * step, least), Decimal(str(self.most))))


class Dimension(_Part):
    """One thing that is judged. `text` tells the judge what it means, by language or the same in all."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")
    weight: float = Field(gt=0, le=1)
    needs_source: bool = False
    text: str | Mapping[str, str] = ""

    def wording(self, language: str) -> str:
        if isinstance(self.text, str):
            return self.text
        by = self.text
        return by.get(language) or by.get(language.split("-")[0]) or by.get("en") or next(iter(by.values()), "")


class Rubric(_Part):
    """Weights add up to 1. `name` and `version` are noted in every evaluation as "name@version"."""

    name: str = Field(min_length=1, max_length=100)
    version: int = Field(1, ge=1)
    scale: Scale = Scale()
    dimensions: tuple[Dimension, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Rubric:
        names = [one.name for one in self.dimensions]
        if len(set(names)) < len(names):
            raise ValueError("two dimensions have the same name")
        wrong = next((name for name in names if name in _TAKEN or keyword.iskeyword(name)), None)
        if wrong:
            raise ValueError(f'no dimension can be called "{wrong}"')
        total = sum((Decimal(str(one.weight)) for one in self.dimensions), Decimal(0))
        if abs(total - 1) > Decimal("0.000001"):
            raise ValueError(f"the weights add up to {total}, not to 1")
        if all(one.needs_source for one in self.dimensions) and len(self.dimensions) > 1:
            raise ValueError("at least one dimension has to do without a source")
        return self

    @property
    def title(self) -> str:
        return f"{self.name}@{self.version}"

    def asked(self, source: bool) -> tuple[Dimension, ...]:
        """The dimensions that can be judged with a source, or without one."""
        return tuple(one for one in self.dimensions if source or not one.needs_source)

    def overall(self, scores: Mapping[str, float], source: bool = True) -> float:
        """The weighted mean of rounded scores, rounded too. What needs a source weighs nothing where there is none.

        Raises `ValueError` for a dimension that is missing, or not in the rubric, and for a score outside of the scale.
        """
        asked = self.asked(source)
        if set(scores) != {one.name for one in asked}:
            raise ValueError(f"scores of {sorted(scores)}, asked were {sorted(one.name for one in asked)}")
        if not all(self.scale.least <= value <= self.scale.most for value in scores.values()):
            raise ValueError(f"a score is outside of {self.scale.least} to {self.scale.most}")
        weights = {one.name: Decimal(str(one.weight)) for one in asked}
        total = sum(
            (weights[name] * Decimal(str(self.scale.rounded(value))) for name, value in scores.items()), Decimal(0)
        )
        return self.scale.rounded(total / sum(weights.values()))

    def scores(self, given: Mapping[str, float], comments: Mapping[str, str] | None = None) -> tuple[Score, ...]:
        """Each score as it is stored, rounded, in the order of the rubric."""
        told = comments or {}
        return tuple(
            Score(name=one.name, value=self.scale.rounded(given[one.name]), comment=told.get(one.name) or None)
            for one in self.dimensions
            if one.name in given
        )


def read_rubric(given: Any) -> Any:
    """A rubric by name ("default"), out of a YAML file, or out of its plain values.

    An option that is a rubric holds all of it after this: a changed file is another option, and redoes the work; and a
    worker elsewhere does not need the file. Raises `ValueError` for a name or file that is not there or no YAML.
    """
    if not isinstance(given, str | Path):
        return given
    if str(given) in builtin_rubrics():
        return _builtin(str(given))
    path = Path(given)
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f'there is no rubric "{given}"; known: {", ".join(builtin_rubrics())}, or a file *.yaml')
    try:
        return Rubric.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the rubric {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"the rubric {path} is no YAML{f', line {mark.line + 1}' if mark else ''}") from None


@cache
def builtin_rubrics() -> tuple[str, ...]:
    """Names of the rubrics that come with Gristmill."""
    folder = resources.files("gristmill").joinpath("rubrics")
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")))


@cache
def _builtin(name: str) -> Rubric:
    text = resources.files("gristmill").joinpath("rubrics", f"{name}.yaml").read_text("utf-8")
    return Rubric.model_validate(yaml.safe_load(text))


RubricOption = Annotated[Rubric, BeforeValidator(read_rubric), Field(validate_default=True)]
