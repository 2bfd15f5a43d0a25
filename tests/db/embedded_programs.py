"""Real users of the embedded server in processes of their own, and ways to wait for the end of a process."""

# Files and processes are what these tests look at, and nothing else runs in the loop meanwhile.

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import asyncpg

import gristmill
from gristmill.db.embedded import close_server, open_server, psql_path, stop_server

SOURCE = Path(gristmill.__file__).parent.parent
LIMIT = 30.0

PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from gristmill.db.embedded import close_server, open_server
from gristmill.errors import DatabaseProblem

async def main():
    try:
        server = await open_server(Path(sys.argv[1]))
    except DatabaseProblem as problem:
        print(json.dumps(dict(vars(problem), code=problem.code)), flush=True)
        return
    print(json.dumps({"url": server.url, "pid": server.pid}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await close_server(server)

asyncio.run(main())
"""


_made: list[Path] = []


def temporary_folder() -> Path:
    """A new private folder, in memory if there is room: most of these tests are not about the disk's speed."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 << 30
    return Path(tempfile.mkdtemp(prefix="gristmill-", dir=memory if roomy else None))


async def copy_database(home: Path) -> None:
    """Give `home` a database that was made and stopped before: a copy is quicker than initdb."""
    if not _made:
        base = temporary_folder()
        atexit.register(shutil.rmtree, base, ignore_errors=True)
        server = await open_server(base)
        await stop_server(base)
        await close_server(server)
        _made.append(base)
    subprocess.run(["cp", "-a", "--reflink=auto", str(_made[0]), str(home)], check=True)
    home.chmod(0o755)


class User:
    """A process that uses the server of `home` until it is told to leave, or is killed."""

    def __init__(
        self, home: Path, *, user: str | int | None = None, prefix: tuple[str, ...] = (), **options: Any
    ) -> None:
        python, packages = sys.executable, [str(SOURCE), str(psql_path().parents[3])]
        if user is not None:
            python = python_for_everybody() or python
            options |= {"user": user, "group": pwd.getpwnam(user).pw_gid if isinstance(user, str) else user}
            options |= {"extra_groups": []}
        environment = {**os.environ, "PYTHONPATH": ":".join(options.pop("packages", packages))}
        self.process = subprocess.Popen(
            [*prefix, python, "-c", PROGRAM, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | options.pop("environment", {}),
            **options,
        )

    async def opened(self) -> dict[str, Any]:
        """What it says once it has opened the server, or has failed to."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), LIMIT)
        return dict(json.loads(line))

    async def leave(self) -> None:
        await asyncio.to_thread(self.process.communicate)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def python_for_everybody() -> str | None:
    """A Python that an ordinary user may run; the one of these tests may be in a private folder of root's."""
    for candidate in (sys.executable, shutil.which("python3", path="/usr/local/bin:/usr/bin")):
        command = [candidate or "", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        with contextlib.suppress(OSError):
            if candidate and subprocess.run(command, user="games", extra_groups=[], check=False).returncode == 0:
                return candidate
    return None


class Watched:
    """A process that need not be our child; its end can be waited for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    async def gone(self, seconds: float = LIMIT) -> bool:
        """Whether it ends within `seconds`."""
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLIN)
        return bool(await asyncio.to_thread(waiting.poll, seconds * 1000))

    def kill(self, number: int = signal.SIGKILL) -> None:
        signal.pidfd_send_signal(self._descriptor, number)

    def __del__(self) -> None:
        os.close(self._descriptor)


def processes(*words: str) -> list[Watched]:
    """The live processes whose command line contains each of these words."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and all(word in (entry / "cmdline").read_text() for word in words):
                found.append(Watched(int(entry.name)))
    return found


def keeper_of(home: Path) -> Watched:
    (keeper,) = processes("gristmill.db.keeper", f'"{home.resolve() / "postgres"}"')
    return keeper


def postmasters_of(home: Path) -> list[Watched]:
    """Those that no other server process has forked; a fresh child has the command line of its parent."""
    found = processes("postgres", str(home.resolve() / "postgres" / "data"), "listen_addresses")
    pids = {process.pid for process in found}
    parents = {}
    for process in found:
        with contextlib.suppress(OSError):
            parents[process.pid] = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
    return [process for process in found if process.pid in parents and parents[process.pid] not in pids]


def everything_of(home: Path) -> list[Watched]:
    """Keeper, postmaster and all of its children."""
    data = home.resolve() / "postgres" / "data"
    found = [keeper_of(home)]
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == data:
                found.append(Watched(int(entry.name)))
    return found


async def query(url: str, statement: str) -> Any:
    """The first value of the first row."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def contents(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Size, time and owner of every file, to tell whether anything was changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_size, status.st_mtime_ns, status.st_uid)
    return found
