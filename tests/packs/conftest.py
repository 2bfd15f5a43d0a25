"""Packs that tests write, and what their actions made."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from gristmill.data.kinds import Chunk
from gristmill.operators.operator import Operator
from gristmill.packs import actions
from gristmill.testing import MemoryBlobs, perform

CHUNK = Chunk(text="A sieve is a part of the mill.", ordinal=7)
_numbers = itertools.count(1)
Write = Callable[..., Path]
Load = Callable[..., Operator]


def write_pack(folder: Path, files: Mapping[str, str | bytes], **about: Any) -> Path:
    """A pack of these files; `pack.yaml` is made from `about`, unless it is among them."""
    told = {"ref": folder.name, "label": "A pack", "version": "1.0.0"} | about
    for path, content in {"pack.yaml": yaml.safe_dump(told), **files}.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        if content[:2] in ("#!", b"#!"):
            place.chmod(0o755)
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a pack with one action, `do`, whose program and declaration are given."""

    def written(program: str | bytes, ref: str = "", **told: Any) -> Path:
        folder = tmp_path / (ref or f"pack_{next(_numbers)}")
        about = {key: told.pop(key) for key in ("settings", "version") if key in told}
        files = told.pop("files", {})
        action = {
            "ref": f"{folder.name}.do", "description": "A test.", "runner": "shell", "entry": "actions/do.sh",
            "delivery": "env", "timeout": 20, "files": told.pop("input_files", False),
        } | told  # fmt: skip
        content = {"actions/do.yaml": yaml.safe_dump(action), action["entry"]: program, **files}
        return write_pack(folder, content, **about)

    return written


@pytest.fixture
def load(write: Write) -> Load:
    """As `write`, and makes the action known: its operator."""

    def loaded(program: str | bytes, **told: Any) -> Operator:
        values = told.pop("values", None)
        pack = actions.load_folder(write(program, **told), values)
        return actions.find_action(pack.actions[0].ref)

    return loaded


async def run(made: Operator, blobs: MemoryBlobs | None = None, **options: Any) -> Any:
    """The one record that an action makes of `CHUNK`."""
    found = await perform(made.using(**options), CHUNK, blobs=blobs)
    assert len(found) == 1
    return found[0]
