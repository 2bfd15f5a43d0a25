"""The page: the files that its build has made, and index.html for every address of its own."""

from __future__ import annotations

import asyncio
import gzip
import mimetypes
import os
import re
from functools import lru_cache
from importlib import resources
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from gristmill.api import problems
from gristmill.api.file_answers import FileAnswer

FOREVER = "public, max-age=31536000, immutable"  # the build puts a hash of what is in it into each of these names
PACKED = (".js", ".css", ".html", ".svg")  # fonts and pictures are small already
LEAST = 1000  # bytes below which compressing is not worth its while
MISSING = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Gristmill</title>
<style>body{font:16px/1.5 system-ui;max-width:42rem;margin:4rem auto;padding:0 1rem}code{background:#8882}</style>
<h1>Gristmill runs; its page was not built</h1>
<p>A wheel has the page inside. In a checkout it is built once, with Node: <code>make page</code>.</p>
<p>Everything works without it: <code>gristmill --help</code>, and the API:
<a href="api/health">api/health</a>, <a href="api/openapi.json">api/openapi.json</a>.</p></html>
"""


def folder() -> Path:
    """Where the build puts its files."""
    return Path(str(resources.files("gristmill"))) / "web" / "static"


def install(api: FastAPI) -> None:
    """Adds what answers every address that is not the API's."""

    @api.get("/{path:path}", include_in_schema=False)
    async def page(path: str, request: Request) -> Response:
        first = path.partition("/")[0]
        if first in ("api", "metrics"):
            raise HTTPException(404, "there is no such address")
        root = folder().resolve()
        file = _inside(root, path)
        if file is not None:
            return await _answer(file, request, FOREVER if first == "assets" else "no-cache")
        if "." in path.rpartition("/")[2]:  # a file that is missing, not an address of the page
            return problems.problem(404, "A404", "there is no such file")
        index = root / "index.html"
        if not index.is_file():
            return HTMLResponse(MISSING, headers={"Cache-Control": "no-cache"})
        return await _answer(index, request, "no-cache")


async def _answer(file: Path, request: Request, kept: str) -> Response:
    """A file of the build, compressed once for all who take that; 304 for who has it already."""
    about = _about(file)
    media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    packed = file.suffix in PACKED and about.st_size >= LEAST and _takes_gzip(request.headers.get("accept-encoding"))
    tag = f'W/"{about.st_mtime_ns:x}-{about.st_size:x}"'  # weak: the same file, compressed or not
    headers = {"Cache-Control": kept, "ETag": tag, "Vary": "Accept-Encoding"}
    known = [one.strip() for one in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    if packed:
        content = await asyncio.to_thread(_packed, file, about.st_mtime_ns)
        return Response(content, media_type=media_type, headers=headers | {"Content-Encoding": "gzip"})
    return FileAnswer(file, media_type=media_type, headers=headers)


def _about(file: Path) -> os.stat_result:
    return file.stat()


@lru_cache(maxsize=128)
def _packed(file: Path, changed: int) -> bytes:
    """The whole page with the editor is under 1 MB of these. `changed`: a file that was built anew is another one."""
    return gzip.compress(file.read_bytes(), 9, mtime=0)


def _takes_gzip(accepted: str | None) -> bool:
    """Whether a header Accept-Encoding asks for gzip: named, or *, and not with the weight 0."""
    weights = {}
    for one in (accepted or "").lower().split(","):
        name, _, weight = one.partition(";")
        weights[name.strip()] = re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight) is None
    return weights.get("gzip", weights.get("*", False))


def _inside(root: Path, path: str) -> Path | None:
    """A file of the build, never one outside of it."""
    if "\0" in path or len(path) > 1000:
        return None
    file = (root / path).resolve()
    return file if os.path.isfile(file) and file.is_relative_to(root) else None  # Path.is_file raises for a long name
