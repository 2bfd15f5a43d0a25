"""How an action is told what to do: a document on standard input or in a file, or variables. Never a command line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gristmill.data.kinds import canonical_json
from gristmill.engine.child_process import environment as inherited
from gristmill.errors import InputError
from gristmill.packs.pack import Action, Pack

LONGEST_VARIABLE = 128 * 1024 - 1024  # bytes that the kernel takes of one variable
LONGEST_ENVIRONMENT = 1024 * 1024
PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Told:
    """What one attempt is told. `files` are paths of the bytes behind the input's blobs, by field."""

    parameters: Mapping[str, Any]
    settings: Mapping[str, Any]
    kind: str
    body: Mapping[str, Any]
    files: Mapping[str, str]
    attempt: int
    key: str


def variables(pack: Pack, action: Action, folder: Path, told: Told) -> dict[str, str]:
    """The whole environment: what every action gets, what it declares, and with `env` its parameters.

    Raises `InputError` K215 for what no variable can hold.
    """
    ours = inherited()  # without addresses of databases, keys and tokens
    made = {
        "PATH": PATH, "LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder), "GRISTMILL_ACTION": action.ref,
        "GRISTMILL_PACK": str(pack.folder), "GRISTMILL_ATTEMPT": str(told.attempt), "GRISTMILL_KEY": told.key,
    }  # fmt: skip
    made |= {name: ours[name] for name in action.inherit if name in ours}
    made |= action.environment
    if action.delivery == "file":
        made["GRISTMILL_INPUT"] = str(folder / "input.json")
    if action.delivery == "env":
        made |= {
            "GRISTMILL_INPUT": canonical_json(told.body), "GRISTMILL_INPUT_KIND": told.kind,
            **_named("PARAMETER", told.parameters), **_named("SETTING", told.settings),
            **_named("FILE", told.files),
        }  # fmt: skip
    _check(made)
    return made


def document(action: Action, told: Told) -> bytes:
    """The JSON document that `stdin` and `file` deliver."""
    return json.dumps(
        {
            "action": action.ref, "parameters": told.parameters, "settings": told.settings,
            "input": {"kind": told.kind, "body": told.body}, "files": told.files, "attempt": told.attempt,
            "key": told.key,
        },
        ensure_ascii=False,
    ).encode("utf-8", "replace")  # fmt: skip


def deliver(action: Action, folder: Path, told: Told) -> bytes:
    """Writes the file, where there is one; returns what stands on standard input."""
    if action.delivery == "env":
        return b""
    if action.delivery == "stdin":
        return document(action, told)
    descriptor = os.open(folder / "input.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(document(action, told))
    return b""


def _named(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"GRISTMILL_{prefix}_{re.sub('[^A-Za-z0-9]', '_', name).upper()}": value
        if isinstance(value, str) else canonical_json(value)
        for name, value in values.items()
    }  # fmt: skip


def _check(made: Mapping[str, str]) -> None:
    total = 0
    for name, value in made.items():
        if "\0" in value:
            raise InputError(
                f"{name} holds a NUL character, which no variable can", code="K215", hint="delivery: stdin"
            )
        size = len(os.fsencode(value.encode("utf-8", "surrogateescape")))
        total += size + len(name) + 2
        if size > LONGEST_VARIABLE or total > LONGEST_ENVIRONMENT:
            raise InputError(f"{name} is too long for a variable ({size:,} bytes)", code="K215", hint="delivery: stdin")
