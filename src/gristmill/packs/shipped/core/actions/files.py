"""The file actions: every path is walked from the folder `root`, one part at a time, and never through a link."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import secrets
import stat
import sys
from typing import Any, NoReturn

REFUSED = 65  # this input can never succeed
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LARGEST = 64 * 2**20  # bytes


def refuse(why: str) -> NoReturn:
    print(why, file=sys.stderr)
    sys.exit(REFUSED)


def parts_of(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or "\0" in path:
        refuse(f"{path!r} leads out of the folder root")
    return parts


def enter(root: int, parts: list[str], path: str, *, make: bool = False) -> int:
    """A descriptor of the folder."""
    here = os.dup(root)
    for part in parts:
        try:
            if make and part not in os.listdir(here):
                _make(here, part)
            inner = os.open(part, FOLDER, dir_fd=here)
        except OSError as error:
            refuse(f"{path!r}: {part!r} is no folder that can be entered: {error.strerror}")
        os.close(here)
        here = inner
    return here


def _make(here: int, part: str) -> None:
    with contextlib.suppress(FileExistsError):  # another action was quicker
        os.mkdir(part, dir_fd=here)


def read(root: int, path: str) -> bytes:
    parts = parts_of(path)
    if not parts:
        refuse("path names no file")
    folder = enter(root, parts[:-1], path)
    try:
        descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        refuse(f"{path!r} cannot be read: {error.strerror}")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        refuse(f"{path!r} is no regular file")
    with open(descriptor, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        refuse(f"{path!r} has more than {LARGEST:,} bytes")
    return content


def write(root: int, path: str, text: str, overwrite: bool) -> dict[str, Any]:
    parts = parts_of(path)
    if not parts:
        refuse("path names no file")
    folder = enter(root, parts[:-1], path, make=True)
    content = text.encode("utf-8", "replace")
    told = {"path": "/".join(parts), "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    partial = f".{secrets.token_hex(8)}.partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if overwrite:
            try:
                os.replace(partial, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            except IsADirectoryError:
                refuse(f"{path!r} is a folder")
            return told
        try:
            os.link(partial, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            if read(root, path) != content:  # an attempt that was killed after its work has written the same
                refuse(f"{path!r} is there already, with other content")
        os.unlink(partial, dir_fd=folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial, dir_fd=folder)
    return told


def listed(root: int, path: str, pattern: str) -> None:
    start = enter(root, parts_of(path), path)
    for folder, folders, names, here in os.fwalk(".", dir_fd=start, follow_symlinks=False):
        folders.sort()
        for name in sorted(names):
            status = os.stat(name, dir_fd=here, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and fnmatch.fnmatch(name, pattern):
                place = os.path.normpath(os.path.join(path, folder, name))
                print(json.dumps({"path": place, "size": status.st_size}))


def main() -> None:
    told = json.load(sys.stdin)
    given = told["parameters"]
    place = told["settings"].get("root")
    if not place:
        refuse('no folder is set for the file actions: gristmill.toml: [packs.core] root = "/folder"')
    try:
        root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        sys.exit(f"the folder root cannot be entered: {error.strerror}")  # it may be mounted later: tried again
    match told["action"]:
        case "core.file_read":
            sys.stdout.buffer.write(read(root, given["path"]))
        case "core.file_write":
            print(json.dumps(write(root, given["path"], given["text"], given["overwrite"])))
        case "core.file_list":
            listed(root, given["path"], given["pattern"])


if __name__ == "__main__":
    main()
