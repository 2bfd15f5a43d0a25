"""A real HTTP server on loopback whose answers a test writes as a function of the request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """What the server says. `pause` is waited for, in the middle of the body, when there is one."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: threading.Event | None = None


@dataclass
class Server:
    url: str
    asked: list[tuple[str, bytes]] = field(default_factory=list)  # path and body of each request
    headers: list[dict[str, str]] = field(default_factory=list)  # of each request, names in lower case


@contextmanager
def serving(answer: Callable[[str, bytes], Answer]) -> Iterator[Server]:
    """`answer(path, body)` is called for each request, in a thread of its own."""
    asked: list[tuple[str, bytes]] = []
    headers: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            asked.append((self.path, body))
            headers.append({name.lower(): text for name, text in self.headers.items()})
            given = answer(self.path, body)
            self.send_response(given.status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(given.body)))
            self.end_headers()
            try:
                self.wfile.write(given.body[: len(given.body) // 2])
                self.wfile.flush()
                if given.pause is not None:
                    given.pause.wait(10)
                self.wfile.write(given.body[len(given.body) // 2 :])
            except OSError:
                pass  # the client has left: some tests are about that

        do_POST = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing to standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_address[1]}", asked, headers)
    finally:
        server.shutdown()
        server.server_close()
