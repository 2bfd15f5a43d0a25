"""One model as it is written down in gristmill.toml or in the database, and the key that it refers to."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from gristmill.errors import ModelSetupError
from gristmill.llm.providers import PROVIDERS
from gristmill.logs import hide

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
BindingName = Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]
SECRETS = "/run/secrets"  # where containers find theirs; systemd's is in CREDENTIALS_DIRECTORY
_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:[/~].*|secret:[A-Za-z0-9_][A-Za-z0-9_.-]*")
_BY_REFERENCE = 'a key is given by reference: "env:NAME", "file:/path" or "secret:NAME", never the key itself'
_SECRET_NAMES = ("api_key", "apikey", "api-key", "authorization", "access_token", "token", "secret", "password")


def _referred(given: str) -> str:
    if not _REFERENCE.fullmatch(given):
        raise ValueError(_BY_REFERENCE)
    return given


Reference = Annotated[str, AfterValidator(_referred)]


class ModelSettings(BaseModel):
    """A binding: which model, where, with which key and parameters. Times are in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str = Field(description="one of the names in `gristmill models --providers`")
    model: str = Field(min_length=1, max_length=300, description="the model's name at its provider")
    base_url: str | None = Field(None, description="another address than the provider's own")
    key: Reference | None = Field(None, description="`env:NAME`, `file:/path` or `secret:NAME`; never the key")
    parameters: dict[str, Any] = Field({}, description="sent as they are; 0 and empty text are values")
    headers: dict[str, str] = Field({}, description="further headers; none that holds a secret")
    limit: str | None = Field(None, min_length=1, max_length=200, description="the quota that its calls count under")
    timeout: float = Field(300.0, gt=0, le=86_400, description="for a whole call")
    first_byte: float = Field(120.0, gt=0, le=86_400, description="for the start of the answer")
    idle: float = Field(60.0, gt=0, le=86_400, description="for a pause within the answer")
    stream: bool = Field(False, description="ask for the answer in pieces, so that `idle` notices a silent server")
    structured: str | None = Field(None, description="form in which schemas are asked for, if not the best one")
    batch: bool = Field(False, description="ask through the provider's batch API: within a day, for less money")
    batch_wait: float = Field(15.0, ge=0, le=86_400, description="a batch goes off when no call joins it for so long")
    batch_size: int = Field(5_000, ge=1, le=50_000, description="calls that fill a batch")
    batch_again: Literal["batch", "single"] = Field("batch", description="how failed calls of a batch are asked again")

    @model_validator(mode="before")
    @classmethod
    def _no_secrets(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            inside = given.get("parameters")
            names = [*given, *(inside if isinstance(inside, Mapping) else ())]
            if any(str(name).lower() in _SECRET_NAMES for name in names):
                raise ValueError(_BY_REFERENCE)
        return given

    @field_validator("provider")
    @classmethod
    def _is_known(cls, provider: str) -> str:
        if provider not in PROVIDERS:
            near = difflib.get_close_matches(provider.casefold(), PROVIDERS, 1)
            raise ValueError(f"there is no such provider; {f'did you mean {near[0]}?' if near else 'see the list'}")
        return provider

    @model_validator(mode="after")
    def _has_batches(self) -> ModelSettings:
        if self.batch and PROVIDERS[self.provider].protocol == "gemini":
            raise ValueError("batch: there are none here for gemini; leave it out, or take OpenAI's or Anthropic's")
        return self

    @field_validator("parameters")
    @classmethod
    def _is_json(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(parameters, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise ValueError("parameters have to be JSON: text, numbers, true, false, lists, tables") from None
        return parameters

    @property
    def reference(self) -> str | None:
        """Where the key is: as written, else the provider's usual variable; None where no key is sent.

        A server that is not the provider's own gets only a key that was meant for it.
        """
        provider = PROVIDERS[self.provider]
        own = self.base_url is None or self.base_url.rstrip("/") == provider.base_url
        return self.key or (f"env:{provider.key}" if provider.key and own else None)


def told(error: ValidationError) -> str:
    """The first problem: where it is and what it is, without the value, which may be a key."""
    problem = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    words = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {words}" if place else words


def key_place(reference: str) -> str:
    """The name that errors show and that the default limit is made of: a variable's, a file's or a secret's."""
    kind, _, name = reference.partition(":")
    return Path(name).name if kind == "file" else name


def read_key(reference: str, environment: Mapping[str, str] | None = None) -> str | None:
    """The key, None when it is not set. Raises `ModelSetupError` M105 for a file that cannot be read or is empty."""
    environment = os.environ if environment is None else environment
    kind, _, name = reference.partition(":")
    if kind == "env":
        hide(environment.get(name))
        return environment.get(name) or None
    file = Path(name).expanduser()
    if kind == "secret":
        file = Path(environment.get("CREDENTIALS_DIRECTORY") or SECRETS) / name
    try:
        key = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ModelSetupError(f"the key file {file} cannot be read: {why}", code="M105") from None
    if not key:
        raise ModelSetupError(f"the key file {file} is empty", code="M105")
    hide(key)
    return key
