"""Settings: environment over gristmill.toml over the user's own file over defaults. Every value knows its origin."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gristmill.data.compression import Compress
from gristmill.errors import ConfigurationError
from gristmill.llm.model_settings import BindingName, ModelSettings, told
from gristmill.llm.prices import Caps, Price
from gristmill.llm.quota_settings import LimitSettings

FILE = "gristmill.toml"
HANDED_ON = "GRISTMILL_HANDED_ON"  # the App's settings for its workers, as JSON
ENVIRONMENT = {
    "GRISTMILL_HOME": "home",
    "GRISTMILL_DATABASE_URL": "database_url",
    "GRISTMILL_PROJECT": "project",
    "GRISTMILL_WORKERS": "workers",
    "GRISTMILL_LANGUAGE": "language",
    "GRISTMILL_LEASE": "lease",
    "OPENAI_BASE_URL": "openai_base_url",
}


class Settings(BaseModel):
    """All settings. Times are in seconds. The table in docs/reference/settings.md is made from this class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path = Field(Path(".gristmill"), description="folder of the embedded database, the blobs and the logs")
    database_url: str | None = Field(None, description="another PostgreSQL (14 or newer) instead of the embedded one")
    project: str = Field("default", min_length=1, max_length=100, description="scope of runs and records")
    language: str = Field("en", pattern=r"^[a-z]{2}(-[A-Z]{2})?$", description="language of prompts and questions")
    prompts: Path | None = Field(None, description="folder of prompts of your own, `LANGUAGE/NAME.md`")
    openai_base_url: str | None = Field(None, description="any server that speaks OpenAI's chat completions")
    openai_key_file: Path | None = Field(None, description="file with the key, if it is not in OPENAI_API_KEY")
    models: dict[BindingName, ModelSettings] = Field({}, description="models under names of your own: `[models.NAME]`")
    prices: dict[str, Price] = Field(
        {},
        description='prices per million tokens that win over the shipped ones: `[prices."provider:model"]`',
    )
    limits: dict[str, LimitSettings] = Field({}, description="what providers allow, for all workers: `[limits.NAME]`")
    budget: Caps = Field(
        Caps(), description="what may be spent: `run`, `day`, `project`, `currency`, `timezone`, `strict`"
    )
    workers: int = Field(2, ge=0, le=10, description="worker processes that `run` starts; more than 10 need `up`")
    pools: dict[str, int] = Field(
        {"parse": 1, "model": 32, "notify": 4, "*": 3},
        description="slots of each worker per pool: parsing keeps a core busy, calls and notifications mostly wait",
    )
    lease: float = Field(15.0, ge=2, le=600, description="a worker whose host vanished is given up after this time")
    beat: float = Field(3.0, ge=0.2, le=60, description="time between two renewals of the lease; five fit into it")
    probe: float = Field(0.25, ge=0.05, le=10, description="time between two looks for dead workers")
    confirm: float = Field(
        0.5, ge=0.1, le=10, description="a vanished lock is believed when seen twice, this far apart"
    )
    stall_after: float = Field(10.0, ge=1, le=600, description="a worker that answers no ping for so long is killed")
    poll: float = Field(1.0, ge=0.02, le=60, description="longest wait between two looks for work")
    shutdown: float = Field(30.0, ge=0, le=3600, description="how long a stopping worker finishes what it has begun")
    turn_every: int = Field(
        10,
        ge=0,
        description="of so many tasks of a pool one is the one that waits longest, whatever its priority; 0: none",
    )
    backoff: float = Field(1.0, ge=0, le=600, description="wait after the first failure; doubles, at most 300 s")
    smtp_host: str | None = Field(None, description="mail server of hooks that send e-mail")
    smtp_port: int = Field(587, ge=1, le=65535, description="its port; 465 for `tls`")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="how the connection is encrypted; with `none` no password is sent"
    )
    smtp_user: str | None = Field(None, description="who logs in; without it nobody does")
    smtp_password: str | None = Field(
        None, pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:/.+)$",
        description="where the password is: `env:NAME` or `file:/path`, never the password",
    )  # fmt: skip
    mail_from: str | None = Field(None, description="sender of e-mail; without it `smtp_user`")
    keep_finished: float = Field(
        86_400.0, ge=60, description="how long finished tasks and events stay in the hot tables; then they are history"
    )
    keep_history: float = Field(
        7_776_000.0, ge=0, description="history older than this is dropped, a week at once; 0 keeps it for ever"
    )
    allow_private_urls: bool = Field(
        False, description="whether inputs may be fetched from this machine and from private networks"
    )
    fetch_timeout: float = Field(60.0, gt=0, le=3600, description="how long fetching one URL may take, redirects too")
    docling_url: str | None = Field(
        None, pattern=r"^https?://", description="a docling-serve for `parse` with `backend: docling`"
    )
    blobs: str | None = Field(
        None, pattern=r"^s3://[^/]+", description="a store that machines share, `s3://bucket/prefix`; keys from AWS_*"
    )
    compress: Compress = Field(Compress(), description="what is stored with zstd: `kinds` of records and `level`")
    api_host: str = Field("127.0.0.1", description="address on which the API and the page are served")
    api_port: int = Field(7373, ge=0, le=65535, description="its port; 0 takes a free one")
    api_hosts: tuple[str, ...] = Field((), description="names that the server is called by, besides its addresses")
    api_proxies: tuple[str, ...] = Field(
        (), description="networks of proxies whose X-Forwarded-User and -Role say who asks: `10.0.0.5/32`"
    )
    api_upload: int = Field(2 * 2**30, ge=1, description="bytes that one upload may have")
    disk_reserve: int = Field(256 * 2**20, ge=0, description="bytes that stay free on the disk of the blobs")


class LoadedSettings:
    """Settings together with where each value came from ("default", "environment GRISTMILL_HOME", "gristmill.toml")."""

    def __init__(self, values: Settings, origins: Mapping[str, str]) -> None:
        self.values = values
        self.origins = dict(origins)


def load_settings(
    folder: Path | None = None, environment: Mapping[str, str] | None = None, **overrides: Any
) -> LoadedSettings:
    """Reads all sources. `folder` (default: the working folder) is searched upward for gristmill.toml.

    Raises `ConfigurationError` U201 for an unknown setting (names the nearest), U202 for a value out of range,
    U203 for a file that is not TOML.
    """
    environment = os.environ if environment is None else environment
    start = (folder or Path.cwd()).resolve()
    merged: dict[str, Any] = {}
    origins: dict[str, str] = dict.fromkeys(Settings.model_fields, "default")

    def take(values: Mapping[str, Any], origin: str) -> None:
        for name, value in values.items():
            if name not in Settings.model_fields:
                raise _unknown(name, origin)
            both = (
                name in ("models", "prices", "limits")
                and isinstance(value, dict)
                and isinstance(merged.get(name), dict)
            )
            merged[name] = {**merged[name], **value} if both else value
            origins[name] = origin

    for file in (Path(environment.get("HOME", "~")).expanduser() / ".config/gristmill/config.toml", _upward(start)):
        if file is not None and file.is_file():
            take(_read(file), str(file))
    take({name: environment[key] for key, name in ENVIRONMENT.items() if environment.get(key)}, "environment")
    if HANDED_ON in environment:  # from the App that started this worker
        take(json.loads(environment[HANDED_ON]), "the process that started this one")
    take({name: value for name, value in overrides.items() if value is not None}, "argument")
    try:
        values = Settings.model_validate(merged)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        raise ConfigurationError(
            f"setting {told(error)} ({origins.get(name, 'default')})", code="U202",
            hint=f"{Settings.model_fields[name].description}" if name in Settings.model_fields else "",
        ) from None  # fmt: skip
    places = {"home": start / values.home, "prompts": start / values.prompts if values.prompts else None}
    return LoadedSettings(values.model_copy(update=places), origins)


def _upward(start: Path) -> Path | None:
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return folder / FILE
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}", code="U203") from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}", code="U203") from None


def _unknown(name: str, origin: str) -> ConfigurationError:
    near = difflib.get_close_matches(name, Settings.model_fields, 1)
    return ConfigurationError(
        f'unknown setting "{name}" in {origin}', code="U201",
        hint=f'did you mean "{near[0]}"?' if near else f"known: {', '.join(Settings.model_fields)}",
    )  # fmt: skip
