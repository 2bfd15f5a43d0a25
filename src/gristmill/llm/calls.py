"""The ledger for people: list, cost, export, import and prune."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import asyncpg

from gristmill.db.statements import statements
from gristmill.errors import InputError, UsageError
from gristmill.llm.entries import encode
from gristmill.llm.providers import PROVIDERS
from gristmill.llm.requests import readable, stored

SQL = statements("calls")
GROUPS = ("run", "model", "day", "task", "step", "record")
FORM = "gristmill.call/1"
_COLUMNS = (
    "key", "state", "provider", "model", "prompt", "status", "finish_reason", "tokens_in", "tokens_out",
    "tokens_cached", "tokens_reasoning", "latency_ms", "cost", "currency", "tries", "note", "made_at", "response",
    "request",
)  # fmt: skip
_NUMBERS = ("status", "tokens_in", "tokens_out", "tokens_cached", "tokens_reasoning", "latency_ms", "tries")
_BATCH, _BATCH_BYTES = 500, 4 * 1024 * 1024


async def listed(
    pool: asyncpg.Pool[Any], *, run: int | None = None, model: str | None = None, state: str | None = None,
    since: datetime | None = None, limit: int = 50,
) -> list[dict[str, Any]]:  # fmt: skip
    """The newest calls, without their answers. `model` is "provider:model" or only the model."""
    return [dict(row) for row in await pool.fetch(SQL["list"], run, model, state, since, limit)]


async def find(pool: asyncpg.Pool[Any], key: str) -> dict[str, Any]:
    """One call with its `request` (see `requests.readable`; None: not kept), its answer, and whose it was. `key` is its
    beginning in hex. Raises `UsageError` U360, U361."""
    try:
        first = bytes.fromhex(key.ljust(64, "0"))
        last = bytes.fromhex(key.ljust(64, "f"))
    except ValueError:
        first = last = b""
    if len(first) != 32 or not key:
        raise UsageError(f'"{key}" is no key of a call', code="U360", hint="list them: gristmill calls")
    rows = await pool.fetch(SQL["show"], first, last)
    if len(rows) != 1:
        what = f'there is no call "{key}"' if not rows else f'more than one call begins with "{key}"'
        raise UsageError(what, code="U361", hint="list them: gristmill calls")
    found = dict(rows[0])
    whose = await pool.fetchrow(SQL["whose"], found["task"]) if found["task"] is not None else None
    kept = stored(found.pop("request"), found.pop("frame"))
    asked = readable(kept) if kept is not None else None
    return found | {"request": asked, "whose": dict(whose) if whose is not None else None}


async def cost(
    pool: asyncpg.Pool[Any], by: str, *, run: int | None = None, since: datetime | None = None, limit: int = 100
) -> list[dict[str, Any]]:
    """What was paid, by "run", "model", "day" (UTC), "task", "step" or "record": name, currency, calls, tokens, cost.

    `cost` is None where no price is known; `unpriced` counts the calls that it leaves out. A "record" has its share of
    what its work has paid (`own_cost`), and with everything it came from (`cost`); it needs a `run`. Raises
    `UsageError` U362.
    """
    if by not in GROUPS:
        raise UsageError(f'costs are not known by "{by}"', code="U362", hint=f"one of: {', '.join(GROUPS)}")
    if by == "record" and run is None:
        raise UsageError("costs by record need a run", code="U362", hint="gristmill calls cost --by record --run qa-1")
    return [dict(row) for row in await pool.fetch(SQL[f"cost_by_{by}"], run, since, limit)]


async def exported(
    pool: asyncpg.Pool[Any], *, run: int | None = None, model: str | None = None, since: datetime | None = None
) -> AsyncIterator[str]:
    """Every answered call as a line of JSON, in no certain order; constant memory."""
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        await connection.execute("set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0")
        async for row in connection.cursor(SQL["export"], run, model, since, prefetch=200):
            yield json.dumps({"schema": FORM, **_plain(row)}, ensure_ascii=False)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(row) | {"key": row["key"].hex(), "made_at": row["made_at"].isoformat()}
    plain["cost"] = None if row["cost"] is None else str(row["cost"])
    body = plain.pop("response")
    plain["request"] = stored(plain["request"], plain.pop("frame"))
    try:
        return plain | {"response": body.decode()}
    except UnicodeDecodeError:
        return plain | {"response_base64": base64.b64encode(body).decode()}


async def imported(pool: asyncpg.Pool[Any], file: Path) -> tuple[int, int]:
    """Takes over the calls of another database; returns how many lines there were and how many calls were new.

    They answer questions from then on, and count in no total here. Running it again does no harm. Raises `InputError`
    F301 for a line that is no call (with its number); what came before it is kept.
    """
    lines = new = 0
    with file.open(encoding="utf-8") as source:
        for batch in _batches(_rows(source)):
            lines += len(batch)
            once = {row[0]: row for row in batch}
            new += len(await pool.fetch(SQL["import"], *zip(*once.values(), strict=True)))
    return lines, new


def _batches(rows: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    batch: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row[-2]) + len(row[-1] or "")
        if len(batch) >= _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _rows(source: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    for number, line in zip(itertools.count(1), source, strict=False):
        if not line.strip():
            continue
        try:
            yield _row(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, InvalidOperation) as error:
            raise InputError(
                f"line {number} is no exported call: {error}", code="F301",
                hint="a file of `gristmill calls export`", safe="the lines before it were taken over",
            ) from None  # fmt: skip


def _row(plain: dict[str, Any]) -> tuple[Any, ...]:
    """The columns of one line. Raises `ValueError` and its like for one that is no call."""
    if plain.get("schema") != FORM:
        raise ValueError(f'its schema is not "{FORM}"')
    body = base64.b64decode(plain["response_base64"]) if "response_base64" in plain else plain["response"].encode()
    values = {name: plain.get(name) for name in _COLUMNS} | {
        "key": bytes.fromhex(plain["key"]), "made_at": datetime.fromisoformat(plain["made_at"]), "response": body,
        "cost": None if plain.get("cost") is None else Decimal(plain["cost"]),
        "request": None if plain.get("request") is None else _request(plain["request"]),
    }  # fmt: skip
    if len(values["key"]) != 32 or values["state"] not in ("ok", "unusable") or values["made_at"].tzinfo is None:
        raise ValueError("its key, state or time is wrong")
    for name in _NUMBERS:
        if not isinstance(values[name], int | None) or (values[name] or 0) >= 2**31:
            raise ValueError(f"{name} is no number")
    values["tries"] = values["tries"] or 1
    for name in ("tokens_in", "tokens_out", "tokens_cached", "tokens_reasoning"):
        values[name] = values[name] or 0
    for name in ("provider", "model"):
        if not isinstance(values[name], str):
            raise ValueError(f"{name} is missing")
    return tuple(values[name] for name in _COLUMNS)


def _request(given: Any) -> str:
    """What was asked, as it is kept. Raises `ValueError` and its like for what nobody could read."""
    readable(given)
    return encode(given)


@dataclass(frozen=True, slots=True)
class Pruning:
    """What a pruning removes, and what it spares because a run that has not ended may ask for it again.

    `because` names those runs with their state; `removed` is what was really removed so far.
    """

    calls: int
    bytes: int
    spared: int
    because: tuple[str, ...]
    removed: int = 0


async def prune(
    pool: asyncpg.Pool[Any], before: datetime, *, unusable: bool = False, dry_run: bool = False,
    models: Mapping[str, str] | None = None,
) -> Pruning:  # fmt: skip
    """Removes answers older than `before` (`unusable`: only those of no use), a thousand at a time.

    Spares what a run that has not ended may need: what it has paid, and every answer of a model that one of its steps
    is bound to. `models` says what the names of bindings stand for ("judge" -> "openai:gpt-5"); while a run is bound to
    a name that is not among them, nothing goes.
    """
    runs, spared, unknown = await _unfinished(pool, models or {})
    arguments = (before, unusable, spared, [row["id"] for row in runs])
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        await connection.execute("set local statement_timeout = 0")
        counted = await connection.fetchrow(SQL["prunable"], *arguments)
    calls, kept, size = counted["calls"], counted["spared"], counted["bytes"]
    if unknown:
        calls, kept, size = 0, calls + kept, 0
    because = tuple(f"{row['name']} ({row['state']})" for row in runs) if kept else ()
    removed = 0
    while not dry_run and not unknown:
        gone = int((await pool.execute(SQL["prune"], *arguments)).split()[-1])
        removed += gone
        if not gone:
            break
        runs, spared, unknown = await _unfinished(pool, models or {})  # one may have begun meanwhile
        arguments = (before, unusable, spared, [row["id"] for row in runs])
    if not dry_run:
        await _prune_frames(pool)
    return Pruning(calls, size, kept, because, removed)


async def forget_requests(pool: asyncpg.Pool[Any], before: datetime, *, dry_run: bool = False) -> Pruning:
    """Removes what was asked from calls older than `before`, a thousand at a time; their answers stay, so no run needs
    it."""
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        await connection.execute("set local statement_timeout = 0")
        counted = await connection.fetchrow(SQL["askable"], before)
    removed, last = 0, None
    while not dry_run:
        gone = await pool.fetchrow(SQL["forget_requests"], before, last)
        removed, last = removed + gone["calls"], gone["last"]
        if last is None:
            await _prune_frames(pool)
            break
    return Pruning(counted["calls"], counted["bytes"], 0, (), removed)


async def _prune_frames(pool: asyncpg.Pool[Any]) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("set local statement_timeout = 0")
        await connection.execute(SQL["prune_frames"])


async def _unfinished(pool: asyncpg.Pool[Any], models: Mapping[str, str]) -> tuple[list[Any], list[str], list[str]]:
    """Runs that have not ended; the models that they are bound to, as "provider:model"; names nobody knows."""
    runs = await pool.fetch(SQL["unfinished"])
    known: set[str] = set()
    unknown: list[str] = []
    for run in runs:
        definition = json.loads(run["definition"])
        steps = definition.get("steps", ()) if isinstance(definition, dict) else ()
        specs = {str(step.get("model") or "extractive") for step in steps if isinstance(step, dict)}
        for spec in specs - {"extractive"}:
            full = models.get(spec, spec)
            (known.add if full.partition(":")[0] in PROVIDERS else unknown.append)(full)
    return runs, sorted(known), unknown
