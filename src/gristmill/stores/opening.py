"""From what a workflow says ("database", "lancedb:FOLDER") to the index that a task writes to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg

from gristmill.errors import UsageError
from gristmill.operators.embed import Entries
from gristmill.stores.pgvector import DatabaseEntries

WRITING = frozenset({"index"})  # operators that get one; their work is done again even if it is known: it is out there


def folder_of(store: str, home: Path) -> Path | None:
    """The folder of a LanceDB store, absolute and without links; None for "database". Raises `UsageError` U390."""
    kind, _, name = store.partition(":")
    if store == "database":
        return None
    if kind == "lancedb" and name.strip():
        return Path(os.path.realpath(home / Path(name.strip()).expanduser()))
    raise UsageError(f'there is no store "{store}"', code="U390", hint='write "database", or "lancedb:FOLDER"')


def open_entries(pool: asyncpg.Pool[Any], home: Path, store: str, ids: Sequence[int], holder: str) -> Entries:
    """The index of a task; `ids` are the records of its inputs. Raises `UsageError` U390, `EnvironmentProblem` F301."""
    folder = folder_of(store, home)
    if folder is None:
        return DatabaseEntries(pool, ids)
    from gristmill.stores.lance import LanceEntries

    return LanceEntries(pool, folder, ids, holder)
