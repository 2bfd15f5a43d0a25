"""Exports: formats, a preview, a file."""

from __future__ import annotations

from functools import partial

from fastapi import Response

from gristmill.api import exports
from gristmill.api.bulk_shapes import ExportState, FormatInfo, Preview, WantedExport, WantedPreview
from gristmill.api.listing import newest_first
from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.run_views import find_run
from gristmill.api.shapes import After, Asking, Id, Limit, OpenApp, Page

router = new_router("exports")


@router.get("/exports/formats")
async def export_formats() -> list[FormatInfo]:
    """What rows can be written as."""
    return exports.formats()


@router.post("/exports/preview")
@role("viewer")
async def preview_export(wanted: WantedPreview, app: OpenApp, caller: Asking) -> Preview:
    """The first entries of an export, exactly as it would write them."""
    return await exports.preview(await find_run(app, wanted.run), wanted, caller)


@router.post("/exports", status_code=201)
async def start_export(wanted: WantedExport, app: OpenApp, caller: Asking) -> ExportState:
    """Asks for an export. A worker writes it; what it wrote is kept, and is the same for everybody who fetches it."""
    return await exports.begin(app, await find_run(app, wanted.run), wanted, caller)


@router.get("/exports")
async def list_exports(app: OpenApp, after: After = None, limit: Limit = 20) -> Page[ExportState]:
    """Exports that were asked for, the newest first."""
    return await newest_first(partial(exports.listed, app), after, limit)


@router.get("/exports/{id}")
async def one_export(id: Id, app: OpenApp) -> ExportState:
    """How an export stands."""
    return await exports.export(app, id)


@router.get("/exports/{id}/file", response_class=Response)
async def export_file(id: Id, app: OpenApp) -> Response:
    """What it wrote, as a download: one file, or a zip archive of several."""
    return await exports.file(app, id)
