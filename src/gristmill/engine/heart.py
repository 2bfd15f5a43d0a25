"""The worker's side of its beat process: starts it, answers its pings, and hears what it has to say."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from gristmill.engine.queue import Claimer
from gristmill.errors import DatabaseProblem

if TYPE_CHECKING:
    from gristmill.engine.worker import Worker, WorkerSettings

log = logging.getLogger("gristmill.worker")
BURIED = 75  # exit code of a worker that others gave up while it still ran: no fault of its own
BEATLESS = 3  # and of one whose beat process ended


class Heart:
    """Starts the beat process and keeps `worker.lease_lapsed` true to what it reports."""

    def __init__(self, url: str, claimer: Claimer, settings: WorkerSettings, worker: Worker) -> None:
        self._config = {
            "url": url, "worker_id": claimer.id, "nonce": str(claimer.nonce), "lease": settings.lease,
            "beat": settings.beat, "stall_after": settings.stall_after, "probe": settings.probe,
            "confirm": settings.confirm, "pid": os.getpid(), "keep_finished": settings.keep_finished,
            "keep_history": settings.keep_history, "name": settings.name,
        }  # fmt: skip
        self._worker = worker
        self._ready = asyncio.Event()
        self.leaving = False  # from here on neither an end of the beat nor a burial is news

    async def start(self, timeout: float = 30.0) -> None:
        """Returns when the liveness lock is held. Raises `DatabaseProblem` D130 after `timeout` seconds."""
        # exec, not fork: a forked child would keep our database sockets open after our death (reliability, A11)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gristmill.engine.beat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(json.dumps(self._config).encode() + b"\n")
        self._process.stdin.flush()
        self._reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._reader), self._process.stdout)
        self._listening = asyncio.create_task(self._listen())
        try:
            await asyncio.wait_for(self._ready.wait(), timeout)
        except TimeoutError:
            raise DatabaseProblem("the beat process could not take its lock", code="D130") from None

    async def stop(self) -> None:
        """Ends the beat process; call it only when nothing is claimed any more."""
        self.leaving = True
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()
        await asyncio.to_thread(self._wait)
        self._listening.cancel()

    def _wait(self) -> None:
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def _listen(self) -> None:
        assert self._process.stdin is not None  # noqa: S101
        while line := await self._reader.readline():
            word = line.decode().strip()
            if word == "ping":
                if self._worker.standing_still > self._worker.settings.stuck_after > 0:
                    log.error("no look for work for %.0f s; its beat ends this worker", self._worker.standing_still)
                    continue
                try:
                    os.write(self._process.stdin.fileno(), b"pong\n")
                except (BrokenPipeError, ValueError):
                    break
            elif word == "ready":
                self._ready.set()
            elif word == "fenced" and not self.leaving:
                log.error("this worker was buried by another one; its tasks are in other hands")
                os._exit(BURIED)
            elif word == "wake":
                self._worker.wake(rescan=True)
            elif word == "promoted":
                self._worker.promoted()
            elif word == "draining":
                self._worker.stop()
            elif word in ("lapsed", "renewed"):
                self._worker.lease_lapsed = word == "lapsed"
                if word == "lapsed":
                    self._worker.metrics.incr("worker_lapsed")
                self._worker.wake()
                log.warning("the lease is %s", word)
        if not self.leaving:
            log.error("the beat process ended; a worker without a beat must not go on")
            os._exit(BEATLESS)
