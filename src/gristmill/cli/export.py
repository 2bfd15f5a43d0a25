"""gristmill export: a run's dataset as a file."""

from __future__ import annotations

from pathlib import Path

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say


@click.command(name="export")
@click.argument("run", required=False)
@click.option("--to", "-o", "target", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option(
    "--format", "-f", "format_", help="jsonl, alpaca, sharegpt, messages, csv or parquet (default: by suffix)."
)
@options.home
@options.as_json
def command(run: str | None, target: Path, format_: str | None, home: Path | None, as_json: bool) -> None:
    """Writes the dataset of RUN (default: the last one); a run that is still under way gives what is there."""
    options.call(_export(home, run, target, format_, as_json))


async def _export(home: Path | None, name: str | None, target: Path, format_: str | None, as_json: bool) -> int:
    async with options.open_app(home, workers=0) as app:
        run = await options.chosen_run(app, name)
        manifest = await run.export(target, format_)
        progress = await run.progress()
    if as_json:
        print_json(
            "export", run=run.name, state=progress.state, path=str(manifest.path), format=manifest.format,
            rows=manifest.rows, bytes=manifest.bytes, sha256=manifest.sha256,
        )  # fmt: skip
        return 0
    if not progress.ended:
        say(f"{run.name} is still {progress.state}: this is what is finished so far")
    say(f"{manifest.rows:,} rows, {manifest.format}, {manifest.bytes:,} bytes")
    click.echo(manifest.path)
    return 0
