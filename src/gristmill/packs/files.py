"""The files of a pack: read without following a link, within bounds, and written as a copy that nobody changes."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gristmill.errors import EnvironmentProblem

MOST_FILES = 1000
LARGEST_FILE = 32 * 2**20  # bytes
LARGEST_PACK = 64 * 2**20
_LEFT_OUT = frozenset({".git", "__pycache__", ".venv", "node_modules"})


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file of a pack."""

    code: str
    file: str
    message: str
    hint: str = ""


def read_files(folder: Path) -> tuple[dict[str, tuple[bool, bytes]], list[Problem]]:
    """All files: path with "/" -> (whether it is executable, content); and what is wrong with some.

    K107 a link or what is no regular file; K112 too large, or too many; K117 a name that is not
    printable, or that holds a backslash.
    """
    files: dict[str, tuple[bool, bytes]] = {}
    problems: list[Problem] = []
    waiting = [""]
    total = 0
    while waiting:
        inside = waiting.pop()
        for entry in sorted(os.scandir(folder / inside), key=lambda one: one.name):
            path = f"{inside}{entry.name}"
            if entry.name in _LEFT_OUT:
                continue
            if not entry.name.isprintable() or "\\" in entry.name or not _is_text(entry.name):
                problems.append(Problem("K117", repr(path)[1:-1], "its name holds what cannot be printed"))
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(f"{path}/")
            elif len(files) >= MOST_FILES:
                return files, [*problems, Problem("K112", path, f"the pack has more than {MOST_FILES} files")]
            else:
                found = _read(folder, path)
                if isinstance(found, Problem):
                    problems.append(found)
                    continue
                files[path] = found
                total += len(found[1])
                if total > LARGEST_PACK:
                    return files, [*problems, Problem("K112", path, f"the pack has more than {LARGEST_PACK:,} bytes")]
    return files, problems


def write_files(files: Mapping[str, tuple[bool, bytes]], target: Path) -> None:
    """Writes a folder with these files, whole or not at all; does nothing when it is there.

    Raises `EnvironmentProblem` K311 when it cannot be written.
    """
    if target.is_dir():
        return
    partial = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        for path, (executable, content) in files.items():
            place = partial / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            place.chmod(0o555 if executable else 0o444)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was quicker
                raise
    except OSError as error:
        raise EnvironmentProblem(f"the pack cannot be written to {target}: {error.strerror}", code="K311") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def digest_of(files: Mapping[str, tuple[bool, bytes]]) -> str:
    """sha256 (64 hex digits) over paths, executable bits and contents, whatever their order."""
    total = hashlib.sha256()
    for path in sorted(files):
        executable, content = files[path]
        total.update(f"{path}\0{int(executable)}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()


def _read(folder: Path, path: str) -> tuple[bool, bytes] | Problem:
    """Opened without following a link, and looked at through the open file: nobody can swap it in between."""
    try:
        descriptor = os.open(folder / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if (folder / path).is_symlink():
            return Problem("K107", path, "it is a link", "copy what it points to into the pack")
        return Problem("K107", path, f"it cannot be read: {error.strerror}")
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return Problem("K107", path, "it is no regular file")
    with open(descriptor, "rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        return Problem("K112", path, f"it has more than {LARGEST_FILE:,} bytes")
    return bool(status.st_mode & 0o111), content


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
