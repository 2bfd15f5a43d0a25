"""Performs the tasks of workflows: loads records, runs the operator, saves what it made, and says what follows."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import asyncpg
from pydantic import BaseModel

from gristmill.data import records
from gristmill.data.blobs import Blobs
from gristmill.data.kinds import canonical_json
from gristmill.data.records import Membership, NewRecord, Record, Work
from gristmill.db.statements import statements
from gristmill.engine.queue import NewTask, Task
from gristmill.engine.worker import Outcome
from gristmill.errors import Busy, InputError, TransientError, UsageError
from gristmill.llm.model import Model
from gristmill.llm.prompt import load_prompt
from gristmill.llm.structured import Asker
from gristmill.operators.children import Children
from gristmill.operators.operator import Context, Produced, StepSpec, parse_body, registered, run_operator
from gristmill.operators.protocol import error_from_json
from gristmill.workflow import Workflow

RUNS = statements("workflow")
UNKNOWN_AGAIN = 2.0  # seconds until a task of a workflow that this process does not know is offered again
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
    ancestors: dict[str, Record] = field(default_factory=dict)


class RecordPerformer:
    """The engine's `Performer` for workflows over records."""

    def __init__(self, pool: asyncpg.Pool[Any], blobs: Blobs, models: Models, language: str = "en") -> None:
        self.pool = pool
        self.blobs = blobs
        self.models = models
        self.language = language
        self.children = Children()
        self.isolates = True
        self.kinds: Sequence[str] = sorted(registered())
        self._workflows: dict[int, Workflow] = {}

    async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
        """Runs the task's operator, unless the same work was done before. Raises what the operator raises."""
        workflow = await self._workflow(task.run_id)
        spec = workflow.steps[task.step]
        inputs = await self._inputs(task, spec)
        model = await self.models.open(spec.model) if spec.model else None
        key = work_key(spec, inputs, model, self.language)
        known = await records.outputs_of(self.pool, key)
        if known is not None:
            return Outcome("reused", Result(reused=tuple(known[1]), key=key))
        limit = spec.timeout or spec.operator.timeout
        try:
            async with asyncio.timeout(limit) as clock:
                produced, notes = await self._run(task, spec, inputs, model, alone or spec.operator.isolate)
        except TimeoutError:
            if not clock.expired():
                raise  # the operator's own, of a socket for example
            raise TransientError(f"it took longer than its limit of {limit:.0f} s", code="T310") from None
        new = tuple(NewRecord(p.body, tuple(inputs.own[at].id for at in p.parents)) for p in produced)
        name = "ok" if new else "empty"
        for record in new:
            records.body_text(record.body)  # refused here, where it costs this task and not its whole batch
        work = Work(key, spec.operator.name, name, task.id, new, canonical_json(notes)[:4096] if notes else None)
        return Outcome(name, Result(work=work, key=key))

    async def save(
        self, connection: asyncpg.Connection[Any], finished: Sequence[tuple[Task, Outcome]]
    ) -> Sequence[NewTask]:
        """Records, lineage and membership of finished tasks; returns one task of the next step for each new record."""
        made = await records.save(connection, [o.value.work for _, o in finished if o.value.work is not None])
        members: list[Membership] = []
        following: list[NewTask] = []
        for task, outcome in finished:
            result: Result = outcome.value
            ids = list(result.reused) if result.work is None else made[result.key]
            payload = json.loads(task.payload)
            place = tuple(payload.get("place", ()))
            if payload.get("barrier"):
                await connection.execute(records.SQL["leave_run"], task.run_id, task.step)
            for ordinal, record_id in enumerate(ids):
                here = (*place, ordinal)
                members.append(Membership(task.run_id, task.step, record_id, task.item_id, task.id, here))
                following.extend(self._next(task, record_id, here))
        await records.join_run(connection, members)
        return following

    def _next(self, task: Task, record_id: int, place: tuple[int, ...]) -> list[NewTask]:
        steps = self._workflows[task.run_id].steps
        if task.step + 1 >= len(steps) or steps[task.step + 1].operator.barrier:
            return []
        spec = steps[task.step + 1]
        return [
            NewTask(
                task.run_id, spec.operator.name, spec.pool or spec.operator.pool,
                json.dumps({"inputs": [record_id], "place": place}), task.item_id, task.step + 1,
                max_attempts=spec.attempts or spec.operator.attempts,
                priority=-(task.step + 1),  # what is furthest along goes first: rows come early, little is half-done
            )
        ]  # fmt: skip

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

    async def _inputs(self, task: Task, spec: StepSpec) -> Inputs:
        payload = json.loads(task.payload)
        if payload.get("barrier"):
            rows = await self.pool.fetch(records.SQL["of_run"], task.run_id, task.step - 1)
            return Inputs(tuple(Record(*row) for row in rows))
        ids: list[int] = payload["inputs"]
        wanted = spec.operator.ancestors
        if not wanted:
            found = await records.load(self.pool, ids)
            return Inputs(tuple(found[number] for number in ids))
        family = await records.load_family(self.pool, ids)
        own = {record.id: record for record in family}
        ancestors = {}
        for name, kind in wanted.items():
            nearest = next((record for record in family if record.kind == kind and record.id not in ids), None)
            if nearest is None:
                raise InputError(f'"{spec.name}" needs a {kind} above its input, and there is none', code="T210")
            ancestors[name] = nearest
        return Inputs(tuple(own[number] for number in ids), ancestors)

    async def _run(
        self, task: Task, spec: StepSpec, inputs: Inputs, model: Model | None, isolated: bool
    ) -> tuple[list[Produced], dict[str, Any]]:
        if isolated:
            return await self._run_in_child(task, spec, inputs, model, fresh=task.crashes > 0)
        made = spec.operator
        notes: dict[str, Any] = {}
        ctx = Context(
            blobs=self.blobs, model=Asker(model, notes=notes, task=task.id, run=task.run_id) if model else None,
            language=self.language, attempt=task.attempt, fence=task.fence,
            idempotency_key=f"{task.run_id}-{task.id}", notes=notes,
        )  # fmt: skip
        own = [parse_body((made.input_type,), record.kind, record.body) for record in inputs.own]
        ancestors: dict[str, BaseModel] = {
            name: parse_body((made.ancestor_types[name],), record.kind, record.body)
            for name, record in inputs.ancestors.items()
        }
        return await run_operator(made, own, ancestors, spec.options, ctx), notes

    async def _run_in_child(
        self, task: Task, spec: StepSpec, inputs: Inputs, model: Model | None, *, fresh: bool
    ) -> tuple[list[Produced], dict[str, Any]]:
        made = spec.operator
        message = {
            "operator": made.name, "module": made.module, "path": made.path,
            "inputs": [[record.kind, record.body] for record in inputs.own],
            "ancestors": {name: [record.kind, record.body] for name, record in inputs.ancestors.items()},
            "options": dict(spec.options),
            "context": {
                "blobs": str(self.blobs.folder), "language": self.language, "attempt": task.attempt,
                "fence": task.fence, "idempotency_key": f"{task.run_id}-{task.id}", "task": task.id,
                "run": task.run_id, "model": spec.model,
            },
        }  # fmt: skip
        ask = model.complete if model is not None else _no_model
        reply = await self.children.run(message, ask, fresh=fresh)
        if "error" in reply:
            raise error_from_json(reply["error"])
        produced = [
            Produced(parse_body(made.output_types, kind, body), tuple(parents))
            for kind, body, parents in reply["result"]
        ]
        return produced, reply["notes"]


async def _no_model(request: Any) -> Any:
    raise InputError("this step has no model", code="T211", hint='give it one: step.using(model="...")')


def work_key(spec: StepSpec, inputs: Inputs, model: Model | None, language: str) -> bytes:
    """What decides whether work is the same: sha256 (32 bytes) over everything that can change the result."""
    made = spec.operator
    parts = [
        KEY_VERSION, made.name, made.version, made.check_options(spec.options),
        [record.hash.hex() for record in inputs.own],
        {name: record.hash.hex() for name, record in inputs.ancestors.items()},
        model.binding.fingerprint().hex() if model else None,
        [load_prompt(name, language).fingerprint().hex() for name in made.prompts], language,
    ]  # fmt: skip
    if made.barrier:  # what it makes points at certain records; the same words in other records are other work
        parts.append([record.id for record in inputs.own])
    return hashlib.sha256(canonical_json(parts).encode()).digest()
