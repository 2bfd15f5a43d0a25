"""What people want of a crew, from the command line or the API: durable, told as events, and done by its supervisor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import asyncpg

from gristmill.crew.places import API, SQL, CrewRow, Place, crews, full, places
from gristmill.db.database import transaction
from gristmill.engine import fleet
from gristmill.errors import UsageError

Pool: TypeAlias = "asyncpg.Pool[Any]"
Verb: TypeAlias = Literal["start", "stop", "now", "drain", "restart", "pause", "resume", "blacklist", "reset"]
VERBS: tuple[Verb, ...] = ("start", "stop", "now", "drain", "restart", "pause", "resume", "blacklist", "reset")


@dataclass(frozen=True, slots=True)
class Told:
    """What an order did to one place: `changed`, or `refused` with the reason; neither: it was so already."""

    place: str
    changed: bool
    refused: str = ""


async def find_crew(database: Pool, name: str) -> CrewRow:
    """The crew of that name. Raises `UsageError` U341 when the database has never heard of it."""
    known = await crews(database)
    for crew in known:
        if crew.name == name:
            return crew
    raise UsageError(
        f'there is no crew "{name}"', code="U341", safe="nobody was told anything",
        hint=fleet.nearest(name, [crew.name for crew in known]) or "start it: gristmill up",
    )  # fmt: skip


async def chosen(database: Pool, crew: str, names: Sequence[str], *, everyone: bool = False) -> list[Place]:
    """The places that the names mean: a place ("parse-2"), or a spec, which means all of its places.

    `everyone`: all workers. Raises `UsageError` U342 for a name that fits none.
    """
    await find_crew(database, crew)
    known = await places(database, crew)
    if everyone:
        return [place for place in known if place.kind != API]
    found: dict[str, Place] = {}
    for name in names:
        fits = [place for place in known if name in (place.name, place.spec)]
        if not fits:
            raise UsageError(
                f'the crew has no worker "{name}"', code="U342", safe="nobody was told anything",
                hint=fleet.nearest(name, {text for place in known for text in (place.name, place.spec)})
                or "there is none: gristmill up starts those of gristmill.toml",
            )  # fmt: skip
        found |= {place.name: place for place in fits}
    return [found[name] for name in sorted(found)]


async def order(database: Pool, crew: str, verb: Verb, names: Iterable[str], *, by: str) -> list[Told]:
    """Gives an order to places by name; the supervisor carries it out within half a second, or when there is one.

    `start`: refused for what is disabled or blacklisted, and when the crew is full. `stop`: finishes what is under way,
    SIGKILL after the grace; `now` gives it back at once; `drain` is never killed. `restart`: stop, then start. `pause`
    and `resume` also hold for processes started later. `blacklist`: stopped, and not started until `reset`, which also
    forgets its deaths.
    """
    return [await _order(database, crew, verb, name, by) for name in sorted(set(names))]


async def _order(database: Pool, crew: str, verb: Verb, name: str, by: str) -> Told:
    async with transaction(database) as connection:
        row = await connection.fetchrow(SQL["lock_crew"], crew)
        place = await connection.fetchrow(SQL["lock_place"], crew, name)
        if row is None or place is None:
            return Told(name, False, "it is gone")
        change, refused = _change(verb, place)
        if change:
            await connection.execute(SQL["change_place"], crew, name, json.dumps(change), verb, by)
        begins = verb == "start" and not refused and place["state"] == "idle"
        if begins and await connection.fetchval(SQL["call_up"], crew, name) is None:
            refused = full(row["most"])
            change = {"wanted": False, "cause": refused}
            await connection.execute(SQL["change_place"], crew, name, json.dumps(change), verb, by)
        nonce = place["nonce"]
    if verb in ("pause", "resume") and nonce is not None:
        worker = await database.fetchval(SQL["worker_of"], nonce)
        if worker is not None:
            await fleet.order(database, verb, [worker], by=by)
    return Told(name, bool(change) and not refused, refused)


def _change(verb: Verb, place: Any) -> tuple[dict[str, Any], str]:
    """The columns that an order changes, and why it is refused."""
    runs = place["state"] in ("due", "starting", "running")
    match verb:
        case "start":
            if not place["enabled"]:
                return {}, f"refused: disabled in the settings: [workers.{place['spec']}] enabled = true"
            if place["blacklisted"]:
                return {}, f"refused: it is blacklisted ({place['cause']}): gristmill worker reset {place['name']}"
            if place["state"] == "stopping":
                return {"wanted": True, "again": True}, ""
            return ({} if runs and place["wanted"] else {"wanted": True, "restarts": place["restarts"]}), ""
        case "stop" | "now" | "drain":
            known = not place["wanted"] and (place["ending"] == verb or place["state"] == "idle")
            return ({} if known else {"wanted": False, "again": False, "ending": verb, "cause": None}), ""
        case "restart":
            if place["state"] in ("running", "stopping"):
                return {"again": True, "wanted": True, "ending": "stop"}, ""
            return {}, "" if runs else "refused: it does not run: gristmill worker start"
        case "pause" | "resume":
            return ({} if place["paused"] == (verb == "pause") else {"paused": verb == "pause"}), ""
        case "blacklist":
            return ({} if place["blacklisted"] else {"blacklisted": True, "ending": "stop", "cause": "by a person"}), ""
        case "reset":
            forgotten = place["blacklisted"] or place["restarts"] or place["deaths"]
            return ({"blacklisted": False, "restarts": 0, "wanted": True, "cause": None} if forgotten else {}), ""


async def scale(database: Pool, crew: str, spec: str, count: int | None, *, by: str) -> None:
    """So many workers of a kind instead of what the settings say, until it is changed; None: as the settings say.

    Raises `UsageError` U341 for a crew that is not known, U343 for a count out of range or a kind that is not there.
    """
    row = await find_crew(database, crew)
    if count is not None and (type(count) is not int or not 0 <= count <= 100):
        raise UsageError(f"{count!r} workers cannot be", code="U343", hint="a whole number from 0 to 100")
    known = {place.spec for place in await places(database, crew) if place.kind != API} | set(row.scale)
    if spec not in known:
        raise UsageError(
            f'no kind of worker is called "{spec}"', code="U343", safe="nobody was told anything",
            hint=fleet.nearest(spec, known) or "kinds are made in gristmill.toml: [workers.NAME]",
        )  # fmt: skip
    await database.execute(SQL["scale_crew"], crew, spec, count, by)


async def ask_to_stop(database: Pool, crew: str, *, at_once: bool = False) -> bool:
    """Asks the supervisor to end everything and itself. False when it was asked already, or there is none."""
    return await database.fetchval(SQL["ask_crew"], crew, "now" if at_once else "stop") is not None
