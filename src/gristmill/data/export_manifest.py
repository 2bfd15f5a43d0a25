"""The manifest of an export: what was written, from what, with which options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gristmill.data.export_formats import Options
from gristmill.version import __version__

SCHEMA = "gristmill.export/1"
IN_FOLDER = "gristmill.manifest.json"


@dataclass(frozen=True, slots=True)
class Written:
    """One file. `name` is its path below the export's folder; `sha256` has 64 hexadecimal digits."""

    name: str
    rows: int
    bytes: int
    sha256: str
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was written. Of one file `bytes` and `sha256` are the file's; of several the bytes are summed up, and the
    hash is that of their names and hashes."""

    path: Path
    format: str
    rows: int
    bytes: int
    sha256: str
    files: tuple[Written, ...] = ()
    images: int = 0  # pictures that lie in the folder; each is named by the hash of its bytes

    @property
    def splits(self) -> dict[str, int]:
        """Rows of each split; empty without splits."""
        return {file.split: file.rows for file in self.files if file.split is not None}


def manifest_of(path: Path, format: str, files: list[Written], images: int = 0) -> Manifest:
    """The manifest of files, of which only those of data have rows."""
    whole = files[0].sha256
    if len(files) > 1:
        listed = "".join(f"{file.sha256}  {file.name}\n" for file in files)
        whole = hashlib.sha256(listed.encode()).hexdigest()
    rows, size = sum(file.rows for file in files), sum(file.bytes for file in files)
    return Manifest(path, format, rows, size, whole, tuple(files), images)


def manifest_text(manifest: Manifest, options: Options, about: Mapping[str, Any]) -> bytes:
    """The manifest as JSON. Says nothing that differs between two exports of the same rows."""
    asked = {
        field.name: getattr(options, field.name)
        for field in fields(Options)
        if getattr(options, field.name) != field.default
    }
    document = {
        "schema": SCHEMA, **about, "format": manifest.format, "rows": manifest.rows, "splits": manifest.splits,
        "options": {name: dict(value) if isinstance(value, Mapping) else value for name, value in asked.items()},
        "images": manifest.images, "files": [asdict(file) for file in manifest.files],
        "versions": {"gristmill": __version__},
    }  # fmt: skip
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
