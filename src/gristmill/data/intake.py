"""The inputs of a run as they are found: folders are walked, globs matched, archives opened."""

from __future__ import annotations

import os
from collections.abc import Iterator

from gristmill.data.archives import BOUNDS, Bounds, expand
from gristmill.data.media import ZIP
from gristmill.data.scan import Found, Unreadable, scan
from gristmill.data.selection import Inputs


def found_in(inputs: Inputs, *, ordered: bool = True, bounds: Bounds = BOUNDS) -> Iterator[Found | Unreadable]:
    """Every file that the inputs name and want, those inside of archives too; URLs are left to who may fetch them.

    Order and `ordered` as in `scan`. F109 is a file above `max_bytes`: it is not read.
    """
    for entry in scan(inputs.paths, ordered=ordered):
        yield from narrowed(inputs, entry, bounds)


def narrowed(inputs: Inputs, entry: Found | Unreadable, bounds: Bounds = BOUNDS) -> Iterator[Found | Unreadable]:
    """What is wanted of one entry: nothing, itself, or the files inside of it."""
    if isinstance(entry, Unreadable) and not entry.uri and os.path.isdir(entry.path):
        if not inputs.excludes(entry.name):  # what is in it, nobody knows
            yield entry
    elif isinstance(entry, Found) and entry.media_type == ZIP:
        if not inputs.excludes(entry.name):
            yield from (bounded(inputs, found) for found in expand(entry, bounds) if _wants(inputs, found, entry))
    elif inputs.wants(entry.name):
        yield bounded(inputs, entry)


def _wants(inputs: Inputs, entry: Found | Unreadable, archive: Found) -> bool:
    return entry.name == archive.name or inputs.wants(entry.name)  # a trouble of the archive itself is always told


def bounded(inputs: Inputs, entry: Found | Unreadable) -> Found | Unreadable:
    """The entry, or F109 when it is too large."""
    if isinstance(entry, Found) and inputs.max_bytes is not None and entry.size > inputs.max_bytes:
        reason = f"it has {entry.size:,} bytes; no more than {inputs.max_bytes:,} are wanted"
        return Unreadable(entry.name, entry.path, "F109", reason, entry.uri)
    return entry
