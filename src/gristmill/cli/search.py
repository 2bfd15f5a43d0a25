"""gristmill search: find chunks of a run by meaning and by words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json


@click.command(name="search")
@click.argument("query")
@click.option("--run", "name", help="Which run (default: the last one).")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many at most.")
@click.option(
    "--mode", type=click.Choice(["hybrid", "vector", "words"]), default="hybrid", show_default=True,
    help="Vectors and words together, or one of them.",
)  # fmt: skip
@options.home
@options.as_json
def command(query: str, name: str | None, limit: int, mode: Any, home: Path | None, as_json: bool) -> None:
    """Finds the passages that fit QUERY best, in the search index of a run (the workflow rag makes one)."""
    options.call(_search(query, name, limit, mode, home, as_json))


async def _search(query: str, name: str | None, limit: int, mode: Any, home: Path | None, as_json: bool) -> int:
    from gristmill.search import search

    async with options.open_app(home, workers=0) as app:
        run = await options.chosen_run(app, name)
        hits = await search(run, app.pool, app.models, query, limit=limit, mode=mode)
    if as_json:
        found = [
            {"chunk": hit.chunk_id, "item": hit.item, "score": hit.score, "vector_place": hit.near,
             "words_place": hit.worded, "page": hit.chunk.page_start, "headings": list(hit.chunk.heading_path),
             "start": hit.chunk.start, "end": hit.chunk.end, "text": hit.chunk.text}
            for hit in hits
        ]  # fmt: skip
        print_json("search", run=run.name, query=query, hits=found)
        return 0
    for number, hit in enumerate(hits, 1):
        where = " > ".join(hit.chunk.heading_path)
        page = f", page {hit.chunk.page_start}" if hit.chunk.page_start else ""
        click.echo(f"{number}. {hit.item}{page}{f': {where}' if where else ''}  ({hit.score:.4f})")
        text = " ".join(hit.chunk.text.split())
        click.echo(f"   {text[:300]}{'...' if len(text) > 300 else ''}")
    if not hits:
        click.echo("nothing fits")
    return 0
