"""Finds the input files below the paths that a user names.

Nothing is passed over in silence: what cannot be read comes back as `Unreadable` with a reason, and the rest goes on.
Only hidden files are left out, and folders that are links to another place inside the same input (their files are
found where they really are).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gristmill.data.blobs import open_regular, unreadable
from gristmill.data.media import media_type
from gristmill.errors import InputError

LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")  # hidden on the systems that they come from


@dataclass(frozen=True, slots=True)
class Found:
    """A file that can be read. `name` is unique within one scan; `size` is in bytes."""

    name: str
    path: Path
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A path that cannot be read. Codes: F101 missing, F102 no permission, F103 dangling link or a loop of links,
    F104 a link that leaves the input, F105 not a regular file, F106 any other error of the disk."""

    name: str
    path: Path
    code: str
    reason: str


def scan(paths: Iterable[Path | str]) -> Iterator[Found | Unreadable]:
    """Every file below `paths`, in a stable order (paths as given, then by name).

    A file is named by its path below the folder that was given, with "/" between folders. When several paths are
    given, the folder's own name comes first, with as many parents as it takes to tell the paths apart. A path that
    lies inside another one is looked at once.
    """
    roots = _distinct([Path(path) for path in paths])
    labels = _labels(roots)
    for root in roots:
        yield from _walk_root(root, labels[root], single=len(roots) == 1)


def _walk_root(root: Path, label: str, *, single: bool) -> Iterator[Found | Unreadable]:
    try:
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except OSError as error:
        yield _failure(label, root, error)
        return
    if is_folder:
        yield from _walk(root, "" if single else f"{label}/", os.path.realpath(root), fallback=label)
    else:
        yield _look(root, label)


def _walk(folder: Path, prefix: str, boundary: str, *, fallback: str) -> Iterator[Found | Unreadable]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        yield _failure(prefix.rstrip("/") or fallback, folder, error)
        return
    for entry in names:
        if _is_left_out(entry):
            continue
        path = folder / entry
        name = prefix + _storable(entry)
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            yield _failure(name, path, error)
            continue
        if stat.S_ISDIR(mode):
            yield from _walk(path, f"{name}/", boundary, fallback=fallback)
        elif stat.S_ISLNK(mode):
            yield from _follow(path, name, boundary)
        else:
            yield _look(path, name)


def _follow(path: Path, name: str, boundary: str) -> Iterator[Found | Unreadable]:
    try:
        target = os.path.realpath(path, strict=True)
        is_folder = os.path.isdir(target)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            yield Unreadable(name, path, "F103", "the link leads to nothing")
        else:
            yield _failure(name, path, error)
        return
    if os.path.commonpath([boundary, target]) != boundary:
        yield Unreadable(name, path, "F104", "the link leads out of the input folder and is not followed")
    elif not is_folder:
        yield _look(path, name)


def _look(path: Path, name: str) -> Found | Unreadable:
    """Opens the file, because only that tells whether it can be read, and asks what it is."""
    try:
        with open(open_regular(path), "rb") as file:
            return Found(name, path, os.fstat(file.fileno()).st_size, media_type(name, file))
    except InputError as error:
        return Unreadable(name, path, error.code, error.message)
    except OSError as error:
        return _failure(name, path, error)


def _failure(name: str, path: Path, error: OSError) -> Unreadable:
    problem = unreadable(path, error)
    return Unreadable(name, path, problem.code, problem.message)


def _is_left_out(entry: str) -> bool:
    return entry.startswith((".", "~$")) or entry in LITTER


def _storable(name: str) -> str:
    """A file name need not be valid UTF-8, what the database keeps must be."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _distinct(paths: list[Path]) -> list[Path]:
    """Without the paths that another one already covers, in the order given."""
    real = {path: Path(os.path.realpath(path)) for path in paths}
    kept: list[Path] = []
    seen: set[Path] = set()
    for path in paths:
        own = real[path]
        covered = (
            any(
                other in own.parents and not any(_is_left_out(part) for part in own.relative_to(other).parts)
                for other in real.values()
            )
            and own.exists()
        )  # a path that does not exist has to be reported, and the walk will not meet it
        if own not in seen and not covered:
            seen.add(own)
            kept.append(path)
    return kept


def _labels(roots: list[Path]) -> dict[Path, str]:
    """The shortest endings of the paths such that none is equal to another one, nor a folder above it."""
    parts = {root: [_storable(part) for part in Path(os.path.abspath(root)).parts] for root in roots}
    depth = dict.fromkeys(roots, 1)

    def label(root: Path) -> str:
        return "/".join(parts[root][-depth[root] :]).lstrip("/") or "input"

    while True:
        clashing = [
            root for root in roots
            if depth[root] < len(parts[root])
            and any(other is not root and _overlap(label(root), label(other)) for other in roots)
        ]  # fmt: skip
        if not clashing:
            return {root: label(root) for root in roots}
        for root in clashing:
            depth[root] += 1


def _overlap(first: str, second: str) -> bool:
    return first == second or first.startswith(f"{second}/") or second.startswith(f"{first}/")
