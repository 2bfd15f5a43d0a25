"""The base of the built-in kinds of records."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """Base of the built-in kinds. A user's own kind may be any pydantic model; its class name is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str] = ""
