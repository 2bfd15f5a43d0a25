"""What was pulled and could not be taken: shown beside what stands here, and settled by a person."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import asyncpg

from gristmill.data import records
from gristmill.data.annotations import ANNOTATIONS, Annotation
from gristmill.errors import UsageError
from gristmill.review.bodies import Check
from gristmill.review.label_studio.projects import SQL, Project, subjects_of
from gristmill.review.label_studio.pull import apply
from gristmill.review.label_studio.results import from_result, unit_of

Take = Literal["theirs", "ours"]


@dataclass(frozen=True, slots=True)
class Conflict:
    """One annotation of a server that was not taken. `state` is "conflict" or "refused", `theirs` the result as it was
    pulled, `ours` the body that stands here, `ours_state` its review state."""

    id: int
    state: str
    reason: str
    who: str
    url: str
    annotation: int
    subject_id: int
    record_id: int | None
    source: str
    theirs: Any
    ours: Any
    ours_state: str

    def as_document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def conflicts(pool: asyncpg.Pool[Any], project: Project) -> list[Conflict]:
    """What is still open, in the order of the pieces."""
    rows = await pool.fetch(SQL["open_pulled"], project.id, None)
    found = await records.load(pool, [row["now_id"] for row in rows if row["now_id"] is not None])
    return [
        Conflict(
            row["id"], row["state"], row["reason"] or "", row["who"], row["url"], row["annotation"], row["subject_id"],
            row["annotation_id"], json.loads(row["about"]).get("source") or "", json.loads(row["result"]),
            json.loads(found[row["now_id"]].body) if row["now_id"] in found else None,
            row["review_state"] or "proposed",
        )
        for row in rows
    ]  # fmt: skip


async def settle(
    pool: asyncpg.Pool[Any], project: Project, number: int, take: Take, by: str, *, check: Check | None = None
) -> None:
    """Ends a conflict, and those about the same piece: "theirs" becomes a decision of the one who said it, "ours"
    stays.

    Raises `UsageError` L140 for a number that is not open, L108 for theirs that cannot be used, and what `decide`
    raises.
    """
    row = await pool.fetchrow(SQL["open_pulled"], project.id, number)
    if row is None:
        raise UsageError(
            f"{project.name} has no open conflict {number}", code="L140",
            hint=f"list them: gristmill label-studio conflicts {project.name}", safe="nothing was changed",
        )  # fmt: skip
    if take == "theirs":
        await _take(pool, project, row, check)
    state = "taken" if take == "theirs" else "left"
    await pool.execute(SQL["close_pulled"], project.id, row["subject_id"], number, state, row["annotation_id"], by)


async def _take(pool: asyncpg.Pool[Any], project: Project, row: Any, check: Check | None) -> None:
    subject = (await subjects_of(pool, {row["subject_id"]: json.loads(row["about"])}))[row["subject_id"]]
    ids = [number for number in (row["standing_id"], row["now_id"]) if number is not None]
    found = await records.load(pool, ids)
    bodies: dict[int, Annotation] = {
        number: ANNOTATIONS[one.kind].model_validate_json(one.body) for number, one in found.items()
    }
    labeling, result = project.labeling, json.loads(row["result"])
    mine = from_result(
        project.kind, result, subject, labeling, row["who"], original=bodies.get(row["standing_id"]),
        unit=unit_of(result, subject, labeling), scale=project.scale,
    )  # fmt: skip
    if row["annotation_id"] is None:
        raise UsageError(
            f"nothing stands here for record {row['subject_id']}", code="L141",
            hint="mend it in Label Studio, and pull again", safe="nothing was changed",
        )  # fmt: skip
    await apply(pool, project, row["annotation_id"], mine, bodies.get(row["now_id"]), seen=None, check=check)
