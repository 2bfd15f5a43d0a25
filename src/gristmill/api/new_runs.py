"""Runs that a caller starts: which workflow, which inputs, and what they would take."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from gristmill.api.access import Caller
from gristmill.api.problems import Refused
from gristmill.api.shapes import Answer, Body
from gristmill.app import App
from gristmill.data.selection import Inputs, folder_of, is_url
from gristmill.errors import UsageError
from gristmill.run import Run
from gristmill.workflow import Workflow
from gristmill.workflow_files import assign, configured, shipped

OWN = "workflows"  # folder of the project's own, beside the data folder
SOURCES = 1_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Value = str | int | float | bool | None | list[Any] | dict[str, Any]


class NewRun(Body):
    """A run to start or to foresee: a workflow over `sources` (places on the server, URLs) or over an `upload`.

    `parameters` are options by step: {"split.size": 800}; `set` is one of the workflow's named sets of them, before
    those. `model` goes to every step that uses one and names none. `budget` is what the run may spend. The same call
    again goes on with the same run, unless `fresh`. `name`: what a new run is called, instead of "qa-7".
    """

    workflow: Annotated[str, Field(min_length=1, max_length=100)] = "qa"
    name: Annotated[str | None, Field(min_length=1, max_length=100)] = None
    sources: Annotated[list[Text], Field(max_length=SOURCES)] = Field([])
    upload: Annotated[str | None, Field(min_length=1, max_length=100)] = None
    parameters: Annotated[dict[str, Value], Field(max_length=200)] = Field({})
    set: Annotated[str | None, Field(min_length=1, max_length=100)] = None
    model: Annotated[str | None, Field(min_length=1, max_length=200)] = "extractive"
    budget: Annotated[Decimal | None, Field(ge=0, le=Decimal(10**9))] = None
    fresh: bool = False
    reuse: bool = True
    after: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=20)] = Field([])
    events: Literal["run", "items", "tasks"] = "items"
    include: Annotated[list[Text], Field(max_length=50)] = Field([])
    exclude: Annotated[list[Text], Field(max_length=50)] = Field([])


class OnceMore(Body):
    """The same workflow over the same inputs, with another `model` (of one `stage`, or of all that use one), or with
    other options ({"split.size": 800}). What that does not change is not done again."""

    model: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    stage: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    parameters: Annotated[dict[str, Value], Field(max_length=200)] = Field({})
    budget: Annotated[Decimal | None, Field(ge=0, le=Decimal(10**9))] = None
    fresh: bool = False


class PlanStep(Answer):
    """What one step will take. Ranges are [low, likely, high]."""

    name: str
    model: str | None
    barrier: bool
    inputs: list[float]
    outputs: list[float]
    calls: list[float]
    known: list[float]
    tokens_in: list[float]
    tokens_out: list[float]
    cost: list[float] | None
    currency: str | None


class Plan(Answer):
    """A forecast from a sample of the real inputs; nothing was sent, and nothing in it is a promise. Ranges are
    [low, likely, high]; `known` calls are answered from the ledger; `assumed` says what had to be guessed."""

    workflow: str
    model: str | None
    files: int
    unreadable: int
    bytes: int
    sampled: int
    steps: list[PlanStep]
    calls: list[float]
    known: list[float]
    tokens_in: list[float]
    tokens_out: list[float]
    cost: dict[str, list[float]] = Field(description="by currency, in its units")
    unpriced: float
    seconds: list[float]
    bound_by: str
    disk_bytes: int
    assumed: list[str]


def project_folder(app: App) -> Path:
    """Below which a caller names places: the folder that holds the data folder."""
    return app.settings.home.resolve().parent


def own_workflows(app: App) -> dict[str, Path]:
    """Files of the project's folder `workflows` by name."""
    folder = project_folder(app) / OWN
    if not folder.is_dir():
        return {}
    files = sorted(entry for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml"))
    return {file.stem: file for file in files if _NAME.fullmatch(file.stem) and not file.is_symlink()}


def workflow_named(
    app: App, name: str, chosen_set: str | None = None, values: Mapping[str, Any] | None = None
) -> Workflow:
    """A workflow that was shipped, or one of the project's folder `workflows`; never code, and no other file.

    Raises `UsageError` U301 to U304, `WorkflowError` for options that do not fit.
    """
    own = own_workflows(app)
    if name not in own and name not in shipped():
        known = ", ".join([*own, *shipped()])
        raise UsageError(
            f'there is no workflow "{name[:100]}"', code="U301",
            hint=f"known: {known}; your own go into the folder {OWN} beside the data folder",
        )  # fmt: skip
    flow = configured(str(own[name]) if name in own else name, (), chosen_set)
    return assign(flow, values) if values else flow


async def inputs_of(app: App, wanted: NewRun, caller: Caller) -> Inputs:
    """The places of a run to start. Raises `UsageError` U101 for one that is not there, `Refused` 403 for a place
    outside of the project's folder that the caller may not name, `NotFound` for an upload that does not exist."""
    if bool(wanted.sources) == bool(wanted.upload):
        raise UsageError("name sources, or an upload: one of the two", code="A422", safe="nothing was started")
    places: list[Path | str] = []
    if wanted.upload is not None:
        from gristmill.api.uploads import upload_folder

        places.append(await upload_folder(app, wanted.upload))
    places += [
        source if is_url(source) else await asyncio.to_thread(_place, app, source, caller) for source in wanted.sources
    ]
    return Inputs.of(places, include=wanted.include, exclude=wanted.exclude)


def _place(app: App, source: str, caller: Caller) -> Path:
    root = project_folder(app)
    if "\0" in source:
        raise UsageError("a path has no NUL", code="U101", safe="nothing was started")
    path = Path(os.path.normpath(root / source))
    real = Path(os.path.realpath(folder_of(str(path))))
    if real != root and root not in real.parents and not caller.may("admin"):
        raise Refused(
            403, "that place is outside of the project's folder: it takes admin", code="A403",
            hint="upload the files, or put them below the folder that holds the data folder",
            safe="nothing was started",
        )  # fmt: skip
    if not os.path.exists(real):  # also for a name that is longer than a name can be
        raise UsageError(f"there is no such file or folder: {source[:300]}", code="U101", safe="nothing was started")
    return path


async def chosen_workflow(app: App, wanted: NewRun) -> Workflow:
    """The workflow with its options and its model, whose model can be opened. Raises what those raise."""
    flow = workflow_named(app, wanted.workflow, wanted.set, wanted.parameters)
    if wanted.model:
        await app.models.open(wanted.model)
    return flow


async def start(app: App, wanted: NewRun, caller: Caller, before: Sequence[Run]) -> Run:
    """Starts the run, or goes on with it. Raises what `inputs_of` and `App.start` raise."""
    flow = await chosen_workflow(app, wanted)
    inputs = await inputs_of(app, wanted, caller)
    return await app.start(
        flow, inputs, model=wanted.model, fresh=wanted.fresh, after=before, events=wanted.events,
        budget=wanted.budget, reuse=wanted.reuse, name=wanted.name,
    )  # fmt: skip


async def again(app: App, run: Run, inputs: Sequence[str], wanted: OnceMore) -> Run:
    """A run like that one, with another model or other options. Raises `UsageError` U302 for a stage that it does not
    have or that uses no model, and what `App.start` raises."""
    steps = {spec.name: spec for spec in run.workflow.steps}
    fitting = [name for name, spec in steps.items() if spec.operator.uses_model and wanted.stage in (None, name)]
    if wanted.stage is not None and not (wanted.model and fitting):
        raise UsageError(
            f'"{wanted.stage}" is no stage of {run.name} whose model could be another', code="U302",
            hint="a stage goes with a model; options are set by parameters", safe="nothing was started",
        )  # fmt: skip
    if wanted.model:
        await app.models.open(wanted.model)
        steps |= {name: replace(steps[name], model=wanted.model) for name in fitting}
    flow = Workflow(run.workflow.name, list(steps.values()), run.workflow.version, reuse=run.workflow.reuse)
    flow = assign(flow, wanted.parameters) if wanted.parameters else flow
    return await app.start(flow, Inputs.from_plain(inputs), budget=wanted.budget, fresh=wanted.fresh)


async def plan(app: App, wanted: NewRun, caller: Caller) -> Plan:
    """What the run would take. Raises what `start` raises."""
    from gristmill.forecast import foreseen

    flow = (await chosen_workflow(app, wanted)).with_model(wanted.model)
    flow = flow if wanted.reuse else flow.apart()
    for spec in flow.steps:
        if spec.operator.uses_model and spec.model is None:
            raise UsageError(f'step "{spec.name}" needs a model', code="U305", hint='"model": "extractive"')
    inputs = await inputs_of(app, wanted, caller)
    return Plan.model_validate(await foreseen(app, flow, inputs))
