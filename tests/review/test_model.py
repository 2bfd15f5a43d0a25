"""Random histories of several people on the real tables, compared with a small model after every step."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gristmill.db.database import open_pool
from gristmill.errors import UsageError
from gristmill.review.decisions import decide, history, undo
from gristmill.review.states import DECIDED
from tests.review.conftest import Made, Runs

PEOPLE = ("ann", "bob", "cem")
RECORDS = 4
TEXTS = ("Answer.", "Better.", "Best.")  # the first is what was proposed
AFTER = {"accept": "accepted", "edit": "edited", "reject": "rejected", "skip": "skipped"}


@dataclass(frozen=True)
class Standing:
    state: str = "proposed"
    text: str = TEXTS[0]
    edited: bool = False
    disputed: bool = False


@dataclass(frozen=True)
class Said:
    order: int
    who: str
    word: str
    before: Standing


@dataclass
class Piece:
    """What the model knows of a record."""

    wants: int
    now: Standing = Standing()
    said: list[Said] = field(default_factory=list)
    holder: str | None = None
    since: int = 0

    def has_said(self, who: str) -> bool:
        return any(one.who == who for one in self.said)

    @property
    def open(self) -> bool:
        if self.now.state in ("proposed", "skipped"):
            return self.now.state == "proposed"
        return len({one.who for one in self.said if one.word != "skip"}) < self.wants

    def decide(self, order: int, who: str, word: str, text: str) -> str | None:
        """The code of the error that is due, or None. The state is changed as the document says."""
        if self.holder not in (None, who):
            return "V110"
        opinion = self.now.state in DECIDED and self.open and not self.has_said(who)
        if word == "skip" and self.now.state in DECIDED and not opinion:
            return "V130"
        base = Standing() if opinion else self.now
        if word == "edit" and text == base.text:
            word = "edit" if base.edited else "accept"
        wanted = {"accept": base.text, "edit": text}.get(word)
        self.holder = None
        before = self.now
        if opinion:
            stands = None if before.state == "rejected" else before.text
            if word != "skip" and wanted != stands:
                self.now = Standing(disputed=True)
        elif (word == "accept" and base.edited) or (AFTER[word] == base.state and wanted in (None, base.text)):
            return None
        elif wanted is None:
            self.now = Standing(AFTER[word])
        else:
            self.now = Standing(AFTER[word], wanted, word == "edit")
        self.said.append(Said(order, who, word, before))
        return None


class Reviewing(RuleBasedStateMachine):
    """People who claim, decide, take back, give back and fall asleep."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    pool: ClassVar[asyncpg.Pool[Any]]

    def do(self, asked: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asked)

    @initialize(wants=st.lists(st.sampled_from([1, 1, 2, 3]), min_size=RECORDS, max_size=RECORDS))
    def begin(self, wants: list[int]) -> None:
        self.do(self.pool.execute(
            "truncate run, run_record, record, work, lineage, review, review_piece, review_decision, review_queue"
        ))  # fmt: skip
        self.made: Made = self.do(Runs(self.pool).make())
        numbers = self.do(self.made.examples(RECORDS, text=TEXTS[0]))
        self.pieces = {number: Piece(want) for number, want in zip(numbers, wants, strict=True)}
        self.clock = 0
        self.do(self.made.review.look())
        for number, want in zip(numbers, wants, strict=True):
            self.do(self.pool.execute("update review_piece set wants = $2 where record_id = $1", number, want))

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    @rule(who=st.sampled_from(PEOPLE), limit=st.integers(1, RECORDS))
    def claim(self, who: str, limit: int) -> None:
        held = [number for number, piece in self.pieces.items() if piece.holder == who and piece.open]
        held = sorted(held, key=lambda number: (self.pieces[number].since, number))[:limit]
        free = [
            number for number, piece in self.pieces.items()
            if piece.open and piece.holder is None and not piece.now.disputed and not piece.has_said(who)
        ]  # fmt: skip
        expected = [*held, *free[: limit - len(held)]]
        got = self.do(self.made.review.claim(who, limit))
        assert [piece.record_id for piece in got] == expected
        moment = self.tick()
        for number, piece in zip(expected, got, strict=True):
            assert piece.body["answer"] == (TEXTS[0] if piece.second else self.pieces[number].now.text)
            if number not in held:
                self.pieces[number].holder, self.pieces[number].since = who, moment

    @rule(
        who=st.sampled_from(PEOPLE), at=st.integers(0, RECORDS - 1), word=st.sampled_from(sorted(AFTER)),
        text=st.sampled_from(TEXTS),
    )  # fmt: skip
    def say(self, who: str, at: int, word: str, text: str) -> None:
        number = list(self.pieces)[at]
        changes = {"answer": text} if word == "edit" else None
        wrong = self.pieces[number].decide(self.tick(), who, word, text)
        assert self.code(decide(self.pool, number, word, who, changes=changes)) == wrong

    @rule(who=st.sampled_from(PEOPLE))
    def take_back(self, who: str) -> None:
        own = [(one.order, number) for number, piece in self.pieces.items() for one in piece.said if one.who == who]
        code = self.code(undo(self.pool, who))
        if not own:
            assert code == "V140"
            return
        piece = self.pieces[max(own)[1]]
        if piece.said[-1].who != who:
            assert code == "V110"
            return
        assert code is None
        piece.now = piece.said.pop().before

    @rule(who=st.sampled_from(PEOPLE))
    def give_back(self, who: str) -> None:
        self.do(self.made.review.release(who))
        for piece in self.pieces.values():
            piece.holder = None if piece.holder == who else piece.holder

    @rule()
    def time_passes(self) -> None:
        self.do(self.pool.execute("update review set lease_until = clock_timestamp() where holder is not null"))
        for piece in self.pieces.values():
            piece.holder = None

    def code(self, asked: Coroutine[Any, Any, Any]) -> str | None:
        try:
            self.do(asked)
        except UsageError as error:
            return error.code
        return None

    @invariant()
    def the_tables_say_what_the_model_says(self) -> None:
        if not hasattr(self, "pieces"):
            return
        rows = self.do(self.pool.fetch(
            "select p.record_id, v.state, v.disputed, p.open, coalesce(n.body, o.body)::json ->> 'answer' as text,"
            " case when v.lease_until > clock_timestamp() then v.holder end as holder"
            " from review_piece p join review v using (record_id) join record o on o.id = p.record_id"
            " left join record n on n.id = v.revision_id"
        ))  # fmt: skip
        for row in rows:
            piece = self.pieces[row["record_id"]]
            told = (row["state"], row["text"], row["disputed"], row["open"], row["holder"])
            assert told == (piece.now.state, piece.now.text, piece.now.disputed, piece.open, piece.holder)

    def teardown(self) -> None:
        for number, piece in getattr(self, "pieces", {}).items():
            story = self.do(history(self.pool, number))
            assert [(one.reviewer, one.decision) for one in story if one.undone_at is None] == [
                (one.who, one.word) for one in piece.said
            ]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("histories", [8, pytest.param(200, marks=pytest.mark.thorough)])
def test_whatever_people_do_in_whatever_order_the_tables_say_what_the_model_says(
    database_url: str, histories: int
) -> None:
    loop = asyncio.new_event_loop()
    Reviewing.loop = loop
    Reviewing.pool = loop.run_until_complete(open_pool(database_url, size=2))
    try:
        wanted = settings(
            max_examples=histories, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        )
        run_state_machine_as_test(Reviewing, settings=wanted)
    finally:
        Reviewing.pool.terminate()
        loop.close()
