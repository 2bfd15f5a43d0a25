"""Python environments of actions that declare requirements: made once for each set of them, then shared."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from gristmill.engine.child_process import environment
from gristmill.errors import TransientError
from gristmill.packs.capture import Redaction
from gristmill.packs.output import as_text
from gristmill.packs.pack import WHEELS, Action, Bounds, Pack
from gristmill.packs.program import run_program

PATIENCE = 600.0  # seconds until an environment has to be ready
READY = "gristmill-ready"  # written last: a build that was killed leaves none


async def interpreter(action: Action, pack: Pack, base: Path) -> Path:
    """The Python of an action: our own without requirements, else that of an environment, made if there is none yet.

    With a folder `wheels` in the pack nothing is fetched: the requirements have to be in it. Only wheels are installed,
    so that nothing of a package runs before the action does. Raises `TransientError` K213.
    """
    if not action.requirements:
        return Path(sys.executable)
    folder = base / "environments" / key_of(action, pack)
    if not (folder / READY).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        async with _locked(folder.with_suffix(".lock")):
            if not (folder / READY).is_file():
                await _build(action, pack, folder)
    return folder / "bin" / "python"


def key_of(action: Action, pack: Pack) -> str:
    """What decides which environment it is: interpreter, machine, requirements, wheels (24 hex digits)."""
    wheels = {
        path: hashlib.sha256(content).hexdigest()
        for path, (_, content) in pack.files.items() if path.startswith(f"{WHEELS}/")
    }  # fmt: skip
    parts = [sys.version, sys.executable, platform.machine(), sorted(action.requirements), wheels]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


async def _build(action: Action, pack: Pack, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    own_pip = importlib.util.find_spec("pip") is not None  # else the environment gets one, which takes seconds
    await _run([sys.executable, "-m", "venv", *(["--without-pip"] if own_pip else []), str(folder)], folder.parent)
    python = str(folder / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python] if own_pip else [python, "-m", "pip"]
    source = ["--no-index", "--find-links", str(pack.folder / WHEELS)] if (pack.folder / WHEELS).is_dir() else []
    await _run(
        [*pip, "install", "--no-input", "--disable-pip-version-check", "--only-binary", ":all:", *source, "--",
         *action.requirements],
        folder.parent,
    )  # fmt: skip
    (folder / READY).touch()


async def _run(command: list[str], folder: Path) -> None:
    bounds = Bounds(memory=4096, processes=256)
    ended = await run_program(
        command, environment=environment(), folder=folder, given=b"", bounds=bounds, timeout=PATIENCE
    )
    if ended.exit_code != 0:
        said = as_text(ended.stderr.read(Redaction()) or ended.stdout.read(Redaction())).strip()[-600:]
        how = ended.why or ended.signal or f"exit code {ended.exit_code}"
        raise TransientError(
            f'its Python environment cannot be made ({how}): "{said}"', code="K213",
            hint="only wheels are installed; put them into the pack's folder wheels, or give pip an index",
        )  # fmt: skip


@contextlib.asynccontextmanager
async def _locked(file: Path) -> AsyncIterator[None]:
    """One process makes an environment, the others wait; the kernel gives the lock back for one that was killed."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.2)
        yield
    finally:
        os.close(descriptor)
