"""Serving: checks that nobody is let in by accident, and runs until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import uvicorn

from gristmill.api.access import SQL, is_loopback
from gristmill.api.application import asgi
from gristmill.api.tokens import take_setting
from gristmill.app import App
from gristmill.db.database import RECONNECT
from gristmill.errors import DatabaseProblem, EnvironmentProblem

LARGEST_MESSAGE = 2**20  # bytes of what a socket may say at once


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is served."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"


class Server(uvicorn.Server):
    """A server that closes its sockets in order when it is told to stop."""

    def __init__(self, config: uvicorn.Config, before_end: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._before_end = before_end

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end it in order, and the process goes on behind it; the second Ctrl-C waits for nobody."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells everybody who listens that it ends, then waits for the requests under way."""
        await self._before_end()
        await super().shutdown(sockets)


async def check_place(app: App, host: str) -> None:
    """Raises `EnvironmentProblem` E141 for an address that others can reach, while nothing guards the API; E142 when
    the token of the settings is not there."""
    await take_setting(app.pool, app.settings.api_token)
    if not is_loopback(host) and not await app.pool.fetchval(SQL["guarded"]):
        raise EnvironmentProblem(
            f"{host} can be reached from elsewhere, and there is no token yet", code="E141", safe="nothing was opened",
            hint="gristmill token add NAME --role admin, or setting api_token; or serve on 127.0.0.1, which needs none",
        )  # fmt: skip


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `EnvironmentProblem` E140 when the port is taken or the address is not ours."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen(1024)
        except OSError:
            opened.close()
            raise
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot serve on {host}:{port}: {error.strerror or error}", code="E140",
            hint="choose another port: --port 0 takes a free one", safe="nothing was opened",
        ) from error  # fmt: skip
    opened.setblocking(False)
    return opened


async def serve(
    app: App, *, host: str | None = None, port: int | None = None, on_ready: Callable[[Place], None] = lambda _: None
) -> None:  # fmt: skip
    """Serves the API and the page until SIGTERM or Ctrl-C; `app` is open. Host and port: else the settings'.

    `on_ready` hears where, when requests are taken. Raises `EnvironmentProblem` E140 (cannot listen there), E141
    (others could reach it, and there is no token), E142 (the token of the settings is not there).
    """
    host = host if host is not None else app.settings.api_host
    port = port if port is not None else app.settings.api_port
    await check_place(app, host)
    with serving(app, host, port) as (server, sockets, place):
        keeping = asyncio.create_task(keep(app))
        try:
            on_ready(place)
            await server.serve(sockets=sockets)
        finally:
            keeping.cancel()


async def keep(app: App, every: float = 1.0) -> None:
    """Starts the embedded database again when it was killed, and forgets what is older than `keep_history`."""
    tidy_at = 0.0
    while True:
        try:
            await app.pool.fetchval("select 1", timeout=10)
            if time.monotonic() > tidy_at:
                await app.pool.execute(SQL["forget_old"], app.settings.keep_history)
                tidy_at = time.monotonic() + 3600
        except RECONNECT:
            with suppress(DatabaseProblem):
                await app.revive()
        await asyncio.sleep(every)


@contextmanager
def serving(app: App, host: str, port: int) -> Iterator[tuple[Server, list[socket.socket], Place]]:
    """A server that listens already and takes requests when it is run. Raises `EnvironmentProblem` E140."""
    opened = listen(host, port)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # else it tells of every socket that opens
    try:
        api = asgi(app)
        config = uvicorn.Config(
            api, log_config=None, access_log=False, lifespan="off", proxy_headers=False, server_header=False,
            ws="websockets-sansio", ws_max_size=LARGEST_MESSAGE, ws_per_message_deflate=False, timeout_keep_alive=30,
            timeout_graceful_shutdown=5, h11_max_incomplete_event_size=64 * 1024,
        )  # fmt: skip
        yield Server(config, api.state.live.close), [opened], Place(*opened.getsockname()[:2])
    finally:
        opened.close()
