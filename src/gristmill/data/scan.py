"""Finds the input files below the paths that a user names.

Nothing is passed over in silence: what cannot be read comes back as `Unreadable` with a reason, and the rest goes on.
Only hidden files and our own settings are left out, and folders that are links to another place inside the same input
(their files are found where they really are).
"""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from gristmill.data.blobs import open_regular, unreadable
from gristmill.data.media import media_type
from gristmill.data.selection import folder_of, is_glob, pattern
from gristmill.errors import InputError

LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")  # hidden on the systems that they come from
SETTINGS = "gristmill.toml"  # a project may lie beside its documents


@dataclass(frozen=True, slots=True)
class Found:
    """A file that can be read. `name` is unique within one scan; `size` is in bytes.

    `opener` opens what is not a file of its own: a part of an archive, or what was fetched. `uri` is where that is.
    """

    name: str
    path: Path
    size: int
    media_type: str
    uri: str = ""
    opener: Callable[[], BinaryIO] | None = field(default=None, compare=False, repr=False)

    def open(self) -> BinaryIO:
        """Opens it for reading. Raises `InputError` F101 to F106, F111 or F112."""
        return self.opener() if self.opener is not None else open(open_regular(self.path), "rb")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A path that cannot be read. Codes: F101 missing, F102 no permission, F103 dangling link or a loop of links,
    F104 a link that leaves the input, F105 not a regular file, F106 any other error of the disk; F109 larger than
    wanted, F111 to F116 archives, F120 to F124 URLs."""

    name: str
    path: Path
    code: str
    reason: str
    uri: str = ""


def told(error: InputError) -> str:
    """What went wrong, and what to do about it, in one sentence."""
    return f"{error.message}; {error.hint}" if error.hint else error.message


def scan(paths: Iterable[Path | str], *, ordered: bool = True) -> Iterator[Found | Unreadable]:
    """Every file below `paths`, in a stable order (paths as given, then by name).

    A file is named by its path below the folder that was given, with "/" between folders. When several paths are
    given, the folder's own name comes first, with as many parents as it takes to tell the paths apart. A path that
    lies inside another one is looked at once. A glob (`docs/*.md`, `docs/**/*.pdf`) stands for what it matches, named
    as if its folder had been given. Without `ordered` a folder's names come as the disk has them, and no list of them
    is kept: constant memory, however many files there are.
    """
    wanted = _wanted(paths)
    roots = _distinct(list(wanted), [root for root, tails in wanted.items() if tails is None])
    labels = _labels(roots)
    for root in roots:
        tails, single = wanted[root], len(roots) == 1
        if tails is None:
            yield from _walk_root(root, labels[root], single=single, ordered=ordered)
        else:
            yield from _walk_globs(root, tails, labels[root], single=single, ordered=ordered)


def _wanted(paths: Iterable[Path | str]) -> dict[Path, list[str] | None]:
    """The folders and files to look at; a list of globs below one, or None for all of it."""
    found: dict[str, tuple[Path, list[str] | None]] = {}
    for path in map(Path, paths):
        root, tail = path, None
        if is_glob(path):
            root = Path(folder_of(str(path)))
            tail = "/".join(path.parts[len(root.parts) :])
        real = os.path.realpath(root)
        if tail is None:
            found[real] = (found[real][0] if real in found else root, None)
        elif (tails := found.setdefault(real, (root, []))[1]) is not None:
            tails.append(tail)
    return dict(found.values())


def _walk_globs(
    root: Path, tails: list[str], label: str, *, single: bool, ordered: bool
) -> Iterator[Found | Unreadable]:  # fmt: skip
    """What matches, in the order of the names. Globs with `**` look at everything below; others at their depth only."""
    prefix = "" if single else f"{label}/"
    boundary = os.path.realpath(root)
    count = 0
    if any("**" in tail for tail in tails):
        for entry in _walk(root, prefix, boundary, fallback=label, ordered=ordered):
            name = entry.name.removeprefix(prefix)
            is_folder = isinstance(entry, Unreadable) and os.path.isdir(entry.path)
            if is_folder or any(pattern(tail).fullmatch(name) for tail in tails):
                count += 1
                yield entry
    else:
        names = (name for tail in tails for name in glob.iglob(tail, root_dir=root))
        for match in sorted(set(names)) if ordered else names:
            path = root / match
            if any(left_out(part) for part in Path(match).parts):
                continue
            count += 1
            name = prefix + storable_name(match)
            if os.path.commonpath([boundary, os.path.realpath(path)]) != boundary or path.is_symlink():
                yield from _follow(path, name, boundary)
            elif os.path.isdir(path):  # which says no where Path.is_dir raises
                yield from _walk(path, f"{name}/", boundary, fallback=label, ordered=ordered)
            else:
                yield _look(path, name)
    if not count:
        tail = " or ".join(tails)
        yield Unreadable(f"{prefix}{tail}", root / tails[0], "F101", f"nothing matches {tail} in {root.name or root}")


def _walk_root(root: Path, label: str, *, single: bool, ordered: bool) -> Iterator[Found | Unreadable]:
    try:
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except OSError as error:
        yield _failure(label, root, error)
        return
    if is_folder:
        yield from _walk(root, "" if single else f"{label}/", os.path.realpath(root), fallback=label, ordered=ordered)
    else:
        yield _look(root, label)


def _walk(folder: Path, prefix: str, boundary: str, *, fallback: str, ordered: bool) -> Iterator[Found | Unreadable]:
    try:
        names: Iterable[str | OSError] = sorted(os.listdir(folder)) if ordered else _names(os.scandir(folder))
    except OSError as error:
        yield _failure(prefix.rstrip("/") or fallback, folder, error)
        return
    for entry in names:
        if isinstance(entry, OSError):
            yield _failure(prefix.rstrip("/") or fallback, folder, entry)
            continue
        if left_out(entry):
            continue
        path = folder / entry
        name = prefix + storable_name(entry)
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            yield _failure(name, path, error)
            continue
        if stat.S_ISDIR(mode):
            yield from _walk(path, f"{name}/", boundary, fallback=fallback, ordered=ordered)
        elif stat.S_ISLNK(mode):
            yield from _follow(path, name, boundary)
        else:
            yield _look(path, name)


def _names(entries: os._ScandirIterator[str]) -> Iterator[str | OSError]:
    """The names, and last of all what went wrong: a folder may be opened and its list not be read."""
    with entries:
        try:
            for entry in entries:
                yield entry.name
        except OSError as error:
            yield error


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


def left_out(entry: str) -> bool:
    """Whether a file or folder of this name is hidden, or holds settings of ours."""
    return entry.startswith((".", "~$")) or entry in LITTER or entry == SETTINGS


def storable_name(name: str) -> str:
    """A file name need not be valid UTF-8, what the database keeps must be."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _distinct(paths: list[Path], whole: list[Path]) -> list[Path]:
    """Without the paths that another one of the `whole` ones already covers, in the order given."""
    real = {path: Path(os.path.realpath(path)) for path in paths}
    above = [real[path] for path in whole]
    kept: list[Path] = []
    seen: set[Path] = set()
    for path in paths:
        own = real[path]
        covered = any(
            other in own.parents and not any(left_out(part) for part in own.relative_to(other).parts) for other in above
        ) and os.path.exists(own)  # a path that does not exist has to be reported, and the walk will not meet it
        if own not in seen and not covered:
            seen.add(own)
            kept.append(path)
    return kept


def _labels(roots: list[Path]) -> dict[Path, str]:
    """The shortest endings of the paths such that none is equal to another one, nor a folder above it."""
    parts = {root: [storable_name(part) for part in Path(os.path.abspath(root)).parts] for root in roots}
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
