"""The operator `parse`: a file becomes a text.

Markdown and plain text pass through unchanged but for their encoding and line ends. PDF, HTML, EPUB and the Office
formats become Markdown. Nothing is downloaded, and nothing is recognised from pictures.
"""

from __future__ import annotations

import asyncio
import io
import zipfile
from typing import Annotated

from pydantic import Field
from typing_extensions import TypeAliasType

from gristmill.data.kinds import Document, Source
from gristmill.data.media import (
    DOCX,
    EPUB,
    HTML,
    MARKDOWN,
    OLE,
    PDF,
    PPTX,
    TEXT_TYPES,
    UNKNOWN,
    XLSX,
    extension,
    media_type_of_bytes,
)
from gristmill.errors import InputError
from gristmill.operators import documents_text
from gristmill.operators.documents_extract import Extract
from gristmill.operators.documents_kreuzberg import damaged, locked
from gristmill.operators.documents_outline import front_title, outline
from gristmill.operators.operator import Context, operator

MAX_BYTES = 300_000_000
BOMB_RATIO = 100  # times; text in a zip archive shrinks 3 to 20 times
BOMB_BYTES = 1024**3  # what the members may hold together before the ratio is looked at
SUPPORTED = "Markdown, plain text (txt, rst, csv, json, yaml), HTML, PDF, DOCX, PPTX, XLSX and EPUB"
OLD_OFFICE = {".doc": "Word", ".xls": "Excel", ".ppt": "PowerPoint"}

# Under a name of its own, so that the bounds survive typing.get_type_hints, which drops a bare Annotated.
Bytes = TypeAliasType("Bytes", Annotated[int, Field(ge=1)])


@operator("parse", version=1, pool="parse", isolate=True, timeout=600)
async def parse(source: Source, ctx: Context, max_bytes: Bytes = MAX_BYTES) -> Document:
    """Reads a source and stores its text as a blob in UTF-8 with LF line ends.

    `max_bytes` is the largest file that is read (default 300 MB). Raises `InputError`:

    P201 the file is empty                      P205 it holds no text (a scan, a picture in a DOCX)
    P202 it is protected by a password          P206 it is larger than `max_bytes`
    P203 it is damaged                          P207 it is named like a text, but its content is binary
    P204 its type is not supported              P208 it is an archive that unpacks to a thousand times its size
    """
    if source.size > max_bytes:
        raise too_large(source.name, source.size, max_bytes)
    data = await ctx.blobs.read(source.blob)
    if not data:
        raise InputError(f"{source.name} is empty (0 bytes)", code="P201")
    if len(data) > max_bytes:
        raise too_large(source.name, len(data), max_bytes)
    # In a thread, so that the process that runs this goes on answering while a long PDF is read
    media_type, backend, made = await asyncio.to_thread(read_document, source.name, data)
    return Document(
        text_blob=await ctx.blobs.write(made.text.encode()), characters=len(made.text), media_type=media_type,
        title=made.title, pages=made.pages, headings=made.headings, backend=backend,
    )  # fmt: skip


def read_document(name: str, data: bytes) -> tuple[str, str, Extract]:
    """The media type, the backend that read it, and the text with its maps; errors as in `parse`."""
    media_type = media_type_of_bytes(name, data)
    if media_type in TEXT_TYPES:
        return media_type, "text", _read_text(name, data, media_type)
    if media_type == OLE:
        raise _ole(name, data)
    # Readers are imported late: the PDF one alone costs a worker that never sees a PDF 20 MB
    if media_type == PDF:
        from gristmill.operators.documents_pdf import read_pdf

        if b"%PDF-" not in data[:1024]:
            raise damaged(name, PDF)
        return media_type, "kreuzberg", read_pdf(data, name)
    if media_type == HTML:
        from gristmill.operators.documents_html import read_html

        return media_type, "kreuzberg", read_html(data, name)
    if media_type in (DOCX, PPTX, XLSX, EPUB):
        return media_type, "kreuzberg", _read_archive(name, data, media_type)
    raise unsupported(name, media_type)


def _read_text(name: str, data: bytes, media_type: str) -> Extract:
    text, _ = documents_text.decode(data, name)
    if not text.strip("\ufeff\ufffd \t\n\f\v"):
        raise InputError(f"{name} holds nothing but white space", code="P205")
    if media_type != MARKDOWN:
        return Extract(text)
    headings = outline(text)
    first = next((heading.title for heading in headings if heading.level == 1), None)
    return Extract(text, front_title(text) or first, headings=headings)


def _read_archive(name: str, data: bytes, media_type: str) -> Extract:
    _check_archive(name, data, media_type)
    if media_type == EPUB:
        from gristmill.operators.documents_html import read_epub

        return read_epub(data, name)
    from gristmill.operators.documents_office import read_office

    return read_office(data, media_type, name)


def _check_archive(name: str, data: bytes, media_type: str) -> None:
    """Looks at the archive's table of contents only; nothing is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise damaged(name, media_type) from error
    if any(member.flag_bits & 1 for member in members):
        raise locked(name)
    unpacked = sum(member.file_size for member in members)
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * len(data):
        raise InputError(
            f"{name} would unpack from {_megabytes(len(data))} to {_megabytes(unpacked)}; it is refused as a zip bomb",
            code="P208",
        )  # fmt: skip


def _ole(name: str, data: bytes) -> InputError:
    """The container of Office before 2007, in which newer Office also wraps what it encrypts."""
    if "EncryptedPackage".encode("utf-16-le") in data:
        return locked(name)
    for marker, suffix in (("WordDocument", ".doc"), ("Workbook", ".xls"), ("PowerPoint Document", ".ppt")):
        if marker.encode("utf-16-le") in data:
            return _old_office(name, suffix)
    return unsupported(name, UNKNOWN)


def _old_office(name: str, suffix: str) -> InputError:
    return InputError(
        f"{name} is in the {OLD_OFFICE[suffix]} format from before 2007 ({suffix}), which is not supported",
        code="P204", hint=f"save it as {suffix}x and add that",
    )  # fmt: skip


def unsupported(name: str, media_type: str) -> InputError:
    suffix = extension(name)
    if media_type.startswith("image/"):
        return InputError(
            f"{name} is an image ({media_type}); this workflow reads text", code="P204", hint=f"it reads {SUPPORTED}"
        )
    if suffix in (".txt", ".md", ".markdown", ".rst", ".csv", ".log", ".json", ".yaml"):
        return documents_text.not_text(name)
    if suffix in OLD_OFFICE:
        return _old_office(name, suffix)
    kind = f'files of the type "{suffix}"' if suffix else f"files of the type {media_type}"
    if media_type != UNKNOWN and suffix:
        kind += f" ({media_type})"
    return InputError(f"{name}: {kind} are not supported", code="P204", hint=f"supported are {SUPPORTED}")


def too_large(name: str, size: int, limit: int) -> InputError:
    return InputError(
        f"{name} is too large: {_megabytes(size)}, the limit is {_megabytes(limit)}", code="P206",
        hint="split the file, or raise the option max_bytes of the step parse",
    )  # fmt: skip


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 10e6 else f"{size / 1e6:,.0f} MB"
