"""gristmill label-studio: annotation projects made of runs, to and from Label Studio, and as files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.app import App
    from gristmill.review.label_studio.projects import Project

KEY = "LABEL_STUDIO_API_KEY"
URL = "LABEL_STUDIO_URL"
KINDS = ("classes", "rating", "entities", "relations", "boxes")
url_ = click.option("--url", envvar=URL, help=f"Address of the server (default: {URL}).")
token_ = click.option("--token", help=f"Where the access token is: env:NAME or file:/path (default: env:{KEY}).")
run_ = click.option("--run", "run", help="The run that the project is made of (default: the last one).")


@click.group(name="label-studio")
def command() -> None:
    """Annotations of a run as a project of Label Studio: made, pushed to a server, pulled back, exported."""


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
            click.echo((await _project(app, project)).config, nl=False)
        return 0

    options.call(show())


@command.command()
@click.argument("project", required=False)
@url_
@token_
@options.home
@options.as_json
def push(project: str | None, url: str | None, token: str | None, home: Path | None, as_json: bool) -> None:
    """Sends PROJECT (default: the last run's) to a server: what is new, and what has changed here and not there.

    Makes the project first, or brings it up to date. Sending again sends nothing twice.
    """
    options.call(_push(home, project, url, token, as_json))


async def _push(home: Path | None, name: str | None, url: str | None, token: str | None, as_json: bool) -> int:
    from gristmill.review.label_studio.client import Server
    from gristmill.review.label_studio.push import Pushed, push

    def told(done: Pushed) -> None:
        if not as_json:
            say(f"{done.added:,} added, {done.changed:,} changed, {done.unchanged:,} as they were")

    async with options.open_app(home, workers=0) as app, Server(_url(url), _token(token)) as server:
        project = await _fresh(app, name)
        done = await push(app.pool, project, server, app.blobs, by=options.me(), told=told)
    if as_json:
        print_json("label-studio.push", project=project.name, **done.as_document())
        return 0
    for count, words in ((done.kept, "changed there and here: pull shows the conflict"), (done.gone, "deleted there")):
        if count:
            say(f"{count:,} {words}")
    click.echo(f"{done.url}/projects/{done.server_project}")
    return 0


@command.command()
@click.argument("project", required=False)
@url_
@token_
@click.option("--file", "file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="A JSON export of Label Studio instead of a server.")  # fmt: skip
@click.option("--who", help="Who said it, where a file names no e-mail.")
@options.home
@options.as_json
def pull(
    project: str | None, url: str | None, token: str | None, file: Path | None, who: str | None, home: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Takes what people said about PROJECT (default: the last run's) as decisions of theirs: accepted, edited, skipped.

    Exit code 1 when something is to be settled (`gristmill label-studio conflicts`). Pulling again changes nothing.
    """
    options.call(_pull(home, project, url, token, file, who, as_json))


async def _pull(
    home: Path | None, name: str | None, url: str | None, token: str | None, file: Path | None, who: str | None,
    as_json: bool,
) -> int:  # fmt: skip
    from gristmill.review.label_studio.client import Server
    from gristmill.review.label_studio.files import read_tasks
    from gristmill.review.label_studio.labeling import parse_configuration
    from gristmill.review.label_studio.pull import allowed_by, pull
    from gristmill.review.label_studio.push import placed

    async with options.open_app(home, workers=0) as app:
        project = await _project(app, name)
        check = allowed_by((await app.find(str(project.run_id))).workflow, project.kind)
        by = options.me()
        if file is not None:
            tasks = read_tasks(file)
            done = await pull(app.pool, project, tasks, f"file:{file.name}", {}, by=by, somebody=who, check=check)
        else:
            async with Server(_url(url), _token(token)) as server:
                number = await placed(app.pool, project, server)
                labeling = parse_configuration(await server.config_of(number) or project.config)
                done = await pull(
                    app.pool, project, server.tasks(number), server.url, await server.people(), by=by, somebody=who,
                    labeling=labeling, check=check,
                )  # fmt: skip
    if as_json:
        print_json("label-studio.pull", project=project.name, **done.as_document())
    else:
        say(
            f"{done.taken:,} taken, {done.skipped:,} skipped, {done.unchanged:,} as they were"
            + (f"; {done.unknown:,} tasks that are not of this project" if done.unknown else "")
        )
        for problem in done.problems:
            say(f"  {problem}")
        if done.conflicts or done.refused:
            say(f"{done.conflicts + done.refused:,} to settle: gristmill label-studio conflicts {project.name}")
    return 1 if done.conflicts or done.refused else 0


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
        project = await _project(app, name)
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
        project = await _project(app, name)
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
        project = await _fresh(app, name)
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


async def _project(app: App, name: str | None) -> Project:
    """The project of that name; without one the last run's."""
    from gristmill.review.label_studio.projects import find_project

    return await find_project(app.pool, app.settings.project, name or (await app.last()).name)


async def _fresh(app: App, name: str | None) -> Project:
    """The project, with all that its run has made until now; without a name the last run's is made."""
    from gristmill.review.label_studio.projects import find_project, make_project

    wanted = name or (await app.last()).name
    try:
        known = await find_project(app.pool, app.settings.project, wanted)
    except UsageError:
        return (await make_project(await app.find(wanted), by=options.me())).project
    run = await app.find(str(known.run_id))
    made = await make_project(run, name=known.name, kind=known.kind, scale=known.scale, by=options.me())
    return made.project


def _url(given: str | None) -> str:
    if not given:
        raise UsageError(
            "no Label Studio server is named", code="L130", hint=f"--url http://localhost:8080, or set {URL}",
            safe="nothing was sent",
        )  # fmt: skip
    return given


def _token(reference: str | None) -> str:
    from gristmill.errors import TransientError
    from gristmill.notify import check_reference, reveal

    if reference is None and not os.environ.get(KEY):
        raise UsageError(
            "no access token for Label Studio", code="L130",
            hint=f"Account & Settings, Personal Access Token; then set {KEY}", safe="nothing was sent",
        )  # fmt: skip
    try:
        return reveal(check_reference(reference or f"env:{KEY}", "--token"))
    except TransientError as problem:
        raise UsageError(
            problem.message, code="L130", hint="name where the token is", safe="nothing was sent"
        ) from None


def _short(value: Any) -> str:
    import json

    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:197]}..."
