"""Records and rows of the dataset: lists, one with its thread, texts, pictures, the coverage map, histograms."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import Path, Query, Response

from gristmill.api import record_lists, spreads, stories, texts
from gristmill.api.coverage import Coverage
from gristmill.api.problems import NotFound
from gristmill.api.record_shapes import CoverageRow, DocumentText, Histogram, RecordRow
from gristmill.api.routes.runs import Filter
from gristmill.api.routing import router as new_router
from gristmill.api.run_views import find_run
from gristmill.api.shapes import After, Id, Limit, OpenApp, Page, place
from gristmill.api.story_shapes import Lineage, RecordDetail, Verdict
from gristmill.data.rows import Row
from gristmill.review.decisions import history, states

router = new_router("records")
OfRun = Annotated[str, Query(min_length=1, max_length=200, description="number or name of a run")]
Name = Annotated[str | None, Query(max_length=200)]


@router.get("/records")
async def records(
    app: OpenApp, run: OfRun, kind: Name = None, stage: Name = None, filter: Filter = None, after: After = None,
    limit: Limit = 50,
) -> Page[RecordRow]:  # fmt: skip
    """What the steps of a run have made, step by step. A page may be short and have a next one: then nothing else
    among the records that were looked at was wanted."""
    found = await find_run(app, run)
    rows, following = await record_lists.record_page(app, found, kind, stage, filter, place(after, int, int), limit)
    return Page(items=rows, next=following)


@router.get("/rows")
async def dataset_rows(
    app: OpenApp, run: OfRun, filter: Filter = None, left_out: bool = False, after: After = None, limit: Limit = 50
) -> Page[Row]:
    """The rows of a run's dataset, as an export writes them, with the filter of an export. `left_out`: also those that
    duplicates, rejections and reviewers leave out."""
    found = await find_run(app, run)
    rows, following = await record_lists.row_page(app, found, filter, left_out, place(after, int, int), limit)
    return Page(items=rows, next=following)


@router.get("/records/coverage")
async def coverage(
    app: OpenApp, run: OfRun, after: After = None, limit: Annotated[int, Query(ge=1, le=50)] = 20
) -> Page[CoverageRow]:
    """The coverage map: every document of a run, every part of it, and what became of it. After the last document come
    the inputs that have come to none."""
    found = await find_run(app, run)
    behind = place(after, int, int)
    rows, following = await Coverage(app.pool, found.id, found.workflow).page(behind, limit)
    return Page(items=rows, next=following)


@router.get("/records/histogram")
async def histogram(app: OpenApp, run: OfRun, field: spreads.Field = "score") -> Histogram:
    """How results are spread: `score` of verdicts, `length` of answers in characters, `label`, similarity of near
    `duplicates`, `confidence` of annotations."""
    found = await find_run(app, run)
    return await spreads.histogram(app.pool, found.id, found.workflow, field)


@router.get("/records/{id}")
async def record(id: Id, app: OpenApp) -> RecordDetail:
    """One record, whole, with what people said of it."""
    row = await app.pool.fetchrow(stories.SQL["record"], id)
    if row is None:
        raise NotFound(f"there is no record {id}", hint="those of a run: GET /api/records?run=")
    said = (await states(app.pool, [id])).get(id)
    return RecordDetail(
        **{k: v for k, v in row.items() if k not in ("body", "task_id", "ordinal", "notes")},
        body=json.loads(row["body"]), task=row["task_id"], state=said.state if said else "proposed",
        revision=said.revision_id if said else None, reviewer=said.reviewer if said else None,
        decided_at=said.decided_at if said else None, note=said.note if said else None,
    )  # fmt: skip


@router.get("/records/{id}/lineage")
async def lineage(id: Id, app: OpenApp) -> Lineage:
    """The thread of a record: the file it came from, page, chunk, question, answer, verdict, reviewer; each with its
    place in the text."""
    above = await stories.ancestors(app.pool, id)
    if not above:
        raise NotFound(f"there is no record {id}", hint="those of a run: GET /api/records?run=")
    below = await stories.descendants(app.pool, id)
    family = [one.record for one in (*above, *below)]
    said = [decision for number in await _decided(app, family) for decision in await history(app.pool, number)]
    verdicts = [
        Verdict(
            record=one.record_id, decision=one.decision, reviewer=one.reviewer, at=one.at, note=one.note,
            undone_at=one.undone_at, revision=one.said_id,
        )
        for one in said
    ]  # fmt: skip
    thread = sorted(above, key=lambda one: -one.distance) + below
    complete = len(above) < stories.FAMILY and len(below) < stories.FAMILY
    return Lineage(record=id, thread=thread, verdicts=verdicts, complete=complete)


async def _decided(app: OpenApp, family: list[int]) -> list[int]:
    """Those of the family that people have said something about."""
    return sorted(await states(app.pool, family))[:20]


@router.get("/documents/{record}/text")
async def document_text(
    record: Annotated[int, Path(ge=1, le=2**63 - 1)], app: OpenApp,
    start: Annotated[int, Query(ge=0, le=2**40, description="code points")] = 0,
    most: Annotated[int, Query(ge=1, le=500_000, description="characters of the answer")] = 50_000,
) -> DocumentText:  # fmt: skip
    """A part of the text of a document, with its pages and headings; offsets are code points."""
    return await texts.document_text(app, record, start, most)


@router.get("/blobs/{digest}", response_class=Response)
async def blob(digest: Annotated[str, Path(max_length=64)], app: OpenApp) -> Response:
    """The bytes under a hash. Pictures can be shown in place; everything else is a download without a type."""
    return await texts.blob(app, digest)
