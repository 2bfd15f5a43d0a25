"""gristmill label-studio push and pull: to a server and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gristmill.cli import options
from gristmill.cli.label_studio_named import fresh_project, project_named
from gristmill.cli.options import print_json, say
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.review.label_studio.push import Pushed

KEY = "LABEL_STUDIO_API_KEY"
URL = "LABEL_STUDIO_URL"
url_ = click.option("--url", envvar=URL, help=f"Address of the server (default: {URL}).")
token_ = click.option("--token", help=f"Where the access token is: env:NAME or file:/path (default: env:{KEY}).")


@click.command()
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
    from gristmill.review.label_studio.push import push

    def told(done: Pushed) -> None:
        if not as_json:
            say(f"{done.added:,} added, {done.changed:,} changed, {done.unchanged:,} as they were")

    async with options.open_app(home, workers=0) as app, Server(_url(url), _token(token)) as server:
        project = await fresh_project(app, name)
        done = await push(app.pool, project, server, app.blobs, by=options.me(), told=told)
    if as_json:
        print_json("label-studio.push", project=project.name, **done.as_document())
        return 0
    for count, words in ((done.kept, "changed there and here: pull shows the conflict"), (done.gone, "deleted there")):
        if count:
            say(f"{count:,} {words}")
    click.echo(f"{done.url}/projects/{done.server_project}")
    return 0


@click.command()
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
        project = await project_named(app, name)
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
