"""A named kind of worker as the settings write it: `[workers.NAME]`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Word = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,99}$")]
SpecName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,49}$")]


class WorkerSpec(BaseModel):
    """`count` workers that are alike. `gristmill up` keeps them alive."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(1, ge=0, le=100, description="how many of them")
    enabled: bool = Field(True, description="whether they are started, and started again")
    pools: dict[str, Annotated[int, Field(ge=1, le=10_000)]] | None = Field(
        None, min_length=1, description="slots of each worker per pool, instead of the setting `pools`"
    )
    models: tuple[str, ...] = Field((), description="models that have to be there, with their keys, before one starts")
    annotator: Word | None = Field(None, description="who they work as; shown in lists and in every line of their logs")
    domain: Word | None = Field(None, description="what they work on; likewise")

    @model_validator(mode="after")
    def _annotators_work_once(self) -> WorkerSpec:
        if self.annotator and self.count > 1:
            raise ValueError("an annotator is one worker: count = 1, or leave annotator out")
        return self
