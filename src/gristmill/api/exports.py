"""Exports: previewed in memory, written by a durable task, fetched as a file."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

from fastapi import Response

from gristmill.api import single_tasks
from gristmill.api.access import Caller
from gristmill.api.bulk_shapes import ExportState, FormatInfo, Preview, WantedExport, WantedPreview
from gristmill.api.file_answers import FileAnswer
from gristmill.api.problems import NotFound, Refused
from gristmill.api.single_tasks import SingleTask
from gristmill.app import App
from gristmill.data.dataset import Steps
from gristmill.data.export_formats import FORMATS, Format, Options, find_format, layout_of, row_format
from gristmill.data.export_select import balanced, filtered, paired
from gristmill.data.export_shapes import Entry
from gristmill.data.rows import Row
from gristmill.errors import UsageError
from gristmill.exporting import EXPORT_WRITE, export_options
from gristmill.review.label_studio.run_exports import NAMES, annotation_options, preview_annotations
from gristmill.run import Run

FAMILY = "(exports)"
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
    return await export(app, await single_tasks.begin(app, FAMILY, "export", EXPORT_WRITE, said, payload))


async def export(app: App, number: int) -> ExportState:
    """How an export stands. Raises `NotFound` A404."""
    found = await single_tasks.find(app, FAMILY, number)
    if found is None:
        raise NotFound(f"there is no export {number}", hint="those there are: GET /api/exports")
    return _shown(found)


async def listed(app: App, before: int | None, limit: int) -> list[ExportState]:
    """Exports that were asked for, the newest first."""
    return [_shown(one) for one in await single_tasks.listed(app, FAMILY, before, limit)]


def _shown(found: SingleTask) -> ExportState:
    said, value = found.said, found.value or {}
    return ExportState(
        id=found.id, run=said.get("run"), run_name=said.get("run_name"), format=said.get("format", ""),
        options=said.get("options", {}), state=found.state, created_at=found.created_at, ended_at=found.ended_at,
        rows=value.get("rows"), bytes=value.get("bytes"), name=value.get("name"), sha256=value.get("blob"),
        splits=value.get("splits", {}), files=value.get("files", []), images=value.get("images", 0),
        file=f"/api/exports/{found.id}/file" if value else None, held_by=found.held_by, by=said.get("by"),
        error=found.error,
    )  # fmt: skip


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
        return FileAnswer(path, media_type="application/octet-stream", headers=headers)
    data = await app.blobs.read(found.sha256)
    return Response(data, media_type="application/octet-stream", headers=headers)
