"""The review of a run: its queue, who has which piece before him, who is asked for what."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

import asyncpg

from gristmill.data import records
from gristmill.data.annotations import ANNOTATIONS
from gristmill.data.dataset import Steps
from gristmill.data.kinds import kind_of
from gristmill.db.database import LONG, repeating
from gristmill.engine.workflow import tell
from gristmill.errors import UsageError
from gristmill.operators.annotation_labels import LabelSet, described, label_sets, problems_with, taken_over
from gristmill.review.decisions import SQL, checked_name, decide
from gristmill.review.pieces import REVIEWABLE, Decided, Piece
from gristmill.review.sources import scores_of, source_of
from gristmill.review.states import STATES

By: TypeAlias = Literal["score", "disagreement", "random", "changed"]
ORDERS = ("score", "disagreement", "random", "changed")
LEASE = 600.0  # seconds that a piece stays before a person who does nothing
MOST = 200  # pieces that are claimed at once
MOST_SHOWN = 1_000  # pieces that are looked at once
MANY = 1000  # new pieces after which the server looks at the tables anew
EVERY = 2**62  # pieces, when all of them are meant
Connection: TypeAlias = "asyncpg.Connection[Any]"


class Reviewable(Protocol):
    """What a review needs of a `Run`."""

    id: int
    name: str
    workflow: Any
    app: Any


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the run has brought into its queue, and what was taken out because it no longer counts."""

    added: int = 0
    withdrawn: int = 0


@dataclass(frozen=True, slots=True)
class Assignment:
    """What was given to a person: `open` is still to be decided, by him or by a second one."""

    assignee: str
    open: int
    decided: int


class Review:
    """The review of one run. `Review.of(run)`; any process may hold one. Decisions: `gristmill.review.decisions`."""

    def __init__(
        self, pool: asyncpg.Pool[Any], run_id: int, outputs: Sequence[Sequence[Any]],
        labels: Mapping[int, LabelSet] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """`outputs` are the types that each step of the run's workflow makes, `labels` what its annotations may say."""
        self.pool = pool
        self.run_id = run_id
        self.labels = labels
        steps = Steps.of(outputs)
        self._making = [at for at, types in enumerate(outputs) if {kind_of(one) for one in types} & set(REVIEWABLE)]
        self._marking, self._scoring = list(steps.marking), list(steps.scoring)

    @classmethod
    def of(cls, run: Reviewable) -> Review:
        """The review of a `Run`. Raises `UsageError` V105 for a workflow that makes nothing that people review."""
        steps = run.workflow.steps
        place = {spec.name: at for at, spec in enumerate(steps)}
        labels = {place[name]: one for name, one in label_sets(steps, run.workflow.edges).items()}
        made = cls(run.app.pool, run.id, [spec.operator.output_types for spec in steps], labels)
        over = taken_over(steps, run.workflow.edges)  # votes of a panel, entities that relations repeat
        made._making = [at for at in made._making if at not in over]
        if not made._making:
            raise UsageError(
                f'workflow "{run.workflow.name}" makes nothing to review', code="V105",
                hint=f"people review: {', '.join(REVIEWABLE)}", safe="nothing was changed",
            )  # fmt: skip
        return made

    async def look(self, *, force: bool = False) -> Look:
        """Takes what the run has made since the last look into its queue. Does nothing when nothing has ended since; on
        a growing run at most a twentieth of the time; `force` looks anyway."""
        await self.pool.execute(SQL["open_queue"], self.run_id, None)
        queue = await self.pool.fetchrow(SQL["queue_row"], self.run_id)
        first = queue["seen"] is None
        if not (force or first or queue["due"]):
            return Look()
        signature = await self.pool.fetchval(SQL["signature"], self.run_id)
        if signature == queue["seen"] and not force:
            return Look()

        async def change(connection: Connection) -> Look:
            await connection.execute("set local statement_timeout = 0")
            await connection.execute("set local lock_timeout = 0")
            lock = "lock_queue" if first or force else "try_lock_queue"  # before the first one there is nothing to give
            row = await connection.fetchrow(SQL[lock], self.run_id, timeout=LONG)
            if row is None or (row["seen"] == signature and not force):
                return Look()
            began = time.monotonic()
            found = await connection.fetchrow(
                SQL["look"], self.run_id, self._making, list(REVIEWABLE), list(ANNOTATIONS), self._marking,
                self._scoring, row["seed"], timeout=LONG,
            )  # fmt: skip
            await connection.execute(SQL["close_decided"], self.run_id, timeout=LONG)
            await connection.execute(SQL["looked"], self.run_id, signature, time.monotonic() - began)
            return Look(found["added"], found["withdrawn"])

        done = await repeating(self.pool, change)
        if done.added >= MANY:
            await self.pool.execute(SQL["learn"], timeout=LONG)
        return done

    async def sow(self, seed: int | str) -> None:
        """Another seed for the samples of this run: `random`, `sample` and `overlap` choose anew from what is open."""
        await self.pool.execute(SQL["open_queue"], self.run_id, str(seed))
        await self.pool.execute(SQL["sow"], self.run_id, str(seed), timeout=LONG)

    async def claim(
        self, reviewer: str, limit: int = 1, *, by: By = "score", sample: float = 1.0, kind: str | None = None,
        skipped: bool = False, lease: float = LEASE,
    ) -> list[Piece]:  # fmt: skip
        """The next pieces for a person, at most `limit`: first those that he has before him already, then new ones.

        `by` score takes the lowest first, disagreement the most disputed, random those of a sample drawn by the run's
        seed, changed what was reviewed once and was made anew since. `sample` is the share of the run that is looked at
        at all. What is assigned to him comes before what is assigned to nobody; then come second opinions.
        `skipped` gives what was left aside instead. Nobody else gets a piece for `lease` seconds of database time, or
        until it is decided or released.

        Raises `UsageError` V102 for a name, V106 for an order, a kind or a number that cannot be.
        """
        who = checked_name(reviewer)
        _check(by, kind, limit, sample, lease)
        await self.look()

        async def change(connection: Connection) -> list[Any]:
            held = await connection.fetch(SQL["renew_held"], self.run_id, who, lease, limit, kind)
            chosen: list[int] = []

            async def more(name: str, *arguments: Any) -> None:
                if (left := limit - len(held) - len(chosen)) > 0:
                    rows = await connection.fetch(SQL[name], self.run_id, *arguments, left, kind, sample)
                    chosen.extend(row["record_id"] for row in rows if row["record_id"] not in chosen)

            if by == "disagreement":
                await more("choose_disputed")
            for assignee in (who, ""):
                await more("choose_skipped" if skipped else f"choose_by_{by}", who, assignee)
            if not skipped:
                await more("choose_second", who)
            taken = await connection.fetch(SQL["hold"], chosen, who, lease) if chosen else []
            place = {number: at for at, number in enumerate(chosen)}
            held.sort(key=lambda row: (row["held_at"], row["record_id"]))
            return [*held, *sorted(taken, key=lambda row: place[row["record_id"]])]

        return await self._pieces_of(await repeating(self.pool, change), who)

    async def take(self, reviewer: str, record_id: int, *, lease: float = LEASE) -> Piece:
        """One certain piece, for a person to decide at leisure. Raises `UsageError` V101 when it is not in this queue,
        V110 when somebody else has it."""
        who = checked_name(reviewer)
        rows = await self.pool.fetch(SQL["take"], self.run_id, who, lease, record_id)
        if rows:
            return (await self._pieces_of(rows, who))[0]
        found = await self.pieces(records=[record_id])
        if not found:
            raise UsageError(
                f"record {record_id} is not in the queue of this run", code="V101",
                hint="list it: gristmill review list", safe="nothing was changed",
            )  # fmt: skip
        raise UsageError(
            f"{found[0].holder} has record {record_id}", code="V110", hint="take another one, or ask them",
            safe="nothing was changed",
        )  # fmt: skip

    async def release(self, reviewer: str, record_ids: Sequence[int] | None = None) -> int:
        """Gives back what a person has before him, or these records of it; returns how many pieces that were."""
        ids = list(record_ids) if record_ids is not None else None

        async def change(connection: Connection) -> int:
            return len(await connection.fetch(SQL["give_back"], self.run_id, checked_name(reviewer), ids))

        return await repeating(self.pool, change)

    async def decide(self, record_id: int, decision: str, reviewer: str, **said: Any) -> Decided:
        """`decisions.decide` for a piece of this queue: an edited annotation is also held against the labels that its
        step allows. Arguments and errors are the same."""
        step = await self.pool.fetchval(SQL["step_of"], self.run_id, record_id)
        allowed = self.labels.get(step)
        check = (lambda body: problems_with(body, allowed)) if allowed is not None else None
        run_id = self.run_id if step is not None else None
        return await decide(self.pool, record_id, decision, reviewer, run_id=run_id, check=check, **said)

    async def pieces(
        self, *, state: str | None = None, kind: str | None = None, assignee: str | None = None,
        records: Sequence[int] | None = None, after: int = 0, limit: int = 50,
    ) -> list[Piece]:  # fmt: skip
        """Pieces in the order of their records, for a look and without a claim; the next page begins `after` the last
        `record_id`. Raises `UsageError` V106."""
        if state is not None and state not in STATES:
            raise _unfit(f'"{state}" is no state', f"one of: {', '.join(STATES)}")
        _check("score", kind, limit, 1.0, LEASE, most=MOST_SHOWN)
        ids = list(records) if records is not None else None
        rows = await self.pool.fetch(SQL["pieces"], self.run_id, ids, state, kind, after, assignee, limit, None)
        return await self._with_sources(rows, {})

    async def assign(
        self, reviewers: Sequence[str], *, count: int | None = None, by: By = "score", sample: float = 1.0,
        overlap: float = 0.0, people: int = 2,
    ) -> dict[str, int]:  # fmt: skip
        """Shares `count` undecided pieces (default: all) that are assigned to nobody out among `reviewers` in turn;
        returns how many each was given. A sample `overlap` (0 to 1) of all that is open is to be decided by `people`
        persons each, without knowing of each other; who comes second takes it, whoever it is assigned to.

        Raises `UsageError` V102, V106.
        """
        names = [checked_name(name) for name in reviewers]
        _check(by, None, 1, sample, LEASE)
        if not 0 <= overlap <= 1 or not 2 <= people <= 100:
            raise _unfit(
                f"an overlap of {overlap} for {people} people cannot be", "a share from 0 to 1, 2 people or more"
            )
        if len(set(names)) < len(names) or (count is not None and count < 0):
            raise _unfit("a name stands twice, or the number is below 0", "each reviewer once")
        await self.look()

        async def change(connection: Connection) -> dict[str, int]:
            await connection.execute("set local statement_timeout = 0")
            most = EVERY if count is None else count
            rows = await connection.fetch(SQL["assign"], self.run_id, names, by, most, sample) if names else []
            if overlap:
                await connection.execute(SQL["want_more"], self.run_id, overlap, people)
            given = {row["assignee"]: row["pieces"] for row in rows}
            await tell(connection, "review.assigned", self.run_id, {"pieces": given, "overlap": overlap})
            return {name: given.get(name, 0) for name in names}

        return await repeating(self.pool, change)

    async def unassign(self, reviewer: str) -> int:
        """What a person has not decided yet is anybody's again; returns how many pieces that were."""
        who = checked_name(reviewer)

        async def change(connection: Connection) -> int:
            freed = len(await connection.fetch(SQL["unassign"], self.run_id, who))
            await tell(connection, "review.assigned", self.run_id, {"pieces": {who: -freed}, "overlap": 0.0})
            return freed

        return await repeating(self.pool, change)

    async def assignments(self) -> list[Assignment]:
        """Who was given how much."""
        return [Assignment(**row) for row in await self.pool.fetch(SQL["assignments"], self.run_id)]

    async def _pieces_of(self, claimed: Sequence[Any], reviewer: str) -> list[Piece]:
        """Claimed pieces in full, in the order of their claim."""
        held = {row["record_id"]: row for row in claimed}
        if not held:
            return []
        rows = await self.pool.fetch(SQL["pieces"], self.run_id, list(held), None, None, 0, None, len(held), reviewer)
        found = {piece.record_id: piece for piece in await self._with_sources(rows, held)}
        return [found[number] for number in held if number in found]

    async def _with_sources(self, rows: Sequence[Any], held: Mapping[int, Any]) -> list[Piece]:
        said = scores_of(await self.pool.fetch(SQL["scores_of"], [row["record_id"] for row in rows]))
        made = []
        for row in rows:
            piece = _piece(row, held.get(row["record_id"]))
            family = await records.load_family(self.pool, [piece.record_id])
            source = source_of(piece.kind, piece.body, family)
            labels = described(self.labels[row["step"]]) if row["step"] in self.labels else None
            made.append(replace(piece, scores=said.get(piece.record_id, ()), labels=labels, source=source))
        return made


def _piece(row: Any, held: Any) -> Piece:
    """A row as a piece. Who claims what others have decided sees the proposal, and not what they made of it."""
    original = json.loads(row["original"])
    second = row["second"]
    return Piece(
        record_id=row["record_id"], run_id=row["run_id"], kind=row["kind"],
        state="proposed" if second else row["state"],
        body=original if second else json.loads(row["body"]), original=original,
        revision_id=None if second else row["revision_id"], score=row["score"], disagreement=row["disagreement"],
        since=row["since"], disputed=row["disputed"], second=second, assignee=row["assignee"],
        holder=row["holder"] if row["live"] else None, token=str(held["token"]) if held else None,
        lease_until=row["lease_until"] if row["live"] else None, reviewer=None if second else row["reviewer"],
        note=None if second else row["note"], decided_at=None if second else row["decided_at"],
    )  # fmt: skip


def _check(by: str, kind: str | None, limit: int, sample: float, lease: float, most: int = MOST) -> None:
    if by not in ORDERS:
        raise _unfit(f'"{by}" is no order', f"one of: {', '.join(ORDERS)}")
    if kind is not None and kind not in REVIEWABLE:
        raise _unfit(f'"{kind}" is no kind that people review', f"one of: {', '.join(REVIEWABLE)}")
    if not 1 <= limit <= most:
        raise _unfit(f"{limit} pieces at once", f"from 1 to {most:,}")
    if not 0 < sample <= 1:
        raise _unfit(f"a sample of {sample}", "a share above 0 and up to 1")
    if not 1 <= lease <= 86_400:
        raise _unfit(f"a lease of {lease} s", "from 1 s to a day")


def _unfit(message: str, hint: str) -> UsageError:
    return UsageError(message, code="V106", hint=hint, safe="nothing was changed")
