"""gristmill review: what people are asked about, who gets what, and how it goes. Decisions: cli/review_deciding.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say
from gristmill.cli.review_deciding import add_to, as_person

if TYPE_CHECKING:
    from gristmill.app import App
    from gristmill.review.figures import Figures
    from gristmill.review.pieces import Piece
    from gristmill.review.queues import Review

of_kind = click.option("--kind", help="Only records of this kind: example, conversation, classes, entities, ...")
by_order = click.option(
    "--by", default="score", help="score (default, lowest first), disagreement, random or changed (since a review)."
)
of_sample = click.option("--sample", type=float, default=1.0, help="Only this share of the run: 0.2 (default: 1).")
WIDTH = 100  # characters of a line that is shown


@click.group(name="review", invoke_without_command=True)
@click.option("--run", "name", help="The run (default: the last one).")
@options.home
@options.as_json
@click.pass_context
def command(context: click.Context, name: str | None, home: Path | None, as_json: bool) -> None:
    """Says how much of a run waits for people, and how to open the page. Then: next, list, show, accept, edit, reject,
    skip, undo, assign, release, stats."""
    if context.invoked_subcommand is None:
        options.call(_open(home, name, as_json))


async def review_of(app: App, name: str | None) -> tuple[Review, str]:
    """The review of a run, with what it has made until now, and the run's name."""
    from gristmill.review.queues import Review

    run = await options.chosen_run(app, name)
    review = Review.of(run)
    await review.look()
    return review, run.name


async def _open(home: Path | None, name: str | None, as_json: bool) -> int:
    from gristmill.review.figures import figures

    async with options.open_app(home, workers=0) as app:
        review, run = await review_of(app, name)
        found = await figures(app.pool, review.run_id)
        page = f"http://{app.settings.api_host}:{app.settings.api_port}/review?run={review.run_id}"
    if as_json:
        print_json("review", run=run, page=page, open=found.open, total=found.total, states=dict(found.states))
        return 0
    click.echo(f"{run}: {found.open:,} of {found.total:,} pieces wait for a person")
    click.echo(f"  page  {page}   (served by: gristmill api)")
    click.echo(f"  here  gristmill review next {run}")
    return 0


@command.command("next")
@click.argument("run", required=False)
@click.option("--limit", type=int, default=1, help="How many pieces (default: 1).")
@by_order
@of_sample
@of_kind
@click.option("--skipped", is_flag=True, help="What was left aside.")
@click.option("--lease", type=float, default=600.0, help="Seconds in which nobody else gets them (default: 600).")
@as_person
@options.home
@options.as_json
def next_(
    run: str | None, limit: int, by: Any, sample: float, kind: str | None, skipped: bool, lease: float,
    reviewer: str | None, home: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Takes the next pieces of RUN (default: the last one) for you, with what they were made from."""

    async def main() -> int:
        async with options.open_app(home, workers=0) as app:
            review, name = await review_of(app, run)
            pieces = await review.claim(
                reviewer or options.me(), limit, by=by, sample=sample, kind=kind, skipped=skipped, lease=lease
            )
        if as_json:
            print_json("review.next", run=name, pieces=[piece.as_document() for piece in pieces])
            return 0
        for piece in pieces:
            show(piece)
        if not pieces:
            say(f"nothing of {name} waits for you: gristmill review stats {name}")
        return 0

    options.call(main())


@command.command("list")
@click.argument("run", required=False)
@click.option("--state", help="proposed, accepted, edited, rejected or skipped.")
@of_kind
@click.option("--assignee", help="Only what was given to this person.")
@click.option("--after", type=int, default=0, help="Only records behind this one: the next page.")
@click.option("--limit", type=int, default=50, help="At most so many (default: 50).")
@options.home
@options.as_json
def list_(
    run: str | None, state: str | None, kind: str | None, assignee: str | None, after: int, limit: int,
    home: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Lists pieces of RUN (default: the last one), a line each; it claims nothing."""

    async def main() -> int:
        async with options.open_app(home, workers=0) as app:
            review, name = await review_of(app, run)
            pieces = await review.pieces(state=state, kind=kind, assignee=assignee, after=after, limit=limit)
        following = pieces[-1].record_id if len(pieces) == limit else None
        if as_json:
            print_json("review.list", run=name, pieces=[piece.as_document() for piece in pieces], next=following)
            return 0
        for piece in pieces:
            click.echo(_line(piece))
        if following is not None:
            say(f"more: gristmill review list {name} --after {following}")
        return 0

    options.call(main())


@command.command("show")
@click.argument("record", type=int)
@click.option("--run", "name", help="The run (default: the newest that has it in its queue).")
@options.home
@options.as_json
def show_(record: int, name: str | None, home: Path | None, as_json: bool) -> None:
    """Shows one piece with its source, and all that was decided about it."""

    async def main() -> int:
        from gristmill.errors import UsageError
        from gristmill.review.decisions import history, run_of

        async with options.open_app(home, workers=0) as app:
            newest = await run_of(app.pool, record)
            review, _ = await review_of(app, name or (str(newest) if newest else None))
            pieces = await review.pieces(records=[record])
            story = await history(app.pool, record)
        if not pieces:
            raise UsageError(f"record {record} is in no queue", code="V101", hint="list them: gristmill review list")
        if as_json:
            print_json("review.show", piece=pieces[0].as_document(), history=[one.as_document() for one in story])
            return 0
        show(pieces[0])
        for one in story:
            undone = ", taken back" if one.undone_at else ""
            opinion = " (second opinion)" if one.opinion else ""
            note = f": {one.note}" if one.note else ""
            click.echo(f"  {one.at:%Y-%m-%d %H:%M} {one.reviewer} {one.decision}{opinion}{undone}{note}")
        return 0

    options.call(main())


@command.command("assign")
@click.argument("run", required=False)
@click.option("--to", "people", multiple=True, help="A person; several share in turn.")
@click.option("--count", type=int, help="How many pieces in all (default: all that are nobody's).")
@by_order
@of_sample
@click.option("--overlap", type=float, default=0.0, help="A share that several people decide, blindly: 0.1.")
@click.option(
    "--people", "each", type=int, default=2, help="How many decide on each piece of the overlap (default: 2)."
)
@click.option("--take-back", help="What this person has not decided yet is anybody's again.")
@click.option("--seed", help="Draw samples anew, by this seed.")
@options.home
@options.as_json
def assign(
    run: str | None, people: tuple[str, ...], count: int | None, by: Any, sample: float, overlap: float, each: int,
    take_back: str | None, seed: str | None, home: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Shares undecided pieces of RUN out among people; without options says who has how many."""

    async def main() -> int:
        async with options.open_app(home, workers=0) as app:
            review, name = await review_of(app, run)
            if seed is not None:
                await review.sow(seed)
            freed = await review.unassign(take_back) if take_back else 0
            given: dict[str, int] = {}
            if people or overlap:
                given = await review.assign(people, count=count, by=by, sample=sample, overlap=overlap, people=each)
            found = await review.assignments()
        if as_json:
            all_ = [{"assignee": one.assignee, "open": one.open, "decided": one.decided} for one in found]
            print_json("review.assign", run=name, given=given, taken_back=freed, assignments=all_)
            return 0
        for one in found:
            new = f", {given[one.assignee]:,} of them new" if given.get(one.assignee) else ""
            click.echo(f"{one.assignee}: {one.open:,} open{new}, {one.decided:,} decided")
        if not found:
            click.echo(f"nothing of {name} is assigned: whoever asks gets the next piece")
        return 0

    options.call(main())


@command.command("release")
@click.argument("records", type=int, nargs=-1)
@click.option("--run", "name", help="The run (default: the last one).")
@as_person
@options.home
@options.as_json
def release(
    records: tuple[int, ...], name: str | None, reviewer: str | None, home: Path | None, as_json: bool
) -> None:  # fmt: skip
    """Gives pieces back that you have taken: these RECORDS, or all."""

    async def main() -> int:
        async with options.open_app(home, workers=0) as app:
            review, run = await review_of(app, name)
            given = await review.release(reviewer or options.me(), list(records) or None)
        if as_json:
            print_json("review.release", run=run, released=given)
        else:
            click.echo(f"{given} given back")
        return 0

    options.call(main())


@command.command("stats")
@click.argument("run", required=False)
@options.home
@options.as_json
def stats(run: str | None, home: Path | None, as_json: bool) -> None:
    """How the review of RUN (default: the last one) goes: states, people, pace, agreement."""

    async def main() -> int:
        from gristmill.review.figures import figures

        async with options.open_app(home, workers=0) as app:
            review, name = await review_of(app, run)
            found = await figures(app.pool, review.run_id)
        if as_json:
            print_json("review.stats", run=name, **found.as_document())
        else:
            _show_figures(name, found)
        return 0

    options.call(main())


def _show_figures(run: str, found: Figures) -> None:
    states = ", ".join(f"{count:,} {state}" for state, count in found.states.items() if count)
    click.echo(f"{run}: {found.total:,} pieces: {states or 'none'}")
    click.echo(f"  {found.open:,} wait, {found.held:,} are before somebody, {found.disputed:,} are disputed")
    for one in found.reviewers:
        pace = f", {one.seconds_median:.0f} s a piece" if one.seconds_median else ""
        click.echo(
            f"  {one.reviewer}: {one.decided:,} decided ({one.accepted:,} accepted, {one.edited:,} edited,"
            f" {one.rejected:,} rejected, {one.skipped:,} skipped), {one.undone:,} taken back{pace}"
        )
    told = found.agreement
    if told.pieces:
        click.echo(
            f"  agreement over {told.pieces:,} pieces: {_share(told.percent)} the same decision,"
            f" {_share(told.same)} the same content, Krippendorff's alpha {_figure(told.krippendorff)}"
        )
        for pair in told.pairs:
            percent, kappa = _share(pair.percent), _figure(pair.cohen)
            click.echo(f"    {pair.first} and {pair.second}: {pair.pieces:,} pieces, {percent}, Cohen's kappa {kappa}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(piece: Piece) -> str:
    score = f"{piece.score:g}" if piece.score is not None else "-"
    body = piece.body
    shown = (
        body.get("question") or body.get("labels") or body.get("values") or body.get("entities") or body.get("boxes")
    )
    text = " ".join(str(shown if shown is not None else "").split())
    who = f"  {piece.reviewer}" if piece.reviewer else f"  before {piece.holder}" if piece.holder else ""
    return f"{piece.record_id:>8}  {piece.state:<9} {piece.kind:<12} {score:>5}{who}  {text[:WIDTH]}"


def show(piece: Piece) -> None:
    """A piece for people: what stands, what it was made from, and what to type."""
    from gristmill.data.kinds import KINDS

    click.echo(f"record {piece.record_id}  {piece.kind}  {_standing(piece)}")
    for name in KINDS[piece.kind].model_fields:
        value = piece.body.get(name)
        if value in (None, [], "", False) or name == "subject":
            continue
        before = piece.original.get(name)
        click.echo(f"  {name}: {_short(value)}" + (f"   (was: {_short(before)})" if before != value else ""))
    source = piece.source
    if source.text is not None:
        click.echo(f"  from {source.name or 'its source'}:")
        click.echo(
            "    " + _lit(source.text, [(mark.start, mark.end) for mark in source.marks]).replace("\n", "\n    ")
        )
    elif source.image is not None:
        click.echo(f"  from the picture {source.name or source.image} ({source.width} x {source.height})")
    if piece.token is not None:
        number = piece.record_id
        say(f"  gristmill review accept {number} | edit {number} --set FIELD=VALUE | reject {number} | skip {number}")


def _standing(piece: Piece) -> str:
    parts = [piece.state]
    if piece.second:
        parts.append("a second opinion")
    if piece.disputed:
        parts.append("people disagree")
    if piece.score is not None:
        parts.append(f"score {piece.score:g}")
    if piece.lease_until is not None:
        parts.append(f"{piece.holder}'s until {piece.lease_until:%H:%M:%S} UTC")
    return ", ".join(parts)


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 400 else text[:397] + "..."


def _lit(text: str, marks: list[tuple[int, int]]) -> str:
    """The text with brackets around its marks; those that overlap another are left bare."""
    made, at = "", 0
    for start, end in sorted(marks):
        if at <= start < end <= len(text):
            made += f"{text[at:start]}[{text[start:end]}]"
            at = end
    return made + text[at:]


add_to(command)
