"""gristmill export: a run's dataset as a file or a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.data.exports import Options


@click.command(name="export")
@click.argument("run", required=False)
@click.option(
    "--to", "-o", "target", required=True, type=click.Path(path_type=Path), help="The file or the folder to write."
)
@click.option("--format", "-f", "format_", help="A format of docs/reference/formats.md (default: by suffix).")
@click.option("--where", help="""Only rows of which this is true: 'score >= 4 and label like "physics/%"'.""")
@click.option("--map", "map_", help="Only these columns, under these names: question=prompt,answer=completion.")
@click.option("--reasoning", type=click.Choice(["field", "inline", "drop"]), help="Where the chain of thought goes.")
@click.option("--split", help="A file for each: train=0.9,test=0.1. No document is in two of them.")
@click.option("--seed", type=int, default=0, help="Decides which document goes to which split (default: 0).")
@click.option("--balance", type=int, help="At most so many rows of each label.")
@click.option("--rows", help="The format of the rows in a bundle.")
@click.option("--no-lineage", is_flag=True, help="Without the object metadata.")
@click.option("--left-out", is_flag=True, help="With what duplicates and rejections leave out; left_out says why.")
@click.option("--reviewed", is_flag=True, help="Only what a person has accepted or edited (gristmill review).")
@click.option("--bom", is_flag=True, help="CSV for Excel: start with a byte order mark.")
@options.home
@options.as_json
def command(
    run: str | None, target: Path, format_: str | None, where: str | None, map_: str | None, reasoning: Any,
    split: str | None, seed: int, balance: int | None, rows: str | None, no_lineage: bool, left_out: bool,
    reviewed: bool, bom: bool, home: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Writes the dataset of RUN (default: the last one); a run that is still under way gives what is there."""
    from gristmill.data.exports import Options, find_format, infer_format

    wanted = Options(
        where=where, reasoning=reasoning, seed=seed, balance=balance, rows=rows, lineage=not no_lineage,
        left_out=left_out, reviewed=reviewed, bom=bom,
    )  # fmt: skip
    if map_ is not None:
        wanted = replace(wanted, columns=_pairs("--map", map_))
    if split is not None:
        wanted = replace(wanted, split={name: _share(name, text) for name, text in _pairs("--split", split).items()})
    wanted.check(find_format(infer_format(target, format_)))  # before a database is opened for nothing
    options.call(_export(home, run, target, format_, wanted, as_json))


def _pairs(option: str, text: str) -> dict[str, str]:
    made: dict[str, str] = {}
    for part in text.split(","):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not (name and sign and value) or name in made:
            raise UsageError(
                f'{option}: "{part.strip()}" is not name=value, or comes twice', code="U412",
                hint=f"{option} a=b,c=d", safe="nothing was written",
            )  # fmt: skip
        made[name] = value
    return made


def _share(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f'--split: the share of {name} is "{text}"', code="U412", hint="a number: --split train=0.9,test=0.1",
            safe="nothing was written",
        ) from None  # fmt: skip


async def _export(
    home: Path | None, name: str | None, target: Path, format_: str | None, wanted: Options, as_json: bool
) -> int:
    async with options.open_app(home, workers=0) as app:
        run = await options.chosen_run(app, name)
        manifest = await run.export(target, format_, wanted)
        progress = await run.progress()
    if as_json:
        print_json(
            "export", run=run.name, state=progress.state, path=str(manifest.path), format=manifest.format,
            rows=manifest.rows, bytes=manifest.bytes, sha256=manifest.sha256, splits=manifest.splits,
            files=[file.name for file in manifest.files], images=manifest.images,
        )  # fmt: skip
        return 0
    if not progress.ended:
        say(f"{run.name} is still {progress.state}: this is what is finished so far")
    splits = "".join(f", {rows:,} in {split}" for split, rows in manifest.splits.items())
    say(f"{manifest.rows:,} rows{splits}, {manifest.format}, {manifest.bytes:,} bytes")
    for file in manifest.files if manifest.path.suffix and manifest.splits else ():
        click.echo(manifest.path.with_name(file.name))
    if not manifest.splits or not manifest.path.suffix:
        click.echo(manifest.path)
    return 0
