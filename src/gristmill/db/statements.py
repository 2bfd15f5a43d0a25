"""SQL under names: `statements("queue")["claim"]` is the text after `-- name: claim` in sql/queue.sql."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from types import MappingProxyType

_NAME = re.compile(r"^-- name: ([a-z_]+)\s*$", re.MULTILINE)


@cache
def statements(file: str) -> MappingProxyType[str, str]:
    """All statements of sql/<file>.sql by name. Raises `ValueError` when a name stands twice."""
    text = resources.files("gristmill.db").joinpath("sql", f"{file}.sql").read_text("utf-8")
    parts = _NAME.split(text)
    found: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        if name in found:
            raise ValueError(f"sql/{file}.sql names {name} twice")
        found[name] = body.strip().rstrip(";")
    return MappingProxyType(found)


def statement_files() -> list[str]:
    """The names of all files of statements."""
    folder = resources.files("gristmill.db").joinpath("sql")
    return sorted(entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name.endswith(".sql"))
