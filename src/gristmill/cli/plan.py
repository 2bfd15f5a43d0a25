"""gristmill run --plan: what would be done, and about how much, before anything is paid."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.workflow import Workflow

if TYPE_CHECKING:
    from gristmill.app import App

# Characters of text per byte of file, measured on a few hundred files of Debian's documentation packages; only used
# for files that were never parsed.
TEXT_PER_BYTE = {"application/pdf": 0.12, "application/epub+zip": 0.6, "text/html": 0.5}
OFFICE = 0.15
PLAIN = 1.0
CHARACTERS_PER_TOKEN = 4.0  # English prose; other languages need more tokens
PROMPT_TOKENS = 250  # of the instructions around a passage


async def forecast(app: App, flow: Workflow, paths: Sequence[Path]) -> dict[str, Any]:
    """Counts what is there and estimates the rest; stores nothing. What was done before is not subtracted."""
    from gristmill.data.scan import Found, scan

    found = await asyncio.to_thread(lambda: list(scan(paths)))
    files = [entry for entry in found if isinstance(entry, Found)]
    characters = sum(file.size * _density(file.media_type) for file in files)
    options = {spec.name: spec.operator.check_options(spec.options) for spec in flow.steps}
    size = options.get("split", {}).get("size", 1500)
    chunks = sum(math.ceil(file.size * _density(file.media_type) / (size * 0.7)) for file in files)
    per_question = options.get("ask", {}).get("characters_per_question", 240)
    most = options.get("ask", {}).get("max_count", 10)
    each = options.get("ask", {}).get("count", 0) or max(1, min(most, int(size * 0.7 // per_question)))
    questions = chunks * each
    model = next((spec.model for spec in flow.steps if spec.model), None)
    passage = size * 0.7 / CHARACTERS_PER_TOKEN + PROMPT_TOKENS
    return {
        "workflow": flow.name, "model": model, "files": len(files), "unreadable": len(found) - len(files),
        "bytes": sum(file.size for file in files), "chunks": chunks, "questions": questions,
        "calls": chunks + questions if model != "extractive" else 0,
        "tokens_in": round((chunks + questions) * passage) if model != "extractive" else 0,
        "tokens_out": round(questions * 130) if model != "extractive" else 0,
        "disk_bytes": round(sum(file.size for file in files) + characters * 6),
    }  # fmt: skip


def show_forecast(plan: dict[str, Any]) -> None:
    """The forecast for people; nothing in it is a promise, and it says so."""
    click.echo(f"{plan['files']:,} files ({plan['bytes'] / 1e6:,.1f} MB), {plan['unreadable']} unreadable")
    click.echo(f"about {plan['chunks']:,} chunks and {plan['questions']:,} questions with their answers")
    if plan["calls"]:
        click.echo(
            f"about {plan['calls']:,} calls of {plan['model']}, {plan['tokens_in']:,} tokens in,"
            f" {plan['tokens_out']:,} out; what the ledger or an earlier run has costs nothing"
        )
    else:
        click.echo(f"no paid calls: {plan['model']} works on this machine")
    click.echo(f"about {plan['disk_bytes'] / 1e6:,.0f} MB of disk. Nothing was stored or sent.")


def _density(media_type: str) -> float:
    if media_type in TEXT_PER_BYTE:
        return TEXT_PER_BYTE[media_type]
    if media_type.startswith("text/"):
        return PLAIN
    return OFFICE if "officedocument" in media_type else 0.0
