"""Performs the tasks of workflows: loads records, runs the operator, saves what it made, and says what follows."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from gristmill.data import records
from gristmill.data.blobs import DIGEST, Blobs
from gristmill.data.kinds import canonical_json
from gristmill.data.records import Membership, NewRecord, Record, Work
from gristmill.db.statements import statements
from gristmill.engine import workflow as runs
from gristmill.engine.child_limits import Limits
from gristmill.engine.performer import Outcome
from gristmill.engine.queue import NewTask, Task
from gristmill.engine.retry import Policy
from gristmill.errors import Busy, EnvironmentProblem, InputError, UsageError
from gristmill.llm.apart import Apart
from gristmill.llm.model import Model
from gristmill.llm.structured import LEDGER_KEYS, Asker
from gristmill.loading import Loading
from gristmill.operators.calling import Produced, find_ancestors, parse_body, run_operator
from gristmill.operators.children import Children
from gristmill.operators.embed import Entries
from gristmill.operators.operator import Context, StepSpec, registered
from gristmill.operators.prompts import prompts_of
from gristmill.operators.protocol import error_from_json
from gristmill.stores.opening import WRITING, open_entries
from gristmill.workflow import Workflow, kinds_of

RUNS = statements("workflow")
UNKNOWN_AGAIN = 2.0  # seconds until a task of a workflow that this process does not know is offered again
MOST_NOTES = 4096  # characters that are kept of what an operator notes
AT_ONCE = 100  # records that are read or written before others have their turn
NO_ROOM_AGAIN = 10.0  # seconds until a task is offered again that found the disk full
KEY_VERSION = 1  # raise it when the key's recipe changes: everything would be made again


class Models(Protocol):
    """Opens models by what the user wrote, each once per process."""

    async def open(self, spec: str) -> Model: ...


@dataclass(frozen=True, slots=True)
class Result:
    """What an attempt brings home: new work, or the ids that the same work made before."""

    work: Work | None = None
    reused: tuple[int, ...] = ()
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The records a task works on, and the ancestors its operator asks for by parameter name."""

    own: tuple[Record, ...]
    ancestors: dict[str, list[Record]] = field(default_factory=dict)


class RecordPerformer:
    """The engine's `Performer` for workflows over records."""

    def __init__(
        self, pool: asyncpg.Pool[Any], blobs: Blobs, models: Models, language: str = "en", backoff: float = 1.0,
        prompts: Path | None = None, services: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.backoff = backoff  # seconds before the second attempt
        self.pool = pool
        self.loading = Loading(pool)
        self.blobs = blobs
        self.models = models
        self.language = language
        self.prompts = prompts  # folder of the project's own
        self.services = dict(services or {})  # addresses of other servers by name
        self.children = Children()
        self.isolates = True
        self._workflows: dict[int, Workflow] = {}

    @property
    def kinds(self) -> Sequence[str]:
        """Names of the operators that this process knows; packs may bring more while it runs."""
        return sorted(registered())

    async def policy(self, task: Task) -> Policy:
        """The time limit of the step, or of its operator. Raises `Busy` for a workflow that is not known here."""
        spec = (await self._workflow(task.run_id)).steps[task.step]
        return Policy(timeout=spec.timeout or spec.operator.timeout, backoff=self.backoff)

    async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
        """Runs the task's operator, unless the same work was done before. Raises what the operator raises."""
        workflow = await self._workflow(task.run_id)
        spec = workflow.steps[task.step]
        inputs = await self._inputs(task, workflow)
        if spec.per and not inputs.own:  # an item that has come to nothing has nothing to gather
            return Outcome("empty", Result())
        model = await self.models.open(spec.model) if spec.model else None
        apart = "" if workflow.reuse else f"run {task.run_id}"
        if model is not None and apart:
            model = Apart(model, apart)
        key = work_key(spec, inputs, model, self.language, apart, self.prompts)
        known = await self.loading.outputs(key)
        if known is not None and spec.operator.name not in WRITING:
            return Outcome("reused", Result(reused=tuple(known[1]), key=key))
        if (room := self.blobs.room()) < 0:
            raise no_room(f"{-room / 2**20:.0f} MiB below the reserve")
        try:
            produced, notes = await self._run(task, spec, inputs, model, alone)
        except EnvironmentProblem as error:
            raise no_room(error.message) if error.code == "F203" else error from error
        new = tuple(NewRecord(p.body, tuple(inputs.own[at].id for at in p.parents)) for p in produced)
        name = "degraded" if "degraded" in notes else "ok" if new else "empty"
        await _write(new)
        work = Work(key, spec.operator.name, name, task.id, new, _text(notes) if notes else None)
        return Outcome(name, Result(work=work, key=key))

    async def save(
        self, connection: asyncpg.Connection[Any], finished: Sequence[tuple[Task, Outcome]]
    ) -> Sequence[NewTask]:
        """Records, lineage and membership of finished tasks; returns a task of every follower for each new record."""
        made = await records.save(connection, [o.value.work for _, o in finished if o.value.work is not None])
        results = [(task, _ids(outcome.value, made)) for task, outcome in finished]
        kinds = await self._kinds(connection, results)
        members: list[Membership] = []
        following: list[NewTask] = []
        gathering: set[int] = set()
        for task, ids in results:
            payload = json.loads(task.payload)
            place = tuple(payload.get("place", ()))
            if payload.get("barrier"):
                await connection.execute(RUNS["forget_gathered"], task.run_id, task.step, task.item_id)
                place = (-1 - task.step,)  # what comes of it can be told from what comes of other branches
            follow: list[NewTask] = []
            for ordinal, record_id in enumerate(ids):
                here = (*place, ordinal)
                members.append(Membership(task.run_id, task.step, record_id, task.item_id, task.id, here))
                follow += self._next(task, record_id, kinds.get(record_id), here)
            following += follow
            if task.item_id is not None and self._may_gather(task, follow):
                gathering.add(task.item_id)
        await records.join_run(connection, members)
        await runs.check_items(connection, gathering)
        return following

    async def _kinds(
        self, connection: asyncpg.Connection[Any], results: Sequence[tuple[Task, Sequence[int]]]
    ) -> dict[int, str]:
        """Kinds of records by id, of steps that make several: each follower takes those it knows."""
        mixed = [
            number for task, ids in results for number in ids
            if len(self._workflows[task.run_id].steps[task.step].operator.output_types) > 1
        ]  # fmt: skip
        rows = await connection.fetch(RUNS["kinds_of_records"], mixed) if mixed else ()
        return {row["id"]: row["kind"] for row in rows}

    def _next(self, task: Task, record_id: int, kind: str | None, place: tuple[int, ...]) -> list[NewTask]:
        workflow = self._workflows[task.run_id]
        return [
            NewTask(
                task.run_id, spec.operator.name, spec.pool or spec.operator.pool,
                json.dumps({"inputs": [record_id], "place": place}), task.item_id, number,
                max_attempts=spec.attempts or spec.operator.attempts,
                trace=task.trace, lock=spec.operator.lock, lock_slots=spec.operator.lock_slots,
                priority=-number,  # what is furthest along goes first: rows come early, little is half-done
            )
            for number, spec in workflow.followers(task.step)
            if kind is None or kind in spec.operator.input_kinds
        ]  # fmt: skip

    def _may_gather(self, task: Task, follow: Sequence[NewTask]) -> bool:
        """Whether a barrier of its item may have waited for this last task, although another branch goes on."""
        workflow = self._workflows[task.run_id]
        return any(
            task.step in before and not any(new.step in before for new in follow)
            for before in workflow.item_barriers
        )  # fmt: skip

    async def close(self) -> None:
        await self.children.close()

    async def _workflow(self, run_id: int) -> Workflow:
        if run_id not in self._workflows:
            row = await self.pool.fetchrow(RUNS["run_row"], run_id)
            try:
                self._workflows[run_id] = Workflow.from_definition(row["definition"])
            except UsageError as error:  # another process's operators: its workers know them, and we are no judge
                raise Busy(error.message, delay=UNKNOWN_AGAIN, reason=f"not for this worker: {error.message}") from None
        return self._workflows[run_id]

    async def _inputs(self, task: Task, workflow: Workflow) -> Inputs:
        spec = workflow.steps[task.step]
        payload = json.loads(task.payload)
        if payload.get("barrier"):
            rows = await self.pool.fetch(
                RUNS["gathered"], task.run_id, list(workflow.edges[task.step]), task.item_id if spec.per else None,
                list(spec.operator.input_kinds),
            )  # fmt: skip
            return Inputs(tuple(Record(*row) for row in rows))
        ids: list[int] = payload["inputs"]
        if not spec.operator.ancestors:
            return Inputs(tuple(await self.loading.own(ids)))
        family = await self.loading.family(ids)
        own = {record.id: record for record in family}
        above = (record for record in family if record.id not in ids)
        ancestors = find_ancestors(spec.operator, above, lambda record: record.kind)
        return Inputs(tuple(own[number] for number in ids), ancestors)

    async def _run(
        self, task: Task, spec: StepSpec, inputs: Inputs, model: Model | None, alone: bool
    ) -> tuple[list[Produced], dict[str, Any]]:
        if alone or spec.operator.isolate:
            limits = spec.limits.doubled() if alone else spec.limits
            return await self._run_in_child(task, spec, inputs, model, limits, fresh=task.crashes > 0)
        made = spec.operator
        notes: dict[str, Any] = {}
        ctx = Context(
            blobs=self.blobs.of(kinds_of(spec)),
            model=Asker(model, notes=notes, task=task.id, run=task.run_id) if model else None,
            language=self.language, attempt=task.attempt, fence=task.fence,
            idempotency_key=f"{task.run_id}-{task.id}", notes=notes, prompts=self.prompts,
            services=self.services, index=self._entries(task, spec, inputs),
            given=made.given(spec.options) if made.given else None, timeout=_other_timeout(spec),
        )  # fmt: skip
        own = [parse_body(made.input_types, record.kind, record.body) for record in inputs.own]
        ancestors = {
            name: [parse_body((made.ancestors[name].type,), record.kind, record.body) for record in found]
            for name, found in inputs.ancestors.items()
        }
        return await run_operator(made, own, ancestors, spec.options, ctx), notes

    def _entries(self, task: Task, spec: StepSpec, inputs: Inputs) -> Entries | None:
        """The search index that the step writes to, if it is such a step."""
        if spec.operator.name not in WRITING:
            return None
        store = spec.operator.check_options(spec.options)["store"]
        ids = [record.id for record in inputs.own]
        holder = f"task {task.id} of run {task.run_id}"
        return open_entries(self.pool, self.blobs.folder.parent, store, ids, holder)

    async def _run_in_child(
        self, task: Task, spec: StepSpec, inputs: Inputs, model: Model | None, limits: Limits, *, fresh: bool
    ) -> tuple[list[Produced], dict[str, Any]]:
        made = spec.operator
        message = {
            "operator": made.name, "module": made.module, "path": made.path,
            "inputs": [[record.kind, record.body] for record in inputs.own],
            "ancestors": {name: [[r.kind, r.body] for r in found] for name, found in inputs.ancestors.items()},
            "options": dict(spec.options),
            "context": {
                "blobs": str(self.blobs.folder), "level": self.blobs.of(kinds_of(spec)).level,
                "language": self.language, "attempt": task.attempt,
                "fence": task.fence, "idempotency_key": f"{task.run_id}-{task.id}", "task": task.id,
                "run": task.run_id, "model": spec.model, "prompts": str(self.prompts) if self.prompts else None,
                "services": self.services, "given": made.given(spec.options) if made.given else None,
                "timeout": _other_timeout(spec),
            },
        }  # fmt: skip
        ask = model.complete if model is not None else _no_model
        await self.blobs.bring(DIGEST.findall(json.dumps(message)))  # the child sees the folder only
        reply = await self.children.run(message, ask, limits=limits, fresh=fresh)
        if "error" in reply:
            await self.blobs.send(DIGEST.findall(reply["error"]["message"]))  # raw output that was kept
            raise error_from_json(reply["error"])
        produced: list[Produced] = []
        for kind, body, parents in reply["result"]:
            produced.append(Produced(parse_body(made.output_types, kind, body), tuple(parents)))
            if len(produced) % AT_ONCE == 0:
                await asyncio.sleep(0)
        await self.blobs.send(DIGEST.findall(json.dumps(reply["result"])))
        return produced, reply["notes"]


async def _write(new: Sequence[NewRecord]) -> None:
    """Makes text and hash of each here, where what cannot be stored costs this task and not its whole batch. A book has
    ten thousand chunks: meanwhile the loop answers others, and the beat process."""
    for number, record in enumerate(new, 1):
        _ = record.text, record.hash
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)


def _text(notes: Mapping[str, Any]) -> str:
    """Notes as they are kept, at most so many characters; what only the page asks for goes first."""
    text = canonical_json(notes)
    if len(text) > MOST_NOTES and LEDGER_KEYS in notes:
        text = canonical_json({name: value for name, value in notes.items() if name != LEDGER_KEYS})
    return text[:MOST_NOTES]


def _other_timeout(spec: StepSpec) -> float | None:
    """Seconds, if the step says other than its operator."""
    return spec.timeout if spec.timeout != spec.operator.timeout else None


def _ids(result: Result, made: Mapping[bytes, Sequence[int]]) -> list[int]:
    """Ids of the records that an attempt brought home."""
    return list(result.reused) if result.work is None else list(made[result.key])


def no_room(what: str) -> Busy:
    """Holds a task until there is room on the disk; it is charged for nothing."""
    return Busy(
        f"the disk is full: {what}", delay=NO_ROOM_AGAIN, reason=f"disk: {what}; make room, and it goes on by itself"
    )  # fmt: skip


async def _no_model(request: Any) -> Any:
    raise InputError("this step has no model", code="T211", hint='give it one: step.using(model="...")')


def work_key(
    spec: StepSpec, inputs: Inputs, model: Model | None, language: str, apart: str = "", prompts: Path | None = None
) -> bytes:
    """What decides whether work is the same: sha256 (32 bytes) over everything that can change the result. `apart` sets
    the work of a run apart that wants to use nobody else's; `prompts` is the folder of the project's own."""
    made = spec.operator
    parts = [
        KEY_VERSION, made.name, made.version, made.check_options(spec.options),
        [record.hash.hex() for record in inputs.own],
        {
            name: found[0].hash.hex() if made.ancestors[name].how == "one" else [record.hash.hex() for record in found]
            for name, found in inputs.ancestors.items()
        },
        model.binding.fingerprint().hex() if model else None,
        [one.fingerprint().hex() for one in prompts_of(spec, language, prompts)], language,
    ]  # fmt: skip
    if made.barrier:  # what it makes points at certain records; the same words in other records are other work
        parts.append([record.id for record in inputs.own])
    if apart:
        parts.append(apart)
    return hashlib.sha256(canonical_json(parts).encode()).digest()
