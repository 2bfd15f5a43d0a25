"""Review through the API: who decides, errors as they are told, pieces with their editor."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from gristmill.api.access import Caller
from gristmill.api.problems import NotFound, Refused
from gristmill.api.review_shapes import Decided, Decision, Editor, ReviewPiece, WaitingPieces
from gristmill.api.run_views import find_run, made_by, reviewable
from gristmill.app import App
from gristmill.data.annotations import ANNOTATIONS
from gristmill.data.records import load
from gristmill.errors import UsageError
from gristmill.review.decisions import SQL, decide, run_of
from gristmill.review.label_studio.editor import edited_body, editor_task
from gristmill.review.pieces import Piece
from gristmill.review.queues import Review
from gristmill.run import Run

T = TypeVar("T")
CONFLICTS = ("V110", "V130", "V140")
MISSING = ("V101",)
RUNS = 30  # the newest, that are asked what waits in their queues
COUNTED = 1_000  # pieces of one run; nobody acts otherwise on more


def person(caller: Caller, named: str | None) -> str:
    """In whose name it is decided: the caller's, or for who may do everything any. Raises `Refused` 403."""
    if named is None or named == caller.name:
        return caller.name
    if caller.how != "open" and not caller.may("admin"):
        raise Refused(
            403, f"you decide as {caller.name}, not as {named}", code="A403", safe="nothing was changed",
            hint="leave `reviewer` out, or use a token with the role admin",
        )  # fmt: skip
    return named


async def told(work: Awaitable[T]) -> T:
    """What the review gives, with its conflicts as 409 and what there is not as 404."""
    try:
        return await work
    except UsageError as error:
        if error.code in CONFLICTS:
            raise Refused(409, error.message, code=error.code, hint=error.hint, safe=error.safe) from None
        if error.code in MISSING:
            raise NotFound(error.message, hint=error.hint, safe=error.safe) from None
        raise


async def review_of(app: App, run: str) -> tuple[Run, Review]:
    """A run and its review. Raises `NotFound`, `UsageError` V105 for a workflow that makes nothing to review."""
    found = await find_run(app, run)
    return found, Review.of(found)


async def waiting(app: App) -> list[WaitingPieces]:
    """What waits for people in the newest runs, those with nothing left out. Reads queues; no table of tasks."""
    made = []
    for row in await app.pool.fetch(SQL["waiting"], app.settings.project, RUNS, COUNTED + 1):
        pieces = min(row["pieces"], COUNTED)
        if pieces:
            made.append(WaitingPieces(run=row["run"], name=row["name"], pieces=pieces, more=row["pieces"] > COUNTED))
        elif not row["looked"] and row["state"] in ("completed", "partial") and reviewable(made_by(row["definition"])):
            made.append(WaitingPieces(run=row["run"], name=row["name"], pieces=None))
    return made


async def shown(run: Run, pieces: Sequence[Piece], *, editor: bool) -> list[ReviewPiece]:
    """Pieces for the page; `editor`: annotations with what the editor of Label Studio needs."""
    made = []
    for piece in pieces:
        given = piece.as_document()
        if editor and piece.kind in ANNOTATIONS:
            given["editor"] = await editor_of(run, piece.record_id)
        made.append(ReviewPiece.model_validate(given))
    return made


async def editor_of(run: Run, record_id: int) -> Editor:
    """Configuration and task for the editor; pictures are fetched from this server."""
    found = await editor_task(run.app.pool, record_id, run.workflow, address=lambda image: f"/api/blobs/{image.blob}")
    return Editor(**found)


async def decided(app: App, record_id: int, wanted: Decision, who: str) -> Decided:
    """Decides about a record, checked against the labels of its step where it is in the queue of a run.

    Raises `UsageError` V120 for a body that is none, A424 for words that do not go together, and what `told` makes.
    """
    given = {"body": wanted.body, "changes": wanted.changes, "result": wanted.result}
    edits = [name for name, value in given.items() if value is not None]
    if (wanted.decision == "edit") != (len(edits) == 1) or (wanted.decision == "label") != (wanted.label is not None):
        raise UsageError(
            "an edit has one of body, changes and result; a label has label; the others have none of them",
            code="A424", safe="nothing was changed",
        )  # fmt: skip
    number = wanted.run or await run_of(app.pool, record_id)
    run = await find_run(app, str(number)) if number is not None else None
    body, changes = wanted.body, wanted.changes
    if wanted.decision == "label":
        changes = await _label(app, record_id, wanted.label or [])
    if wanted.result is not None:
        body = await edited_body(app.pool, record_id, run.workflow if run else None, wanted.result, who)
    verb = "edit" if wanted.decision == "label" else wanted.decision
    said: dict[str, Any] = {
        "body": body, "changes": changes, "note": wanted.note, "token": wanted.token, "seen": wanted.seen
    }  # fmt: skip
    work = (
        Review.of(run).decide(record_id, verb, who, **said) if run else decide(app.pool, record_id, verb, who, **said)
    )
    return Decided.model_validate((await told(work)).as_document())


async def _label(app: App, record_id: int, label: Sequence[str]) -> dict[str, Any]:
    """The change that a label is: of a row its place in the tree, of classes the classes themselves."""
    record = (await load(app.pool, [record_id])).get(record_id)
    return {"labels" if record and record.kind == "classes" else "label": list(label)}
