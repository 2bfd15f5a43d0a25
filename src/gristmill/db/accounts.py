"""Who the server runs as, who may connect to it, and the folders that it therefore owns.

Everything here leaves parent folders as they are: their owner and mode are not ours to change.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gristmill.db.postgres import PORT, Folder
from gristmill.db.postgres_problems import storage_problem
from gristmill.errors import DatabaseProblem

_LONGEST_SOCKET = 107  # bytes; sun_path has 108, with the final zero


@dataclass(frozen=True)
class Account:
    """Who the server runs as, and which operating-system users may connect to it."""

    uid: int
    gid: int
    names: list[str]


def prepare(folder: Folder) -> Account:
    """Make the folder `.gristmill/postgres` and give it to the server's account; no parent is changed."""
    account = choose_account(folder)
    made = False
    try:
        folder.root.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.root.mkdir(mode=0o700)
            made = True
        except FileExistsError:
            pass
        if os.geteuid() == 0 and folder.root.stat().st_uid == 0:
            _give_away(folder.root, account)
    except OSError as error:
        if made:
            with contextlib.suppress(OSError):
                folder.root.rmdir()
        raise storage_problem(error, folder.root) from error
    return account


def _give_away(path: Path, account: Account) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(descriptor, account.uid, account.gid)
    finally:
        os.close(descriptor)


def choose_account(folder: Folder) -> Account:
    """An ordinary user's server is his own. Root's runs as the owner of the data; for new data as the owner of
    `.gristmill`, so that `sudo` once does not lock him out; and as nobody if that is root."""
    me = os.geteuid()
    try:
        names = {pwd.getpwuid(me).pw_name}
        owner = folder.root.stat().st_uid if folder.root.exists() else None
        if me != 0 and owner not in (None, me):
            raise DatabaseProblem(
                f"{folder.root} belongs to user {owner}; you are user {me}.",
                hint=f"Run as that user or as root, or take it over: chown -R {me} {folder.root}",
                safe="Nothing was changed.",
                code="D103",
            )
        if me != 0:
            return Account(me, os.getegid(), sorted(names | _names_of(0)))
        nobody = pwd.getpwnam("nobody")
        if not owner:
            above = folder.root.parent
            owner = above.stat().st_uid if above.exists() else 0
            owner = owner if owner and _names_of(owner) else nobody.pw_uid
        gid = pwd.getpwuid(owner).pw_gid if _names_of(owner) else folder.root.stat().st_gid
        return Account(owner, gid, sorted(names | (_names_of(owner) if owner != nobody.pw_uid else set())))
    except KeyError:
        raise DatabaseProblem(
            f"User {me} has no name on this machine, and PostgreSQL knows its users by name."
            if me
            else "PostgreSQL cannot run as root, and there is no user `nobody` to run it as.",
            hint="Add a line for it to /etc/passwd (in a container, at build time), or set GRISTMILL_DATABASE_URL.",
            safe="Nothing was changed.",
            code="D104",
        ) from None
    except OSError as error:
        raise storage_problem(error, folder.root) from error


def _names_of(uid: int) -> set[str]:
    try:
        return {pwd.getpwuid(uid).pw_name}
    except KeyError:
        return set()


def socket_folder(root: Path, account: Account) -> Path:
    """The folder for the socket: `root` itself, or a private one elsewhere if the path is too long for a socket or has
    characters that separate host names in a database URL. Raises `DatabaseProblem` D113."""
    if _fits(root):
        return root
    name = "gristmill-" + hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]  # noqa: S108  (mode and owner are checked)
    for place in (["/run"] if os.geteuid() == 0 else []) + places:
        path = Path(place) / name
        if not path.is_absolute() or not _fits(path):
            continue
        try:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            if os.geteuid() == 0 and path.lstat().st_uid == 0:
                _give_away(path, account)
            found = path.lstat()
        except OSError:
            continue
        if stat.S_ISDIR(found.st_mode) and found.st_uid == account.uid and stat.S_IMODE(found.st_mode) == 0o700:
            return path
    raise DatabaseProblem(
        f"The path {root} is too long for a socket, and no private folder {name} can be had in {', '.join(places)}.",
        hint="Move the project to a shorter path, or set XDG_RUNTIME_DIR or TMPDIR to a folder of your own.",
        safe="Nothing was changed.",
        code="D113",
    )


def _fits(folder: Path) -> bool:
    path = os.fsencode(folder / f".s.PGSQL.{PORT}")
    return len(path) <= _LONGEST_SOCKET and re.search(rb"[,\"'\\\x00-\x1f]", path) is None
