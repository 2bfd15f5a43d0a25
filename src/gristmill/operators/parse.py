"""The operator `parse`: a file becomes a text.

Markdown and plain text pass through unchanged but for their encoding and line ends. PDF, HTML, EPUB and the Office
formats become Markdown. Nothing is downloaded, and nothing is recognised from pictures, unless a docling-serve is asked
to.
"""

from __future__ import annotations

import asyncio
import io
import zipfile
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypeAliasType

from gristmill.data.kinds import Document, Image, Source
from gristmill.data.media import (
    DOCX,
    EPUB,
    EXTENSIONS,
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
from gristmill.operators.documents_extract import Extract, printable, without_data_urls
from gristmill.operators.documents_kreuzberg import damaged, extract, locked, too_many_pages
from gristmill.operators.documents_outline import front_title, outline
from gristmill.operators.operator import Context, operator

MAX_BYTES = 300_000_000
MAX_PIXELS = 64_000_000
BOMB_RATIO = 100  # times; text in a zip archive shrinks 3 to 20 times
BOMB_BYTES = 1024**3  # what the members may hold together before the ratio is looked at
SUPPORTED = "Markdown, plain text (txt, rst, csv, json, yaml), HTML, PDF, DOCX, PPTX, XLSX and EPUB"
OLD_OFFICE = {".doc": "Word", ".xls": "Excel", ".ppt": "PowerPoint"}

# Under names of their own, so that the bounds survive typing.get_type_hints, which drops a bare Annotated.
Backend = Literal["auto", "text", "kreuzberg", "docling"]
Pages = TypeAliasType("Pages", Annotated[int, Field(ge=1)])
PagesLimit = TypeAliasType("PagesLimit", Annotated[int, Field(ge=0)])
Bytes = TypeAliasType("Bytes", Annotated[int, Field(ge=1)])


@operator("parse", version=1, pool="parse", isolate=True, timeout=600)
async def parse(
    source: Source, ctx: Context, max_bytes: Bytes = MAX_BYTES, backend: Backend = "auto", images: bool = False,
    docling_pages: Pages = 50, max_pages: PagesLimit = 0,
) -> list[Document | Image]:  # fmt: skip
    """Reads a source and stores its text as a blob in UTF-8 with LF line ends.

    `max_bytes` is the largest file that is read (default 300 MB), `max_pages` the most pages or slides (default 0: no
    limit; they are counted when the file is read, but before docling is asked). `backend`: "text" takes any file as
    plain text; "kreuzberg" reads on this machine, also RTF, XML and a few more; "docling" sends what is no plain text
    to a docling-serve (setting `docling_url`), PDFs in ranges of `docling_pages` pages, and keeps its JSON as a blob
    beside the text; "auto" takes "text" for texts and "kreuzberg" for the rest. Another backend makes another document;
    the old one stays. With `images` the pictures inside of documents come out too, and files that are pictures (PNG,
    JPEG, WebP, GIF, BMP; at least 16 pixels).

    Raises `InputError`:

    P201 the file is empty                      P207 it is named like a text, but its content is binary
    P202 it is protected by a password          P208 it is an archive that unpacks to a hundred times its size
    P203 it is damaged                          P209 it is nested too deep
    P204 its type is not supported              P210 docling could not read it
    P205 it holds no text (a scan)              P211 no docling-serve is named, or it refuses us
    P206 it is larger than `max_bytes`          P212 it has more than `max_pages` pages
    P241 pictures need the package Pillow
    """
    if source.size > max_bytes:
        raise too_large(source.name, source.size, max_bytes)
    data = await ctx.blobs.read(source.blob)
    if not data:
        raise InputError(f"{source.name} is empty (0 bytes)", code="P201")
    if len(data) > max_bytes:
        raise too_large(source.name, len(data), max_bytes)
    media_type = media_type_of_bytes(source.name, data)
    pictures = await _images(source, data, media_type, ctx) if images else []
    if media_type.startswith("image/") and images and backend != "docling":
        if not pictures:
            raise unsupported(source.name, media_type)
        return pictures
    try:
        if backend == "docling" and media_type not in TEXT_TYPES:
            from gristmill.operators.documents_docling import read_docling

            url = ctx.services.get("docling")
            used, made = "docling", await read_docling(url, data, media_type, source.name, docling_pages, max_pages)
        else:
            # In a thread, so that the process that runs this goes on answering while a long PDF is read
            media_type, used, made = await asyncio.to_thread(read_document, source.name, data, backend)
    except InputError as error:
        if error.code == "P205" and pictures:  # a scan: its pages are what there is
            return pictures
        raise
    if 0 < max_pages < len(made.pages):
        raise too_many_pages(source.name, len(made.pages), max_pages)
    if images and media_type == MARKDOWN:
        made = await asyncio.to_thread(_without_pictures, made)
    document = Document(
        text_blob=await ctx.blobs.write(made.text.encode()), characters=len(made.text), media_type=media_type,
        title=made.title, pages=made.pages, headings=made.headings, backend=used,
        artifact_blob=await ctx.blobs.write(made.artifact) if made.artifact else None,
    )  # fmt: skip
    return [document, *pictures]


async def _images(source: Source, data: bytes, media_type: str, ctx: Context) -> list[Document | Image]:
    from gristmill.operators.documents_images import Embedded, embedded_images
    from gristmill.operators.pictures import read_picture

    if media_type.startswith("image/"):
        own = await asyncio.to_thread(read_picture, data, source.name, MAX_PIXELS)
        found = [Embedded(own, "", None)]
    else:
        found, left_out = await asyncio.to_thread(embedded_images, data, media_type, source.name)
        if left_out:
            ctx.notes["pictures_left_out"] = left_out
    return [
        Image(
            blob=await ctx.blobs.write(one.picture.data), media_type=one.picture.media_type, width=one.picture.width,
            height=one.picture.height, name="/".join(filter(None, (source.name, one.name))), page=one.page,
            perceptual_hash=one.picture.perceptual_hash,
        )
        for one in found
    ]  # fmt: skip


def _without_pictures(made: Extract) -> Extract:
    text = without_data_urls(made.text)
    return made if text == made.text else Extract(text, made.title, headings=outline(text))


def read_document(name: str, data: bytes, backend: Backend = "auto") -> tuple[str, str, Extract]:
    """The media type, the backend that read it, and the text with its maps; errors as in `parse`."""
    media_type = media_type_of_bytes(name, data)
    if backend == "text" or (media_type in TEXT_TYPES and backend != "kreuzberg"):
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
    if backend == "kreuzberg" and media_type != UNKNOWN and not media_type.startswith("image/"):
        return media_type, "kreuzberg", _read_other(name, data, media_type)
    raise unsupported(name, media_type)


def _read_other(name: str, data: bytes, media_type: str) -> Extract:
    """What kreuzberg reads beside the formats that are looked after here."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        _check_archive(name, data, media_type)
    text = printable(extract(data, media_type, name).content)
    if not text.strip():
        raise InputError(f"no text was found in {name}", code="P205")
    headings = outline(text)
    return Extract(text, next((one.title for one in headings if one.level == 1), None), headings=headings)


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
    if EXTENSIONS.get(suffix) in TEXT_TYPES:
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
