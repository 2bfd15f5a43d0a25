"""gristmill metrics: the numbers of the whole fleet, once or for a Prometheus server."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gristmill.cli import options
from gristmill.errors import ConfigurationError, EnvironmentProblem, UsageError

if TYPE_CHECKING:
    import asyncpg

KEPT = 1.0  # seconds for which one answer serves everybody who asks
PATIENCE = 5.0  # seconds for a request to arrive


@click.command(name="metrics")
@click.option("--serve", metavar="[HOST:]PORT", help="Serve them at /metrics; without a host only on this machine.")
@click.option(
    "--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the bearer token that requests must bring; needed for any host but this machine.",
)  # fmt: skip
@options.home
@options.as_json
def command(serve: str | None, token_file: Path | None, home: Path | None, as_json: bool) -> None:
    """The numbers of all workers, running or gone, in Prometheus form."""
    options.call(_print(home, as_json) if serve is None else _serve(home, *_address(serve), _token(token_file, serve)))


def _address(text: str) -> tuple[str, int]:
    """Host and port of `9464`, `127.0.0.1:9464` or `[::1]:9464`. Raises `UsageError` U142."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise UsageError(f"--serve {text}: {port!r} is no port", code="U142", hint="--serve 9464 or --serve HOST:9464")
    return host, int(port)


def _token(file: Path | None, serve: str) -> str:
    """The token of the file, or nothing where only this machine can ask. Raises `ConfigurationError` U143, U144."""
    if file is not None:
        token = file.read_text().strip()
        if len(token) < 16:
            raise ConfigurationError(f"the token in {file} is shorter than 16 characters", code="U144",
                                     hint="make one: openssl rand -hex 32")  # fmt: skip
        return token
    host, _ = _address(serve)
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ConfigurationError(
            f"--serve {serve}: others could read the names of your pools and operators", code="U143",
            hint="give --token-file FILE, or serve on 127.0.0.1", safe="nothing was opened",
        )  # fmt: skip
    return ""


async def _print(home: Path | None, as_json: bool) -> int:
    from gristmill.engine import scrape

    async with options.open_app(home, workers=0) as app, app.pool.acquire() as connection:
        if as_json:
            families = (await scrape.scrape(connection)).collect()
            samples = [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]
            options.print_json(
                "metrics", samples=[dict(zip(("name", "labels", "value"), s, strict=True)) for s in samples]
            )
        else:
            click.echo((await scrape.text(connection))[0].decode(), nl=False)
    return 0


async def _serve(home: Path | None, host: str, port: int, token: str) -> int:
    async with options.open_app(home, workers=0) as app:
        page = Page(app.pool, token)
        try:
            server = await asyncio.start_server(page.answer, host, port, limit=16_384)
        except OSError as error:
            raise EnvironmentProblem(
                f"cannot serve on {host}:{port}: {error.strerror or error}", code="E140",
                hint="choose another port: --serve PORT", safe="nothing was opened",
            ) from error  # fmt: skip
        async with server:
            for socket in server.sockets:
                address = socket.getsockname()
                name = f"[{address[0]}]" if ":" in address[0] else address[0]
                options.say(f"http://{name}:{address[1]}/metrics")
            await _until_told()
    return 0


async def _until_told() -> None:
    """Returns at SIGTERM or Ctrl-C."""
    import signal

    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()


class Page:
    """Answers GET /metrics over HTTP/1.1, one request a connection. The database is read once a second at most."""

    def __init__(self, pool: asyncpg.Pool[Any], token: str) -> None:
        self._pool = pool
        self._token = token
        self._reading = asyncio.Lock()
        self._kept: dict[str, tuple[float, bytes, str]] = {}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its request to its end; nothing that a client does is an error of ours."""
        try:
            async with asyncio.timeout(PATIENCE):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, body, kind = await self._respond(head)
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n".encode()
            )
            if not head.startswith("HEAD "):
                writer.write(body)
            async with asyncio.timeout(PATIENCE):
                await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError):  # it left, was too slow, or said too much
            pass
        finally:
            writer.close()

    async def _respond(self, head: str) -> tuple[str, bytes, str]:
        plain = "text/plain; charset=utf-8"
        request, *lines = head.split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, _, rest = request.partition(" ")
        if rest.split(" ")[0].split("?")[0] != "/metrics":
            return "404 Not Found", b"there is only /metrics\n", plain
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed\r\nAllow: GET, HEAD", b"", plain
        if self._token and not _same(headers.get("authorization", ""), f"Bearer {self._token}"):
            return "401 Unauthorized\r\nWWW-Authenticate: Bearer", b"a bearer token is needed\n", plain
        try:
            return "200 OK", *await self._read(headers.get("accept", ""))
        except Exception as error:  # whatever is wrong with the database today: the next request finds out anew
            return "503 Service Unavailable", f"the database does not answer: {type(error).__name__}\n".encode(), plain

    async def _read(self, accept: str) -> tuple[bytes, str]:
        from gristmill.engine import scrape

        loop = asyncio.get_running_loop()
        accept = "application/openmetrics-text" if "application/openmetrics-text" in accept else ""
        async with self._reading:
            at, body, kind = self._kept.get(accept, (0.0, b"", ""))
            if not body or loop.time() - at > KEPT:
                async with self._pool.acquire(timeout=PATIENCE) as connection:
                    body, kind = await scrape.text(connection, accept)
                self._kept[accept] = (loop.time(), body, kind)
        return body, kind


def _same(given: str, expected: str) -> bool:
    import secrets

    return secrets.compare_digest(given.encode(), expected.encode())
