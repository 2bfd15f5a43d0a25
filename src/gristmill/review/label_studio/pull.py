"""What people said on a server, or in a file of it, as decisions on our records. A task is matched by its record only.

Nothing that a person wrote is lost: what contradicts another person, or a decision made here since, is kept as a
conflict until somebody settles it; what cannot be used is kept with the reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import asyncpg
from pydantic import BaseModel

from gristmill.data import records
from gristmill.data.annotations import ANNOTATIONS, Annotation
from gristmill.data.kinds import content_hash
from gristmill.data.records import Membership, NewRecord, Work
from gristmill.db.database import transaction
from gristmill.errors import UsageError
from gristmill.operators.annotation_labels import problems_with
from gristmill.review.bodies import Check
from gristmill.review.decisions import decide
from gristmill.review.label_studio.client import Task
from gristmill.review.label_studio.flow import WorkflowLike, flow_of
from gristmill.review.label_studio.labeling import Labeling
from gristmill.review.label_studio.projects import SQL, Project, subjects_of
from gristmill.review.label_studio.push import alone, record_of
from gristmill.review.label_studio.results import from_result, unit_of
from gristmill.review.label_studio.same import digest_of, same
from gristmill.review.label_studio.subjects import Subject
from gristmill.review.states import DECIDED, REJECTED

PAGE = 100  # tasks that are looked at together


@dataclass(slots=True)
class Pulled:
    """What a pull did. Annotations: `taken` as decisions, `skipped` by their people, `unchanged` since the last pull or
    never touched, in `conflict`, `refused`. Tasks: `tasks` of this project, `unknown` of no record of it."""

    tasks: int = 0
    unknown: int = 0
    taken: int = 0
    skipped: int = 0
    unchanged: int = 0
    conflicts: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)  # the first of them, a sentence each

    def as_document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Said:
    """One annotation of a server, by a person."""

    number: int
    who: str
    updated_at: str
    result: Any
    skipped: bool


class _Conflict(Exception):
    """What contradicts what stands."""


async def pull(
    pool: asyncpg.Pool[Any], project: Project, tasks: AsyncIterator[Task], url: str,
    people: Mapping[int, str], *, by: str, somebody: str | None = None, labeling: Labeling | None = None,
    check: Check | None = None, wait: float = 20.0,
) -> Pulled:  # fmt: skip
    """Takes what people said into the records of the project. `url` is the server's, or names the file; `people` are
    e-mails by number, and who is not among them goes by `somebody`, if that is given. `labeling` is what people could
    choose there (default: the project's), `check` says what else is wrong with an annotation (`allowed_by`). Pulling
    again changes nothing. One push or pull at a time: another one is waited for, `wait` seconds.

    Raises `LockHeld` T410, and what `tasks` raises; what was taken until then stays.
    """
    work = _Work(pool, project, url, people, somebody, labeling or project.labeling, check)
    async with alone(pool, project, url, by, wait) as held:
        page: list[Task] = []
        async for task in tasks:
            page.append(task)
            if len(page) >= PAGE:
                held.check()
                await work.take(page)
                page = []
        await work.take(page)
    return work.done


def allowed_by(workflow: WorkflowLike, kind: str) -> Check:
    """What a workflow has to say against an annotation: labels that it does not have, relations between ends that it
    does not join, too many or too few choices."""
    sets = flow_of(workflow, kind).label_sets

    def check(annotation: BaseModel) -> Sequence[str]:
        found = [problems_with(annotation, one) for one in sets]
        return min(found, key=len, default=[])

    return check


class _Work:
    """One pull under way."""

    def __init__(
        self, pool: asyncpg.Pool[Any], project: Project, url: str, people: Mapping[int, str], somebody: str | None,
        labeling: Labeling, check: Check | None,
    ) -> None:  # fmt: skip
        self.pool, self.project, self.url = pool, project, url
        self.people, self.somebody = people, somebody
        self.labeling, self.check = labeling, check
        self.done = Pulled()

    async def take(self, tasks: Sequence[Task]) -> None:
        """A page of tasks."""
        named = {number: task for task in tasks if (number := record_of(task)) is not None}
        self.done.unknown += len(tasks) - len(named)
        rows = {
            row["subject_id"]: row
            for row in await self.pool.fetch(SQL["pieces_named"], self.project.id, self.url, list(named))
        }
        before: dict[int, list[Any]] = {}
        for row in await self.pool.fetch(SQL["pulled_of"], self.project.id, self.url, list(rows)):
            before.setdefault(row["subject_id"], []).append(row)
        subjects = await subjects_of(self.pool, {number: json.loads(row["about"]) for number, row in rows.items()})
        for number, task in named.items():
            if number not in rows or task["data"].get("subject", subjects[number].hash) != subjects[number].hash:
                self.done.unknown += 1
                continue
            self.done.tasks += 1
            await self._task(task, rows[number], subjects[number], before.get(number, []))

    async def _task(self, task: Task, row: Any, subject: Subject, before: Sequence[Any]) -> None:
        known = {one["annotation"]: one for one in before}
        ours = [row["sent"], None if row["result"] is None else digest_of(json.loads(row["result"]))]
        said = [self._said(one) for one in task.get("annotations") or () if not _untouched(one, ours)]
        fresh = [one for one in said if one.number not in known or known[one.number]["updated_at"] != one.updated_at]
        self.done.unchanged += len(task.get("annotations") or ()) - len(fresh)
        words = [one for one in said if not one.skipped]
        for one in fresh:
            if one.skipped and words:
                await self._note(one, subject, "left", "others have annotated it", row["annotation_id"])
                self.done.skipped += 1
            else:
                await self._one(one, words, row, subject)

    async def _one(self, one: _Said, words: Sequence[_Said], row: Any, subject: Subject) -> None:
        try:
            record_id = await self._decide(one, words, row, subject)
        except _Conflict as conflict:
            self.done.conflicts += 1
            await self._note(one, subject, "conflict", str(conflict), row["annotation_id"])
        except UsageError as problem:
            held = problem.code == "V110"
            self.done.conflicts += held
            self.done.refused += not held
            await self._note(one, subject, "conflict" if held else "refused", problem.message, row["annotation_id"])
        else:
            self.done.skipped += one.skipped
            self.done.taken += not one.skipped
            await self._note(one, subject, "taken", None, record_id)

    async def _decide(self, one: _Said, words: Sequence[_Said], row: Any, subject: Subject) -> int | None:
        """The record that was decided about. Raises `_Conflict`, and `UsageError` for what cannot be used."""
        sent, now = await self._standing(row)
        if one.skipped:
            if row["annotation_id"] is not None and row["state"] not in DECIDED:
                await decide(self.pool, row["annotation_id"], "skip", one.who, run_id=self.project.run_id)
            return int(row["annotation_id"]) if row["annotation_id"] is not None else None
        mine = self._annotation(one, subject, sent)
        for other in words:
            if other.number != one.number and not same(mine, self._annotation(other, subject, sent)):
                raise _Conflict(f"{one.who} and {other.who} disagree")
        if row["annotation_id"] is None:
            return await self._first(mine, subject)
        if now is not None and row["state"] in DECIDED - {REJECTED} and same(mine, now):
            return int(row["annotation_id"])
        if row["now_id"] != (row["sent_id"] or row["standing_id"]) or (row["state"] == REJECTED):
            raise _Conflict(f"it was {row['state']} here since it was sent")
        await apply(self.pool, self.project, row["annotation_id"], mine, sent, seen=row["now_id"], check=self.check)
        return int(row["annotation_id"])

    async def _standing(self, row: Any) -> tuple[Annotation | None, Annotation | None]:
        """The annotation as it was sent, and as it stands now."""
        ids = [row["sent_id"] or row["standing_id"], row["now_id"]]
        found = await records.load(self.pool, [number for number in ids if number is not None])
        parsed = {number: ANNOTATIONS[one.kind].model_validate_json(one.body) for number, one in found.items()}
        return parsed.get(ids[0]), parsed.get(ids[1])

    def _annotation(self, one: _Said, subject: Subject, sent: Annotation | None) -> Annotation:
        unit = unit_of(one.result, subject, self.labeling)
        return from_result(
            self.project.kind, one.result, subject, self.labeling, one.who, original=sent, unit=unit,
            scale=self.project.scale,
        )  # fmt: skip

    async def _first(self, mine: Annotation, subject: Subject) -> int:
        """A person annotated what nobody had: a record of the run, accepted."""
        if self.check is not None and (problems := self.check(mine)):
            raise UsageError("; ".join(problems), code="V120", safe="nothing was changed")
        key = hashlib.sha256(
            f"label studio\0{self.project.mark}\0{subject.hash}\0".encode() + content_hash(mine)
        ).digest()
        async with transaction(self.pool) as connection:
            work = Work(key, "label studio", "ok", 0, (NewRecord(mine, (subject.record_id,)),), mine.annotator)
            number = (await records.save(connection, [work]))[key][0]
            place = await connection.fetchrow(SQL["membership"], self.project.run_id, subject.record_id)
            member = Membership(
                self.project.run_id, self.project.step, number, place and place["item_id"], 0,
                (*place["place"], 0) if place else (),
            )  # fmt: skip
            await records.join_run(connection, [member])
            await connection.execute(SQL["give_annotation"], self.project.id, subject.record_id, number)
        await decide(self.pool, number, "accept", mine.annotator, run_id=self.project.run_id)
        return number

    async def _note(self, one: _Said, subject: Subject, state: str, reason: str | None, record_id: int | None) -> None:
        if reason and state != "left" and len(self.done.problems) < 20:
            self.done.problems.append(f"annotation {one.number} of {one.who}: {reason}")
        await self.pool.execute(
            SQL["put_pulled"], self.project.id, self.url, subject.record_id, one.number, one.who, one.updated_at,
            json.dumps(one.result, ensure_ascii=False), state, reason, record_id,
        )  # fmt: skip

    def _said(self, one: Mapping[str, Any]) -> _Said:
        person = one.get("updated_by") or one.get("completed_by")
        name = person.get("email") if isinstance(person, dict) else self.people.get(person or 0)
        who = name or self.somebody or f"user {person} of {self.url}"
        return _Said(
            int(one["id"]), str(who), str(one.get("updated_at")), one.get("result"), bool(one.get("was_cancelled"))
        )


def _untouched(one: Mapping[str, Any], ours: Sequence[bytes | None]) -> bool:
    """Whether an annotation is as it came from here, and nobody has handed it in (people take time, `lead_time`) or
    given it the star: we send it without one."""
    handed_in = one.get("was_cancelled") or one.get("ground_truth") or one.get("lead_time") is not None
    return not handed_in and digest_of(one.get("result")) in ours


async def apply(
    pool: asyncpg.Pool[Any], project: Project, record_id: int, mine: Annotation, sent: Annotation | None, *,
    seen: int | None, check: Check | None = None,
) -> None:  # fmt: skip
    """A person's annotation as a decision: accepted where it says what was sent, else an edit."""
    agreed = sent is not None and not sent.undecided and same(mine, sent)
    body = None if agreed else mine.model_dump(mode="json")
    decision = "accept" if agreed else "edit"
    who, run_id = mine.annotator, project.run_id
    await decide(pool, record_id, decision, who, body=body, seen=seen, run_id=run_id, check=check)
