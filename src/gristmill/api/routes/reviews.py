"""Review: pieces are claimed, decided, taken back; shared out; and how it goes."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query

from gristmill.api import review_shapes as shapes
from gristmill.api import reviewing
from gristmill.api.problems import NotFound
from gristmill.api.review_shapes import AssignmentRow, Decided, Editor, ReviewFigures, ReviewPiece, WaitingPieces
from gristmill.api.reviewing import person, review_of, told
from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import After, Asking, Id, Limit, OpenApp, Page, cursor, place
from gristmill.review.decisions import undo
from gristmill.review.figures import figures

router = new_router("reviews")
OfRun = Annotated[str, Query(min_length=1, max_length=200, description="number or name of a run")]
State = Literal["proposed", "accepted", "edited", "rejected", "skipped"]


@router.post("/reviews/claim")
@role("reviewer")
async def claim_reviews(wanted: shapes.Claim, app: OpenApp, caller: Asking) -> list[ReviewPiece]:
    """The next pieces for a person, under a lease: nobody else gets them meanwhile."""
    run, review = await review_of(app, wanted.run)
    pieces = await told(
        review.claim(
            person(caller, wanted.reviewer), wanted.limit, by=wanted.by, sample=wanted.sample, kind=wanted.kind,
            skipped=wanted.skipped, lease=wanted.lease,
        )
    )  # fmt: skip
    return await reviewing.shown(run, pieces, editor=wanted.editor)


@router.get("/reviews")
async def list_reviews(
    app: OpenApp, run: OfRun, state: Annotated[State | None, Query()] = None,
    kind: Annotated[str | None, Query(max_length=100)] = None,
    assignee: Annotated[str | None, Query(max_length=200)] = None, after: After = None, limit: Limit = 50,
) -> Page[ReviewPiece]:  # fmt: skip
    """Pieces of a run in the order of their records: a look, without a claim."""
    found, review = await review_of(app, run)
    await review.look()
    behind = place(after, int)
    pieces = await told(
        review.pieces(state=state, kind=kind, assignee=assignee, after=behind[0] if behind else 0, limit=limit + 1)
    )
    more = len(pieces) > limit
    shown = await reviewing.shown(found, pieces[:limit], editor=False)
    return Page(items=shown, next=cursor(pieces[limit - 1].record_id) if more else None)


@router.get("/reviews/stats")
async def review_stats(app: OpenApp, run: OfRun) -> ReviewFigures:
    """How a review goes: pieces by state, people's pace, agreement."""
    found, review = await review_of(app, run)
    await review.look()
    return ReviewFigures.model_validate((await figures(app.pool, found.id)).as_document())


@router.get("/reviews/waiting")
async def waiting_reviews(app: OpenApp) -> list[WaitingPieces]:
    """Which of the newest 30 runs have pieces that wait for people, and how many."""
    return await reviewing.waiting(app)


@router.get("/reviews/assignments")
async def review_assignments(app: OpenApp, run: OfRun) -> list[AssignmentRow]:
    """Who was given how much."""
    _, review = await review_of(app, run)
    return [AssignmentRow.model_validate(one) for one in await review.assignments()]


@router.post("/reviews/assignments")
@role("operator")
async def assign_reviews(wanted: shapes.Assign, app: OpenApp) -> shapes.Assigned:
    """Shares undecided pieces out among people in turn."""
    _, review = await review_of(app, wanted.run)
    given = await told(
        review.assign(
            wanted.reviewers, count=wanted.count, by=wanted.by, sample=wanted.sample, overlap=wanted.overlap,
            people=wanted.people,
        )
    )  # fmt: skip
    return shapes.Assigned(given=given)


@router.post("/reviews/release")
@role("reviewer")
async def release_reviews(wanted: shapes.Release, app: OpenApp, caller: Asking) -> shapes.Released:
    """Gives claimed pieces back at once: all that the person has, or these."""
    _, review = await review_of(app, wanted.run)
    return shapes.Released(released=await told(review.release(person(caller, wanted.reviewer), wanted.records)))


@router.post("/reviews/undo")
@role("reviewer")
async def undo_last(wanted: shapes.UndoLast, app: OpenApp, caller: Asking) -> Decided:
    """Takes back the person's last decision in the queue of a run; again: the one before."""
    run, _ = await review_of(app, wanted.run)
    work = undo(app.pool, person(caller, wanted.reviewer), run_id=run.id)
    return Decided.model_validate((await told(work)).as_document())


@router.get("/reviews/{record}")
async def one_review(record: Id, app: OpenApp, run: OfRun, editor: bool = False) -> ReviewPiece:
    """One piece of a run's queue, without a claim."""
    found, review = await review_of(app, run)
    await review.look()
    pieces = await told(review.pieces(records=[record], limit=1))
    if not pieces:
        raise NotFound(f"record {record} is not in the queue of {found.name}", hint="GET /api/reviews?run=")
    return (await reviewing.shown(found, pieces, editor=editor))[0]


@router.get("/reviews/{record}/editor")
async def review_editor(record: Id, app: OpenApp, run: OfRun) -> Editor:
    """What the editor of Label Studio needs to show an annotation; its result is sent as `result` of an edit."""
    found, _ = await review_of(app, run)
    return await reviewing.editor_of(found, record)


@router.post("/reviews/{record}")
@role("reviewer")
async def decide_review(record: Id, wanted: shapes.Decision, app: OpenApp, caller: Asking) -> Decided:
    """Decides about a record. The same decision again changes nothing and has the same answer."""
    return await reviewing.decided(app, record, wanted, person(caller, wanted.reviewer))


@router.post("/reviews/{record}/undo")
@role("reviewer")
async def undo_review(record: Id, wanted: shapes.Undo, app: OpenApp, caller: Asking) -> Decided:
    """Takes back the person's last decision on the record; again: the one before."""
    work = undo(app.pool, person(caller, wanted.reviewer), record)
    return Decided.model_validate((await told(work)).as_document())
