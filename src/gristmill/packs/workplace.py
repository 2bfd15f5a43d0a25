"""A folder of its own for each attempt, which is gone afterwards, whoever was killed in between."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gristmill.engine import processes


def base_of(blobs: Any) -> Path:
    """The data folder on this machine: that of the blobs, or the user's cache where blobs are in memory."""
    folder = getattr(blobs, "folder", None)
    if folder is not None:
        return Path(folder).parent.resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "gristmill"


@contextlib.contextmanager
def working_folder(base: Path) -> Iterator[Path]:
    """A new, empty folder that only our user can look into."""
    inside = base / "work"
    inside.mkdir(parents=True, exist_ok=True)
    _sweep(inside)
    me = os.getpid()
    folder = inside / f"{_here()}-{me}-{processes.started(me)}-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Takes a folder away, also one that a program has made hard to remove."""
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(folder)
    if folder.exists():
        for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*command, "--", str(folder)], check=False, capture_output=True, timeout=60)


def _sweep(inside: Path) -> None:
    """What processes of this machine have left behind that were killed; others may share the data folder."""
    for name in os.listdir(inside):
        parts = name.split("-")
        if len(parts) == 4 and parts[0] == _here() and processes.ended(int(parts[1]), int(parts[2])):
            remove(inside / name)


def _here() -> str:
    return hashlib.sha256(processes.machine().encode()).hexdigest()[:8]
