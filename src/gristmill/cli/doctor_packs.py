"""What gristmill doctor says of packs: those that settings, workflows or open runs name, and this machine lacks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from gristmill.cli.doctor import Finding

if TYPE_CHECKING:
    from gristmill.app import App

MOST_FILES = 200  # of the folder, that are looked at


async def look_at_packs(app: App, folder: Path) -> list[Finding]:
    """One finding for each pack that cannot be used here, and one when there is none. `folder` has the workflows."""
    from gristmill.operators.operator import registered
    from gristmill.packs import actions, store

    actions.load_shipped()
    usable = set(actions.known_packs())
    named: dict[str, list[str]] = defaultdict(list)
    for ref in app.settings.packs:
        named[ref].append(f"[packs.{ref}]")
    for row in await app.pool.fetch(store.SQL["actions_of_runs"]):
        if row["kind"] not in registered():
            named[row["kind"].partition(".")[0]].append(f"run {row['run']}")
    for file, name in _steps_of(folder):
        if "." in name and name not in registered():
            named[name.partition(".")[0]].append(file.name)
    installed = {one.ref: one for one in await store.listed(app.pool, app.settings.home)}
    wanted = named.keys() if app.settings.packs_from_database else named.keys() | installed.keys()
    found = []
    for ref in sorted(wanted - usable):
        by = f", named by {', '.join(dict.fromkeys(named[ref]))}" if ref in named else ""
        if ref in installed:
            why = "was changed on this machine" if installed[ref].here else "is installed, but not on this machine"
            fix = "gristmill packs install FOLDER here, or the setting packs_from_database"
        else:
            why, fix = "is not installed", "gristmill packs install FOLDER"
        found.append(Finding("warn", "packs", f'the pack "{ref}" {why}{by}: its steps would wait', fix))
    return found or [Finding("ok", "packs", f"{len(usable)} can be used here, none is missing")]


def _steps_of(folder: Path) -> Iterator[tuple[Path, str]]:
    """Operators that the workflow files of a folder name; what cannot be read as one is none."""
    from gristmill.workflow_files import FILE_LIMIT

    files = sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))
    for file in files[:MOST_FILES]:
        try:
            if file.stat().st_size > FILE_LIMIT:
                continue
            plain = yaml.safe_load(file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
            continue
        steps = plain.get("steps") if isinstance(plain, dict) else None
        for entry in steps if isinstance(steps, list) else ():
            name = entry.get("operator") or next(iter(entry), None) if isinstance(entry, dict) else entry
            if isinstance(name, str):
                yield file, name
