"""Settings: environment over gristmill.toml over pyproject.toml over the user's own file over defaults.

Every value knows its origin, and every wrong one is told, all at once.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gristmill.data.compression import Compress
from gristmill.engine.worker_spec import SpecName, WorkerSpec
from gristmill.errors import ConfigurationError
from gristmill.llm.model_settings import BindingName, ModelSettings, Reference
from gristmill.llm.prices import Caps, Price
from gristmill.llm.quota_settings import LimitSettings
from gristmill.settings_files import SettingsFile, find_files, read_file
from gristmill.settings_problems import Problem, problems_of, unknown

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
    crew: dict[SpecName, WorkerSpec] = Field(
        {}, description="kinds of workers that `gristmill up` keeps alive: `[workers.NAME]`"
    )
    crew_name: str | None = Field(
        None, pattern=r"^\S{1,100}$", description="name of the crew; without it that of the machine"
    )
    most_workers: int = Field(10, ge=0, le=1000, description="workers of a crew at once; one more is refused")
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
    stall_after: float = Field(10.0, ge=2, le=600, description="a worker that answers no ping for so long is killed")
    stuck_after: float = Field(
        300.0, ge=0, le=86_400, description="a worker that has not looked for work for so long is killed; 0: never"
    )
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
    keep_requests: bool = Field(
        True, description="whether the ledger keeps what models were asked, beside what they answered"
    )
    fetch_timeout: float = Field(60.0, gt=0, le=3600, description="how long fetching one URL may take, redirects too")
    packs: dict[str, dict[str, Any]] = Field({}, description="settings of packs of actions: `[packs.NAME]`")
    packs_from_database: bool = Field(
        False,
        description="whether workers run packs whose files only the database has; else each machine installs them",
    )
    docling_url: str | None = Field(
        None, pattern=r"^https?://", description="a docling-serve for `parse` with `backend: docling`"
    )
    detector_url: str | None = Field(
        None, pattern=r"^https?://", description="a detector for the step `detect_http`: pictures in, boxes out"
    )
    blobs: str | None = Field(
        None,
        pattern=r"^(s3://[^/]+|(file://)?/)",
        description="a store that machines share: `s3://bucket/prefix` with keys from AWS_*, or an absolute path",
    )
    compress: Compress = Field(Compress(), description="what is stored with zstd: `kinds` of records and `level`")
    api_host: str = Field("127.0.0.1", description="address on which the API and the page are served")
    api_port: int = Field(7373, ge=0, le=65535, description="its port; 0 takes a free one")
    api_token: Reference | None = Field(
        None, description="where a token of an admin is: `env:NAME`, `file:/path` or `secret:NAME`, never the token"
    )
    api_hosts: tuple[str, ...] = Field((), description="names that the server is called by, besides its addresses")
    api_proxies: tuple[str, ...] = Field(
        (), description="networks of proxies whose X-Forwarded-User and -Role say who asks: `10.0.0.5/32`"
    )
    api_upload: int = Field(2 * 2**30, ge=1, description="bytes that one upload may have")
    disk_reserve: int = Field(256 * 2**20, ge=0, description="bytes that stay free on the disk of the blobs")
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        "info", description="the least that is logged: debug, info, warning, error or critical"
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="how lines of logs look: text, JSON, or text on a terminal and JSON elsewhere"
    )

    @model_validator(mode="after")
    def _each_annotator_once(self) -> Settings:
        who = [(spec.annotator, spec.domain) for spec in self.crew.values() if spec.enabled and spec.annotator]
        for (annotator, domain), times in Counter(who).items():
            if times > 1:
                where = f" in {domain}" if domain else ""
                raise ValueError(f'workers: two kinds of worker are annotator "{annotator}"{where}; disable one')
        if "api" in self.crew:
            raise ValueError('workers: a kind of worker cannot be called "api"; that is the place of the API')
        return self


class LoadedSettings:
    """Settings together with where each value came from ("default", "environment GRISTMILL_HOME", "/etc/x.toml:12").

    `origins` knows settings ("lease") and values within tables ("models.fast.timeout"); `files` are those that count.
    """

    def __init__(self, values: Settings, origins: Mapping[str, str], files: Sequence[Path] = ()) -> None:
        self.values = values
        self.origins = dict(origins)
        self.files = tuple(files)


TABLES = ("models", "prices", "limits", "crew")  # of several sources, put together by name


class _Sources:
    """Values and their origins, put together from the least source to the strongest."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, str] = dict.fromkeys(Settings.model_fields, "default")
        self.problems: list[Problem] = []

    def take(self, name: str, value: Any, origin: str) -> None:
        both = name in TABLES and isinstance(value, dict) and isinstance(self.values.get(name), dict)
        self.values[name] = {**self.values[name], **value} if both else value
        self.origins[name] = origin

    def take_file(self, file: SettingsFile) -> None:
        for written, value in file.values.items():
            # `workers = 2` is how many `run` starts; tables [workers.NAME] are what `up` keeps alive.
            name = "crew" if written == "workers" and isinstance(value, dict) else written
            if name not in Settings.model_fields or written == "crew":
                self.problems.append(unknown(written, file.place((written,)), Settings))
                continue
            self.take(name, value, file.place((written,)))
            for path in file.lines:
                if len(path) > 1 and path[0] == written:
                    self.origins[".".join((name, *path[1:]))] = file.place(path)

    def take_environment(self, environment: Mapping[str, str]) -> None:
        named = {f"GRISTMILL_{name.upper()}": name for name in Settings.model_fields} | ENVIRONMENT
        for variable, name in named.items():
            if given := environment.get(variable):
                self.take(name, _parsed(name, given), f"environment {variable}")
        if HANDED_ON in environment:  # from whoever started this worker
            for name, value in json.loads(environment[HANDED_ON]).items():
                self.take(name, value, "the process that started this one")


def load_settings(
    folder: Path | None = None, environment: Mapping[str, str] | None = None, **overrides: Any
) -> LoadedSettings:
    """Reads all sources. `folder` (default: the working folder) is searched upward for gristmill.toml and for a table
    [tool.gristmill] in pyproject.toml.

    Raises `ConfigurationError`, which names every wrong value: U201 when all of them are unknown (with the nearest
    name), U202 when one is out of range; U203 for a file that is not TOML.
    """
    environment = os.environ if environment is None else environment
    start = (folder or Path.cwd()).resolve()
    files = find_files(start, Path(environment.get("HOME", "~")).expanduser())
    sources = _Sources()
    for file in files:
        sources.take_file(read_file(file))
    sources.take_environment(environment)
    for name, value in overrides.items():
        if value is not None:
            sources.take(name, value, "argument")
    try:
        values = Settings.model_validate(sources.values)
    except ValidationError as error:
        sources.problems += problems_of(error, sources.values, sources.origins, Settings)
    if sources.problems:
        raise _refused(sources.problems)
    places = {"home": start / values.home, "prompts": start / values.prompts if values.prompts else None}
    return LoadedSettings(values.model_copy(update=places), sources.origins, files)


def _parsed(name: str, text: str) -> Any:
    """What a variable says: text as it is, tables as TOML writes them in one line."""
    if text.lstrip().startswith(("{", "[")) and name not in ("database_url", "home"):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return text


def _refused(problems: Sequence[Problem]) -> ConfigurationError:
    told = [str(problem) for problem in problems]
    code = "U201" if all(problem.unknown for problem in problems) else "U202"
    if len(problems) == 1:
        return ConfigurationError(told[0], code=code, hint=problems[0].remedy, problems=told)
    lines = "".join(f"\n  {line}{f': {p.remedy}' if p.remedy else ''}" for line, p in zip(told, problems, strict=True))
    return ConfigurationError(
        f"{len(problems)} settings are wrong:{lines}", code=code, problems=told,
        hint="correct them all, then look with: gristmill doctor --config", safe="nothing was started",
    )  # fmt: skip
