"""gristmill review accept, edit, reject, skip, undo: what a person says about records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json, say
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.app import App
    from gristmill.review.pieces import Decided
    from gristmill.review.queues import Review

as_person = click.option("--as", "reviewer", help="The person who reviews (default: you, as user@host).")
of_run = click.option("--run", "name", help="The run (default: the newest that has the record in its queue).")
a_note = click.option("--note", help="Why, for those who read the story of the record.")
PAST = {"accept": "accepted", "reject": "rejected", "skip": "left aside"}


def add_to(group: click.Group) -> None:
    """Adds the commands of this file to `gristmill review`."""
    for word, text in (  # words, and what they do
        ("accept", "Accepts RECORDS as they stand, or all proposed rows of which --where is true."),
        ("reject", "Rejects RECORDS: no export takes them. Or all proposed rows of which --where is true."),
        ("skip", "Leaves RECORDS aside for others (next --skipped). Or all proposed rows of which --where is true."),
    ):
        group.add_command(_word(word, text))
    group.add_command(edit)
    group.add_command(undo)


def _word(word: str, text: str) -> click.Command:
    @click.command(word, help=text)
    @click.argument("records", type=int, nargs=-1)
    @click.option("--where", help="""Rows of the run: 'score >= 4.5' (docs/guides/export.md); only proposed ones.""")
    @of_run
    @a_note
    @as_person
    @options.home
    @options.as_json
    def decided(
        records: tuple[int, ...], where: str | None, name: str | None, note: str | None, reviewer: str | None,
        home: Path | None, as_json: bool,
    ) -> None:  # fmt: skip
        if bool(records) == (where is not None):
            raise UsageError(
                "name either records or a filter", code="V122",
                hint=f"gristmill review {word} 17, or --where 'score >= 4'",
            )  # fmt: skip
        options.call(_decide(home, word, records, where, name, note, reviewer or options.me(), as_json))

    return decided


async def _decide(
    home: Path | None, word: str, records: tuple[int, ...], where: str | None, name: str | None, note: str | None,
    reviewer: str, as_json: bool,
) -> int:  # fmt: skip
    made: list[Decided] = []
    refused: list[UsageError] = []
    async with options.open_app(home, workers=0) as app:
        reviews: dict[str, Review] = {}
        for number in list(records) or await _proposed(app, name, where or ""):
            try:
                review = await _review_of(app, name, number, reviews)
                made.append(await review.decide(number, word, reviewer, note=note))
            except UsageError as error:
                if len(records) == 1:
                    raise
                refused.append(error)
    if as_json:
        problems = [{"code": problem.code, "message": problem.message} for problem in refused]
        print_json(f"review.{word}", decided=[one.as_document() for one in made], refused=problems)
        return 1 if refused else 0
    for one in made if records else ():
        _tell(one)
    if not records:
        click.echo(f"{len(made):,} {PAST[word]}")
    for problem in refused:
        say(f"error[{problem.code}]: {problem.message}")
    return 1 if refused else 0


async def _proposed(app: App, name: str | None, where: str) -> list[int]:
    """The proposed rows of a run that a filter takes."""
    run = await options.chosen_run(app, name)
    return [int(row.record_id) async for row in run.rows(where) if row.review == "proposed"]


async def _review_of(app: App, name: str | None, number: int, known: dict[str, Review]) -> Review:
    """The review of the named run, or of the newest that has the record in its queue, or of the last."""
    from gristmill.review.decisions import run_of
    from gristmill.review.queues import Review

    wanted = name or str(await run_of(app.pool, number) or "")
    if wanted not in known:
        known[wanted] = Review.of(await options.chosen_run(app, wanted or None))
        await known[wanted].look()
    return known[wanted]


@click.command("edit")
@click.argument("record", type=int)
@click.option(
    "--set", "fields", multiple=True, help="FIELD=VALUE; JSON where the field is no text: label='[\"heat\"]'."
)
@click.option("--body", type=click.File(), help="A file with the whole body as JSON; - is standard input.")
@of_run
@a_note
@as_person
@options.home
@options.as_json
def edit(
    record: int, fields: tuple[str, ...], body: Any, name: str | None, note: str | None, reviewer: str | None,
    home: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Puts your words in the place of RECORD: a new revision, whose parent it is. Without --set and --body your editor
    opens with what stands."""
    if fields and body is not None:
        raise UsageError("--set changes fields, --body is the whole", code="V121", hint="use one of them")
    text = body.read() if body is not None else None
    options.call(_edit(home, record, fields, text, name, note, reviewer or options.me(), as_json))


async def _edit(
    home: Path | None, number: int, fields: tuple[str, ...], text: str | None, name: str | None, note: str | None,
    reviewer: str, as_json: bool,
) -> int:  # fmt: skip
    async with options.open_app(home, workers=0) as app:
        review = await _review_of(app, name, number, {})
        piece = await review.take(reviewer, number, lease=3600.0)
        try:
            said: dict[str, Any]
            if fields:
                said = {"changes": dict(_field(piece.kind, one) for one in fields)}
            else:
                said = {"body": _json("the body", text if text is not None else _written(dict(piece.body)))}
            made = await review.decide(number, "edit", reviewer, token=piece.token, note=note, **said)
        except BaseException:
            await review.release(reviewer, [number])
            raise
    if as_json:
        print_json("review.edit", **made.as_document())
    else:
        _tell(made)
    return 0


def _field(kind: str, text: str) -> tuple[str, Any]:
    """A field and its value: text as it is where the field may be a text, and JSON otherwise."""
    from gristmill.data.kinds import KINDS

    name, sign, value = text.partition("=")
    if not sign:
        raise UsageError(f'--set: "{text}" is not FIELD=VALUE', code="V122", hint="--set answer='Because.'")
    known = KINDS[kind].model_fields.get(name.strip())
    if known is not None and known.annotation in (str, str | None):
        return name.strip(), value
    return name.strip(), _json(name.strip(), value)


def _json(what: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is not JSON: {error}", code="V120", hint='text stands in quotes: "..."') from None


def _written(body: dict[str, Any]) -> str:
    text = click.edit(json.dumps(body, ensure_ascii=False, indent=1), extension=".json")
    if text is None:
        raise UsageError("the editor was left without saving", code="V123", safe="nothing was changed")
    return text


@click.command("undo")
@click.option("--record", type=int, help="Your decision about this record (default: your last one).")
@click.option("--run", "name", help="Your last decision in the queue of this run.")
@as_person
@options.home
@options.as_json
def undo(record: int | None, name: str | None, reviewer: str | None, home: Path | None, as_json: bool) -> None:
    """Takes your last decision back, also an edit; once more: the one before."""

    async def main() -> int:
        from gristmill.review.decisions import undo as take_back

        async with options.open_app(home, workers=0) as app:
            run_id = (await app.find(name)).id if name else None
            made = await take_back(app.pool, reviewer or options.me(), record, run_id=run_id)
        if as_json:
            print_json("review.undo", **made.as_document())
        else:
            _tell(made)
        return 0

    options.call(main())


def _tell(made: Decided) -> None:
    more = f" as record {made.revision_id}" if made.revision_id else ""
    told = f"{made.state}{more}" if made.changed else f"{made.state}{more} already"
    click.echo(f"record {made.record_id} is {told}" + (", and people disagree about it" if made.disputed else ""))
