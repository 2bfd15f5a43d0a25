"""Jobs at a provider's batch API: calls gather, one process sends them, some process brings the answers home.

    open -> closed (full, or nobody joins) -> running (the provider has it) -> ended

Everything that is known is in the database, so that any process that has the model open can go on after any other. Who
works on a job holds it for a minute at a time. Before a batch is made the database hears that it may exist from now on;
after a crash in between it is looked for at the provider, and not made twice.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from gristmill.db.database import RECONNECT, REPEAT
from gristmill.db.statements import statements
from gristmill.errors import Busy, GristmillError, ModelRefused, ModelUnavailable
from gristmill.llm.batch_protocols import AnthropicBatches, Batching, OpenAIBatches, Progress, Row
from gristmill.llm.batches import Batches
from gristmill.llm.entries import Entry
from gristmill.llm.exchange import Received
from gristmill.llm.ledger import Ledger
from gristmill.llm.model import Reply
from gristmill.llm.remote import HttpModel
from gristmill.llm.responses import clean_text

BYTES = 32 * 1024 * 1024  # of questions in one batch; providers take more, but they pass through memory once
_CHUNK = 200  # answers that are journaled before the next are read
_LONGEST = 60.0  # seconds between two looks at a batch
_log = logging.getLogger("gristmill.batches")
SQL = statements("batches")


@dataclass(frozen=True, slots=True)
class Gathering:
    """When a batch goes off: `wait` seconds after the last call joined it, or with `size` calls. Times of the process
    that looks after it: `beat` between two looks for something to do, `lease` to be taken for dead, `settle` until a
    batch whose making was cut off is looked for at the provider; all in seconds."""

    wait: float = 15.0
    size: int = 5_000
    beat: float = 0.5
    lease: float = 60.0
    settle: float = 30.0


@dataclass(frozen=True, slots=True)
class Question:
    """One call that joins a batch: what the ledger notes, the body to send, and the form of its schema."""

    entry: Entry
    body: bytes
    mode: int


class BatchJobs:
    """The batches of one model, as one process sees them."""

    def __init__(self, model: HttpModel, ledger: Ledger, gathering: Gathering) -> None:
        self._model, self._ledger, self._gathering = model, ledger, gathering
        self._pool = ledger.pool
        binding = model.binding
        self._whose = (binding.fingerprint(), binding.limit or binding.provider)
        anthropic = binding.provider == "anthropic"
        self._batching: Batching = (
            AnthropicBatches(model.exchange) if anthropic else OpenAIBatches(model.exchange, model.path())
        )
        self._joins: Batches[Question, Any] = Batches(
            self._join_all, key=lambda one: one.entry.key, weight=lambda one: len(one.body)
        )
        self._keeper: asyncio.Task[None] | None = None
        self._news = False  # somebody has asked since the database was looked at

    async def look(self, key: bytes, task: int | None) -> Any:
        """What is known of a call: its answer, or the batch that it is in, or how it failed there."""
        self.start()
        return await self._pool.fetchrow(SQL["look"], key, task)

    async def join(self, question: Question) -> Any:
        """The job (`job`, `mark`) that the call has joined; None when somebody else asks it at this moment."""
        joined = await self._joins.add(question)
        self.start()
        return joined

    async def forget(self, key: bytes) -> None:
        """The failure of a call was told: whoever asks again begins anew."""
        await self._pool.execute(SQL["forget"], key)

    def start(self) -> None:
        """Looks after batches of this model until none is left."""
        self._news = True
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep(), name="gristmill batches")

    async def close(self) -> None:
        """Leaves the jobs to other processes. The pool stays open."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            try:
                await self._pool.execute(SQL["leave_all"], *self._whose, self._ledger.worker)
            except (*RECONNECT, *REPEAT, asyncpg.PostgresError) as error:
                _log.debug("batches are left when their lease ends: %s", error or type(error).__name__)

    async def _join_all(self, questions: list[Question]) -> list[Any]:
        await self._ledger.frames.keep(question.entry for question in questions)
        rows = [
            (one.key, one.owner, one.provider, one.model, one.task, one.run, one.prompt or None, mode, body,
             one.request or None, one.frame)
            for one, body, mode in ((question.entry, question.body, question.mode) for question in questions)
        ]  # fmt: skip
        columns = zip(*rows, strict=True)
        found = {row["key"]: row for row in await self._pool.fetch(SQL["join"], *self._whose, *columns)}
        return [found.get(question.entry.key) for question in questions]

    async def _keep(self) -> None:
        made = self._gathering
        forgotten = False
        while True:
            self._news, left = False, True
            try:
                if not forgotten:
                    await self._pool.execute(SQL["forget_old"])
                    forgotten = True
                job = await self._pool.fetchrow(
                    SQL["take"], *self._whose, self._ledger.worker, made.lease, made.size, BYTES, made.wait
                )
                if job is not None:
                    await self._work(job)
                    continue
                left = await self._pool.fetchval(SQL["unfinished"], *self._whose)
            except (*RECONNECT, *REPEAT, asyncpg.PostgresError) as error:
                _log.warning("batches wait for the database: %s", error or type(error).__name__)
            if not left and not self._news:
                return
            await asyncio.sleep(made.beat)

    async def _work(self, job: Any) -> None:
        """One step of a job. What goes wrong is noted and tried again later."""
        holding = asyncio.create_task(self._hold(job["id"]))
        note: str | None = None
        try:
            delay = await (self._poll(job) if job["state"] == "running" else self._submit(job))
        except GristmillError as error:
            delay, note = max(getattr(error, "delay", 0.0), 15.0), clean_text(error.message)[:500]
            _log.warning("batch %d: %s", job["id"], note)
        finally:
            holding.cancel()
        await self._pool.execute(SQL["leave"], job["id"], self._ledger.worker, delay, note)

    async def _hold(self, job: int) -> None:
        lease = self._gathering.lease
        while True:
            await asyncio.sleep(lease / 4)
            try:
                await self._pool.execute(SQL["hold"], job, self._ledger.worker, lease)
            except (*RECONNECT, *REPEAT):
                continue

    async def _submit(self, job: Any) -> float:
        """Sends what has gathered. Returns after how many seconds to look again."""
        number, mark, worker = job["id"], job["mark"], self._ledger.worker
        if job["begun_at"] is not None:
            if job["begun_for"] < self._gathering.settle:
                return float(self._gathering.settle - job["begun_for"])
            if await self._find(job):
                return 0.0
        else:
            await self._pool.execute(SQL["drop_unwanted"], number)
        rows = await self._pool.fetch(SQL["questions"], number)
        if not rows:
            await self._pool.execute(SQL["ended"], number, "nobody wants it any more")
            return 0.0
        questions = [(own_name(mark, row["key"]), row["body"]) for row in rows]
        try:
            file = job["file"]
            if file is None and self._batching.uploads:
                file = await self._batching.upload(mark, questions)
                await self._pool.execute(SQL["uploaded"], number, worker, file)
            if await self._pool.fetchval(SQL["begin"], number, worker) is None:
                return 0.0  # we were away for too long, and somebody else is at it
            name = await self._batching.create(mark, file or "", questions)
        except Busy:
            await self._pool.execute(SQL["not_begun"], number, worker)
            raise
        except ModelRefused as error:
            await self._pool.execute(SQL["not_begun"], number, worker)
            await self._all_failed(number, [row["key"] for row in rows], error)
            return 0.0
        except ModelUnavailable as error:
            if error.code == "M301":  # nobody was there
                await self._pool.execute(SQL["not_begun"], number, worker)
            raise
        await self._pool.execute(SQL["started"], number, name)
        return 0.0

    async def _find(self, job: Any) -> bool:
        """Whether the provider has the batch already: somebody was cut off before it was noted."""
        rows = await self._pool.fetch(SQL["waiting"], job["id"])
        found = await self._batching.find(job["mark"], job["begun_at"], len(rows))
        others = {row["provider_id"] for row in await self._pool.fetch(SQL["others"], found, job["id"])}
        names = [name for name in found if name not in others and name not in job["not_ours"]]
        if not names:
            return False
        await self._pool.execute(SQL["started"], job["id"], names[0])
        return True

    async def _poll(self, job: Any) -> float:
        number, name = job["id"], job["provider_id"]
        if not await self._pool.fetchval(SQL["wanted"], number):
            await self._batching.cancel(name)  # what it has answered until now is paid and is kept
        progress = await self._batching.progress(name)
        if progress is not None and not progress.ended:
            return min(_LONGEST, max(self._gathering.beat, (job["running_for"] or 0.0) / 10))
        if progress is None:
            progress = Progress(True, problem="the provider does not know the batch any more")
        if progress.again:
            await self._pool.execute(SQL["disown"], number)
            await self._pool.execute(SQL["not_begun"], number, self._ledger.worker)
            raise Busy(f"the provider takes no more batches now: {progress.problem}", delay=300.0)
        calls = {own_name(job["mark"], row["key"]): row for row in await self._pool.fetch(SQL["waiting"], number)}
        for file in progress.files:
            if not await self._take_in(job, file, calls):
                await self._pool.execute(SQL["disown"], number)
                return 0.0
        why = progress.problem or "the batch ended without an answer to it"
        error = b'{"error":{"message":' + _quoted(why) + b"}}"
        left = [row["key"] for row in calls.values()]
        await self._settle(number, left, [(0, error)] * len(left))
        await self._pool.execute(SQL["ended"], number, progress.problem or None)
        await self._tidy(job, progress)
        return 0.0

    async def _tidy(self, job: Any, progress: Progress) -> None:
        try:
            await self._batching.tidy([*([job["file"]] if job["file"] else []), *progress.files])
        except GristmillError as error:
            _log.debug("files of a batch stay at the provider: %s", error.message)

    async def _take_in(self, job: Any, file: str, calls: dict[str, Any]) -> bool:
        """Journals the answers of a file and takes their calls out of `calls`; False: it is another one's batch."""
        ours = f"{job['mark'].hex[:16]}-"
        chunk: list[tuple[Any, Row]] = []
        async for row in self._batching.rows(file):
            if row.own_name and not row.own_name.startswith(ours):
                return False
            call = calls.pop(row.own_name, None)
            if call is not None:  # else a second time, or answered before somebody was cut off
                chunk.append((call, row))
            if len(chunk) >= _CHUNK:
                await self._keep_answers(job["id"], chunk)
                chunk = []
        if chunk:
            await self._keep_answers(job["id"], chunk)
        return True

    async def _keep_answers(self, job: int, chunk: Sequence[tuple[Any, Row]]) -> None:
        outcomes = await asyncio.gather(*(self._keep_answer(call, row) for call, row in chunk))
        await self._settle(job, [call["key"] for call, _ in chunk], outcomes)

    async def _keep_answer(self, call: Mapping[str, Any], row: Row) -> tuple[int, bytes] | None:
        """None: the answer is in the ledger. Else why there is none: status and body."""
        if row.status != 200:
            return row.status, row.body
        try:
            received = Received(200, {}, row.body, 0.0)
            reply = self._model.kept(received) if row.intact else Reply(row.body)
        except (ModelRefused, ModelUnavailable):
            return 500, row.body
        binding = self._model.binding
        entry = Entry(
            call["key"], call["owner"], self._ledger.worker, binding.provider, binding.model, call["task"], call["run"],
            prompt=call["prompt"] or "", base_url=binding.base_url, batch=True,
        )  # fmt: skip
        await self._ledger.journal(entry, reply)
        return None

    async def _all_failed(self, job: int, keys: Sequence[bytes], error: ModelRefused) -> None:
        """The provider does not take the batch: each of its calls hears why."""
        body = b'{"error":{"code":' + _quoted(error.code) + b',"message":' + _quoted(error.message) + b"}}"
        await self._settle(job, keys, [(-1, body)] * len(keys))
        await self._pool.execute(SQL["ended"], job, clean_text(error.message)[:500])

    async def _settle(self, job: int, keys: Sequence[bytes], outcomes: Sequence[tuple[int, bytes] | None]) -> None:
        if keys:
            states = ["answered" if one is None else "failed" for one in outcomes]
            statuses = [None if one is None else one[0] for one in outcomes]
            errors = [None if one is None else one[1] for one in outcomes]
            await self._pool.fetchrow(SQL["settle"], job, keys, states, statuses, errors)


def own_name(mark: uuid.UUID, key: bytes) -> str:
    """What a question is called in its batch: 49 characters that no other batch has."""
    return f"{mark.hex[:16]}-{key.hex()[:32]}"


def _quoted(text: str) -> bytes:
    return json.dumps(text).encode()
