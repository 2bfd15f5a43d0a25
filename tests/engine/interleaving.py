"""A small database on which two sessions meet, statement by statement: how it is set up, put back, and looked at."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from gristmill.db.database import REPEAT, connect, open_pool, transaction
from gristmill.engine import items, processes, queue, workflow
from gristmill.engine.queue import Claimer, NewTask, Task
from gristmill.engine.state import OPEN
from gristmill.engine.workflow import NewItem, NewRun, Step
from tests.engine.conftest import register
from tests.engine.interleaving_look import GUARD, LOOK
from tests.engine.story import BROKEN
from tests.engine.test_model import TABLES

GRAPH = (
    Step("first", "bare"),
    Step("second", "bare"),
    Step("join", "bare", per_item=True),
    Step("gather", "bare", barrier=True),
)
ONE, TWO = "store:one", "store:two"  # the first is held by a task, the second by somebody whose time has passed
RUNS = (
    (GRAPH, "abcd"),
    ((GRAPH[0], Step("gather", "bare", barrier=True)), ""),
    ((GRAPH[0], GRAPH[1]), "yz"),
    ((GRAPH[0], Step("join", "bare", per_item=True)), "w"),
)
LEASE = 3600.0


class Undone(Exception):
    """Whoever was at it dies here: its transaction is rolled back."""


class Stepped:
    """A connection that stops after one of its statements until it is told to go on, or to die."""

    def __init__(self, connection: asyncpg.Connection[Any], stop_after: int = 0) -> None:
        self.connection = connection
        self.stop_after = stop_after
        self.statements: list[str] = []
        self.stopped = asyncio.Event()
        self.go = asyncio.Event()
        self.dies = False

    async def _sent(self, sql: str, reply: Awaitable[Any]) -> Any:
        result = await reply
        self.statements.append(sql)
        if len(self.statements) == self.stop_after:
            self.stopped.set()
            await self.go.wait()
            if self.dies:
                raise Undone
        return result

    def execute(self, sql: str, *arguments: Any) -> Awaitable[Any]:
        return self._sent(sql, self.connection.execute(sql, *arguments))

    def fetch(self, sql: str, *arguments: Any) -> Awaitable[Any]:
        return self._sent(sql, self.connection.fetch(sql, *arguments))

    def fetchrow(self, sql: str, *arguments: Any) -> Awaitable[Any]:
        return self._sent(sql, self.connection.fetchrow(sql, *arguments))

    def fetchval(self, sql: str, *arguments: Any) -> Awaitable[Any]:
        return self._sent(sql, self.connection.fetchval(sql, *arguments))

    def transaction(self) -> Any:
        return self.connection.transaction()

    def is_in_transaction(self) -> bool:
        return self.connection.is_in_transaction()


@dataclass(frozen=True, slots=True)
class Act:
    """Something that one session does. `alone`: it makes its own transactions; else it runs in one. `polls`: it is done
    again and again."""

    name: str
    do: Callable[[Stage, Any, int], Awaitable[Any]]
    alone: bool = False
    polls: bool = False


@dataclass(frozen=True, slots=True)
class Sight:
    """What the database looks like; `wrong` is what must never be."""

    wrong: tuple[str, ...]
    lines: tuple[str, ...]

    def beside(self, expected: Sight) -> str:
        """What is here and was not expected, and what is missing."""
        more, less = set(self.lines) - set(expected.lines), set(expected.lines) - set(self.lines)
        return "; ".join([*(f"+{line}" for line in sorted(more)), *(f"-{line}" for line in sorted(less))])


class Stage:
    """Two sessions that meet, one that watches, and the things they meet over. `side` of an act: 0 begins, 1 comes in.

    Worker `dying` runs `a` (a suspect with the lock `ONE`, needed by another), `b`, and the last tasks of two runs.
    """

    pool: asyncpg.Pool[Any]
    first: asyncpg.Connection[Any]
    second: asyncpg.Connection[Any]
    watcher: asyncpg.Connection[Any]

    def __init__(self) -> None:
        self.claims: dict[str, Task] = {}
        self.runs: list[int] = []
        self.item: dict[str, int] = {}
        self.cases = 0
        self.deadlocks: set[str] = set()

    @classmethod
    async def build(cls, url: str) -> Stage:
        self = cls()
        self.pool = await open_pool(url, size=2)
        quick = {"deadlock_timeout": "10ms", "synchronous_commit": "off"}
        self.first, self.second, self.watcher = [await connect(url, **quick) for _ in range(3)]
        self.dying, self.others = await register(self.pool, LEASE), [await register(self.pool, LEASE) for _ in range(2)]
        await self._make_runs()
        await self._make_tasks()
        await self._freeze()
        return self

    def close(self) -> None:
        for connection in (self.first, self.second, self.watcher):
            connection.terminate()
        self.pool.terminate()

    async def _make_runs(self) -> None:
        """The large one; one that comes to a barrier next; one that ends next; one with an item that gathers next."""
        for number, (steps, names) in enumerate(RUNS):
            async with transaction(self.pool) as connection:
                run_id, _ = await workflow.find_or_create(connection, NewRun(f"r{number}", "meeting", steps, {}))
                new = [NewItem(name.encode() * 32, name, name) for name in names]
                made = await workflow.add_items(connection, run_id, new)
                self.item |= {name: made[name.encode() * 32] for name in names}
                await workflow.seal(connection, run_id, ["folder"], list(names), list(made.values()))
            self.runs.append(run_id)

    async def _task_of(self, name: str) -> int:
        return int(await self.pool.fetchval("select id from task where item_id = $1", self.item[name]))

    async def _make_tasks(self) -> None:
        run = self.runs[0]
        a, b = await self._task_of("a"), await self._task_of("b")
        async with transaction(self.pool) as connection:
            await items.pause_items(connection, [self.item["d"]])
            await connection.execute("update task set lock_key = $2, crashes = 2 where id = $1", a, ONE)
        await self._do(lambda c: queue.enqueue(c, [NewTask(self.runs[1], "bare")]))
        self.claims["a"] = (await self._claim(self.dying, suspects=True))[0]
        assert self.claims["a"].id == a
        for task in await self._claim(self.dying):
            name = next((name for name, item in self.item.items() if item == task.item_id), "x")
            if name in "bxy":
                self.claims[name] = task
            elif name == "z":
                await self._do(lambda c, task=task: queue.fail(c, self.dying, task, BROKEN))
            elif name == "w":
                await self._do(lambda c, task=task: queue.settle(c, self.dying, [(task, "ok")]))
            else:
                await self._do(lambda c, task=task: queue.release(c, [(task, 0.0, "too many")]))
        assert self.claims["b"].id == b
        failing, *_ = await self._do(lambda c: queue.enqueue(c, [
            NewTask(run, "bare", step=1, item_id=self.item["b"], lock=TWO), NewTask(run, "bare", step=1, lock=TWO),
        ]))  # fmt: skip
        await self._do(lambda c: queue.enqueue(c, [NewTask(run, "bare", step=1, after=(failing,))]))
        (task,) = await self._claim(self.dying, locked=True)
        await self._do(lambda c: queue.fail(c, self.dying, task, BROKEN))
        await self._do(queue.abandon)
        await self._do(lambda c: queue.enqueue(c, [
            NewTask(run, "bare", step=1, after=(a,)), NewTask(run, "bare", step=1, after=(failing,)),
            NewTask(run, "bare", step=1, lock=ONE), NewTask(run, "bare", "limited", step=1),
            NewTask(run, "bare", "limited", step=1), NewTask(run, "bare", step=1, key=b"k" * 32),
        ]))  # fmt: skip
        late, suspect = await self._do(lambda c: queue.enqueue(c, [NewTask(run, "bare", step=1) for _ in range(2)]))
        await self.pool.execute("update task set deadline = clock_timestamp() where id = $1", late)
        await self.pool.execute("update task set crashes = 2 where id = $1", suspect)
        await self.pool.execute("insert into pool (name, slots) values ('limited', 1)")
        await self.pool.execute(
            "insert into lock (key, slot, holder_kind, holder, token, fence, expires_at)"
            " values ($1, 1, 'cli', 'somebody', $2, 0, clock_timestamp())", TWO, self.dying.nonce,
        )  # fmt: skip
        await workflow.finish_items(self.watcher)
        await self.pool.execute("insert into item_check select unnest($1::bigint[])", list(self.item.values()))
        await self.pool.execute(
            "update worker set boot_id = $2, pid = $3, pid_started = 1 where id = $1", self.dying.id,
            processes.machine(), os.getpid(),
        )  # fmt: skip

    async def _claim(self, claimer: Claimer, **more: Any) -> Sequence[Task]:
        return await queue.claim(self.pool, claimer, {"*": 100}, ["bare"], **more)

    async def _do(self, call: Callable[[Any], Awaitable[Any]]) -> Any:
        async with transaction(self.pool) as connection:
            return await call(connection)

    async def _freeze(self) -> None:
        """Keeps what is there now, and makes the function that puts it back."""
        self.newest = await self.pool.fetchval("select max(id) from task")
        back = []
        for table in TABLES:
            columns = ", ".join(
                row["column_name"] for row in await self.pool.fetch(
                    "select column_name from information_schema.columns where table_schema = 'gristmill'"
                    " and table_name = $1 and is_generated = 'NEVER' order by ordinal_position", table,
                )
            )  # fmt: skip
            back.append(f"delete from {table};")  # noqa: S608
            await self.pool.execute(f"create unlogged table kept_{table} as select * from {table}")  # noqa: S608
            if await self.pool.fetchval(f"select count(*) from {table}"):  # noqa: S608
                back.append(
                    f"insert into {table} ({columns}) overriding system value select {columns} from kept_{table};"  # noqa: S608
                )
        body = "\n".join(back)
        await self.pool.execute(f"create function put_back() returns void language plpgsql as $$ begin {body} end $$")
        await self.pool.execute(GUARD)
        self.swept = "vacuum " + ", ".join(TABLES)

    async def put_back(self) -> None:
        self.cases += 1
        await self.watcher.execute("select put_back()")
        if self.cases % 100 == 0:
            await self.watcher.execute(self.swept)

    async def look(self, connection: Any = None) -> Sight:
        found = json.loads(await (connection or self.watcher).fetchval(LOOK, self.newest, sorted(OPEN)))
        return Sight(tuple(found[0]), tuple(found[1]))

    async def tidied(self, later: Sequence[Act]) -> Sight:
        """What it looks like after these, which are mostly the next round of duties."""
        for act in later:
            await self.play(act, self.first, 1)
        return await self.look()

    async def play(self, act: Act, on: Any, side: int) -> None:
        if act.alone:
            await act.do(self, on, side)
        else:
            async with on.transaction():
                await act.do(self, on, side)

    async def waits(self, playing: asyncio.Task[Any]) -> bool:
        """Whether the second session waits for the first; False: it has come to its end."""
        first, second = self.first.get_server_pid(), self.second.get_server_pid()
        await asyncio.wait({playing}, timeout=0.003)
        async with asyncio.timeout(20):
            while not playing.done():
                if await self.watcher.fetchval("select $2 = any (pg_blocking_pids($1))", second, first):
                    return True
                await asyncio.wait({playing}, timeout=0.001)
        return False

    async def meet(self, one: Act, other: Act, stop_after: int, *, dies: bool = False) -> tuple[bool, Sight]:
        """`other` comes in after that many statements of `one`. Whether it had to wait, and what came of it."""
        stepped = Stepped(self.first, stop_after)
        stepped.dies = dies
        opening = asyncio.ensure_future(self.play(one, stepped, 0))
        stopped = asyncio.ensure_future(stepped.stopped.wait())
        await asyncio.wait({opening, stopped}, return_when=asyncio.FIRST_COMPLETED)
        coming = asyncio.ensure_future(self.play(other, self.second, 1))
        waited = await self.waits(coming)
        stepped.go.set()
        stopped.cancel()
        results = await asyncio.gather(opening, coming, return_exceptions=True)
        for error, act, on, side in zip(results, (one, other), (self.first, self.second), (0, 1), strict=True):
            if isinstance(error, REPEAT):
                self.deadlocks.add(f"{one.name} / {other.name} ({stop_after}): {type(error).__name__}")
                await self.play(act, on, side)
            elif error is not None and not (dies and side == 0 and isinstance(error, Undone)):
                raise error
        return waited, await self.look()
