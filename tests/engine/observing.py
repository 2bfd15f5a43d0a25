"""Starts worker processes that count and trace."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.engine.conftest import ROOT, Processes


class ObservedProcesses(Processes):
    """Worker processes that count into the database and write their spans into a file, if they are given one."""

    def start(self, *arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
        settings = {"pools": {"*": 4}, "poll": 0.1, "lease": 4.0, "beat": 0.5, "backoff": 0.05} | settings
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.engine.observed", self.url, json.dumps(settings), *arguments],
                cwd=ROOT, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process
