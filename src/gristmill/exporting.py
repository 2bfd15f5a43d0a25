"""The task `export.write`: an export that was asked for from elsewhere. What it wrote is kept as a blob, so that every
process can hand it out, whichever machine it was written on.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import zipfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from gristmill.data.blobs import Blobs
from gristmill.data.export_formats import FORMATS, Options, find_format
from gristmill.data.export_manifest import Manifest
from gristmill.errors import InputError, UsageError

EXPORT_WRITE = "export.write"
Write = Callable[[Path], Awaitable[Manifest]]
FOLDER = "exports"  # below the data folder: what is being written, and nothing else
_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_STAMP = (1980, 1, 1, 0, 0, 0)  # of everything in an archive: the same rows give the same bytes


class Exported(Protocol):
    """What is needed of a run."""

    id: int
    name: str
    workflow: Any
    app: Any

    async def export(self, path: Path | str, format: str | None = None, options: Options | None = None) -> Manifest: ...


class Context(Protocol):
    """What the handler needs of the App."""

    settings: Any
    blobs: Blobs

    async def find(self, name: str) -> Exported: ...


def export_options(wanted: Mapping[str, Any]) -> Options:
    """Options of an export from plain values. Raises `UsageError` U412 for one that there is not."""
    known = {field.name for field in fields(Options)}
    if unknown := sorted(set(wanted) - known):
        raise UsageError(f'there is no option "{unknown[0]}"', code="U412", hint=f"options: {', '.join(sorted(known))}")
    return Options(**wanted)


async def write_export(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Writes the export that the payload describes ({"run", "format", "options", "by"}); returns where it is kept:
    "blob", "name", "bytes", "rows", "format", "splits", "files". Several files, or a folder, become one zip archive.

    Raises `InputError` T324 for a payload that can never be exported; what the export raises otherwise.
    """
    try:
        run = await context.find(str(payload["run"]))
        name = payload["format"]
        wanted = payload.get("options") or {}
        find = _rows if name in FORMATS else _annotations
        write, suffix = find(run, name, wanted, context, str(payload.get("by", "")))
    except (UsageError, KeyError, TypeError) as error:
        raise InputError(f"this cannot be exported: {error}", code="T324", hint=getattr(error, "hint", "")) from error
    folder = Path(context.settings.home) / FOLDER / secrets.token_hex(8)
    kept = folder / (_NAME.sub("_", run.name) + suffix)
    await asyncio.to_thread(folder.mkdir, parents=True)
    try:
        manifest = await write(kept)
        if kept.is_dir() or len(manifest.files) > 1:
            kept = await asyncio.to_thread(_archive, folder, kept.stem if suffix else kept.name)
        digest, size = await context.blobs.write_file(kept)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, True)
    return {
        "blob": digest, "name": kept.name, "bytes": size, "rows": manifest.rows, "format": name,
        "splits": manifest.splits, "images": manifest.images,
        "files": [{"name": one.name, "rows": one.rows, "bytes": one.bytes} for one in manifest.files],
    }  # fmt: skip


def _rows(
    run: Exported, name: str, wanted: Mapping[str, Any], _context: Context, _by: str
) -> tuple[Write, str]:  # fmt: skip
    """What writes rows of a run to a path, and the suffix that the path ends in. Raises `UsageError`."""
    format, options = find_format(name), export_options(wanted)
    options.check(format)
    return lambda path: run.export(path, format.name, options), format.suffixes[0] if format.suffixes else ""


def _annotations(
    run: Exported, name: str, wanted: Mapping[str, Any], context: Context, by: str
) -> tuple[Write, str]:  # fmt: skip
    """The same for its annotations. Raises `UsageError`."""
    # Here, as every command imports this module, and few export annotations
    from gristmill.review.label_studio.run_exports import NAMES, annotation_options, export_annotations

    if name not in NAMES:  # a name of a row format in other letters, or of none
        return _rows(run, name, wanted, context, by)
    options = annotation_options(run, name, wanted)

    async def write(path: Path) -> Manifest:
        return (await export_annotations(run, path, name, options, blobs=context.blobs, by=by)).manifest

    return write, NAMES[name].suffix


def _archive(folder: Path, name: str) -> Path:
    """Everything in the folder as one archive beside it."""
    target = folder / f"{name}.zip"
    entries = sorted(path for path in folder.rglob("*") if path.is_file())
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in entries:
            about = zipfile.ZipInfo(str(path.relative_to(folder)), _STAMP)
            about.compress_type, about.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with path.open("rb") as source, archive.open(about, "w", force_zip64=True) as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    return target


HANDLERS: Mapping[str, Callable[[dict[str, Any], Any], Awaitable[dict[str, Any]]]] = MappingProxyType(
    {EXPORT_WRITE: write_export}
)
