"""Python environments of actions: made from wheels of the pack, without a network, once for many."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from gristmill.data.blobs import Blobs
from gristmill.data.kinds import ActionResult
from gristmill.errors import TransientError
from gristmill.operators.calling import run_operator
from gristmill.operators.operator import Context, Operator
from gristmill.packs.environments import READY
from tests.packs.conftest import CHUNK, Load

PROGRAM = "import mealy, sys\nprint(mealy.WORD, sys.prefix)"


def wheel(name: str, version: str, source: str) -> bytes:
    """A wheel of one module."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{info}/RECORD,,"]
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
            digest = urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            lines.append(f"{path},sha256={digest},{len(text)}")
        archive.writestr(f"{info}/RECORD", "\n".join(lines) + "\n")
    return held.getvalue()


async def once(made: Operator, home: Path) -> str:
    ctx = Context(blobs=Blobs(home / "blobs"), idempotency_key="test")
    [produced] = await run_operator(made, [CHUNK], {}, {}, ctx)
    assert isinstance(produced.body, ActionResult)
    return produced.body.stdout


async def test_an_environment_is_made_from_the_packs_own_wheels_once_for_all(load: Load, tmp_path: Path) -> None:
    told = {"runner": "python", "entry": "do.py", "requirements": ["mealy==1.0"]}
    files = {"wheels/mealy-1.0-py3-none-any.whl": wheel("mealy", "1.0", "WORD = 'flour'")}
    made, other = load(PROGRAM, files=files, **told), load(PROGRAM, files=files, **told)
    said = await asyncio.gather(once(made, tmp_path), once(other, tmp_path))
    assert said[0] == said[1]
    word, prefix = said[0].split()
    assert word == "flour"
    [environment] = [entry for entry in (tmp_path / "environments").iterdir() if entry.is_dir()]
    assert Path(prefix).resolve() == environment.resolve()
    (environment / READY).unlink()  # as if whoever made it had been killed
    assert await once(made, tmp_path) == said[0]


@pytest.mark.thorough
async def test_requirements_that_are_not_there_are_told_and_tried_again(load: Load, tmp_path: Path) -> None:
    files = {"wheels/mealy-1.0-py3-none-any.whl": wheel("mealy", "1.0", "WORD = 'flour'")}
    made = load(PROGRAM, runner="python", entry="do.py", requirements=["mealy==2.0"], files=files)
    with pytest.raises(TransientError, match=r"mealy==2\.0") as caught:
        await once(made, tmp_path)
    assert caught.value.code == "K213"
