"""gristmill labels: the label tree of a run, to look at or to hand to the next one."""

from __future__ import annotations

from pathlib import Path

import click

from gristmill.cli import options
from gristmill.cli.options import print_json
from gristmill.errors import UsageError


@click.command(name="labels")
@click.argument("run", required=False)
@options.home
@options.as_json
def command(run: str | None, home: Path | None, as_json: bool) -> None:
    """Prints the label tree of RUN (default: the last one), a label a line with those above it."""
    options.call(_labels(home, run, as_json))


async def _labels(home: Path | None, name: str | None, as_json: bool) -> int:
    from gristmill.data import records
    from gristmill.data.kinds import LabelTree
    from gristmill.operators.label_tree import BETWEEN

    async with options.open_app(home, workers=0) as app:
        run = await options.chosen_run(app, name)
        places = [at for at, spec in enumerate(run.workflow.steps) if LabelTree in spec.operator.output_types]
        rows = [row for place in places for row in await app.pool.fetch(records.SQL["of_run"], run.id, place)]
    if not rows:
        raise UsageError(
            f"{run.name} has no label tree", code="U307",
            hint="the workflow qa-labels makes one; it is there once all documents are read",
        )  # fmt: skip
    paths = [BETWEEN.join(path) for row in rows for path in LabelTree.model_validate_json(row["body"]).paths]
    if as_json:
        print_json("labels", run=run.name, paths=paths)
    else:
        click.echo("\n".join(paths))
    return 0
