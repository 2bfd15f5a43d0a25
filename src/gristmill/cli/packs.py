"""gristmill packs: actions, which are operators that are external programs: list, check, install, write, try."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say
from gristmill.errors import UsageError


@click.group(name="packs")
def command() -> None:
    """Packs of actions: operators that are shell scripts, Python programs or executables."""


@command.command(name="list")
@options.home
@options.as_json
def list_(home: Path | None, as_json: bool) -> None:
    """The packs that come with Gristmill and those that are installed, with their actions."""
    options.call(_list(home, as_json))


async def _list(home: Path | None, as_json: bool) -> int:
    from gristmill.packs import actions, store

    async with options.open_app(home, workers=0) as app:
        actions.load_shipped()
        installed = {one.ref: one for one in await store.listed(app.pool, app.settings.home)}
        known = actions.known_packs()
    rows = [_document(known[ref], None) for ref in actions.shipped()]
    rows += [
        _document(known[ref], one) if ref in known
        else {"ref": ref, "version": one.version, "label": one.label, "origin": "installed", "usable": False,
              "here": one.here, "actions": []}
        for ref, one in installed.items()
    ]  # fmt: skip
    if as_json:
        print_json("packs", packs=rows)
        return 0
    for row in rows:
        state = "" if row["usable"] else "  (not usable here: " + ("changed" if row["here"] else "no files") + ")"
        click.echo(f"{row['ref']:<16} {row['version']:<10} {row['label']}  {row['origin']}{state}")
        for action in row["actions"]:
            click.echo(f"  {action['ref']:<28} {action['label'] or action['description'][:60]}")
    return 0


def _document(pack: Any, installed: Any) -> dict[str, Any]:
    return {
        "ref": pack.ref, "version": pack.about.version, "label": pack.about.label, "digest": pack.digest,
        "origin": "installed" if installed else "shipped", "usable": True, "here": True,
        "installed_by": installed and installed.installed_by, "installed_at": installed and installed.installed_at,
        "actions": [
            {"ref": one.ref, "label": one.label, "description": one.description, "runner": one.runner,
             "delivery": one.delivery, "output": one.output, "takes": list(one.takes), "makes": one.makes}
            for one in pack.actions
        ],
    }  # fmt: skip


@command.command()
@click.argument("name")
@options.home
@options.as_json
def show(name: str, home: Path | None, as_json: bool) -> None:
    """What a pack or an action says of itself: its parameters and settings. NAME is a pack, or PACK.ACTION."""
    from gristmill.packs import actions

    options.know_packs(home)
    actions.load_shipped()
    ref = name.partition(".")[0]
    pack = actions.known_packs().get(ref)
    chosen = [one for one in pack.actions if name in (ref, one.ref)] if pack else []
    if pack is None or not chosen:
        raise UsageError(f'there is no pack or action "{name}" here', code="K303", hint="gristmill packs list")
    plain = [one.model_dump(mode="json") for one in chosen]
    about = pack.about.model_dump(mode="json")
    if as_json:
        print_json("pack", **about, digest=pack.digest, folder=str(pack.folder), actions=plain)
        return
    import yaml

    told = {**about, "actions": plain} if name == ref else plain[0]
    click.echo(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), nl=False)


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@options.as_json
def check(folder: Path, as_json: bool) -> None:
    """Reads a pack and says everything that is wrong with it; runs nothing, asks nobody. Exit code 1: errors."""
    from gristmill.packs.check import check_pack

    pack, findings = check_pack(folder)
    if as_json:
        found = [one.document() for one in findings]
        print_json("pack_check", folder=str(folder), usable=pack is not None, findings=found)
    else:
        for one in findings:
            click.echo(f"{one}" + (f"  [{one.level}]" if one.level == "warning" else ""))
            if one.hint:
                say(f"  try   {one.hint}")
        if pack is not None:
            say(f"{pack.ref} {pack.about.version} can be used: {len(pack.actions)} actions, {len(pack.files)} files")
    if pack is None:
        raise SystemExit(1)


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Also when the same version is installed with other content.")
@options.home
@options.as_json
def install(folder: Path, replace: bool, home: Path | None, as_json: bool) -> None:
    """Checks a pack and installs it: its files are copied, later changes of the folder change nothing."""
    options.call(_install(folder, replace, home, as_json))


async def _install(folder: Path, replace: bool, home: Path | None, as_json: bool) -> int:
    from gristmill.packs import store

    async with options.open_app(home, workers=0) as app:
        pack = await store.install(app.pool, app.settings.home, folder, options.me(), replace=replace)
    if as_json:
        names = [one.ref for one in pack.actions]
        print_json("pack_installed", ref=pack.ref, version=pack.about.version, digest=pack.digest, actions=names)
    else:
        say(f"{pack.ref} {pack.about.version}: {', '.join(one.ref for one in pack.actions)}")
        say("workers that run know them within seconds")
    return 0


@command.command()
@click.argument("ref")
@click.option("--force", is_flag=True, help="Also when runs still need it: their tasks wait.")
@options.home
@options.as_json
def remove(ref: str, force: bool, home: Path | None, as_json: bool) -> None:
    """Takes a pack away; what its actions have made stays."""
    options.call(_remove(ref, force, home, as_json))


async def _remove(ref: str, force: bool, home: Path | None, as_json: bool) -> int:
    from gristmill.packs import store

    async with options.open_app(home, workers=0) as app:
        await store.remove(app.pool, app.settings.home, ref, force=force)
    if as_json:
        print_json("pack_removed", ref=ref)
    else:
        say(f"{ref} is gone")
    return 0


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--runner", type=click.Choice(["shell", "python", "native"]), default="python", show_default=True,
    help="What the first action is.",
)  # fmt: skip
@options.as_json
def new(folder: Path, runner: str, as_json: bool) -> None:
    """Writes a pack with one action to start from; never over what is there."""
    from gristmill.packs.new import new_pack

    pack = new_pack(folder, runner)
    if as_json:
        print_json("pack_new", ref=pack.ref, folder=str(pack.folder), actions=[one.ref for one in pack.actions])
    else:
        say(f"{folder}: change it, then: gristmill packs try {pack.actions[0].ref} --folder {folder}")


@command.command(name="try")
@click.argument("action")
@click.option("--folder", type=click.Path(path_type=Path), help="The folder of a pack that is not installed.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=JSON", help="A parameter; may be repeated.")
@click.option("--text", default="", help="Text of the chunk that it works on.")
@click.option("--kind", default="chunk", show_default=True, help="Kind of the record that it works on.")
@click.option("--body", help="Body of that record as JSON, instead of --text.")
@options.home
@options.as_json
def try_(
    action: str, folder: Path | None, assignments: tuple[str, ...], text: str, kind: str, body: str | None,
    home: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Runs an action once, here and now, without a workflow; prints what it made. Nothing is recorded."""
    from gristmill.packs import actions
    from gristmill.packs.trying import assigned, body_of, try_action

    options.know_packs(home)
    if folder is not None:
        from gristmill.config import load_settings

        settings = load_settings(home=home).values.packs
        actions.load_folder(folder, settings.get(action.partition(".")[0]))
    made = actions.find_action(action)
    record = body_of(made, kind, text, body)
    found = asyncio.run(try_action(made, record, assigned(assignments), home or Path(".gristmill")))
    if as_json:
        print_json("pack_try", action=action, records=[{"kind": one_kind, "body": plain} for one_kind, plain in found])
        return
    for _, plain in found:
        click.echo(json.dumps(plain, ensure_ascii=False, indent=2))


@command.command()
@click.argument("digest")
@options.home
def output(digest: str, home: Path | None) -> None:
    """Prints the raw output that a failed or a long attempt has left; the message of the failure names it."""
    options.call(_output(digest, home))


async def _output(digest: str, home: Path | None) -> int:
    from gristmill.data.blobs import DIGEST

    if not DIGEST.fullmatch(digest):
        raise UsageError(f'"{digest[:80]}" names no output', code="K309", hint="64 hex digits: gristmill why TASK")
    async with options.open_app(home, workers=0) as app:
        await app.blobs.bring([digest])
        click.echo(await app.blobs.read(digest), nl=False)
    return 0
