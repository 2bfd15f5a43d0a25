"""One annotation for the editor of Label Studio in our own page, and what comes back from it."""

from __future__ import annotations

import contextlib
from typing import Any

import asyncpg

from gristmill.data import records
from gristmill.data.annotations import ANNOTATIONS, Annotation
from gristmill.errors import UsageError
from gristmill.operators.annotation_labels import LabelSet
from gristmill.review.decisions import states
from gristmill.review.label_studio.flow import WorkflowLike, flow_of
from gristmill.review.label_studio.labeling import Labeling, configuration
from gristmill.review.label_studio.projects import SQL, subjects_of
from gristmill.review.label_studio.results import from_result, to_result, unit_of
from gristmill.review.label_studio.schema import labeling_of, labels_in
from gristmill.review.label_studio.subjects import Address, Subject, picture_name


async def editor_task(
    pool: asyncpg.Pool[Any], record_id: int, workflow: WorkflowLike | None = None, address: Address = picture_name
) -> dict[str, Any]:
    """`config` (XML) and `task` for the editor, about what stands of an annotation: a person's revision, or the
    proposal. The labels are those of the workflow, and those that it has besides. `address` says where a picture is.

    Raises `UsageError` L150 for a record that is no annotation, L106 and L107 for what cannot be shown.
    """
    annotation, subject, labeling = await _opened(pool, record_id, workflow)
    task: dict[str, Any] = {"id": record_id, "data": subject.data(labeling.data_field, address), "predictions": []}
    result = to_result(annotation, subject, labeling)
    task["annotations"] = [{"id": str(record_id), "result": result}]
    return {"config": configuration(labeling), "task": task}


async def edited_body(
    pool: asyncpg.Pool[Any], record_id: int, workflow: WorkflowLike | None, result: Any, reviewer: str
) -> dict[str, Any]:
    """The result of the editor as a body for `gristmill.review.decisions.decide`. Parts that were not touched keep
    their ids and scores. Raises `UsageError` L108 with everything that is wrong, L150 as above."""
    annotation, subject, labeling = await _opened(pool, record_id, workflow)
    made = from_result(
        type(annotation).kind, result, subject, labeling, reviewer, original=annotation,
        unit=unit_of(result, subject, labeling),
    )  # fmt: skip
    return made.model_dump(mode="json")


async def _opened(
    pool: asyncpg.Pool[Any], record_id: int, workflow: WorkflowLike | None
) -> tuple[Annotation, Subject, Labeling]:
    reviewed = (await states(pool, [record_id])).get(record_id)
    standing = (reviewed.revision_id if reviewed else None) or record_id
    record = (await records.load(pool, [standing])).get(standing)
    if record is None or record.kind not in ANNOTATIONS:
        raise UsageError(f"record {record_id} is no annotation", code="L150", hint=f"kinds: {', '.join(ANNOTATIONS)}")
    annotation = ANNOTATIONS[record.kind].model_validate_json(record.body)
    number = await pool.fetchval(SQL["subject_of"], standing, bytes.fromhex(annotation.subject))
    if number is None:
        raise UsageError(f"what record {record_id} annotates is not there", code="L150")
    subject = (await subjects_of(pool, {number: {}}))[number]
    sets: tuple[LabelSet, ...] = ()
    if workflow is not None:
        with contextlib.suppress(UsageError):  # a workflow that makes other things
            sets = flow_of(workflow, record.kind).label_sets
    scale = getattr(annotation, "scale", None)
    labels, relations = labels_in(annotation)
    return annotation, subject, labeling_of(record.kind, sets, subject.medium, labels, relations, scale=scale)
