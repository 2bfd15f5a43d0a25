"""Sends a project to a server. Each piece becomes one task, found again by its record; a push that died goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import asyncpg

from gristmill.data.kinds import Image
from gristmill.engine import locks
from gristmill.errors import UsageError
from gristmill.review.label_studio.client import Server, Task
from gristmill.review.label_studio.projects import SQL, Piece, Project
from gristmill.review.label_studio.same import digest_of
from gristmill.review.label_studio.subjects import picture_name

BATCH = 50  # tasks
HOLD = 15.0  # seconds
BATCH_BYTES = 5_000_000


class ReadBytes(Protocol):
    """Where pictures are read: `Blobs`."""

    async def read(self, digest: str) -> bytes: ...


@dataclass(slots=True)
class Pushed:
    """What a push did, in tasks. `gone` were deleted on the server, and stay so; `kept` were changed there and here:
    a pull shows the conflict."""

    server_project: int
    url: str
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    kept: int = 0
    gone: int = 0
    pictures: int = 0

    def as_document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is known of a task on the server."""

    task: int
    standing_id: int | None = None
    sent: bytes | None = None


async def push(
    pool: asyncpg.Pool[Any], project: Project, server: Server, blobs: ReadBytes, *, by: str,
    told: Callable[[Pushed], None] = lambda _: None, wait: float = 20.0,
) -> Pushed:  # fmt: skip
    """Makes the project on the server, or brings it up to date: new pieces are added, and annotations that have changed
    here and not there. Pictures are uploaded once. One push or pull of a project at a time:
    another one is waited for, `wait` seconds; one that was killed holds it for at most `HOLD` seconds.

    Raises `LockHeld` T410, and what `Server` raises; what was sent until then stays, and the next push goes on.
    """
    async with alone(pool, project, server.url, by, wait) as held:
        number = await _server_project(pool, project, server)
        work = _Work(pool, project, server, blobs, Pushed(number, server.url))
        await work.look()
        async for batch in _batches(project, pool):
            held.check()
            await work.send(batch)
            told(work.done)
        return work.done


@asynccontextmanager
async def alone(pool: asyncpg.Pool[Any], project: Project, url: str, by: str, wait: float) -> AsyncIterator[locks.Held]:
    """Holds the lock of a project on a server, and renews it for as long as the block takes."""
    key = f"label-studio:{project.id}:{url}"
    held = await locks.acquire(pool, key, holder_kind="cli", holder=by, wait=wait, ttl=HOLD)

    async def renew() -> None:
        while await locks.refresh(pool, held):  # noqa: ASYNC110  # time is what is waited for
            await asyncio.sleep(HOLD / 4)

    renewing = asyncio.create_task(renew())
    try:
        yield held
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await locks.release(pool, held)


async def _server_project(pool: asyncpg.Pool[Any], project: Project, server: Server) -> int:
    """The project's number there; it is made where there is none, and made again where it was deleted."""
    await server.version()
    known = await pool.fetchval(SQL["server_of"], project.id, server.url)
    mark = f"gristmill:{project.mark}"
    number = known if known is not None else await server.project_with(mark)
    config = await server.config_of(number) if number is not None else None
    if number is None or config is None:
        await pool.execute(SQL["forget_server"], project.id, server.url)
        about = f"The {project.kind} of run {project.run_id}, made with Gristmill. {mark}"
        number = await server.make_project(project.name, project.config, about)
    elif config.strip() != project.config.strip():
        await server.change_config(number, project.config)
    await pool.execute(SQL["put_server"], project.id, server.url, number)
    return int(number)


async def placed(pool: asyncpg.Pool[Any], project: Project, server: Server) -> int:
    """The project's number on the server. Raises `UsageError` L124 where it is not."""
    number = await pool.fetchval(SQL["server_of"], project.id, server.url)
    if number is None:
        number = await server.project_with(f"gristmill:{project.mark}")
    if number is None:
        raise UsageError(
            f"{project.name} is not on {server.url}", code="L124",
            hint=f"gristmill label-studio push {project.name}", safe="nothing was changed",
        )  # fmt: skip
    return int(number)


async def _batches(project: Project, pool: asyncpg.Pool[Any]) -> AsyncIterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    async for piece in project.pieces(pool):
        size += len(piece.subject.text or "") * 4 + 200 * (len(piece.result or ()) + len(piece.predictions))
        batch.append(piece)
        if len(batch) >= BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class _There:
    """A task as it stands on the server, and the digests of its annotations by number; skipped ones have none."""

    task: int
    annotations: dict[int, bytes | None]


class _Work:
    """One push under way."""

    def __init__(
        self, pool: asyncpg.Pool[Any], project: Project, server: Server, blobs: ReadBytes, done: Pushed
    ) -> None:
        self.pool, self.project, self.server, self.blobs, self.done = pool, project, server, blobs, done
        self.labeling = project.labeling
        self.known: dict[int, _Sent] = {}
        self.there: dict[int, _There] = {}  # by record
        self.files: dict[str, str] = {}

    async def look(self) -> None:
        """What is on the server already, also of a push that died before it was noted down."""
        for row in await self.pool.fetch(SQL["tasks_of"], self.project.id, self.server.url):
            self.known[row["subject_id"]] = _Sent(row["task"], row["standing_id"], row["sent"])
        async for task in self.server.tasks(self.done.server_project):
            number = record_of(task)
            if number is not None:
                said = {
                    one["id"]: None if one.get("was_cancelled") else digest_of(one["result"])
                    for one in task.get("annotations") or ()
                }
                self.there[number] = _There(task["id"], said)
        if self.labeling.medium == "image":
            self.files = await self.server.pictures(self.done.server_project)

    async def send(self, batch: Sequence[Piece]) -> None:
        """A batch of pieces: what is not there is imported, what has changed here is changed there."""
        fresh = [one for one in batch if one.subject.record_id not in {**self.known, **self.there}]
        noted: list[tuple[int, _Sent]] = []
        if fresh:
            documents = [await self._document(piece) for piece in fresh]
            numbers = await self.server.add_tasks(self.done.server_project, documents)
            noted += [(one.subject.record_id, _sent(one, task)) for one, task in zip(fresh, numbers, strict=True)]
            self.done.added += len(fresh)
        for piece in batch:
            number = piece.subject.record_id
            if number in self.there:
                noted.append((number, await self._update(piece, self.there[number])))
            elif number in self.known:
                self.done.gone += 1
        rows = [(number, one.task, one.standing_id, one.sent) for number, one in noted]
        if rows:
            await self.pool.execute(
                SQL["put_tasks"], self.project.id, self.server.url, *map(list, zip(*rows, strict=True))
            )

    async def _update(self, piece: Piece, there: _There) -> _Sent:
        """A task that is there: changed when it is as we sent it and ours is another one now."""
        known = self.known.get(piece.subject.record_id) or _sent(piece, there.task)
        wanted = None if piece.result is None else digest_of(piece.result)
        if wanted is None or wanted in there.annotations.values():
            self.done.unchanged += 1
            return known if wanted is None else _sent(piece, there.task)
        if not there.annotations:
            await self.server.add_annotation(there.task, piece.result or [])
        elif known.sent is not None and list(there.annotations.values()) == [known.sent]:
            await self.server.change_annotation(next(iter(there.annotations)), piece.result or [])
        else:
            self.done.kept += 1
            return known
        self.done.changed += 1
        return _sent(piece, there.task)

    async def _document(self, piece: Piece) -> Task:
        picture = piece.subject.picture
        if picture is not None:
            await self._upload(picture)
        return piece.document(self.labeling, lambda image: self.files[picture_name(image)])

    async def _upload(self, picture: Image) -> None:
        name = picture_name(picture)
        if name not in self.files:
            data = await self.blobs.read(picture.blob)
            project = self.done.server_project
            self.files[name] = await self.server.add_picture(project, name, picture.media_type, data)
            self.done.pictures += 1


def _sent(piece: Piece, task: int) -> _Sent:
    return _Sent(task, piece.standing_id, None if piece.result is None else digest_of(piece.result))


def record_of(task: Task) -> int | None:
    """The record that a task is about, as we named it; None for a task that is not ours."""
    data = task.get("data")
    number = data.get("record_id") if isinstance(data, dict) else None
    if isinstance(number, str) and number.isascii() and number.isdigit():
        number = int(number)
    return number if isinstance(number, int) and not isinstance(number, bool) else None
