"""What people decide about records: kept in order, each by one transaction, and taken back in the same order."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg

from gristmill.data import records
from gristmill.data.kinds import content_hash
from gristmill.data.records import NewRecord, Work
from gristmill.db.database import repeating
from gristmill.db.statements import statements
from gristmill.engine.workflow import tell
from gristmill.errors import UsageError
from gristmill.review.bodies import Check, content_of, edited
from gristmill.review.pieces import REVIEWABLE, Decided, Decision, Reviewed
from gristmill.review.states import DECIDED, EDITED, PROPOSED, REJECTED, state_after

SQL = statements("review")
Connection: TypeAlias = "asyncpg.Connection[Any]"
NAME_LIMIT = 200  # characters of a person's name
NOTE_LIMIT = 10_000
_UNCHANGED = "nothing was changed; what you wrote is still yours to send again"


@dataclass(frozen=True, slots=True)
class _Said:
    """A person's decision on a record, ready to be written down."""

    decision: str
    reviewer: str
    said_id: int | None
    note: str | None
    run_id: int | None


async def decide(
    pool: asyncpg.Pool[Any], record_id: int, decision: str, reviewer: str, *, body: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None, note: str | None = None, token: str | uuid.UUID | None = None,
    seen: int | None = None, run_id: int | None = None, check: Check | None = None,
) -> Decided:  # fmt: skip
    """A person's word on a record: accept, edit (with the whole `body`, or the `changes` to what stands), reject, skip.

    `token` is that of the claim. Without one the decision counts as long as nobody else has the record before him.
    `seen` is the record or the revision that the person looked at; `run_id` the queue it is counted for (default: the
    newest that has the record). An edit makes a new record, whose parent is what stood before; one that changes nothing
    is an acceptance. Where several people are to decide, whoever is not the first gives a second opinion on the
    proposal: when it says the same, nothing changes, and otherwise the record is disputed and goes back to proposed.
    Saying again what stands changes nothing. `check` says what else is wrong with an edited body.

    Raises `UsageError` V101 for a record that is not there or not of a kind that people review, V110 when somebody else
    has it or has decided in the meantime, V120 for a body that does not fit, V130 for a change that its state does not
    allow, V132 for accepting an annotation in which nothing stands.
    """
    who, text = checked_name(reviewer), _checked_note(note)
    held = _checked_token(token)

    async def change(connection: Connection) -> Decided:
        row = await _locked(connection, record_id, who)
        again = await _sent_again(connection, row, who, held)
        opinion = again["opinion"] if again else row["asked"] and row["state"] in DECIDED
        standing = record_id if opinion else (row["revision_id"] or record_id)
        if seen not in (None, standing) and again is None:
            raise _conflict(f"record {record_id} was changed by {row['decided_by']} since you looked at it")
        state_after(decision, PROPOSED if opinion else row["state"])
        kind, said_id = await _said(connection, row, standing, decision, who, body, changes, check)
        if again is not None:
            if (again["decision"], again["said_id"]) != (kind, said_id):
                raise _conflict(f"you have decided about record {record_id} already: {again['decision']}")
            return Decided(
                record_id, row["state"], row["state"], row["revision_id"], row["decision_id"], row["disputed"], False
            )  # fmt: skip
        run = run_id or await connection.fetchval(SQL["run_of_piece"], record_id)
        said = _Said(kind, who, said_id, text, run)
        return await _write(connection, row, said, opinion=opinion)

    return await repeating(pool, change)


async def _write(connection: Connection, row: Any, said: _Said, *, opinion: bool) -> Decided:
    """Writes a decision down, with the state that follows, in the queues and in the outbox."""
    record_id, before = row["record_id"], row["state"]
    after, revision, disputed = before, row["revision_id"], row["disputed"]
    if opinion:
        if said.decision != "skip" and await _differs(connection, row, said):
            after, revision, disputed = PROPOSED, None, True
    else:
        after = state_after(said.decision, before)
        if after == before and said.said_id in (None, revision or record_id):
            await connection.execute(SQL["give_up"], record_id)
            return Decided(record_id, before, before, revision, row["decision_id"], disputed, False, said.run_id)
        revision, disputed = (said.said_id if after == EDITED else None), False
    number = await connection.fetchval(
        SQL["add_decision"], record_id, said.run_id, said.reviewer, said.decision, opinion, said.said_id, said.note,
        row["seconds"], before, row["revision_id"], row["decision_id"], row["disputed"], after,
    )  # fmt: skip
    stands = row["decision_id"] if opinion and after == before else number
    made = Decided(record_id, after, before, revision, stands, disputed, True, said.run_id)
    await connection.execute(SQL["set_review"], record_id, after, revision, stands, disputed)
    await connection.execute(SQL["open_pieces"], record_id)
    await tell(connection, "review.decided", said.run_id, {
        "record": record_id, "decision": said.decision, "before": before, "after": after, "reviewer": said.reviewer,
        "revision": revision, "decision_id": number, "opinion": opinion, "disputed": disputed,
    })  # fmt: skip
    return made


async def _said(
    connection: Connection, row: Any, standing: int, decision: str, reviewer: str, body: Mapping[str, Any] | None,
    changes: Mapping[str, Any] | None, check: Check | None,
) -> tuple[str, int | None]:  # fmt: skip
    """The decision as it counts, and the record that the person wants; None when he wants none."""
    if decision != "edit" and (body is not None or changes is not None):
        raise UsageError(
            f"{decision} takes no body", code="V121", hint="to change it, decide: edit", safe="nothing was changed"
        )  # fmt: skip
    stored = (await records.load(connection, [standing]))[standing]
    now = json.loads(stored.body)
    if decision == "edit":
        family = await records.load_family(connection, [standing])
        made = edited(row["kind"], now, body, changes, reviewer, family, check)
        if made is not None:
            # the same person's same edit is the same record, whatever was undone in between
            recipe = f"review edit\0{standing}\0{reviewer}\0".encode() + content_hash(made)
            key = hashlib.sha256(recipe).digest()
            work = Work(key, "review edit", "ok", 0, (NewRecord(made, (standing,)),), reviewer)
            saved = await records.save(connection, [work])
            return "edit", saved[key][0]
        if row["revision_id"] == standing:
            return "edit", standing
        decision = "accept"
    if decision == "accept":
        if now.get("outcome") in ("tie", "degraded") and "annotator" in now:
            raise UsageError(
                f"nothing stands in record {standing}: {now.get('reason') or now['outcome']}", code="V132",
                hint="edit it, reject it, or skip it", safe="nothing was changed",
            )  # fmt: skip
        return "accept", standing
    return decision, None


async def _differs(connection: Connection, row: Any, said: _Said) -> bool:
    """Whether a second opinion wants something else than what stands."""
    if row["state"] == REJECTED or said.said_id is None:
        return bool((row["state"] == REJECTED) != (said.said_id is None))
    found = await records.load(connection, [row["revision_id"] or row["record_id"], said.said_id])
    return len({content_of(one.kind, one.body) for one in found.values()}) > 1


async def undo(
    pool: asyncpg.Pool[Any], reviewer: str, record_id: int | None = None, *, run_id: int | None = None
) -> Decided:
    """Takes back the last decision of a person that stands (in the queue of `run_id`, or on `record_id`): state,
    revision and dispute are as they were before it. Again: the one before. The record of an edit stays, and stands
    for nothing.

    Raises `UsageError` V140 when there is nothing to take back, V110 when somebody has decided since.
    """
    who = checked_name(reviewer)

    async def change(connection: Connection) -> Decided:
        number = record_id
        if number is None:
            own = await connection.fetchrow(SQL["last_own"], who, run_id)
            if own is None:
                raise _nothing(f"{who} has decided nothing that could be taken back")
            number = own["record_id"]
        row = await _locked(connection, number, who)
        last = await connection.fetchrow(SQL["last_on"], number)
        if last is None:
            raise _nothing(f"nobody has decided about record {number}")
        if last["reviewer"] != who:
            raise _conflict(f"{last['reviewer']} has decided about record {number} since; decide anew instead")
        await connection.execute(SQL["undo"], last["id"])
        made = Decided(
            number, last["before_state"], row["state"], last["before_revision"], last["before_decision"],
            last["before_disputed"], True, last["run_id"],
        )  # fmt: skip
        await connection.execute(
            SQL["restore"], number, made.state, made.revision_id, made.decision_id, made.disputed
        )  # fmt: skip
        await connection.execute(SQL["open_pieces"], number)
        await tell(connection, "review.undone", last["run_id"], {
            "record": number, "decision": last["decision"], "before": row["state"], "after": made.state,
            "reviewer": who, "revision": made.revision_id, "decision_id": last["id"],
        })  # fmt: skip
        return made

    return await repeating(pool, change)


async def history(pool: asyncpg.Pool[Any], record_id: int) -> list[Decision]:
    """Every decision on a record in order, those that were taken back too."""
    return [Decision(**row) for row in await pool.fetch(SQL["history"], record_id)]


async def run_of(pool: asyncpg.Pool[Any], record_id: int) -> int | None:
    """The newest run that has the record in its queue."""
    found: int | None = await pool.fetchval(SQL["run_of_piece"], record_id)
    return found


async def states(pool: asyncpg.Pool[Any] | Connection, record_ids: Sequence[int]) -> dict[int, Reviewed]:
    """How records stand. One that nobody was asked about is absent: it is proposed."""
    return {
        row["record_id"]: Reviewed(
            row["state"], row["revision_id"], row["reviewer"], row["decided_at"], row["disputed"], row["note"]
        )
        for row in await pool.fetch(SQL["states"], list(record_ids))
    }


async def _locked(connection: Connection, record_id: int, reviewer: str) -> Any:
    await connection.execute(SQL["make_row"], record_id, list(REVIEWABLE))
    row = await connection.fetchrow(SQL["lock_review"], record_id, reviewer)
    if row is None:
        raise UsageError(
            f"there is no record {record_id} that people review", code="V101",
            hint=f"list them: gristmill review list (kinds: {', '.join(REVIEWABLE)})", safe="nothing was changed",
        )  # fmt: skip
    return row


async def _sent_again(connection: Connection, row: Any, reviewer: str, token: uuid.UUID | None) -> Any:
    """None when the person may decide. His own decision, when the token is over because of it: it was sent twice.

    Raises V110 when somebody else has the record, or has decided since the token was given."""
    number = row["record_id"]
    if row["holder"] not in (None, reviewer) and (row["live"] or token is not None):
        raise _conflict(f"{row['holder']} has record {number} until {row['lease_until']:%H:%M:%S} UTC")
    if token is None or row["token"] == token:
        return None
    own = await connection.fetchrow(SQL["last_own_on"], number, reviewer)
    if own is None or row["holder"] is not None:
        since = f"{row['decided_by']} has decided since" if row["decided_by"] else "claim it again"
        raise _conflict(f"your time for record {number} was over: {since}")
    return own


def checked_name(name: str) -> str:
    """A person's name as it is kept. Raises `UsageError` V102 for one that is empty, too long or not printable."""
    short = name.strip()
    if not short or len(short) > NAME_LIMIT or not short.isprintable():
        raise UsageError(
            f"{name[:50]!r} cannot be the name of a reviewer", code="V102",
            hint=f"1 to {NAME_LIMIT} characters on one line", safe="nothing was changed",
        )  # fmt: skip
    return short


def _checked_note(note: str | None) -> str | None:
    text = (note or "").strip()
    if len(text) > NOTE_LIMIT or "\0" in text:
        raise UsageError(
            f"the note has {len(text):,} characters, or a NUL among them", code="V103",
            hint=f"at most {NOTE_LIMIT:,}", safe="nothing was changed",
        )  # fmt: skip
    return text or None


def _checked_token(token: str | uuid.UUID | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(str(token)) if token is not None else None
    except ValueError:
        raise UsageError(
            "the token is none of ours", code="V104", hint="send the token that came with the piece",
            safe="nothing was changed",
        ) from None  # fmt: skip


def _conflict(message: str) -> UsageError:
    return UsageError(message, code="V110", hint="look at it again: gristmill review list", safe=_UNCHANGED)


def _nothing(message: str) -> UsageError:
    return UsageError(message, code="V140", hint="see: gristmill review stats", safe="nothing was changed")
