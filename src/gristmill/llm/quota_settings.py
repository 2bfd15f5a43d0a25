"""One limit as it is written down in gristmill.toml or given on the command line."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator


class LimitSettings(BaseModel):
    """What a provider allows for one key. What is not set is not limited."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: float | None = Field(
        None, gt=0, le=1e9, description="in any 60 seconds, not only on the clock"
    )
    tokens_per_minute: float | None = Field(None, gt=0, le=1e12, description="of questions and answers together")
    requests_per_day: int | None = Field(None, gt=0, le=10**12, description="until midnight in `timezone`")
    timezone: str = Field("UTC", description="in which the provider's day begins, such as America/Los_Angeles")
    burst: int | None = Field(
        None, gt=0, le=10**6, description="requests at once after a pause; each costs one a minute of the steady rate"
    )
    concurrency: int | None = Field(None, gt=0, le=10**6, description="requests under way at once, of all workers")

    @field_validator("timezone")
    @classmethod
    def _exists(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, OSError, LookupError):
            raise ValueError(f'there is no time zone "{name[:60]}"; write it like Europe/Berlin') from None
        return name

    def columns(self) -> tuple[Any, ...]:
        return (
            self.requests_per_minute, self.tokens_per_minute, self.requests_per_day, self.timezone, self.burst,
            self.concurrency,
        )  # fmt: skip
