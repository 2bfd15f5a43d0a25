"""The files in deploy/ for containers: they name what exists, and the compose file is one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gristmill.config import ENVIRONMENT, Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
VARIABLES = {f"GRISTMILL_{name.upper()}" for name in Settings.model_fields} | set(ENVIRONMENT)
SECRETS = {"GRISTMILL_DATABASE_PASSWORD": "a", "GRISTMILL_TOKEN": "b", "GRISTMILL_OBJECTS_SECRET": "c"}


def test_the_container_file_copies_and_sets_what_exists() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    assert [name for names in copied for name in names if not (ROOT / name).exists()] == []
    assert set(re.findall(r"\bGRISTMILL_\w+", text)) <= VARIABLES


def test_the_compose_file_sets_what_exists_and_gives_a_crew_the_time_it_needs() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    mill = services["mill"]
    given = {name for name in mill["environment"] if name.startswith("GRISTMILL_")}
    assert given <= VARIABLES
    assert int(mill["stop_grace_period"].rstrip("s")) > Settings().shutdown + 10
    assert mill["environment"]["GRISTMILL_API_TOKEN"] == "env:MILL_TOKEN"  # so that it serves from the first start on


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="needs docker-compose")
def test_the_compose_file_is_read_by_compose_and_asks_for_its_secrets() -> None:
    command = ["docker-compose", "-f", str(DEPLOY / "compose.yaml"), "--profile", "objects", "config", "--services"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **SECRETS})
    assert set(told.stdout.split()) == {"database", "mill", "objects", "bucket"}
    refused = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})
    assert (refused.returncode != 0, "set it" in refused.stderr) == (True, True)
