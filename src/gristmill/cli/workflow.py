"""gristmill workflow: which workflows there are, and a copy of one to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say
from gristmill.errors import UsageError


@click.group(name="workflow")
def command() -> None:
    """Workflows: list, show, copy, check."""


@command.command(name="list")
@options.as_json
def list_(as_json: bool) -> None:
    """The workflows that come with the package, with their steps."""
    from gristmill.workflow_files import find_workflow, shipped

    flows = [find_workflow(name) for name in shipped()]
    if as_json:
        print_json("workflows", workflows=[_described(flow) for flow in flows])
        return
    for flow in flows:
        click.echo(f"{flow.name:<12} {' > '.join(spec.name for spec in flow.steps)}")


@command.command()
@click.argument("name")
@options.as_json
def show(name: str, as_json: bool) -> None:
    """The file of a workflow: a shipped one, or one on disk."""
    from gristmill.workflow_files import find_workflow, workflow_text, write_workflow

    options.know_packs()
    flow = find_workflow(name)
    if as_json:
        print_json("workflow", **_described(flow))
    else:
        click.echo(write_workflow(flow) if ".py:" in name else workflow_text(name), nl=False)


@command.command()
@click.argument("name")
@click.argument("target", required=False, type=click.Path(path_type=Path, dir_okay=False))
def copy(name: str, target: Path | None) -> None:
    """Copies a workflow to a file (default: NAME.yaml here) that you can change; never over an existing one."""
    from gristmill.workflow_files import find_workflow, workflow_text, write_workflow

    options.know_packs()
    flow = find_workflow(name)
    text = write_workflow(flow) if ".py:" in name else workflow_text(name)
    target = target or Path(f"{flow.name}.yaml")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{target} exists", hint="name another file", safe="it was not changed", code="U305") from None
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}", code="U305") from None
    say(f"{target}: change it, then: gristmill run DOCUMENTS --workflow {target}")


@command.command()
@click.argument("name")
@options.as_json
def check(name: str, as_json: bool) -> None:
    """Reads a workflow file and says what is wrong with it, before a run does."""
    from gristmill.workflow_files import find_workflow

    options.know_packs()
    flow = find_workflow(name)
    if as_json:
        print_json("workflow", **_described(flow))
    else:
        click.echo(f'"{flow.name}" version {flow.version} is fine: {len(flow.steps)} steps')


def _described(flow: Any) -> dict[str, Any]:
    return {"name": flow.name, "version": flow.version, "steps": flow.definition()["steps"]}
