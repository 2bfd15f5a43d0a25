"""The process that starts the embedded server, watches who uses it, and stops it when the last user is gone.

It is started by `embedded.py` with one JSON argument, detaches itself, becomes the server's account, and then:

1. takes `keeper.lock`, so that there is one keeper; the caller has lent it `start.lock`, so nobody else starts either;
2. finds the running server, or repairs, makes and starts it, and reports one line of JSON to its caller;
3. waits for the exclusive lock on `users.lock`. Every user holds it shared, and the kernel drops a killed user's;
4. waits a moment for a newcomer, takes the lock again and, holding it, stops the server. A newcomer waits that long,
   finds no server and no keeper, and starts both.

The server is the keeper's child, so a caller that dies at any moment leaves nothing unwatched. If the keeper dies, the
server goes on, and whoever comes or leaves next starts a new keeper. If the server dies, the keeper ends.
Imports little: it is there for as long as the server is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import stat
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gristmill.db import postgres
from gristmill.db.postgres_problems import storage_problem
from gristmill.errors import DatabaseProblem

_STOP_SIGNALS = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 60.0))
_HIGH = 100
_PRUNE_EVERY = 600.0
_PROBE = 0.3  # seconds; whoever looks whether there is a keeper holds its lock for a moment himself


def main(argument: str) -> None:
    """Run as the keeper; `argument` is the JSON text that `embedded.py` makes. Never returns."""
    order = json.loads(argument)
    if os.fork() > 0:
        os._exit(0)  # the caller waits for this one; the keeper itself is nobody's child and no session's leader
    os.umask(0o077)
    os.chdir("/")
    report, gate = int(order["report"]), int(order["gate"])
    folder = postgres.Folder(Path(order["root"]))
    kept, answer = None, {}
    try:
        kept = _begin(order, folder)
        if kept is not None:
            postgres.wait_until_ready(folder, kept.pid, kept.process)
    except DatabaseProblem as problem:
        answer = {"problem": [problem.message, problem.hint, problem.safe, problem.code]}
        if kept is not None and kept.process is None and problem.code == "D110":
            answer = {}  # found in its last moments; the caller starts over
    except BaseException:
        answer = {"problem": [f"The keeper of the database failed:\n{traceback.format_exc()}", "", "", "D110"]}
    with contextlib.suppress(OSError):  # a caller that was killed meanwhile does not read it
        os.write(report, json.dumps(answer).encode() + b"\n")
    os.close(report)
    os.close(gate)
    if kept is not None:
        _keep(folder, kept, linger=float(order["linger"]))
    os._exit(0)


@dataclass(frozen=True)
class _Kept:
    """The server in our care: its postmaster, a child of ours unless another keeper started it, and the users' lock."""

    pid: int
    process: subprocess.Popen[bytes] | None
    users: int


def _begin(order: dict[str, Any], folder: postgres.Folder) -> _Kept | None:
    """Find or start the server, which need not be ready yet; None if it has a keeper, or is out of our sight."""
    binaries = Path(order["binaries"])
    if os.geteuid() != order["uid"]:
        from gristmill.db.privileges import become

        private = not (binaries / "postgres").stat().st_mode & stat.S_IXOTH
        become(order["uid"], order["gid"], run_private_files=private)
    try:
        if not _take_over(folder):
            return None
        # The kernel closes the files of a killed process in the order of their numbers. Whoever finds this lock free
        # must find the keeper's lock free as well, or he would rely on a keeper that is no more.
        low = os.open(folder.lock("users"), os.O_RDONLY | os.O_NOFOLLOW)
        users = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        os.close(low)
        folder.logs.mkdir(mode=0o700, exist_ok=True)
        _redirect_output(folder.logs / "keeper.log")
        pid, process = _bring_up(order, folder, binaries)
    except OSError as error:
        if isinstance(error, PermissionError) and str(error.filename).startswith(str(binaries)):
            raise DatabaseProblem(
                f"{error.filename} cannot be run by user {order['uid']}, and root's own right to do so cannot be kept.",
                hint="Install Gristmill where everybody may read it, or run it as an ordinary user.",
                safe="Nothing was started or changed.",
                code="D105",
            ) from error
        raise storage_problem(error, folder.root) from error
    return _Kept(pid, process, users) if pid else None


def _take_over(folder: postgres.Folder) -> bool:
    """Take the keeper's lock; False if a live keeper has it. One whose server is gone is about to let go of it."""
    lock = os.open(folder.lock("keeper"), os.O_RDONLY | os.O_NOFOLLOW)
    start = time.monotonic()
    while not postgres.take(lock, fcntl.LOCK_EX):
        waited = time.monotonic() - start
        if waited > _PROBE and postgres.find_running(folder) is not None:
            return False
        if waited > postgres.START_LIMIT:
            raise DatabaseProblem(
                f"The keeper of {folder.root} is there, but its server is not.",
                hint=f"End the process that `fuser {folder.lock('keeper')}` names, and try again.",
                safe="The data folder is unchanged.",
                code="D112",
            )
        postgres.end_unreachable(folder)
        time.sleep(0.01)
    return True  # the descriptor stays open, and with it the lock, until this process ends


def _redirect_output(path: Path) -> None:
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


def _bring_up(
    order: dict[str, Any], folder: postgres.Folder, binaries: Path
) -> tuple[int, subprocess.Popen[bytes] | None]:
    """The postmaster that runs, or the one that we start; its pid is 0 if it runs in another container."""
    lock = os.open(folder.lock("server"), os.O_RDONLY | os.O_NOFOLLOW)
    try:
        pid = postgres.clear_the_way(folder, lock)
        if pid is not None:
            return pid, None
        postgres.check(folder, binaries)
        if not folder.data.exists():
            postgres.initialise(folder, binaries, lock)
        process = postgres.start(folder, binaries, Path(order["socket"]), order["names"], lock)
        return process.pid, process
    finally:
        os.close(lock)  # from now on only the server's own processes hold it


def _keep(folder: postgres.Folder, kept: _Kept, *, linger: float) -> None:
    """Wait for the end of the last user, then stop the server. Never returns."""
    threading.Thread(target=_end_with, args=(folder, kept), daemon=True).start()
    while True:
        fcntl.flock(kept.users, fcntl.LOCK_EX)
        fcntl.flock(kept.users, fcntl.LOCK_UN)
        time.sleep(linger)  # the lock is free meanwhile: a newcomer attaches at once
        if postgres.take(kept.users, fcntl.LOCK_EX):
            break
    # In a folder that was deleted there is nothing to save, and a server that ends in good order would also delete the
    # socket of the one that has taken its place.
    for number, limit in _STOP_SIGNALS if _is_there(folder, kept.users) else _STOP_SIGNALS[-1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(kept.pid, number)
        time.sleep(limit)  # `_end_with` ends this process with the server, and thereby frees the locks


def _is_there(folder: postgres.Folder, users: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder.lock("users")), os.fstat(users))
    except FileNotFoundError:
        return False


def _end_with(folder: postgres.Folder, kept: _Kept) -> None:
    """End this process as soon as the postmaster has ended; tidy the logs while waiting."""
    pid, process = kept.pid, kept.process
    if process is not None and process.poll() is not None:
        os._exit(0)
    try:
        waiting = select.poll()
        waiting.register(os.pidfd_open(pid), select.POLLIN)
        if process is None and postgres.find_postmaster(folder) != pid:
            os._exit(0)  # it ended between being found and being watched
        while not waiting.poll(_PRUNE_EVERY * 1000):
            with contextlib.suppress(OSError):
                postgres.prune_logs(folder)
    except ProcessLookupError:
        pass
    except OSError:  # a kernel without pidfd_open
        while process.poll() is None if process is not None else postgres.find_postmaster(folder) == pid:
            time.sleep(0.2)
    if process is not None:
        process.wait()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
