"""Exports: previewed in memory, written by a durable task, fetched as a file."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

from fastapi import Response
from fastapi.responses import FileResponse

from gristmill.api.access import Caller
from gristmill.api.bulk_runs import SQL
from gristmill.api.bulk_shapes import ExportState, FormatInfo, Preview, WantedExport, WantedPreview
from gristmill.api.problems import NotFound, Refused
from gristmill.app import App
from gristmill.data.dataset import Steps
from gristmill.data.export_formats import FORMATS, Format, Options, find_format, layout_of, row_format
from gristmill.data.export_select import balanced, filtered, paired
from gristmill.data.export_shapes import Entry
from gristmill.data.rows import Row
from gristmill.db.database import transaction
from gristmill.db.statements import statements
from gristmill.engine import queue, workflow
from gristmill.engine.queue import NewTask
from gristmill.engine.workflow import NewRun, Step
from gristmill.errors import UsageError
from gristmill.exporting import EXPORT_WRITE, export_options
from gristmill.review.label_studio.run_exports import NAMES, annotation_options, preview_annotations
from gristmill.run import WHY, Run

WORKFLOW = "(exports)"  # no workflow is called so: lists of runs leave them out
KEY = b"export".ljust(32, b"\0")  # of the one task of such a run: it is found by it
RUNS = statements("workflow")
BINARY = ("parquet",)


def formats() -> list[FormatInfo]:
    """All formats that rows can be written in, and those of annotations."""
    rows = [
        FormatInfo(
            name=one.name, description=one.description, suffixes=list(one.suffixes), bundle=one.bundle,
            columned=one.columned, pairs=one.pairs, rows=list(one.rows), reasoning=one.reasoning,
        )
        for one in FORMATS.values()
    ]  # fmt: skip
    return rows + [
        FormatInfo(
            name=name, description=one.description, suffixes=[one.suffix] if one.suffix else [], bundle=not one.suffix,
            columned=False, pairs=False, rows=[], reasoning="drop", annotations=True, kinds=list(one.kinds),
        )
        for name, one in NAMES.items()
    ]  # fmt: skip


def plain_options(wanted: WantedExport) -> dict[str, Any]:
    """The options that were said."""
    return wanted.options.model_dump(exclude_defaults=True)


def check(wanted: WantedExport, run: Run) -> None:
    """Raises `UsageError` for what cannot be exported: U310, U401, U412, U420; of annotations L120, L160, U412."""
    if wanted.format in NAMES:
        annotation_options(run, wanted.format, plain_options(wanted))
    else:
        checked(wanted, run)


def checked(wanted: WantedExport, run: Run) -> tuple[Format, Options]:
    """Format and options of an export of rows that can be made. Raises `UsageError` U310, U401, U412, U420."""
    found = find_format(wanted.format)
    options = export_options(plain_options(wanted))
    options.check(found)
    if not Steps.of([spec.operator.output_types for spec in run.workflow.steps]).making:
        raise UsageError(f'workflow "{run.workflow.name}" makes no examples', code="U310", safe="nothing was written")
    return found, options


async def preview(run: Run, wanted: WantedPreview, caller: Caller) -> Preview:
    """The first entries of an export, as they would be written."""
    if wanted.format in NAMES:
        chosen = annotation_options(run, wanted.format, plain_options(wanted))
        text, count = await preview_annotations(run, wanted.format, chosen, wanted.count, by=caller.name)
        return Preview(format=wanted.format, text=text, entries=count, suffix=NAMES[wanted.format].suffix)
    return await _preview_rows(run, wanted)


async def _preview_rows(run: Run, wanted: WantedPreview) -> Preview:
    format, options = checked(wanted, run)
    inner = row_format(format, options)
    shown = FORMATS["jsonl"] if inner.name in BINARY else inner
    entries: list[Entry] = []
    async with contextlib.aclosing(cast(AsyncGenerator[Row, None], run.rows(left_out=options.left_out))) as rows:
        chosen = filtered(rows, options.where, reviewed=options.reviewed)
        every: AsyncIterator[Entry] = balanced(paired(chosen) if inner.pairs else chosen, options.balance)
        async for entry in every:
            entries.append(entry)
            if len(entries) == wanted.count:
                break
    stream = io.BytesIO()
    writer = shown.open(stream, layout_of(shown, options))
    await asyncio.to_thread(writer.write, entries)
    writer.finish()
    suffix = inner.suffixes[0] if inner.suffixes else ""
    return Preview(
        format=format.name, text=stream.getvalue().decode("utf-8", "replace"), entries=len(entries), suffix=suffix,
        binary=inner.name in BINARY,
    )  # fmt: skip


async def begin(app: App, run: Run, wanted: WantedExport, caller: Caller) -> ExportState:
    """Asks for an export: a durable task that any worker may do. Raises what `check` raises."""
    check(wanted, run)
    options = plain_options(wanted)
    payload = {"run": run.id, "format": wanted.format, "options": options, "by": caller.name}
    said = {"run": run.id, "run_name": run.name, "format": wanted.format, "options": options, "by": caller.name}
    new = NewRun(
        "export", WORKFLOW, (Step("export", EXPORT_WRITE),), {"name": "export", "steps": [], "said": said}, None,
        app.settings.project,
    )  # fmt: skip
    async with transaction(app.pool) as connection:
        number, _ = await workflow.find_or_create(connection, new)
        await queue.enqueue(connection, [NewTask(number, EXPORT_WRITE, payload=json.dumps(payload), key=KEY)])
        await connection.execute(RUNS["reseal"], number)
    await queue.hint(app.pool)
    await app.start_crew()
    return await export(app, number)


async def export(app: App, number: int) -> ExportState:
    """How an export stands. Raises `NotFound` A404."""
    row = await app.pool.fetchrow(SQL["export"], app.settings.project, number, WORKFLOW)
    if row is None:
        raise NotFound(f"there is no export {number}", hint="those there are: GET /api/exports")
    said = json.loads(row["definition"]).get("said", {})
    value: dict[str, Any] = json.loads(row["value"]) if row["value"] else {}
    state = {"available": "waiting", "quarantined": "failed"}.get(row["state"], row["state"]) or row["run_state"]
    held = None
    if state == "waiting":
        reasons = await app.pool.fetch(WHY["held_by"], number, row["task_id"])
        held = reasons[0]["reason"] if reasons else None
    return ExportState(
        id=number, run=said.get("run"), run_name=said.get("run_name"), format=said.get("format", ""),
        options=said.get("options", {}), state=state, created_at=row["created_at"], ended_at=row["ended_at"],
        rows=value.get("rows"), bytes=value.get("bytes"), name=value.get("name"), sha256=value.get("blob"),
        splits=value.get("splits", {}), files=value.get("files", []), images=value.get("images", 0),
        file=f"/api/exports/{number}/file" if value else None, held_by=held, by=said.get("by"),
        error=f"{row['code']}: {row['message']}" if row["message"] and not value else None,
    )  # fmt: skip


async def listed(app: App, before: int | None, limit: int) -> list[ExportState]:
    """Exports that were asked for, the newest first."""
    rows = await app.pool.fetch(SQL["runs"], app.settings.project, WORKFLOW, before, limit, None)
    return [await export(app, row["id"]) for row in rows]


async def file(app: App, number: int) -> Response:
    """What an export wrote, as a download. Raises `NotFound`, `Refused` 409 while it is not there."""
    found = await export(app, number)
    if found.sha256 is None:
        raise Refused(
            409, f"export {number} is {found.state}: there is no file", code="A409",
            hint=found.error or found.held_by or "ask again in a moment: GET /api/exports/{id}",
        )  # fmt: skip
    await app.blobs.bring([found.sha256])
    headers = {"Content-Disposition": f'attachment; filename="{found.name}"', "X-Content-Type-Options": "nosniff",
               "ETag": f'"{found.sha256}"'}  # fmt: skip
    path = app.blobs.path(found.sha256)
    if await asyncio.to_thread(path.is_file):
        return FileResponse(path, media_type="application/octet-stream", headers=headers)
    data = await app.blobs.read(found.sha256)
    return Response(data, media_type="application/octet-stream", headers=headers)
