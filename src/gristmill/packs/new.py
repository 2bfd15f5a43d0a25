"""A pack to start from."""

from __future__ import annotations

import re
from pathlib import Path

from gristmill.errors import UsageError
from gristmill.packs.check import load_pack
from gristmill.packs.pack import Pack

PACK = """\
ref: {ref}
label: What this pack is for
version: 0.1.0
"""
ACTION = """\
ref: {ref}.hello
label: Say hello
description: What it does, and what it prints.
runner: {runner}
entry: actions/{file}
delivery: {delivery}
output: {output}
takes: [chunk]
timeout: 30
parameters:
  type: object
  properties:
    who: {{type: string, default: world, description: Who is greeted.}}
limits: {{memory: 512, cpu: 20, processes: 16}}
"""
PYTHON = '''\
"""Reads one document from standard input, prints one JSON value. Exit code 65: this input can never succeed."""

import json
import sys

told = json.load(sys.stdin)
text = told["input"]["body"]["text"]
print(json.dumps({"hello": told["parameters"]["who"], "characters": len(text)}))
'''
SHELL = """\
#!/bin/sh
# Parameters are variables; nothing of them is ever part of a command line. Exit code 65: this input cannot succeed.
set -eu
printf 'Hello, %s!\\n' "$GRISTMILL_PARAMETER_WHO"
"""
_KINDS = {"python": ("hello.py", "stdin", "json", PYTHON), "shell": ("hello.sh", "env", "text", SHELL),
          "native": ("hello", "env", "text", SHELL)}  # fmt: skip


def new_pack(folder: Path, runner: str) -> Pack:
    """Writes a pack with one action into a new folder, whose name is its ref; returns it, checked.

    Raises `UsageError` K306 when the folder is there already, or cannot be the name of a pack.
    """
    ref = folder.resolve().name
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", ref):
        raise UsageError(f'"{ref}" cannot be the name of a pack', code="K306", hint="small letters, digits, _: my_pack")
    file, delivery, output, program = _KINDS[runner]
    try:
        (folder / "actions").mkdir(parents=True)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be made: {error.strerror}", code="K306", safe="nothing was changed"
        ) from None
    (folder / "pack.yaml").write_text(PACK.format(ref=ref))
    action = ACTION.format(ref=ref, runner=runner, file=file, delivery=delivery, output=output)
    (folder / "actions" / "hello.yaml").write_text(action)
    (folder / "actions" / file).write_text(program)
    if runner == "native":
        (folder / "actions" / file).chmod(0o755)
    return load_pack(folder)
