"""The page: the files that its build has made, and index.html for every address of its own."""

from __future__ import annotations

import mimetypes
from importlib import resources
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from starlette.exceptions import HTTPException

from gristmill.api import problems

FOREVER = "public, max-age=31536000, immutable"  # the build puts a hash of what is in it into each of these names
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
            media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            kept = FOREVER if first == "assets" else "no-cache"
            return FileResponse(file, media_type=media_type, headers={"Cache-Control": kept})
        if "." in path.rpartition("/")[2]:  # a file that is missing, not an address of the page
            return problems.problem(404, "A404", "there is no such file")
        index = root / "index.html"
        if not index.is_file():
            return HTMLResponse(MISSING, headers={"Cache-Control": "no-cache"})
        return FileResponse(index, headers={"Cache-Control": "no-cache"})


def _inside(root: Path, path: str) -> Path | None:
    """A file of the build, never one outside of it."""
    if "\0" in path or len(path) > 1000:
        return None
    file = (root / path).resolve()
    return file if file.is_file() and file.is_relative_to(root) else None
