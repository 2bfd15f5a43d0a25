"""gristmill retry: what failed is tried once more."""

from __future__ import annotations

from pathlib import Path

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say


@click.command(name="retry")
@click.argument("run", required=False)
@click.option("--cause", help="Only failures of this cause (the first digits are enough; `why` lists them).")
@click.option("--item", metavar="NAME", help="Only this input: it begins anew, and uses all of it that was finished.")
@click.option("--degraded", is_flag=True, help="Also what came to something that stands in for an answer.")
@click.option(
    "--workers", type=click.IntRange(0, 10), help="Worker processes (default: 2); 0: those of gristmill up do it."
)
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Where the dataset goes.")
@click.option("--format", "-f", "format_", help="Format of the dataset.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@options.home
@options.as_json
def command(
    run: str | None, cause: str | None, item: str | None, degraded: bool, workers: int | None, out: Path | None,
    format_: str | None, quiet: bool, home: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Tries everything in RUN (default: the last one) that failed once more; inputs are looked at again."""
    if degraded and (cause or item):
        raise click.UsageError("--degraded is about the whole run: leave out --cause and --item")
    options.call(_retry(home, run, cause, item, degraded, workers, out, format_, quiet or as_json, as_json))


async def _retry(
    home: Path | None, name: str | None, cause: str | None, item: str | None, degraded: bool, workers: int | None,
    out: Path | None, format_: str | None, quiet: bool, as_json: bool,
) -> int:  # fmt: skip
    from gristmill.cli.run import finish, interruptible
    from gristmill.errors import UsageError

    async with options.open_app(home, workers=workers, on_event=lambda text: None if quiet else say(text)) as app:
        stop = interruptible(app)
        run = await options.chosen_run(app, name)
        full = None
        if cause:
            known = {piece.cause for piece in await run.failures(100_000) if piece.cause}
            found = [entry for entry in known if entry.startswith(cause.lower())]
            if len(found) != 1:
                raise UsageError(
                    f"{'no cause begins' if not found else 'several causes begin'} with {cause}", code="U314",
                    hint=f"gristmill why {run.name}",
                )  # fmt: skip
            full = found[0]
        again = await run.retry(full, item=item, degraded=degraded)
        if not as_json:
            pieces = "inputs" if item else "failed and degraded pieces" if degraded else "failed pieces"
            say(f"{again} {pieces} of {run.name} begin anew")
        if (await run.progress()).state == "paused":
            if as_json:
                print_json("run", run=run.name, state="paused", again=again)
            say(f"{run.name} is paused, and stays it: gristmill resume {run.name}")
            return 4
        await app.start_crew()
        return await finish(run, stop, out, format_, quiet=quiet, as_json=as_json)
