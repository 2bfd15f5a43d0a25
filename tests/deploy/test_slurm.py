"""The Slurm template as Slurm would start and end it: the shell gets the signal, and the worker finishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.engine.conftest import watching

__all__ = ["watching"]
ROOT = Path(__file__).parents[2]


async def test_a_worker_under_slurm_ends_well_when_its_time_is_up(
    database_url: str, tmp_path: Path, watching: Callable[..., Awaitable[Any]]
) -> None:
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "TMPDIR": str(tmp_path),
        "GRISTMILL_DATABASE_URL": database_url, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3",
    }  # fmt: skip
    script = ["bash", str(ROOT / "deploy" / "slurm" / "gristmill-workers.sbatch")]
    with subprocess.Popen(script, env=environment, cwd=tmp_path) as process:
        await watching("select state = 'alive' from worker where name = 'slurm-7-3'")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert await watching("select state = 'stopped' from worker where name = 'slurm-7-3'")


def test_a_worker_under_slurm_needs_a_database_and_says_so(tmp_path: Path) -> None:
    script = ["bash", str(ROOT / "deploy" / "slurm" / "gristmill-workers.sbatch")]
    done = subprocess.run(
        script, env={"PATH": os.environ["PATH"]}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "GRISTMILL_DATABASE_URL" in done.stderr
