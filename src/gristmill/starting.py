"""The task `run.start`: a run that is started by a schedule or a hook, in whichever worker claims it.

It is what `gristmill run` does: the same workflow over the same paths finds the same run, and does only what is new.
So it may run twice (a worker died right before its commit) and nothing is done twice.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from gristmill.data.selection import Inputs, folder_of, is_url
from gristmill.errors import InputError, TransientError, UsageError
from gristmill.workflow import Workflow
from gristmill.workflow_files import configured

RUN_START = "run.start"


class Started(Protocol):
    """What is told about the run."""

    @property
    def id(self) -> int: ...

    @property
    def name(self) -> str: ...


class Starter(Protocol):
    """What starts runs: the App."""

    async def start(
        self, workflow: Workflow, sources: Sequence[Path | str], *, model: str | None = None
    ) -> Started: ...


def start_options(
    paths: Sequence[Path | str], workflow: str = "qa", model: str | None = "extractive", assignments: Sequence[str] = ()
) -> dict[str, Any]:
    """The payload of a `run.start` task, once the workflow and its options are known to fit.

    Relative paths are made absolute: workers have another working directory. Raises `UsageError` U101 for a path that
    is not there, U301 and U302, `WorkflowError`.
    """
    configured(workflow, assignments)
    places = Inputs.of(paths).places
    missing = _missing(places)
    if missing or not paths:
        raise UsageError(f"there is no such file or folder: {', '.join(missing) or '(none was named)'}", code="U101")
    return {
        "paths": list(places), "workflow": workflow, "model": model,
        "set": list(assignments),
    }  # fmt: skip


async def start_run(payload: dict[str, Any], starter: Starter) -> dict[str, Any]:
    """Starts the run that the payload describes, or goes on with it; returns its id and name.

    Raises `TransientError` T320 while a path is not there: a folder that is not mounted must not look like one whose
    files were all taken away. `InputError` T321 for a payload that can never be started.
    """
    try:
        paths = Inputs.of(payload["paths"]).places
        flow = configured(payload["workflow"], payload.get("set", []))
        model = payload.get("model")
    except UsageError as error:
        raise InputError(error.message, code="T321", hint=error.hint) from None
    except (KeyError, TypeError) as error:
        raise InputError(f"the payload of {RUN_START} cannot be read: {error!r}", code="T321") from None
    missing = await asyncio.to_thread(_missing, paths)
    if missing or not paths:
        raise TransientError(f"not there: {', '.join(missing) or 'any path'}", code="T320")
    run = await starter.start(flow, paths, model=model)
    return {"run": run.id, "name": run.name}


def _missing(places: Sequence[str]) -> list[str]:
    """Called in a thread: a dead network mount answers late. A glob is there when its folder is."""
    return [place for place in places if not (is_url(place) or os.path.exists(folder_of(place)))]


HANDLERS: Mapping[str, Callable[[dict[str, Any], Any], Awaitable[dict[str, Any]]]] = MappingProxyType(
    {RUN_START: start_run}
)
