"""Texts and pictures as they are stored, made harmless for a browser."""

from __future__ import annotations

import asyncio
import re

from fastapi import Response

from gristmill.api.file_answers import FileAnswer
from gristmill.api.problems import NotFound
from gristmill.api.record_shapes import DocumentText, TextMark
from gristmill.app import App
from gristmill.data.kinds import Chunk, Document
from gristmill.data.media import SIGNATURES
from gristmill.data.records import load
from gristmill.errors import EnvironmentProblem

DIGEST = re.compile(r"[0-9a-f]{64}")
SHOWN = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})  # what a browser may show in place
LARGEST = 64 * 2**20  # bytes that are read into memory; larger ones have to lie in the folder as they are
MARKS = 2_000


async def blob(app: App, digest: str) -> Response:
    """The bytes under that hash: pictures to be shown, everything else as a download of no type. Raises `NotFound`."""
    if not DIGEST.fullmatch(digest):
        raise NotFound("a blob is named by 64 hexadecimal digits")
    path = app.blobs.path(digest)
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    if await asyncio.to_thread(path.is_file):
        with path.open("rb") as file:
            kind = shown_as(file.read(16))
        return FileAnswer(path, media_type=kind, headers=headers | _disposition(kind, digest))
    try:
        data = await app.blobs.read(digest)
    except EnvironmentProblem as error:
        if error.code not in ("F201", "F202"):
            raise
        raise NotFound(
            f"there is no blob {digest[:12]}...", hint="its hash stands in the record that names it"
        ) from None
    kind = shown_as(data[:16])
    return Response(data, media_type=kind, headers=headers | _disposition(kind, digest))


def shown_as(head: bytes) -> str:
    """The content type by the first bytes: a picture's, or none at all. What a file says of itself is not believed."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    found = next((kind for mark, kind in SIGNATURES if head.startswith(mark)), "")
    return found if found in SHOWN else "application/octet-stream"


def _disposition(kind: str, digest: str) -> dict[str, str]:
    how = "inline" if kind in SHOWN else "attachment"
    return {"Content-Disposition": f'{how}; filename="{digest[:16]}"', "X-Content-Type-Options": "nosniff"}


async def document_text(app: App, record_id: int, start: int, most: int) -> DocumentText:
    """A part of the text of a document, or of a chunk as it was rewritten. Raises `NotFound` A404."""
    record = (await load(app.pool, [record_id])).get(record_id)
    if record is None or record.kind not in ("document", "chunk"):
        raise NotFound(f"there is no document {record_id}", hint="GET /api/records/{id}/lineage names the document")
    if record.kind == "chunk":
        chunk = Chunk.model_validate_json(record.body)
        return _part(record_id, " > ".join(chunk.heading_path) or None, "text/plain", chunk.text, start, most, [])
    body = Document.model_validate_json(record.body)
    text = (await app.blobs.read(body.text_blob)).decode("utf-8", "replace")
    marks = [TextMark(kind="page", title=str(p.number), start=p.start, end=p.end) for p in body.pages]
    marks += [TextMark(kind="heading", title=h.title[:200], start=h.start, level=h.level) for h in body.headings]
    return _part(record_id, body.title, body.media_type, text, start, most, marks)


def _part(
    record: int, title: str | None, kind: str, text: str, start: int, most: int, marks: list[TextMark]
) -> DocumentText:  # fmt: skip
    end = min(len(text), start + most)
    near = [mark for mark in marks if mark.start < end and (mark.end or mark.start + 1) > start][:MARKS]
    return DocumentText(
        record=record, title=title, media_type=kind, characters=len(text), start=min(start, len(text)), end=end,
        text=text[start:end], marks=near,
    )  # fmt: skip
