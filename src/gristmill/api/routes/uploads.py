"""Files that come over the API: streamed to the disk, then a source of runs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Path, Query, Request

from gristmill.api import kept_uploads
from gristmill.api import uploads as stored
from gristmill.api.routing import role, streamed
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import Answer, Asking, OpenApp

router = new_router("uploads")
UploadName = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
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


class KeptUpload(Answer):
    """An upload in short. `names`: the first three of its files; `runs` were started over it; `in_use`: one of them has
    not ended."""

    upload: str
    files: int
    names: list[str]
    bytes: int
    made_at: datetime
    runs: list[str]
    in_use: bool


@router.post("/uploads", status_code=201, openapi_extra=FORM)
@role("operator")
@streamed
async def upload(request: Request, app: OpenApp, caller: Asking) -> Upload:
    """Takes files in, as multipart/form-data; at most `api_upload` bytes together. Nothing is kept of a broken one."""
    made, files = await stored.receive(app, request)
    return Upload(upload=made, files=[UploadedFile(name=one.name, bytes=one.size, sha256=one.sha256) for one in files])


@router.get("/uploads")
async def uploads(app: OpenApp) -> list[KeptUpload]:
    """The uploads that are there, the newest first."""
    return [KeptUpload.model_validate(one) for one in await kept_uploads.every(app)]


@router.delete("/uploads")
@role("operator")
async def prune_uploads(app: OpenApp, older_than_days: Annotated[float, Query(ge=0, le=36_500)]) -> list[KeptUpload]:
    """Takes old uploads away, but none that a run which has not ended was started over. Gives back what has gone."""
    return [KeptUpload.model_validate(one) for one in await kept_uploads.prune(app, older_than_days)]


@router.delete("/uploads/{id}", status_code=204)
@role("operator")
async def remove_upload(id: UploadName, app: OpenApp) -> None:
    """Takes an upload away. What runs have read of it stays with their records."""
    await kept_uploads.remove(app, id)


@router.get("/uploads/{id}")
async def uploaded(id: UploadName, app: OpenApp) -> Upload:
    """What an upload holds."""
    files = await stored.listed(app, id)
    return Upload(upload=id, files=[UploadedFile(name=one.name, bytes=one.size, sha256=one.sha256) for one in files])
