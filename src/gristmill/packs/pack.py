"""What a pack is: a folder with `pack.yaml` and `actions/*.yaml`. Reading one from disk: `check.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gristmill.packs.files import digest_of

PACK_FILE = "pack.yaml"
WHEELS = "wheels"  # a folder of a pack: where its requirements are taken from, and nowhere else
PackRef = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
ActionRef = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}\.[a-z][a-z0-9_]{0,59}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+){0,3}([a-z0-9.+-]{0,20})$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
MIB = 2**20


class Bounds(BaseModel):
    """What one run of an action may use. `memory` is of each of its processes, and of all together."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    memory: int = Field(1024, ge=256, le=2**20, description="MiB of address space of each process, of memory in all")
    cpu: int | None = Field(None, ge=1, le=10**6, description="seconds of CPU time of each process")
    processes: int = Field(64, ge=1, le=4096, description="processes at the same time")
    output: int = Field(1, ge=1, le=16, description="MiB of standard output, and of standard error, that are kept")
    file_size: int = Field(1024, ge=1, le=2**20, description="MiB of each file that it writes")


class Action(BaseModel):
    """One action, as its file says it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ref: ActionRef = Field(description="`PACK.NAME`, which is also the operator's name in workflows")
    label: str = Field("", max_length=200, description="for people")
    description: str = Field("", max_length=4000, description="for people")
    runner: Literal["shell", "python", "native"] = Field(description="`/bin/sh`, Python, or an executable file")
    entry: str = Field(min_length=1, max_length=300, description="the file that is run, from the pack's folder")
    parameters: dict[str, Any] = Field(NO_PARAMETERS, description="JSON schema of an object")
    delivery: Literal["stdin", "env", "file"] = Field("stdin", description="how it is told what to do")
    output: Literal["text", "json", "yaml", "jsonl"] = Field("text", description="what its standard output is")
    takes: tuple[str, ...] = Field((), description="kinds of records that it takes; none: all")
    makes: str | None = Field(None, description="kind of the records that its output is; none: `action_result`")
    files: bool = Field(False, description="whether it gets the bytes behind `blob` and `text_blob` as files")
    timeout: float = Field(60.0, gt=0, le=86_400, description="seconds of one attempt")
    attempts: int = Field(3, ge=1, le=1000, description="how often it is tried")
    pool: str = Field("*", min_length=1, max_length=200, description="pool that its tasks wait in")
    locks: dict[str, int] = Field({}, description="a lock, `KIND:NAME`, and how many may hold it at once")
    limits: Bounds = Field(Bounds(), description="see below")
    environment: dict[Variable, str] = Field({}, description="variables that are always the same")
    inherit: tuple[Variable, ...] = Field((), description="variables that the worker's own environment gives")
    requirements: tuple[str, ...] = Field((), description="Python packages of an environment of its own")


class About(BaseModel):
    """`pack.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ref: PackRef = Field(description="short name; the actions' names begin with it")
    label: str = Field("", max_length=200, description="for people")
    description: str = Field("", max_length=4000, description="for people")
    version: Version = Field(description="for example 1.2.0; a change of any file needs a new one")
    settings: dict[str, Any] = Field(NO_PARAMETERS, description="JSON schema of `[packs.NAME]` in gristmill.toml")


@dataclass(frozen=True)
class Pack:
    """A pack that was checked. `files` are all its files: path with "/" -> (whether it is executable, content)."""

    folder: Path
    about: About
    actions: tuple[Action, ...]
    files: Mapping[str, tuple[bool, bytes]] = field(repr=False)

    @property
    def ref(self) -> str:
        return self.about.ref

    @property
    def digest(self) -> str:
        """sha256 over all files, 64 hex digits."""
        return digest_of(self.files)
