"""gristmill annotators: what each annotator of a run said, how far they agree, and how far people agree with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.data.agreement import Counts
    from gristmill.data.annotations import Agreement
    from gristmill.review.annotators import AnnotatorFigures
    from gristmill.run import Run

LABELS = 12  # shown for each annotator; --json has all


@click.command(name="annotators")
@click.argument("run", required=False)
@click.option("--out", "-o", type=click.Path(path_type=Path), help="Write them all: .jsonl, .json, .csv or .xlsx.")
@options.home
@options.as_json
def command(run: str | None, out: Path | None, home: Path | None, as_json: bool) -> None:
    """Counts what the annotators of RUN (default: the last one) said, and compares it with what people let stand."""
    options.call(_annotators(home, run, out, as_json))


async def _annotators(home: Path | None, name: str | None, out: Path | None, as_json: bool) -> int:
    from gristmill.review.annotators import agreement_reports, annotator_figures

    async with options.open_app(home, workers=0) as app:
        run = await options.chosen_run(app, name)
        found = await annotator_figures(app.pool, run.id, run.workflow.steps)
        if found and out is not None:
            return await _write(app.pool, run, out, as_json)
        reports = await agreement_reports(app.pool, run.id)
    if not found:
        raise UsageError(
            f"{run.name} has no annotations", code="U308",
            hint="the workflows classify, entities, relations, boxes, layout and rate-panel make some",
        )  # fmt: skip
    if as_json:
        print_json(
            "annotators", run=run.name, annotators=[one.as_document() for one in found],
            agreement=[one.model_dump(mode="json") for one in reports],
        )  # fmt: skip
        return 0
    for one in found:
        click.echo("\n".join(figure_lines(one)))
    for report in reports:
        click.echo("\n".join(_agreement(report)))
    return 0


async def _write(pool: Any, run: Run, out: Path, as_json: bool) -> int:
    from gristmill.review.annotation_tables import write_annotations

    rows = await write_annotations(pool, run.id, run.workflow.steps, out)
    if as_json:
        print_json("annotators", run=run.name, rows=rows, file=str(out))
    else:
        say(f"{rows:,} annotations of {run.name}")
        click.echo(out)
    return 0


def figure_lines(one: AnnotatorFigures) -> list[str]:
    """What one annotator said, as lines for a terminal."""
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in one.outcomes.most_common())
    lines = [f"{one.step}: {one.annotator} ({one.about}): {one.annotations:,} annotations: {outcomes}"]
    if one.dropped:
        lines.append("  left out: " + ", ".join(f"{count:,} {reason}" for reason, count in one.dropped.most_common()))
    shown = one.labels.most_common(LABELS)
    wide = max((len(label) for label, _ in shown), default=5)
    head = "  precision  recall      F1" if one.reviewed else ""
    lines.append(f"  {'label':<{wide}}  {'said':>8}{head}")
    for label, count in shown:
        figures = _figures(one.by_label.get(label)) if one.reviewed else ""
        lines.append(f"  {label:<{wide}}  {count:>8,}{figures}")
    if len(one.labels) > LABELS:
        lines.append(f"  and {len(one.labels) - LABELS:,} labels more")
    if one.reviewed:
        lines.append(f"  {'all':<{wide}}  {'':>8}{_figures(one.total)}")
        lines.append(f"  {one.reviewed:,} are about what people reviewed; {one.exact:,} say just what they let stand")
    return lines


def _figures(counts: Counts | None) -> str:
    if counts is None:
        return f"  {'-':>9}  {'-':>6}  {'-':>6}"
    precision, recall, f1 = (
        "-" if value is None else f"{value:.3f}" for value in (counts.precision, counts.recall, counts.f1)
    )
    return f"  {precision:>9}  {recall:>6}  {f1:>6}"


def _agreement(report: Agreement) -> list[str]:
    said = [f"agreement on {report.about}: {report.subjects:,} annotated by several, {report.ties:,} ties"]
    return said + [f"  {one.name:<24} {'-' if one.value is None else f'{one.value:.3f}'}" for one in report.measures]
