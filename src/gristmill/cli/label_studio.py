"""gristmill label-studio: annotation projects made of runs, to and from Label Studio, and as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gristmill.cli import options
from gristmill.cli.label_studio_named import fresh_project, project_named
from gristmill.cli.label_studio_server import pull, push
from gristmill.cli.options import print_json, say

KINDS = ("classes", "rating", "entities", "relations", "boxes")


@click.group(name="label-studio")
def command() -> None:
    """Annotations of a run as a project of Label Studio: made, pushed to a server, pulled back, exported."""


command.add_command(push)
command.add_command(pull)


@command.command()
@click.argument("run", required=False)
@click.option("--name", help="Of the project (default: the run's).")
@click.option("--kind", type=click.Choice(KINDS), help="What to take, where a run makes several kinds.")
@click.option("--scale", help="Of ratings, where a run has several.")
@click.option("--predictions", is_flag=True, help="Proposals are shown as predictions, and people begin afresh.")
@click.option("--tree", is_flag=True, help="Offer classes like a/b as a tree.")
@options.home
@options.as_json
def make(
    run: str | None, name: str | None, kind: str | None, scale: str | None, predictions: bool, tree: bool,
    home: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Makes a project of what RUN (default: the last one) has annotated, or brings it up to date."""
    options.call(_make(home, run, name, kind, scale, predictions, tree, as_json))


async def _make(
    home: Path | None, run_name: str | None, name: str | None, kind: str | None, scale: str | None,
    predictions: bool, tree: bool, as_json: bool,
) -> int:  # fmt: skip
    from gristmill.review.label_studio.projects import make_project

    async with options.open_app(home, workers=0) as app:
        run = await options.chosen_run(app, run_name)
        made = await make_project(
            run, name=name, kind=kind, scale=scale, mode="predictions" if predictions else "annotations", tree=tree,
            by=options.me(),
        )  # fmt: skip
    for problem in made.unsaid:
        say(f"left out: {problem}")
    if as_json:
        print_json(
            "label-studio.make", project=made.project.name, run=run.name, kind=made.project.kind, tasks=made.pieces,
            annotated=made.annotated, left_out=made.unsaid,
        )  # fmt: skip
    else:
        say(f"{made.pieces:,} tasks, {made.annotated:,} of them annotated ({made.project.kind})")
        click.echo(made.project.name)
    return 0


@command.command(name="list")
@options.home
@options.as_json
def list_(home: Path | None, as_json: bool) -> None:
    """Lists the projects: how much is in them, where they were pushed to, what waits for a decision."""
    options.call(_list(home, as_json))


async def _list(home: Path | None, as_json: bool) -> int:
    import json

    from gristmill.review.label_studio.projects import SQL

    async with options.open_app(home, workers=0) as app:
        rows = await app.pool.fetch(SQL["projects"], app.settings.project)
    shown = ("name", "run_id", "kind", "mode", "pieces", "annotated", "conflicts", "refused", "run_state")
    found = [{**{name: row[name] for name in shown}, "servers": json.loads(row["servers"] or "[]")} for row in rows]
    if as_json:
        print_json("label-studio.list", projects=found)
        return 0
    for one in found:
        waits = one["conflicts"] + one["refused"]
        places = f", on {', '.join(one['servers'])}" if one["servers"] else ""
        click.echo(
            f"{one['name']}  {one['kind']}, {one['annotated']:,} of {one['pieces']:,} annotated{places}"
            + (f", {waits:,} to settle" if waits else "")
        )
    if not found:
        say("no project yet; make one: gristmill label-studio make RUN")
    return 0


@command.command()
@click.argument("project", required=False)
@options.home
def config(project: str | None, home: Path | None) -> None:
    """Prints the labeling configuration (XML) of PROJECT (default: the last run's)."""

    async def show() -> int:
        async with options.open_app(home, workers=0) as app:
            click.echo((await project_named(app, project)).config, nl=False)
        return 0

    options.call(show())


@command.command()
@click.argument("project", required=False)
@options.home
@options.as_json
def conflicts(project: str | None, home: Path | None, as_json: bool) -> None:
    """Lists what was pulled and contradicts somebody, or cannot be used: what they say, and what stands here."""
    options.call(_conflicts(home, project, as_json))


async def _conflicts(home: Path | None, name: str | None, as_json: bool) -> int:
    from gristmill.review.label_studio.conflicts import conflicts

    async with options.open_app(home, workers=0) as app:
        project = await project_named(app, name)
        found = await conflicts(app.pool, project)
    if as_json:
        print_json("label-studio.conflicts", project=project.name, conflicts=[one.as_document() for one in found])
        return 0
    for one in found:
        click.echo(f"{one.id}  {one.state}  record {one.record_id or one.subject_id} of {one.source}: {one.reason}")
        click.echo(f"    {one.who} says: {_short(one.theirs)}")
        click.echo(f"    here stands ({one.ours_state}): {_short(one.ours)}")
    if not found:
        say("nothing to settle")
    return 0


@command.command()
@click.argument("project")
@click.argument("number", type=int)
@click.option("--take", type=click.Choice(["theirs", "ours"]), required=True, help="Whose word counts.")
@options.home
@options.as_json
def settle(project: str, number: int, take: Any, home: Path | None, as_json: bool) -> None:
    """Ends conflict NUMBER of PROJECT: theirs becomes a decision of the one who said it, ours stays as it is."""
    options.call(_settle(home, project, number, take, as_json))


async def _settle(home: Path | None, name: str, number: int, take: Any, as_json: bool) -> int:
    from gristmill.review.label_studio.conflicts import conflicts, settle
    from gristmill.review.label_studio.pull import allowed_by

    async with options.open_app(home, workers=0) as app:
        project = await project_named(app, name)
        check = allowed_by((await app.find(str(project.run_id))).workflow, project.kind)
        await settle(app.pool, project, number, take, options.me(), check=check)
        left = len(await conflicts(app.pool, project))
    if as_json:
        print_json("label-studio.settle", project=project.name, conflict=number, took=take, left=left)
    else:
        say(f"settled; {left:,} left")
    return 0


@command.command()
@click.argument("project", required=False)
@click.option("--to", "-o", "target", required=True, type=click.Path(path_type=Path), help="The file or the folder.")
@click.option(
    "--format",
    "-f",
    "format_",
    default="json",
    help="json (default), json-min, csv, tsv, conll, coco, voc, yolo, yolo-obb.",
)
@click.option("--reviewed", is_flag=True, help="Only what a person has accepted or edited.")
@click.option("--offsets", type=click.Choice(["codepoint", "utf16"]), default="codepoint",
              help="What places in texts count in (default: codepoint).")  # fmt: skip
@click.option("--pictures", default="", help="What stands before the names of pictures: a folder, or a URL.")
@options.home
@options.as_json
def export(
    project: str | None, target: Path, format_: str, reviewed: bool, offsets: Any, pictures: str, home: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Writes what stands of PROJECT (default: the last run's) to a file, or a folder with pictures."""
    options.call(_export(home, project, target, format_, reviewed, offsets, pictures, as_json))


async def _export(
    home: Path | None, name: str | None, target: Path, format_: str, reviewed: bool, unit: Any, pictures: str,
    as_json: bool,
) -> int:  # fmt: skip
    from gristmill.review.label_studio.exports import export_project
    from gristmill.review.label_studio.subjects import picture_name

    async with options.open_app(home, workers=0) as app:
        project = await fresh_project(app, name)
        done = await export_project(
            app.pool, project, target, format_, blobs=app.blobs, reviewed=reviewed, unit=unit,
            address=lambda picture: pictures + picture_name(picture),
        )  # fmt: skip
    manifest = done.manifest
    if as_json:
        print_json(
            "label-studio.export", project=project.name, path=str(manifest.path), format=manifest.format,
            rows=manifest.rows, bytes=manifest.bytes, sha256=manifest.sha256, images=manifest.images,
            left_out=done.left_out,
        )  # fmt: skip
        return 0
    say(f"{manifest.rows:,} annotated, {manifest.format}, {manifest.bytes:,} bytes")
    for what, count in done.left_out.items():
        say(f"  {manifest.format} has no words for {what}: {count:,} left out")
    click.echo(manifest.path)
    return 0


def _short(value: Any) -> str:
    import json

    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:197]}..."
