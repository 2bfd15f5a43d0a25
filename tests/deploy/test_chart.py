"""The Helm chart renders, its settings are ours, and what KEDA asks is a query that our schema answers.

Needs Helm on the path, or at GRISTMILL_TEST_HELM; the resources are checked against Kubernetes' own schemas where
`kubernetes-validate` is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from gristmill.config import load_settings

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "gristmill"
HELM = os.environ.get("GRISTMILL_TEST_HELM") or shutil.which("helm")
pytestmark = pytest.mark.skipif(HELM is None, reason="needs Helm")


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)


def rendered(*settings: str) -> list[dict[str, Any]]:
    done = helm("template", "mill", str(CHART), *(part for one in settings for part in ("--set", one)))
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def test_the_chart_has_no_fault_that_helm_knows() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


def test_every_configuration_of_the_chart_is_one_that_gristmill_accepts(tmp_path: Path) -> None:
    maps = [one for one in rendered() if one["kind"] == "ConfigMap"]
    assert {one["metadata"]["name"] for one in maps} == {"mill-api", "mill-general", "mill-model", "mill-migrate"}
    for one in maps:
        folder = tmp_path / one["metadata"]["name"]
        folder.mkdir()
        (folder / "gristmill.toml").write_text(one["data"]["gristmill.toml"])
        values = load_settings(folder, {"HOME": str(tmp_path)}).values
        if one["metadata"]["name"] == "mill-model":
            assert (dict(values.pools), values.shutdown) == ({"model": 32}, 290.0)


async def test_keda_asks_what_the_reader_may_ask_and_one_worker_serves_its_slots(pool: asyncpg.Pool[Any]) -> None:
    scaled = [one for one in rendered("keda.enabled=true") if one["kind"] == "ScaledObject"]
    triggers = [trigger["metadata"] for one in scaled for trigger in one["spec"]["triggers"]]
    assert len(triggers) == 4
    assert {trigger["targetQueryValue"] for trigger in triggers} == {"3", "1", "4", "32"}
    for trigger in triggers:
        assert await pool.fetchval(trigger["query"]) == 0


def test_a_wrong_value_is_refused_before_anything_is_installed() -> None:
    for wrong in ("workers.model.pools.model=0", "database.secret=", "image.pullPolicy=Sometimes", "wrokers.x=1"):
        done = helm("template", "mill", str(CHART), "--set", wrong)
        assert done.returncode != 0, wrong


def test_workers_may_finish_what_they_have_begun_and_nobody_runs_as_root() -> None:
    for one in rendered("grace=120"):
        if one["kind"] in ("Deployment", "Job"):
            pod = one["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"]
            assert pod["automountServiceAccountToken"] is False
            if one["metadata"]["name"] in ("mill-general", "mill-model"):
                assert pod["terminationGracePeriodSeconds"] == 120
                assert "workers stop" in pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2]
