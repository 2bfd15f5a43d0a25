"""An annotation project: what a run annotated, as tasks of Label Studio, kept in the database.

A piece names the records that it is made of. Records never change, so these ids are the snapshot. All pieces are
written in one transaction; making the project again, while its run goes on or after it, adds what is new.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import asyncpg

from gristmill.data import records
from gristmill.data.annotations import ANNOTATIONS, Annotation
from gristmill.data.kinds import KINDS
from gristmill.db.database import LONG, transaction
from gristmill.db.statements import statements
from gristmill.errors import UsageError
from gristmill.review.label_studio.flow import Flow, flow_of
from gristmill.review.label_studio.labeling import Labeling, configuration, parse_configuration
from gristmill.review.label_studio.results import Item, to_result
from gristmill.review.label_studio.schema import labeling_of, labels_in
from gristmill.review.label_studio.subjects import Address, Subject, picture_name
from gristmill.review.states import REVIEWED

SQL = statements("label_studio")
BATCH = 200  # pieces whose bodies are held at once
Mode = Literal["annotations", "predictions"]


class RunLike(Protocol):
    """What is needed of a `Run`."""

    id: int
    name: str
    workflow: Any
    app: Any


@dataclass(frozen=True)
class Piece:
    """One task. `result` is None where only a person can say; `predictions` are ready to be sent."""

    subject: Subject
    ordinal: int
    annotation_id: int | None
    standing_id: int | None
    result: list[Item] | None
    predictions: list[dict[str, Any]]

    def document(self, labeling: Labeling, address: Address = picture_name) -> dict[str, Any]:
        """The task as it is imported."""
        made: dict[str, Any] = {"data": self.subject.data(labeling.data_field, address)}
        if self.result is not None:
            made["annotations"] = [{"result": self.result, "ground_truth": False}]  # true where nothing is said
        if self.predictions:
            made["predictions"] = self.predictions
        return made


@dataclass(frozen=True, slots=True)
class Project:
    """A project as it is stored. `mode` says what the run's proposals are in it; what people decided is always an
    annotation. `config` is XML."""

    id: int
    project: str
    name: str
    mark: uuid.UUID  # told to servers
    run_id: int
    step: int  # of the run's workflow, that annotates
    kind: str
    scale: str | None
    mode: Mode
    config: str
    run_state: str  # of the run, when the project was made

    @property
    def labeling(self) -> Labeling:
        return parse_configuration(self.config)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Project:
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})

    async def pieces(self, pool: asyncpg.Pool[Any]) -> AsyncIterator[Piece]:
        """Its tasks in order, a page in memory at a time."""
        last = -1
        while page := await pool.fetch(SQL["pieces"], self.id, last, BATCH):
            subjects = await subjects_of(pool, {row["subject_id"]: json.loads(row["about"]) for row in page})
            for row in page:
                yield Piece(
                    subjects[row["subject_id"]], row["ordinal"], row["annotation_id"], row["standing_id"],
                    None if row["result"] is None else json.loads(row["result"]), json.loads(row["predictions"]),
                )  # fmt: skip
            last = page[-1]["ordinal"]


@dataclass(slots=True)
class Made:
    """What became of a project: how many tasks, how many with something in them, and what could not be said."""

    project: Project
    pieces: int = 0
    annotated: int = 0
    unsaid: list[str] = field(default_factory=list)  # a sentence for each annotation that was left out


async def make_project(
    run: RunLike, *, name: str | None = None, kind: str | None = None, scale: str | None = None,
    mode: Mode = "annotations", tree: bool = False, by: str = "",
) -> Made:  # fmt: skip
    """Makes a project of a run, or brings it up to date: the same name finds the same one. A run that is under way or
    was stopped gives what is there; what nobody has annotated yet becomes a task without an annotation.

    `name` is the run's by default, `kind` the kind of the last annotating step, `scale` the only one of ratings; `tree`
    offers classes as a tree of "a/b". Raises `UsageError`: L120 the run annotates nothing, or not that; L121 it
    rates on several scales; L122 the name belongs to another run or kind; L101 a label that Label Studio cannot have.
    """
    flow = flow_of(run.workflow, kind)
    app = run.app
    scale = scale or await _only_scale(app.pool, run, flow)
    wanted = (app.settings.project, name or run.name)
    async with transaction(app.pool) as connection:
        await connection.execute("set local statement_timeout = 0")
        await connection.execute(SQL["lock_project"], *wanted)
        found = await connection.fetchrow(SQL["project_named"], *wanted)
        if found is not None and (found["run_id"], found["kind"], found["scale"]) != (run.id, flow.kind, scale):
            raise UsageError(
                f'the project "{wanted[1]}" holds the {found["kind"]} of another run, or of another scale', code="L122",
                hint="name another one: --name NAME", safe="nothing was changed",
            )  # fmt: skip
        groups = await _groups(connection, run.id, flow, scale)
        if not groups:
            raise UsageError(f"{run.name} has made nothing to annotate yet", code="L120", safe="nothing was changed")
        before = parse_configuration(found["config"]) if found is not None else None
        labeling = await _labeling(connection, flow, groups, scale, tree, before)
        state = await connection.fetchval("select state from run where id = $1", run.id)
        config = configuration(labeling)
        if found is None:
            values = (run.id, flow.steps[-1], flow.kind, scale, mode, config, state, by)
            row = await connection.fetchrow(SQL["add_project"], *wanted, *values)
        else:
            row = await connection.fetchrow(SQL["change_project"], found["id"], config, state)
        made = Made(Project.of(row))
        for at in range(0, len(groups), BATCH):
            await _put(connection, made, labeling, groups[at : at + BATCH], at)
    return made


async def find_project(pool: asyncpg.Pool[Any], project: str, name: str) -> Project:
    """The project of that name. Raises `UsageError` L123."""
    row = await pool.fetchrow(SQL["project_named"], project, name)
    if row is None:
        raise UsageError(
            f'there is no annotation project "{name}"', code="L123",
            hint=f"make it: gristmill label-studio make {name}; list them: gristmill label-studio list",
        )  # fmt: skip
    return Project.of(row)


async def subjects_of(
    connection: asyncpg.Connection[Any] | asyncpg.Pool[Any], ids: Mapping[int, Mapping[str, Any]]
) -> dict[int, Subject]:
    """Records as subjects; the values of `ids` go into the data of their tasks."""
    found = await records.load(connection, list(ids))
    return {
        number: Subject.of(number, record.hash.hex(), KINDS[record.kind].model_validate_json(record.body), ids[number])
        for number, record in found.items()
    }


async def _only_scale(pool: asyncpg.Pool[Any], run: RunLike, flow: Flow) -> str | None:
    if flow.kind != "rating":
        return None
    scales = [row["scale"] for row in await pool.fetch(SQL["scales_of_run"], run.id, flow.steps)]
    if len(scales) > 1:
        raise UsageError(
            f"{run.name} rates on several scales, and a project holds one", code="L121",
            hint=f"name one: --scale {scales[0]} (or {', '.join(scales[1:])})",
        )  # fmt: skip
    return scales[0] if scales else next((one.scale.name for one in flow.label_sets if one.scale), None)


@dataclass(slots=True)
class _Group:
    """What was said about one subject: rows of `annotations_of_run`, the one that stands first."""

    subject_id: int
    order: tuple[str, tuple[int, ...]]
    rows: list[Mapping[str, Any]] = field(default_factory=list)


async def _groups(connection: asyncpg.Connection[Any], run_id: int, flow: Flow, scale: str | None) -> list[_Group]:
    """All subjects of the run in the order of the inputs and of their text."""
    groups: dict[int, _Group] = {}
    subjects = await connection.fetch(
        SQL["subjects_of_run"], run_id, flow.subject_steps, flow.subject_kinds, timeout=LONG
    )
    said = await connection.fetch(SQL["annotations_of_run"], run_id, flow.steps, flow.kind, scale, timeout=LONG)
    for row in (*subjects, *said):
        if row["subject_id"] not in groups:
            place = (row["item"] or "", tuple(row["place"]))
            groups[row["subject_id"]] = _Group(row["subject_id"], place)
    for row in said:
        groups[row["subject_id"]].rows.append(row)
    for one in groups.values():
        # A person's word goes before a panel's, a panel's before its votes, a newer one before an older one
        one.rows.sort(key=lambda row: (row["state"] not in REVIEWED, row["voted"], -row["id"]))
    return sorted(groups.values(), key=lambda one: (one.order, one.subject_id))


async def _labeling(
    connection: asyncpg.Connection[Any], flow: Flow, groups: Sequence[_Group], scale: str | None, tree: bool,
    before: Labeling | None,
) -> Labeling:  # fmt: skip
    """The labels of the workflow, those that the project had, and those that came without having been asked for."""
    labels: dict[str, None] = dict.fromkeys(before.controls[0].labels if before else ())
    relations: dict[str, None] = dict.fromkeys(before.controls[1].labels if before and flow.kind == "relations" else ())
    tree = tree or (before is not None and before.find("Taxonomy") is not None)
    standing = [row["standing_id"] for group in groups for row in group.rows]
    for at in range(0, len(standing), BATCH):
        for annotation in (await _annotations(connection, standing[at : at + BATCH])).values():
            more, joins = labels_in(annotation)
            labels |= dict.fromkeys(more)
            relations |= dict.fromkeys(joins)
    medium = "image" if "image" in flow.subject_kinds and len(flow.subject_kinds) == 1 else "text"
    if groups and medium == "text":
        first = await subjects_of(connection, {groups[0].subject_id: {}})
        medium = first[groups[0].subject_id].medium
    return labeling_of(flow.kind, flow.label_sets, medium, list(labels), list(relations), scale=scale, tree=tree)


async def _annotations(connection: asyncpg.Connection[Any], ids: Iterable[int]) -> dict[int, Annotation]:
    found = await records.load(connection, list(ids))
    return {number: ANNOTATIONS[record.kind].model_validate_json(record.body) for number, record in found.items()}


async def _put(
    connection: asyncpg.Connection[Any], made: Made, labeling: Labeling, groups: Sequence[_Group], first: int
) -> None:
    ids = [group.subject_id for group in groups]
    origins = {row["id"]: row for row in await connection.fetch(SQL["origins"], ids, timeout=LONG)}
    about = {number: _about(made.project, origins[number]) for number in ids}
    subjects = await subjects_of(connection, about)
    said = await _annotations(connection, [row["standing_id"] for group in groups for row in group.rows])
    columns: list[tuple[Any, ...]] = []
    for at, group in enumerate(groups, first):
        subject = subjects[group.subject_id]
        result, predictions = _said(group, subject, labeling, said, made)
        best = group.rows[0] if group.rows else None
        columns.append((
            group.subject_id, at, best and best["id"], best and best["standing_id"],
            None if result is None else json.dumps(result, ensure_ascii=False),
            json.dumps(predictions, ensure_ascii=False), json.dumps(dict(subject.about), ensure_ascii=False),
        ))  # fmt: skip
        made.pieces += 1
        made.annotated += bool(result is not None or predictions)
    await connection.execute(SQL["put_pieces"], made.project.id, *map(list, zip(*columns, strict=True)), timeout=LONG)


def _said(
    group: _Group, subject: Subject, labeling: Labeling, said: Mapping[int, Annotation], made: Made
) -> tuple[list[Item] | None, list[dict[str, Any]]]:
    """The result that stands, and the predictions beside it. What was rejected is in neither."""
    result: list[Item] | None = None
    predictions: list[dict[str, Any]] = []
    for at, row in enumerate(group.rows):
        annotation = said[row["standing_id"]]
        if row["state"] == "rejected" or annotation.undecided:
            continue
        try:
            items = to_result(annotation, subject, labeling)
        except UsageError as problem:
            made.unsaid.append(problem.message)
            continue
        if at == 0 and (made.project.mode == "annotations" or row["state"] in REVIEWED):
            result = items
            continue
        entry = {"model_version": annotation.annotator, "result": items}
        predictions.append(entry if annotation.score is None else {**entry, "score": annotation.score})
    return result, predictions


def _about(project: Project, origin: Mapping[str, Any]) -> dict[str, Any]:
    known = {"source": origin["source"], "title": origin["title"], "document": origin["document"]}
    return {**{name: value for name, value in known.items() if value}, "project": project.name, "run": project.run_id}
