"""Files that come over the API: streamed to the disk, then a source of runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request

from gristmill.api import uploads as stored
from gristmill.api.routing import role, streamed
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import Answer, Asking, OpenApp

router = new_router("uploads")
FORM = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": {
            "type": "object", "required": ["files"],
            "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
        }}},
    }
}  # fmt: skip


class UploadedFile(Answer):
    """`name` is data: as the browser gave it, without folders."""

    name: str
    bytes: int
    sha256: str


class Upload(Answer):
    """Files that were taken in together; `upload` is given to a new run as its source."""

    upload: str
    files: list[UploadedFile]


@router.post("/uploads", status_code=201, openapi_extra=FORM)
@role("operator")
@streamed
async def upload(request: Request, app: OpenApp, caller: Asking) -> Upload:
    """Takes files in, as multipart/form-data; at most `api_upload` bytes together. Nothing is kept of a broken one."""
    made, files = await stored.receive(app, request)
    return Upload(upload=made, files=[UploadedFile(name=one.name, bytes=one.size, sha256=one.sha256) for one in files])


@router.get("/uploads/{id}")
async def uploaded(id: Annotated[str, Path(pattern="^[0-9a-f]{32}$")], app: OpenApp) -> Upload:
    """What an upload holds."""
    files = await stored.listed(app, id)
    return Upload(upload=id, files=[UploadedFile(name=one.name, bytes=one.size, sha256=one.sha256) for one in files])
