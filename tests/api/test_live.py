"""Live updates: the same messages over three pipes, nothing lost, nothing twice, no listener in another's way."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from gristmill.api import tokens
from gristmill.api.frames import Message
from gristmill.api.live import Listener, Live
from gristmill.db.database import transaction
from gristmill.engine import workflow
from gristmill.engine.workflow import NewRun
from tests.api.conftest import Api


@asynccontextmanager
async def listen(api: Api, after: int | None = None, **more: Any) -> AsyncIterator[ClientConnection]:
    query = "" if after is None else f"?after={after}"
    url = api.url.replace("http", "ws") + "/api/ws" + query
    async with websockets.connect(url, **{"origin": api.url, "compression": None, **more}) as opened:
        yield opened


async def close_code(socket: ClientConnection) -> int | None:
    """The code with which the server closes it."""
    async with asyncio.timeout(10):
        with suppress(websockets.ConnectionClosed):
            while True:
                await socket.recv()
    return socket.close_code


async def start(api: Api, name: str) -> int:
    """A run without steps that stays open."""
    async with transaction(api.app.pool) as connection:
        made = NewRun(name, name, (), {}, None, "default")
        return (await workflow.find_or_create(connection, made, fresh=True))[0]


async def told(api: Api, name: str, run: int | None = None, **body: Any) -> None:
    await api.app.pool.execute(
        "insert into event_inbox (name, run_id, body) values ($1, $2, $3)", name, run, json.dumps(body)
    )


def events_in(message: dict[str, Any]) -> list[tuple[int, str]]:
    """Events of a message, with their place in the one order."""
    found = []
    for frame in message["frames"]:
        inner = frame["data"]["events"] if frame["kind"] == "run" else [frame["data"]]
        found += [(one["seq"], one["name"]) for one in inner]
    return sorted(found)


async def test_a_change_arrives_by_itself(api: Api) -> None:
    async with listen(api) as socket:
        run = await start(api, "qa")
        seen: list[str] = []
        async with asyncio.timeout(5):
            while "run.start" not in seen:
                message = json.loads(await socket.recv())
                seen += [name for _, name in events_in(message)]
        frame = next(one for one in message["frames"] if one["kind"] == "run")
        assert frame["run"] == run
        assert frame["data"]["name"].startswith("qa")
        assert frame["data"]["totals"] == {"waiting": 0, "running": 0, "done": 0, "failed": 0}


async def test_totals_follow_the_counters(api: Api) -> None:
    run = await start(api, "qa")
    await api.app.pool.execute(
        "insert into step (run_id, ordinal, name, kind, pool) values ($1, 0, 'ask', 'ask', 'model')", run
    )
    async with listen(api) as socket:
        for done in range(1, 4):
            await api.app.pool.execute("insert into counter_delta values ($1, 0, 'completed', 5)", run)
            async with asyncio.timeout(5):
                while True:
                    frames = json.loads(await socket.recv())["frames"]
                    totals = [one["data"]["totals"]["done"] for one in frames if one["run"] == run]
                    if totals and totals[-1] == 5 * done:
                        break


@pytest.mark.parametrize("pipe", ["socket", "stream", "poll"])
async def test_a_connection_that_breaks_at_random_loses_nothing_and_repeats_nothing(api: Api, pipe: str) -> None:
    dice = random.Random(7)
    total, seen, at = 120, list[tuple[int, str]](), 0
    run = await start(api, "qa")

    async def act() -> None:
        for number in range(total):
            await told(api, ("worker.started", "pool.changed", "run.pause", "item.end")[number % 4], run, n=number)
            await asyncio.sleep(dice.random() * 0.01)

    async def by_socket() -> int:
        async with listen(api, at) as socket:
            for _ in range(dice.randrange(1, 4)):
                if len(seen) >= wanted:
                    break
                message = json.loads(await socket.recv())
                seen.extend(events_in(message))
                nonlocal_at[0] = message["next"]
            if dice.random() < 0.5:
                socket.transport.abort()  # without a word, perhaps in the middle of a message
        return nonlocal_at[0]

    async def by_stream() -> int:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(at)}
        left = dice.randrange(1, 4)
        async with api.stream("GET", "/api/events", headers=headers) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    message = json.loads(line[6:])
                    seen.extend(events_in(message))
                    nonlocal_at[0] = message["next"]
                    left -= 1
                if not left or len(seen) >= wanted:
                    break
        return nonlocal_at[0]

    async def by_poll() -> int:
        message = await api.json(f"/api/events?after={at}&wait={dice.choice([0, 0.1])}")
        seen.extend(events_in(message))
        return int(message["next"])

    nonlocal_at = [at]
    take = {"socket": by_socket, "stream": by_stream, "poll": by_poll}[pipe]
    acting = asyncio.create_task(act())
    wanted = 1 + total * 3 // 4  # the start of the run; ends of items are told as totals
    async with asyncio.timeout(60):
        while len(seen) < wanted:
            nonlocal_at[0] = at
            at = await take()
    await acting
    rows = await api.app.pool.fetch("select seq, name from event where name not like 'item.%' order by seq")
    assert seen == [tuple(row) for row in rows]


async def test_a_run_gets_four_frames_a_second_however_much_happens(api: Api) -> None:
    run = await start(api, "qa")
    busy = True

    async def act() -> None:
        while busy:
            await told(api, random.choice(["run.pause", "run.resume", "item.end"]), run)
            await asyncio.sleep(0.003)

    acting = asyncio.create_task(act())
    times: list[float] = []
    loop = asyncio.get_running_loop()
    async with listen(api) as socket:
        until = loop.time() + 1.6
        while loop.time() < until:
            message = json.loads(await socket.recv())
            times += [loop.time() for one in message["frames"] if one["kind"] == "run" and one["run"] == run]
    busy = False
    await acting
    times = times[1:]  # the first says how things are when one comes
    assert len(times) >= 4
    for first, fifth in zip(times, times[4:], strict=False):
        assert fifth - first > 0.9  # they leave a second apart; on the way one may be late


async def test_a_cursor_of_another_database_begins_anew(api: Api) -> None:
    await start(api, "qa")
    message = await api.json("/api/events?after=1000000")
    assert [one["kind"] for one in message["frames"]] == ["reset"]
    assert message["next"] < 10


async def test_a_listener_of_one_run_hears_of_no_other(api: Api) -> None:
    mine, other = await start(api, "mine"), await start(api, "other")
    for number in range(3):
        await told(api, "run.pause", mine if number % 2 else other)
        await told(api, "limit.spent", None)
    message = await api.json(f"/api/events?after=0&run={mine}")
    assert {one["run"] for one in message["frames"]} == {mine, None}
    assert [name for _, name in events_in(message)].count("run.pause") == 1
    assert [name for _, name in events_in(message)].count("limit.spent") == 3


async def test_a_listener_that_takes_nothing_is_dropped_and_holds_nobody_up(api: Api) -> None:
    slow, quick = Listener(None, None), Listener(None, None)
    for listener in (slow, quick):
        listener.begin(Message([], 0))
    for number in range(40):
        message = Message([{"seq": number, "kind": "event", "run": None, "data": "x" * 50_000}], number)
        for listener in (slow, quick):
            listener.offer(message)
        assert await quick.next() is not None
    assert slow.ended == "slow"
    assert await slow.next() is None
    assert not quick.ended


async def test_a_client_that_does_not_read_is_cut_off(api: Api) -> None:
    async with listen(api, max_queue=1, close_timeout=1) as deaf, listen(api) as well:
        live = api.server.config.app.state.live  # type: ignore[union-attr]
        async with asyncio.timeout(5):
            while len(live.listeners) < 2:
                await asyncio.sleep(0.01)
        deaf.transport.pause_reading()
        async with asyncio.timeout(20):
            while len(live.listeners) == 2:
                await told(api, "pool.changed", None, what="x" * 200_000)
                await well.recv()
        deaf.transport.abort()


async def test_the_reader_rests_when_nobody_listens(api: Api) -> None:
    live: Live = api.server.config.app.state.live  # type: ignore[union-attr]
    assert live._task is None
    async with listen(api):
        assert live._task is not None
        assert not live._task.done()
    async with asyncio.timeout(5):
        while live.listeners:
            await asyncio.sleep(0.01)


async def refused(api: Api, **more: Any) -> int:
    with pytest.raises(websockets.InvalidStatus) as error:
        async with listen(api, **more):
            pass
    return error.value.response.status_code


async def test_a_socket_is_opened_for_pages_of_this_server_only(api: Api) -> None:
    for origin in ("https://evil.example", "null", api.url + "1", None):
        assert await refused(api, origin=origin) == 403, origin
    assert await refused(api, after=-1) == 403
    secret = await tokens.add(api.app.pool, "anna", "viewer", by="test")
    async with listen(api, origin=None, additional_headers={"Authorization": f"Bearer {secret}"}):
        pass
    assert await refused(api, origin=None, additional_headers={"Authorization": "Bearer wrong"}) == 403


async def test_a_socket_without_a_login_says_its_token_first_or_is_closed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.api.routes.events.TOKEN_WITHIN", 0.2)
    secret = await tokens.add(api.app.pool, "anna", "viewer", by="test")
    await start(api, "qa")
    async with listen(api) as socket:
        await socket.send(json.dumps({"token": secret}))
        assert json.loads(await socket.recv())["frames"]
    for said in ('{"token": "wrong"}', "no json", '{"token": {}}', "[]", None):
        async with listen(api) as socket:
            if said is not None:
                await socket.send(said)
            assert await close_code(socket) == 4401, said


async def test_a_socket_closes_when_its_token_is_taken_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gristmill.api.routes.events.LOOK_AGAIN", 0.1)
    secret = await tokens.add(api.app.pool, "anna", "viewer", by="test")
    await tokens.add(api.app.pool, "bert", "viewer", by="test")
    async with listen(api, origin=None, additional_headers={"Authorization": f"Bearer {secret}"}) as socket:
        await tokens.remove(api.app.pool, "anna")
        assert await close_code(socket) == 4401


async def test_who_says_too_much_is_cut_off(api: Api) -> None:
    async with listen(api) as socket:
        with suppress(websockets.ConnectionClosed):
            for _ in range(300):
                await socket.send("chatter")
        assert await close_code(socket) == 1008


async def test_sockets_are_told_when_the_server_ends(api: Api) -> None:
    async with listen(api) as socket:
        api.server.should_exit = True
        assert await close_code(socket) in (1001, 1012, 1013)
