"""What there is to work with: projects, workflows, operators."""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import Field

from gristmill.api.new_runs import own_workflows, workflow_named
from gristmill.api.problems import NotFound
from gristmill.api.routing import router as new_router
from gristmill.api.run_views import PAGES
from gristmill.api.shapes import Answer, OpenApp
from gristmill.app import App
from gristmill.data.kinds import kind_of
from gristmill.errors import UsageError
from gristmill.operators.operator import Operator, registered
from gristmill.workflow import Workflow, kinds_of
from gristmill.workflow_files import read_workflow, shipped, workflow_text, write_workflow

router = new_router("library")


class Project(Answer):
    """A scope of runs and records; `current` is the one that this server works in."""

    name: str
    runs: int
    last_run: datetime | None = None
    current: bool = False


class WorkflowInfo(Answer):
    """`origin`: shipped, project (a file of the folder `workflows`), or run (known from a run only)."""

    name: str
    origin: Literal["shipped", "project", "run"]
    description: str = ""
    version: int = 1
    steps: list[str] = Field([])
    uses_model: bool = False
    last_run: int | None = None
    problem: str | None = None


class StepInfo(Answer):
    """A step of a workflow. `options` are set values with the defaults filled in."""

    name: str
    operator: str
    options: dict[str, Any]
    model: str | None
    uses_model: bool
    pool: str
    after: list[str] | None
    barrier: bool
    per: str | None
    takes: list[str]
    makes: list[str]


class WorkflowDetail(WorkflowInfo):
    """`text` is YAML that makes the same workflow; `sets` are its named sets of parameters."""

    text: str
    graph: list[StepInfo]
    sets: dict[str, dict[str, Any]] = Field({})


class OperatorInfo(Answer):
    """An operator of this server. `options` is the JSON schema of its options."""

    name: str
    version: int
    description: str
    takes: list[str]
    makes: list[str]
    pool: str
    barrier: bool
    isolate: bool
    uses_model: bool
    attempts: int
    timeout: float
    prompts: list[str]
    options: dict[str, Any]


@router.get("/projects")
async def projects(app: OpenApp) -> list[Project]:
    """All projects of the database."""
    current = app.settings.project
    found = [Project(**dict(row), current=row["name"] == current) for row in await app.pool.fetch(PAGES["projects"])]
    return found if any(one.current for one in found) else [*found, Project(name=current, runs=0, current=True)]


@router.get("/workflows")
async def workflows(app: OpenApp) -> list[WorkflowInfo]:
    """Workflows that can be started here, and those of earlier runs."""
    used = {row["name"]: row for row in await app.pool.fetch(PAGES["workflows_used"], app.settings.project)}
    made = []
    for name in sorted({*shipped(), *own_workflows(app)}):
        last = used.pop(name, None)
        made.append(_info(app, name, last["id"] if last else None))
    for name, row in used.items():
        steps = [step["name"] for step in json.loads(row["definition"]).get("steps", [])]
        made.append(WorkflowInfo(name=name, origin="run", steps=steps, last_run=row["id"]))
    return made


def _info(app: App, name: str, last_run: int | None) -> WorkflowInfo:
    own = own_workflows(app)
    if name not in own:
        return _read(name, workflow_text(name), "shipped").model_copy(update={"last_run": last_run})
    try:
        return _read(name, workflow_text(str(own[name])), "project").model_copy(update={"last_run": last_run})
    except UsageError as error:  # a file that somebody is just writing must not hide the others
        return WorkflowInfo(name=name, origin="project", problem=error.message, last_run=last_run)


@lru_cache(maxsize=256)
def _read(name: str, text: str, origin: Literal["shipped", "project"]) -> WorkflowInfo:
    flow, _ = read_workflow(text, name)
    return WorkflowInfo(
        name=name, origin=origin, description=_description(text), version=flow.version,
        steps=[spec.name for spec in flow.steps], uses_model=any(spec.operator.uses_model for spec in flow.steps),
    )  # fmt: skip


def _description(text: str) -> str:
    """The comment that a workflow file begins with."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    return " ".join(lines)


@router.get("/workflows/{name}")
async def one_workflow(
    name: Annotated[str, Path(min_length=1, max_length=100)], app: OpenApp
) -> WorkflowDetail:  # fmt: skip
    """A workflow with its steps, options and sets of parameters."""
    own = own_workflows(app)
    if name in own or name in shipped():
        text = workflow_text(str(own[name]) if name in own else name)
        flow, sets = workflow_named(app, name), read_workflow(text, name)[1]
        return WorkflowDetail(**_info(app, name, None).model_dump(), text=text, graph=_graph(flow), sets=sets)
    used = {row["name"]: row for row in await app.pool.fetch(PAGES["workflows_used"], app.settings.project)}
    if name not in used:
        raise NotFound(f'there is no workflow "{name}"', hint="those there are: GET /api/workflows")
    flow = Workflow.from_definition(used[name]["definition"])
    return WorkflowDetail(
        name=name, origin="run", version=flow.version, steps=[spec.name for spec in flow.steps],
        uses_model=any(spec.operator.uses_model for spec in flow.steps), last_run=used[name]["id"],
        text=write_workflow(flow), graph=_graph(flow),
    )  # fmt: skip


def _graph(flow: Workflow) -> list[StepInfo]:
    return [
        StepInfo(
            name=spec.name, operator=spec.operator.name, options=spec.operator.check_options(spec.options),
            model=spec.model, uses_model=spec.operator.uses_model, pool=spec.pool or spec.operator.pool,
            after=list(spec.follows) if spec.follows is not None else None, barrier=spec.operator.barrier,
            per=spec.per, takes=list(spec.operator.input_kinds), makes=kinds_of(spec),
        )
        for spec in flow.steps
    ]  # fmt: skip


@router.get("/operators")
async def operators() -> list[OperatorInfo]:
    """Every operator that this server knows, with the schema of its options."""
    return [_operator(one) for _, one in sorted(registered().items())]


def _operator(one: Operator) -> OperatorInfo:
    return OperatorInfo(
        name=one.name, version=one.version, description=(one.function.__doc__ or "").strip(),
        takes=list(one.input_kinds), makes=[kind_of(cls) for cls in one.output_types], pool=one.pool,
        barrier=one.barrier, isolate=one.isolate, uses_model=one.uses_model, attempts=one.attempts,
        timeout=one.timeout, prompts=list(one.prompts), options=one.options_model.model_json_schema(),
    )  # fmt: skip
