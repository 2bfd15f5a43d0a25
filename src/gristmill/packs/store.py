"""Installed packs: their list and files in the database, a copy that nobody changes on each machine that has them.

    <home>/packs/index.json            ref -> digest, for commands that ask no database
    <home>/packs/mine-0123456789abcdef the files of one version

The list says which version counts. A worker runs only what lies on its own machine, and only with the digest that the
list names; with the setting `packs_from_database` it also writes the files that the database has. Without it nobody
can run a program here by writing a row there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from gristmill.db.database import transaction
from gristmill.db.statements import statements
from gristmill.errors import ConfigurationError, EnvironmentProblem, GristmillError, UsageError
from gristmill.packs.files import digest_of, write_files
from gristmill.packs.workplace import remove as remove_folder

if TYPE_CHECKING:
    from gristmill.packs.pack import Pack

SQL = statements("packs")
INDEX = "index.json"
_TAKEN: set[str] = set()  # refs of the packs that this process has from the list
log = logging.getLogger("gristmill.packs")


@dataclass(frozen=True, slots=True)
class Installed:
    """One line of the list. `here`: whether this machine has its files."""

    ref: str
    version: str
    digest: str
    label: str
    installed_by: str
    installed_at: datetime
    here: bool


async def install(
    pool: asyncpg.Pool[Any], home: Path, folder: Path | str, who: str, *, replace: bool = False
) -> Pack:  # fmt: skip
    """Checks the pack in a folder and installs it in place of an older version; the copy on this machine is returned.

    The same content again changes nothing. Raises `UsageError` K100 for a pack that cannot be used, K302 for other
    content under the same version (unless `replace`), K305 for the ref of a pack that comes with the package.
    """
    from gristmill.packs import actions
    from gristmill.packs.check import load_pack

    pack = load_pack(folder)
    if pack.ref in actions.shipped():
        raise UsageError(f'a pack called "{pack.ref}" comes with Gristmill', code="K305", hint="give it another ref")
    files = pack.files
    async with transaction(pool) as connection:
        known = await connection.fetchrow(SQL["lock_pack"], pack.ref)
        same = known is not None and known["version"] == pack.about.version
        if same and known["digest"] != pack.digest and not replace:
            raise UsageError(
                f"{pack.ref} {known['version']} is installed, with other content", code="K302",
                hint="raise version in pack.yaml, or: --replace", safe="nothing was changed",
            )  # fmt: skip
        await connection.execute(SQL["save_pack"], pack.ref, pack.about.version, pack.digest, pack.about.label, who)
        await connection.execute(SQL["forget_files"], pack.ref)
        await connection.execute(
            SQL["save_files"], pack.ref, list(files), [executable for executable, _ in files.values()],
            [content for _, content in files.values()],
        )  # fmt: skip
        _write(home, pack.ref, pack.digest, files)
    return load_pack(_place(home, pack.ref, pack.digest))


async def remove(pool: asyncpg.Pool[Any], home: Path, ref: str, *, force: bool = False) -> None:
    """Takes a pack off the list, and its files off this machine; what its actions have made stays.

    Raises `UsageError` K303 when it is not installed, K304 when runs still need it (unless `force`), K305 for one that
    comes with the package.
    """
    from gristmill.packs import actions

    if ref in actions.shipped():
        raise UsageError(f'the pack "{ref}" comes with Gristmill and stays', code="K305")
    async with transaction(pool) as connection:
        if await connection.fetchrow(SQL["lock_pack"], ref) is None:
            raise UsageError(f'no pack "{ref}" is installed', code="K303", hint="list them: gristmill packs list")
        needed = [row["name"] for row in await connection.fetch(SQL["runs_with"], ref)]
        if needed and not force:
            raise UsageError(
                f'runs still need the pack "{ref}": {", ".join(needed)}', code="K304", safe="nothing was changed",
                hint="cancel them, or: --force (their tasks wait until it is installed again)",
            )  # fmt: skip
        digest = await connection.fetchval(SQL["remove_pack"], ref)
    _note(home, ref, None)
    remove_folder(_place(home, ref, digest))


async def listed(pool: asyncpg.Pool[Any], home: Path) -> list[Installed]:
    """What is installed, by ref."""
    rows = await pool.fetch(SQL["packs"])
    return [Installed(**dict(row), here=_place(home, row["ref"], row["digest"]).is_dir()) for row in rows]


async def take_packs(
    pool: asyncpg.Pool[Any], home: Path, settings: Mapping[str, Mapping[str, Any]], *, fetch: bool = False
) -> None:  # fmt: skip
    """Makes the actions of installed packs known to this process; with `fetch` also those whose files only the database
    has. One that is missing or damaged here is left out, and logged: its tasks wait for a worker that has it.

    Raises `ConfigurationError` K307 for settings that do not fit their pack.
    """
    rows = await pool.fetch(SQL["packs"])
    if not rows and not settings and not _TAKEN and "gristmill.packs.actions" not in sys.modules:
        return  # nothing to import for
    from gristmill.packs import actions

    actions.use_settings(settings)
    for ref in _TAKEN - {row["ref"] for row in rows}:
        actions.forget_pack(ref)
        _TAKEN.discard(ref)
    for row in rows:
        ref, digest = row["ref"], row["digest"]
        place = _place(home, ref, digest)
        if not place.is_dir() and fetch:
            found = {one["path"]: (one["executable"], one["content"]) for one in await pool.fetch(SQL["files"], ref)}
            if digest_of(found) == digest and all(map(_inside, found)):
                _write(home, ref, digest, found)
        try:
            pack = checked_copy(place, digest)
        except GristmillError as error:
            log.warning("the pack %s %s cannot be used here: %s", ref, row["version"], error.message)
            continue
        actions.take(pack, settings.get(ref, {}))
        _TAKEN.add(ref)


async def digests(pool: asyncpg.Pool[Any]) -> dict[str, str]:
    """Which packs are installed, with the digests that count: what a worker looks at again and again."""
    return {row["ref"]: row["digest"] for row in await pool.fetch(SQL["packs"])}


def take_local(home: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """As `take_packs`, without a database: what was installed on this machine, for commands that only look."""
    from gristmill.packs import actions

    actions.use_settings(settings)
    for ref, digest in _index(home).items():
        with contextlib.suppress(GristmillError):
            pack = checked_copy(_place(home, ref, digest), digest)
            try:
                actions.take(pack, settings.get(ref, {}))
            except ConfigurationError:  # who looks may see what it wants; who runs it is told
                actions.take(pack, {})


def checked_copy(place: Path, digest: str) -> Pack:
    """The pack in a folder of ours, if its files are still those of the digest. Raises `EnvironmentProblem` K214."""
    from gristmill.packs.check import load_pack

    if not place.is_dir():
        raise EnvironmentProblem(
            "its files are not on this machine", code="K214",
            hint="gristmill packs install FOLDER here too, or the setting packs_from_database",
        )  # fmt: skip
    pack = load_pack(place)
    if pack.digest != digest:
        raise EnvironmentProblem(f"its files in {place} were changed", code="K214", hint="remove it, install it again")
    return pack


def _place(home: Path, ref: str, digest: str) -> Path:
    return home.resolve() / "packs" / f"{ref}-{digest[:16]}"


def _inside(path: str) -> bool:
    parts = Path(path).parts
    return not path.startswith("/") and ".." not in parts and "\0" not in path


def _write(home: Path, ref: str, digest: str, files: Mapping[str, tuple[bool, bytes]]) -> None:
    place = _place(home, ref, digest)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_files(files, place)
    _note(home, ref, digest)


def _index(home: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((home / "packs" / INDEX).read_text())
    except (OSError, ValueError):
        return {}
    return found


def _note(home: Path, ref: str, digest: str | None) -> None:
    known = {name: one for name, one in _index(home).items() if name != ref} | ({ref: digest} if digest else {})
    partial = home / "packs" / f".{INDEX}-{uuid.uuid4().hex[:8]}"
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(known, sort_keys=True))
    os.replace(partial, home / "packs" / INDEX)
