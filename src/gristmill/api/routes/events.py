"""Live updates over three pipes with the same messages: WebSocket, server-sent events, polling."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, StreamingResponse

from gristmill.api.access import Access, Caller
from gristmill.api.frames import Frames, Told
from gristmill.api.live import Listener, Live
from gristmill.api.problems import Refused
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import LARGEST, Answer, Limit, OpenApp
from gristmill.db.database import RECONNECT
from gristmill.engine import events as recorded

router = new_router("live")
outside = APIRouter()  # a WebSocket has no route of the guarded kind: it guards itself
After = Annotated[int | None, Query(ge=0, le=LARGEST, description="`next` of the last message; none: from now on")]
OfRun = Annotated[int | None, Query(ge=1, le=LARGEST, description="only this run, and what belongs to no run")]
TOKEN_WITHIN = 5.0  # seconds for a first message with a token
LOOK_AGAIN = 30.0  # seconds after which a socket's right is checked anew
KEEP_ALIVE = 15.0  # seconds between two signs of life of a stream
MOST_SAID = 100  # messages a second that a client may send
NO_TOKEN, TOO_SLOW, GOING, TOO_LOUD = 4401, 4408, 1001, 1008  # codes of a close


class EventLog(Answer):
    """Events one by one. `next` is given as `after` for what follows, also when it is empty now."""

    items: list[EventEntry]
    next: int


class EventEntry(Told):
    run: int | None


EventLog.model_rebuild()


@router.get("/events", responses={200: {"model": Frames, "content": {"text/event-stream": {}}}})
async def events(
    request: Request, after: After = None, run: OfRun = None,
    wait: Annotated[float, Query(ge=0, le=30, description="seconds to wait for news, when polling")] = 0.0,
    accept: Annotated[str, Header(max_length=1000)] = "",
    last_event_id: Annotated[str | None, Header(max_length=30)] = None,
) -> Response:  # fmt: skip
    """What has happened since `after`, and how far runs are. With `Accept: text/event-stream` a stream that goes on."""
    live: Live = request.app.state.live
    if "text/event-stream" in accept:
        if last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit():
            after = min(int(last_event_id), LARGEST)
        headers = {"X-Accel-Buffering": "no"}
        return StreamingResponse(_stream(live, after, run), media_type="text/event-stream", headers=headers)
    async with live.listening(after, run) as listener:
        text = await listener.next(0.0)
        if wait and not _has_news(text, after):
            text = await listener.next(wait) or text
        told = json.loads(text) if text else {"frames": [], "next": live.seq if after is None else after}
        while (text := await listener.next(0.0)) is not None:
            more = json.loads(text)
            told = {"frames": told["frames"] + more["frames"], "next": more["next"]}
    return JSONResponse(told)


@router.get("/events/log")
async def event_log(
    app: OpenApp, after: Annotated[int, Query(ge=0, le=LARGEST)] = 0, run: OfRun = None,
    names: Annotated[list[Annotated[str, Query(max_length=100)]], Query(max_length=50)] = ["*"],  # noqa: B006
    limit: Limit = 100,
) -> EventLog:  # fmt: skip
    """Every event, one by one: `names` are names or patterns, such as item.*, of docs/reference/events.md."""
    patterns = recorded.check_patterns(names)
    found, at = await recorded.after(app.pool, after, run_id=run, names=patterns, limit=limit)
    entries = [
        EventEntry(
            seq=one.seq, name=one.name, at=one.at, item=one.item_id, task=one.task_id, worker=one.worker_id,
            body=one.body, run=one.run_id,
        )
        for one in found
    ]  # fmt: skip
    return EventLog(items=entries, next=at)


def _has_news(text: str | None, after: int | None) -> bool:
    """Whether a first message tells more than totals that were told before."""
    return text is not None and (after is None or json.loads(text)["next"] > after)


async def _stream(live: Live, after: int | None, run: int | None) -> AsyncIterator[str]:
    async with live.listening(after, run) as listener:
        yield "retry: 1000\n\n"
        while not listener.ended:
            text = await listener.next(KEEP_ALIVE)
            yield f"id: {json.loads(text)['next']}\ndata: {text}\n\n" if text else ": still here\n\n"


@outside.websocket("/api/ws")
async def socket(websocket: WebSocket) -> None:
    """Messages as text. A page of this server, or a program with a bearer token; others are refused before it opens.

    A page without a session sends {"token": "..."} within 5 seconds. Closes: 4401 not let in (any more), 4408 too slow,
    1001 the server ends; then ask again with `after`.
    """
    access: Access = websocket.app.state.access
    try:
        access.check_origin(websocket, needed="authorization" not in websocket.headers)
        after, run = (_number(websocket.query_params.get(name)) for name in ("after", "run"))
    except Refused:
        await websocket.close(1008)
        return
    caller = await _let_in(websocket, access)
    if caller is None:
        return
    live: Live = websocket.app.state.live
    try:
        async with live.listening(after, run) as listener:
            await _serve(websocket, access, listener)
    except (*RECONNECT, WebSocketDisconnect, Refused):
        with suppress(RuntimeError):
            await websocket.close(1013)  # ask again later


async def _let_in(websocket: WebSocket, access: Access) -> Caller | None:
    try:
        caller = await access.identify(websocket)
        await websocket.accept()
        return caller
    except Refused as refused:
        if refused.status == 429 or "authorization" in websocket.headers:
            await websocket.close(1008)
            return None
    await websocket.accept()
    try:
        async with asyncio.timeout(TOKEN_WITHIN):
            said = await websocket.receive_text()
        token = json.loads(said)["token"]
        websocket.state.token = token
        return await access.identify(websocket, str(token))
    except (Refused, TimeoutError, ValueError, KeyError, TypeError):
        await websocket.close(NO_TOKEN)
    except WebSocketDisconnect:
        pass
    return None


async def _serve(websocket: WebSocket, access: Access, listener: Listener) -> None:
    """Sends until the client leaves, says too much, loses its right, or is too slow."""
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(_send(websocket, listener))
        hearing = tasks.create_task(_hear(websocket))
        checking = tasks.create_task(_check(websocket, access))
        too_slow = tasks.create_task(_watch(listener))
        both = (sending, hearing, checking, too_slow)
        done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        code = next((task.result() for task in both if task in done and not task.cancelled()), None)
    if code is not None:
        with suppress(RuntimeError, TimeoutError):
            async with asyncio.timeout(1):
                await websocket.close(code)


async def _send(websocket: WebSocket, listener: Listener) -> int:
    while (text := await listener.next()) is not None:
        await websocket.send_text(text)
    return TOO_SLOW if listener.ended == "slow" else GOING


async def _watch(listener: Listener) -> int:
    """A client that takes nothing holds `_send` up for ever; this notices."""
    await listener.over.wait()
    await asyncio.sleep(0)  # who can still send says why
    return TOO_SLOW if listener.ended == "slow" else GOING


async def _hear(websocket: WebSocket) -> int | None:
    """Nothing that a client says matters, only how much of it."""
    since, said = time.monotonic(), 0
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        if time.monotonic() - since > 1:
            since, said = time.monotonic(), 0
        said += 1
        if said > MOST_SAID:
            return TOO_LOUD


async def _check(websocket: WebSocket, access: Access) -> int:
    while True:
        await asyncio.sleep(LOOK_AGAIN)
        with suppress(*RECONNECT):
            try:
                await access.identify(websocket, getattr(websocket.state, "token", None))
            except Refused:
                return NO_TOKEN


def _number(text: Any) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text) <= LARGEST):
        raise Refused(422, "not a number", code="A422")
    return int(text)
