"""Documents read by a docling-serve: layout, tables and scanned pages, over HTTP.

Large PDFs are sent in ranges of pages, a few at a time, and put together again: one slow page holds up its range only.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gristmill.data.kinds import canonical_json
from gristmill.data.media import PDF
from gristmill.errors import Busy, InputError, TransientError
from gristmill.operators.calling import together
from gristmill.operators.documents_extract import Assembly, Extract, printable
from gristmill.operators.documents_kreuzberg import PAGE_MARK, extract, too_many_pages
from gristmill.operators.documents_outline import compact_tables, outline
from gristmill.operators.posting import post_json

PATH = "/v1/convert/source"
AT_ONCE = 3  # requests for one document
ANSWER_LIMIT = 256 * 2**20  # bytes
PLACEHOLDER = re.compile(r"\n*<!-- image -->\n*")


async def read_docling(
    url: str | None, data: bytes, media_type: str, name: str, range_of_pages: int = 50, max_pages: int = 0
) -> Extract:
    """The text of a document. `url` is where docling-serve is; `range_of_pages` is what one request is asked for, and a
    PDF of more than `max_pages` (0: no limit) is not sent. The artifact is docling's own JSON of the document; of one
    that was sent in ranges, a list of those of the ranges.

    Raises P205 (no text), P210 (docling could not read it), P211 (no server is named, or it refuses us), P212 (pages);
    `TransientError` P311 (no connection, or a broken one), `Busy` when the server has too much to do.
    """
    if url is None:
        raise InputError(
            "backend: docling needs a docling-serve", code="P211",
            hint='name it: docling_url = "http://localhost:5001" in gristmill.toml',
        )  # fmt: skip
    pages = await asyncio.to_thread(_count_pages, data, name) if media_type == PDF else 0
    if 0 < max_pages < pages:
        raise too_many_pages(name, pages, max_pages)
    ranges = [(first, min(first + range_of_pages - 1, pages)) for first in range(1, pages + 1, range_of_pages)]
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(wanted: tuple[int, int] | None) -> Mapping[str, Any]:
        async with limit:
            return await _convert(url, data, name, wanted)

    parts = await together(map(one, ranges if len(ranges) > 1 else [None]))
    assembly = Assembly()
    paged = media_type == PDF
    for part, (first, _) in zip(parts, ranges or [(1, 1)], strict=True):
        texts = PLACEHOLDER.sub("\n\n", printable(str(part.get("md_content") or ""))).split(PAGE_MARK)
        paged = paged or len(texts) > 1
        for number, text in zip(_numbers(part, len(texts), first), texts, strict=True):
            before = len(assembly.parts)
            assembly.add(compact_tables(text.strip("\n")))
            assembly.end_page(number, before)
    if not assembly.parts:
        raise InputError(f"docling found no text in {name}", code="P205")
    if not paged:
        assembly.pages.clear()
    assembly.headings.extend(outline("".join(assembly.parts)))
    made = assembly.finish(next((heading.title for heading in assembly.headings if heading.level == 1), None))
    return replace(made, artifact=_artifact(parts))


def _artifact(parts: Sequence[Mapping[str, Any]]) -> bytes | None:
    contents = [part["json_content"] for part in parts if part.get("json_content")]
    if not contents:
        return None
    return canonical_json(contents if len(parts) > 1 else contents[0]).encode("utf-8", "replace")


def _count_pages(data: bytes, name: str) -> int:
    result = extract(data, PDF, name)
    return int((result.metadata.get("pages") or {}).get("total_count") or 0)


def _numbers(part: Mapping[str, Any], count: int, first: int) -> list[int]:
    """The pages that the texts are of; a page without anything on it has no text of its own."""
    found: set[int] = set()
    content = part.get("json_content") or {}
    for kind in ("texts", "tables", "pictures"):
        for item in content.get(kind) or ():
            found |= {int(place["page_no"]) for place in item.get("prov") or () if "page_no" in place}
    return sorted(found) if len(found) == count else list(range(first, first + count))


async def _convert(url: str, data: bytes, name: str, pages: tuple[int, int] | None) -> Mapping[str, Any]:
    """What docling made of it: `md_content` and `json_content`."""
    options: dict[str, Any] = {
        "to_formats": ["md", "json"], "image_export_mode": "placeholder", "md_page_break_placeholder": PAGE_MARK,
    }  # fmt: skip
    if pages is not None:
        options["page_range"] = list(pages)
    source = {"kind": "file", "filename": name.rpartition("/")[2], "base64_string": base64.b64encode(data).decode()}
    body = {"options": options, "sources": [source], "target": {"kind": "inbody"}}
    where, told = url.rstrip("/") + PATH, {"who": "docling-serve", "large": "P210", "away": "P311"}
    status, _, answer = await post_json(where, json.dumps(body).encode(), limit=ANSWER_LIMIT, **told)
    if status in (429, 503):
        raise Busy(f"docling-serve answered {status}", delay=5.0, reason="docling-serve has too much to do")
    said = " ".join(answer[:2000].decode("utf-8", "replace").split())[:300]
    if status in (401, 403, 404):
        raise InputError(
            f"docling-serve at {url} answered {status}: {said}",
            code="P211",
            hint="is that a docling-serve of 1.0 or newer?",
        )
    if 400 <= status < 500:
        raise InputError(f"docling-serve does not take {name}: {status} {said}", code="P210")
    if status != 200:
        raise TransientError(
            f"docling-serve answered {status}: {said}", code="P311",
            hint="a document that takes long needs a larger DOCLING_SERVE_MAX_SYNC_WAIT, or a smaller docling_pages",
        )  # fmt: skip
    return _document(answer, name)


def _document(answer: bytes, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(answer)
        status, document = found["status"], found["document"]
    except (ValueError, KeyError, TypeError):
        raise TransientError("docling-serve gave an answer that cannot be read", code="P311") from None
    if status not in ("success", "partial_success") or not isinstance(document, dict):
        words = "; ".join(str(error.get("error_message", error)) for error in found.get("errors") or ())[:300]
        raise InputError(f"docling could not read {name}: {words or status}", code="P210")
    return document
