"""App: opens the database, wires the rooms together, starts and finds runs."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import asyncpg

from gristmill import bulk, exchanging, exporting, notify, starting
from gristmill.bindings import ModelSource
from gristmill.config import HANDED_ON, Settings, load_settings
from gristmill.crew.launch import Crew
from gristmill.data import records
from gristmill.data.kinds import Source, canonical_json, content_hash
from gristmill.data.records import NewRecord, Work
from gristmill.data.scan import Found, Unreadable, told
from gristmill.data.selection import Inputs
from gristmill.data.shared_blobs import open_blobs
from gristmill.db import embedded
from gristmill.db.database import close_pool, open_pool, transaction
from gristmill.db.migrate import migrate
from gristmill.db.moving import refuse_moved
from gristmill.db.statements import statements
from gristmill.engine import queue
from gristmill.engine import workflow as runs
from gristmill.engine.metrics import DatabaseMetrics
from gristmill.engine.performer import Performers
from gristmill.engine.worker import Worker, WorkerSettings
from gristmill.engine.workflow import NewItem, NewRun
from gristmill.errors import EnvironmentProblem, InputError, UsageError
from gristmill.fetch import incoming
from gristmill.handlers import Handlers
from gristmill.llm.budget import set_cap
from gristmill.operators.operator import registered
from gristmill.operators.prompts import check_prompts, own_prompts, texts_of
from gristmill.packs.store import take_packs
from gristmill.performer import RecordPerformer
from gristmill.run import Run
from gristmill.workflow import Workflow
from gristmill.workflow_files import find_workflow

SQL = statements("workflow")
BATCH = 200  # inputs a transaction
EVENTS = ("run", "items", "tasks")  # what is told: each with what is left of it


class App:
    """`async with App() as app:` uses the embedded database in `.gristmill`; `App(url)` another server.

    `workers` processes are started with the first run (default: the setting `workers`; 0 when workers run elsewhere).
    Settings come from arguments, environment and gristmill.toml, in that order.
    """

    def __init__(
        self, url: str | None = None, *, home: Path | str | None = None, workers: int | None = None,
        settings: Settings | None = None, on_event: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        given: dict[str, Any] = {"database_url": url, "home": Path(home) if home else None, "workers": workers}
        self.settings = settings or load_settings(**given).values
        self.on_event = on_event
        self.nonce = uuid.uuid4()  # of the worker that this process may become, and of its calls to models
        self.crew: Crew | None = None
        self._server: embedded.Server | None = None
        self._performer: RecordPerformer | None = None
        self._pool: asyncpg.Pool[Any] | None = None

    @property
    def pool(self) -> asyncpg.Pool[Any]:
        """The connections of this process. Raises `UsageError` outside of `async with`."""
        if self._pool is None:
            raise UsageError("this App is not open", hint="use it as: async with App() as app:")
        return self._pool

    async def __aenter__(self) -> App:
        settings = self.settings
        if settings.database_url is None:
            self._server = await embedded.open_server(settings.home)
        self.url = settings.database_url or self._server.url  # type: ignore[union-attr]
        try:
            self._pool = await open_pool(self.url, size=6)
            async with self._pool.acquire() as connection:
                await migrate(connection)
                await refuse_moved(connection)
            self.blobs = open_blobs(
                settings.home / "blobs", settings.blobs, reserve=settings.disk_reserve, compress=settings.compress
            )
            self.models = ModelSource(settings, self._pool, settings.home / "spool", self.nonce)
            await take_packs(self._pool, settings.home, settings.packs, fetch=settings.packs_from_database)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.crew is not None:
            await self.crew.stop()
        if self._performer is not None:
            await self._warming
            await self._performer.close()
        if hasattr(self, "models"):
            await self.models.close()
        if hasattr(self, "blobs"):
            await self.blobs.close()
        if self._pool is not None:
            await close_pool(self._pool)
        if self._server is not None:
            await embedded.close_server(self._server)

    async def revive(self) -> None:
        """Starts the embedded server again if it was killed; does nothing when it runs or is another's."""
        if self._server is not None:
            former, self._server = self._server, await embedded.open_server(self.settings.home)
            await embedded.close_server(former)

    async def start(
        self, workflow: Workflow | str, sources: Sequence[Path | str] | Inputs, *, model: str | None = None,
        fresh: bool = False, after: Sequence[Run] = (), events: Literal["run", "items", "tasks"] = "items",
        budget: Decimal | float | None = None, reuse: bool = True, name: str | None = None,
    ) -> Run:  # fmt: skip
        """Starts a run over inputs, or goes on with the run of the same workflow over the same inputs: files, folders,
        globs, zip archives, http and https URLs; `Inputs.of(sources, include=["*.md"])` narrows them.

        Durable from here on: whatever dies, the same call goes on where it was. `model` is bound to every step that
        uses one and names none. `fresh` makes a new run (work that was done before is still not done again); so does a
        run that was cancelled.

        `name` is what the run is called, where it is made (default: "qa-7"); one that is gone on with keeps its own.

        `after` are runs that have to be completed first: until then this one waits. `events` says what is
        told: the run alone, its inputs too, or every task too. `budget` is what the run may spend, in the settings'
        currency: before it could be passed the run is paused. Without `reuse` no work and no answers of other runs are
        used. Raises `ModelSetupError` M110 for a model without a known price, if the settings' budget is strict, and
        `UsageError` U306 for a prompt of your own that its step cannot fill, U319 for a name that is none or is taken.
        """
        if events not in EVENTS:
            raise UsageError(f"events={events!r} is not known", hint=f"one of: {', '.join(EVENTS)}")
        chosen = find_workflow(workflow) if isinstance(workflow, str) else workflow
        chosen = (chosen if reuse else chosen.apart()).with_model(model)
        for spec in chosen.steps:
            if spec.operator.uses_model and spec.model is None:
                raise UsageError(f'step "{spec.name}" needs a model', hint='name one: start(..., model="extractive")')
            if spec.model:
                self.models.check_price(await self.models.open(spec.model))  # before anything is stored
        check_prompts(chosen.steps, self.settings.language, self.settings.prompts)
        inputs = Inputs.of(sources)
        key = self.run_key(chosen, inputs)
        new = NewRun(
            chosen.name, chosen.name, chosen.engine_steps(), await self._told(chosen), key, self.settings.project,
            inputs=tuple(inputs.plain()), after=tuple(run.id for run in after), detail=EVENTS.index(events),
        )  # fmt: skip
        async with transaction(self.pool) as connection:
            run_id, made = await runs.find_or_create(connection, new, fresh=fresh)
            if made and name is not None:
                await runs.call(connection, run_id, name)
            called = (await connection.fetchrow(SQL["run_row"], run_id))["name"]
        run = Run(self, run_id, chosen, called)
        if budget is not None:
            await set_cap(self.pool, "run", run_id, Decimal(str(budget)), self.settings.budget.currency)
        if not (await run.progress()).ended:
            await self.start_crew()  # its processes begin while we still read the files
        await self.add_inputs(run, inputs)
        await run.resume()
        if not (await run.progress()).ended:
            await self.start_crew()
        return run

    async def _told(self, workflow: Workflow) -> dict[str, Any]:
        """The definition that is kept with a run: also which words its prompts had, so that runs can be compared."""
        texts = texts_of(workflow.steps, self.settings.language, self.settings.prompts)
        prompts = {
            step: {name: await self.blobs.write(text.encode()) for name, text in found.items()}
            for step, found in texts.items()
        }
        return workflow.definition() | ({"prompts": prompts} if prompts else {})

    def run_key(self, workflow: Workflow, sources: Sequence[Path | str] | Inputs) -> bytes:
        """What the run of a workflow over these inputs is found by: sha256 (32 bytes)."""
        paths = sorted(Inputs.of(sources).plain())
        own = own_prompts(workflow.steps, self.settings.language, self.settings.prompts)
        inputs = canonical_json([workflow.fingerprint().hex(), self.settings.language, paths, *([own] if own else [])])
        return hashlib.sha256(inputs.encode("utf-8", "surrogateescape")).digest()

    async def find(self, name: str) -> Run:
        """A run by name or number. Raises `UsageError` U311."""
        run_id = await self.pool.fetchval(SQL["run_named"], self.settings.project, name)
        if run_id is None:
            raise UsageError(f'there is no run "{name}"', code="U311", hint="list them: gristmill watch --list")
        return await self._run(run_id)

    async def last(self) -> Run:
        """The run that was started last. Raises `UsageError` U312 when there is none."""
        run_id = await self.pool.fetchval(SQL["last_run"], self.settings.project)
        if run_id is None:
            raise UsageError("there is no run yet", code="U312", hint="start one: gristmill run FOLDER")
        return await self._run(run_id)

    async def _run(self, run_id: int) -> Run:
        row = await self.pool.fetchrow(SQL["run_row"], run_id)
        return Run(self, run_id, Workflow.from_definition(row["definition"]), row["name"])

    async def add_inputs(self, run: Run, inputs: Inputs) -> list[str]:
        """Stores every input and adds what is new to the run; returns what no longer counts. A URL that the run has
        fetched before is not fetched again."""
        fetched = await self.pool.fetch(SQL["fetched"], run.id, inputs.urls)
        kept: dict[bytes, int] = {str(row["id"]).encode(): row["id"] for row in fetched}
        uris: list[str] = [row["uri"] for row in fetched]
        batch: list[NewItem] = []
        sources: dict[bytes, Source] = {}
        async for found in incoming(
            inputs, known={row["url"] for row in fetched}, private=self.settings.allow_private_urls,
            timeout=self.settings.fetch_timeout,
        ):  # fmt: skip
            item, source = await self._take(found)
            uris.append(item.uri)
            batch.append(item)
            if source is not None:
                sources[item.key] = source
            if len(batch) >= BATCH:
                kept |= await self._store(run, batch, sources)
                batch, sources = [], {}
        kept |= await self._store(run, batch, sources)
        await queue.hint(self.pool)
        async with transaction(self.pool) as connection:
            return await runs.seal(connection, run.id, inputs.plain(), uris, list(kept.values()))

    async def _take(self, found: Found | Unreadable) -> tuple[NewItem, Source | None]:
        uri = _storable(found.uri or str(found.path))
        if isinstance(found, Found):
            try:
                if found.opener is None:
                    digest, size = await self.blobs.write_file(found.path)
                else:
                    digest, size = await self.blobs.write_from(found.opener, found.size)
            except InputError as error:
                found = Unreadable(found.name, found.path, error.code, told(error))
            else:
                source = Source(name=found.name, blob=digest, size=size, media_type=found.media_type)
                return NewItem(_key(uri, content_hash(source)), found.name, uri), source
        return NewItem(_key(uri, found.code.encode()), found.name, uri, found.code, found.reason), None

    async def _store(self, run: Run, batch: list[NewItem], sources: dict[bytes, Source]) -> dict[bytes, int]:
        if not batch:
            return {}
        works = {
            key: Work(_key("source", content_hash(s)), "source", "ok", 0, (NewRecord(s, ()),))
            for key, s in sources.items()
        }
        async with transaction(self.pool) as connection:
            made = await records.save(connection, list(works.values()))
            items = [
                NewItem(item.key, item.name, item.uri, item.code, item.reason, {"inputs": made[works[item.key].key]})
                if item.key in works else item
                for item in batch
            ]  # fmt: skip
            return await runs.add_items(connection, run.id, items)

    async def start_crew(self) -> None:
        """Starts the worker processes, unless they run already or `workers` is 0."""
        if self.crew is not None or not self.settings.workers:
            return
        own = {op.path for op in registered().values() if not op.module.startswith("gristmill.")}
        arguments = ["--home", str(self.settings.home), *(part for path in sorted(own) for part in ("--load", path))]
        # In the environment, not in the arguments: those are for everybody to read.
        environment = {HANDED_ON: self.settings.model_dump_json(exclude={"workers"})}
        logs = self.settings.home / "logs"
        self.crew = Crew(arguments, self.settings.workers, logs, self.on_event, environment)
        await self.crew.start()

    def check_crew(self) -> None:
        """Raises `EnvironmentProblem` E120 when all of our workers died too often, or were told to stop."""
        if self.crew is not None and self.crew.lost:
            raise EnvironmentProblem(
                "no worker is left: each died too often, or was told to stop", code="E120",
                hint=f"look into {self.crew.logs}, then run the same command again", safe="finished pieces are kept",
            )  # fmt: skip

    def worker(self, name: str = "") -> Worker:
        """A worker for this process; `await worker.run()` works until `worker.stop()`."""
        s = self.settings
        settings = WorkerSettings(
            pools={"notify": 4, **s.pools}, lease=s.lease, beat=s.beat, probe=s.probe, confirm=s.confirm,
            stall_after=s.stall_after, stuck_after=s.stuck_after, poll=s.poll, shutdown=s.shutdown,
            keep_finished=s.keep_finished, keep_history=s.keep_history, name=name, turn_every=s.turn_every,
        )  # fmt: skip
        from gristmill.packs.actions import load_shipped  # only workers have to know all of them

        load_shipped()
        if self._performer is None:
            servers = {"docling": s.docling_url, "detector": s.detector_url}
            services = {name: url for name, url in servers.items() if url}
            self._performer = RecordPerformer(
                self.pool, self.blobs, self.models, s.language, s.backoff, s.prompts, services
            )  # fmt: skip
            self._warming = asyncio.create_task(self._performer.children.warm())
        revive = self.revive if self._server is not None else None
        kept = {**bulk.HANDLERS, **exporting.HANDLERS, **exchanging.HANDLERS}
        handlers = Handlers({**starting.HANDLERS, **notify.HANDLERS, **kept}, self, kept=kept)
        performer = Performers(self._performer, handlers)
        return Worker(self.url, performer, settings, self.nonce, revive, DatabaseMetrics())


def _key(place: str, content: bytes) -> bytes:
    return hashlib.sha256(place.encode() + b"\0" + content).digest()


def _storable(path: str) -> str:
    """A path as text that the database takes: bytes that are not UTF-8 are written as \\xNN."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
