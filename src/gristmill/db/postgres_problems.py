"""Why a server of ours could not be made or started, in the words of the file system and of its own log."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from gristmill.errors import DatabaseProblem

KEPT_LINES = 6


def storage_problem(error: OSError, place: Path) -> DatabaseProblem:
    """D106 for a full disk, D102 for everything else that the file system refuses."""
    what = f"{error.filename or place}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return failure(f"There is no space left for the database in {place}", what, "D106")
    return DatabaseProblem(
        f"The database folder {place} cannot be made or used ({what}).",
        hint="Make the project folder writable for this user, or choose another one.",
        safe="Nothing was changed.",
        code="D102",
    )


def log_tail(logs: Path) -> str:
    """The last lines that the server wrote at its latest start."""
    first = logs / "start.log"
    newest = sorted(logs.glob("server-*.log"))[-1:]
    # The server writes there as soon as it can; an older file is of an earlier start.
    current = [path for path in newest if path.stat().st_mtime_ns >= first.stat().st_mtime_ns]
    return last_lines("\n".join(path.read_text("utf-8", "replace") for path in (first, *current)))


def last_lines(text: str) -> str:
    """The last six of them that are not blank."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-KEPT_LINES:])


def failure(message: str, detail: str, code: str) -> DatabaseProblem:
    """A problem with its cause in the last lines of a log; a full disk is told from every other cause."""
    full = code == "D106" or os.strerror(errno.ENOSPC) in detail or os.strerror(errno.EDQUOT) in detail
    return DatabaseProblem(
        f"{message}:\n{detail}",
        hint="Free some space (a new database needs 100 MB) and try again."
        if full
        else "The lines above are the server's own; the whole log is in .gristmill/postgres/log.",
        safe="Committed data is kept; no half-made database is left behind.",
        code="D106" if full else code,
    )
