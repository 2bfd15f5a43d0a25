"""The API keeps the word of its OpenAPI document, whatever is thrown at it. Needs schemathesis, which is no dependency:
`pip install schemathesis` anywhere on the PATH."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.api.conftest import Api

LEFT_OUT = "/api/(events|uploads)$"  # one goes on for ever, the other takes no JSON


@pytest.mark.thorough
@pytest.mark.timeout(1500)
async def test_whatever_is_sent_gets_what_the_document_says(api: Api, tmp_path: Path) -> None:
    program = shutil.which("schemathesis")
    if program is None:
        pytest.skip("schemathesis is not installed")
    document = tmp_path / "openapi.json"  # a machine with other work takes longer for it than the program waits
    document.write_bytes((await api.get("/api/openapi.json", timeout=120)).content)
    command = [
        program, "run", str(document), "--url", api.url, "--max-examples", "6", "--exclude-path-regex", LEFT_OUT,
        "--rate-limit", "90/s", "--request-timeout", "60", "--checks", "all",
        "--phases", "coverage,fuzzing", "--continue-on-failure",
        # What fits the document may still be refused: a crew that is not there, a time zone that nobody has.
        "--exclude-checks", "positive_data_acceptance",
    ]  # fmt: skip
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-20_000:]
