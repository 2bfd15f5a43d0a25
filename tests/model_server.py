"""A scripted model behind a real HTTP server: `python -m tests.model_server --port 0 --latency 0.2`.

It prints {"port": N} on stdout and speaks chat completions, responses, Anthropic's messages, Gemini and embeddings
below /v1, also as streams, and batches. Answers are made from the request alone: the same question always gets the
same answer. POST /control changes its settings (a JSON object of fields of `Settings`, or {"reset": true}), GET /stats
says what it was asked, GET /last the last request that it got. Faults are rules:

    {"kind": "error", "status": 500, "every": 10}        each tenth request
    {"kind": "cut", "fraction": 0.05}                    the requests whose hash says so, each time they come
    {"kind": "error", "fraction": 0.1, "once": true}     the same, but only the first time each of them comes
    {"kind": "rate", "first": 3, "retry_after": "1"}     the first three requests

On the command line: `--fault kind=error,fraction=0.1,once=1`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import struct
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tests.model_answers import Question, answer, decorate
from tests.model_batches import BatchShelf
from tests.model_protocols import Protocol, Said, protocol_of, shortened

SHAPES = ("plain", "prose", "fence", "think", "nul", "surrogate")
FORMATS = ("json_schema", "json_object", "tool", "text")


@dataclass
class Settings:
    latency: float = 0.0  # seconds before every answer
    key: str = ""  # answer 401 unless the bearer token is this
    requests_per_minute: int = 0  # answer 429 beyond it, counted over the last `window` seconds; 0 is no limit
    tokens_per_minute: int = 0  # the same for tokens of the question and the answer
    window: float = 60.0  # seconds: how long the server's minute is
    tell_limits: bool = False  # say in headers how much is left
    shape: str = "plain"  # one of SHAPES: what stands around the JSON
    formats: tuple[str, ...] = FORMATS  # answer 400 to a response_format that is not among them
    reasoning: str = ""  # what the model says that it thought
    pause: float = 0.0  # seconds between two events of a stream
    batch_seconds: float = 0.0  # how long a batch takes
    batch_fault: dict[str, Any] = field(default_factory=dict)  # what goes wrong in batches: tests/model_batches.py
    echo_key: bool = False  # put the Authorization header into every answer and error
    faults: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Stats:
    requests: int = 0
    answered: int = 0  # complete, well-formed answers with status 200
    by_status: Counter[str] = field(default_factory=Counter)
    bodies: Counter[str] = field(default_factory=Counter)  # served with 200, by hash of the request's body
    seen: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    active: int = 0
    max_active: int = 0

    def public(self) -> dict[str, Any]:
        return {
            "requests": self.requests, "answered": self.answered, "by_status": dict(self.by_status),
            "unique": len(self.bodies), "served": sum(self.bodies.values()),
            "repeated": sum(count - 1 for count in self.bodies.values() if count > 1),
            "faults": dict(self.faults), "max_active": self.max_active, "active": self.active,
        }  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One request to the model."""

    protocol: Protocol
    path: str
    headers: dict[str, str]
    raw: bytes
    stats: Stats  # of the time when it came: one that a reset left behind must not be counted in the new figures

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()

    @cached_property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.raw)
        return body

    @cached_property
    def question(self) -> Question:
        return self.protocol.question(self.body)

    @property
    def key(self) -> str:
        return self.headers.get(self.protocol.key_header, "").removeprefix("Bearer ")

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream")) or "streamGenerateContent" in self.path

    def error(self, status: int, message: str, code: str) -> dict[str, Any]:
        return self.protocol.error(status, message, code)


class ModelServer:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stats = Stats()
        self.last: dict[str, Any] = {}
        self.batches = BatchShelf(self)
        self.recent: deque[tuple[float, int]] = deque()  # when, and how many tokens

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection with any number of requests."""
        try:
            while (request := await _read_request(reader)) is not None:
                if not await self.respond(*request, writer):
                    return
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def respond(
        self, method: str, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        """Writes one response; False when the connection must not be used again."""
        if path == "/stats":
            writer.write(_response(200, {**self.stats.public(), **self.batches.public()}))
        elif path == "/last":
            writer.write(_response(200, self.last))
        elif path == "/control" and method == "POST":
            self.control(json.loads(body))
            writer.write(_response(200, {"settings": dataclasses.asdict(self.settings)}))
        elif method == "POST" and (protocol := protocol_of(path)) is not None:
            stats = self.stats  # a reset meanwhile must not count this request as ended in the new figures
            stats.active += 1
            stats.max_active = max(stats.max_active, stats.active)
            try:
                return await self.complete(Call(protocol, path, headers, body, stats), writer)
            finally:
                stats.active -= 1
        else:
            return self.batched(method, path, body, writer)
        return True

    def batched(self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        told = self.batches.answer(method, path, body)
        if told is None:
            writer.transport.abort()
            return False
        status, document = told
        writer.write(
            _response(status, {"error": {"message": f"no such path: {path}"}} if document is None else document)
        )
        return True

    def control(self, change: dict[str, Any]) -> None:
        if change.pop("reset", False):
            self.settings, self.stats = Settings(), Stats()
            self.recent.clear()
            self.batches = BatchShelf(self)
        self.settings = dataclasses.replace(self.settings, **change)

    async def complete(self, call: Call, writer: asyncio.StreamWriter) -> bool:
        stats, settings = self.stats, self.settings
        stats.requests += 1
        self.last = {"path": call.path, "headers": call.headers, "body": call.body}
        stats.seen[call.digest] += 1
        number, times = stats.requests, stats.seen[call.digest]
        refused = self.refusal(call)
        if settings.latency:
            await asyncio.sleep(settings.latency)
        if refused is not None:
            return self.send(writer, *refused)
        fault = self.pick_fault(number, call.digest, times)
        if fault is not None:
            stats.faults[fault["kind"]] += 1
            return await self.misbehave(fault, call, writer)
        stats.answered += 1
        return await self.send_answer(writer, call, self.said(call))

    def refusal(self, call: Call) -> tuple[int, Any, dict[str, str]] | None:
        settings = self.settings
        if settings.key and call.key != settings.key:
            shown = call.key if settings.echo_key else "..."
            return 401, call.error(401, f"Incorrect API key provided: {shown}", "invalid_api_key"), {}
        if (settings.requests_per_minute or settings.tokens_per_minute) and (refused := self.over_quota(call)):
            return refused
        try:
            form = call.question.format
        except (ValueError, LookupError, TypeError) as error:
            return 400, call.error(400, f"{type(error).__name__}: {error}", "invalid_request_error"), {}
        if form not in settings.formats:
            return 400, call.error(400, call.protocol.unsupported(form), "invalid_request_error"), {}
        return None

    def over_quota(self, call: Call) -> tuple[int, Any, dict[str, str]] | None:
        """Counts the request over a sliding window; what is refused is not counted."""
        settings, now = self.settings, time.monotonic()
        while self.recent and self.recent[0][0] <= now - settings.window:
            self.recent.popleft()
        tokens = sum(self.tokens(call)) if settings.tokens_per_minute else 0
        used = sum(taken for _, taken in self.recent)
        for what, over in (
            ("requests", settings.requests_per_minute and len(self.recent) >= settings.requests_per_minute),
            ("tokens", settings.tokens_per_minute and used + tokens > settings.tokens_per_minute),
        ):
            if over:
                wait = f"{self.recent[0][0] + settings.window - now:.3f}"
                error = call.error(429, f"{what} per minute", "rate_limited")
                return 429, error, {"retry-after": wait, **self.limits()}
        self.recent.append((now, tokens))
        return None

    def limits(self) -> dict[str, str]:
        settings = self.settings
        if not settings.tell_limits or not settings.requests_per_minute:
            return {}
        left = settings.requests_per_minute - len(self.recent)
        return {
            "x-ratelimit-limit-requests": str(settings.requests_per_minute),
            "x-ratelimit-remaining-requests": str(max(0, left)), "x-ratelimit-reset-requests": "1s",
        }  # fmt: skip

    def tokens(self, call: Call) -> tuple[int, int]:
        said = self.said(call)
        return said.tokens_in, said.tokens_out

    def said(self, call: Call) -> Said:
        text = decorate(answer(call.question), self.settings.shape)
        return Said(
            text, reasoning=self.settings.reasoning, tool=call.question.tool, tokens_in=len(json.dumps(call.body)) // 4,
            tokens_out=len(text) // 4 + 3,
        )  # fmt: skip

    def pick_fault(self, number: int, digest: str, times: int) -> dict[str, Any] | None:
        for rule in self.settings.faults:
            if rule.get("once") and times > 1:
                continue
            if "first" in rule:
                hit = number <= int(rule["first"])
            elif "every" in rule:
                hit = number % int(rule["every"]) == 0
            else:
                # A hash of its own per kind, so that rules do not hit the same requests.
                share = hashlib.sha256(f"{rule['kind']}{digest}".encode()).digest()
                hit = int.from_bytes(share[:4], "big") / 2**32 < float(rule.get("fraction", 1.0))
            if hit:
                return rule
        return None

    async def misbehave(self, fault: dict[str, Any], call: Call, writer: asyncio.StreamWriter) -> bool:
        kind, status = fault["kind"], int(fault.get("status", 500))
        if kind == "error":
            message = fault.get("message", "the server had an error")
            shown = call.key if self.settings.echo_key else ""
            return self.send(
                writer, status, call.error(status, f"{message} {shown}".strip(), fault.get("code", "api_error"))
            )
        if kind in ("rate", "quota", "day"):
            extra = {"retry-after": str(fault["retry_after"])} if "retry_after" in fault else {}
            code = "insufficient_quota" if kind == "quota" else "rate_limit_exceeded"
            message = (
                "Rate limit reached on requests per day (RPD): Limit 200, Used 200" if kind == "day" else "slow down"
            )
            return self.send(writer, 429, call.error(429, fault.get("message", message), code), extra)
        if kind == "hang":
            await asyncio.sleep(float(fault.get("seconds", 3600)))
            return False
        if kind == "html":
            return self.send(writer, 200, "<html><body>Bad gateway</body></html>", call=call)
        if kind == "redirect":
            return self.send(writer, 302, {}, {"location": "http://127.0.0.1:9/"})
        return await self.spoil(kind, fault, call, writer)

    async def spoil(self, kind: str, fault: dict[str, Any], call: Call, writer: asyncio.StreamWriter) -> bool:
        """The faults that are wrong answers rather than errors."""
        said = self.said(call)
        if kind in ("cut", "length"):
            said = replace(shortened(said), finish="length" if kind == "length" else "stop")
        elif kind in ("refusal", "filter"):
            said = replace(said, text="I cannot help with that.", finish=kind, tool="")
        elif kind == "big":
            said = replace(said, text="x" * int(fault.get("bytes", 20_000_000)))
        elif kind in ("wrong", "prose"):
            text = "I would rather talk about the weather." if kind == "prose" else '{"unexpected": true}'
            said = replace(said, text=fault.get("text", text), tool="")
        elif kind == "think":
            said = replace(said, text=decorate(said.text, "think"), tool="")
        else:
            return await self.break_off(kind, fault, call, said, writer)
        return await self.send_answer(writer, call, said)

    async def break_off(
        self, kind: str, fault: dict[str, Any], call: Call, said: Said, writer: asyncio.StreamWriter
    ) -> bool:
        """The faults of the bytes themselves."""
        document = self.document(call, said)
        if kind == "empty_choices":
            return self.send(writer, 200, call.protocol.empty(document), call=call)
        if kind == "cut_envelope" and not call.stream:
            return self.send(writer, 200, json.dumps(document)[:-30], call=call)
        if kind in ("cut_envelope", "stream_cut", "stream_error"):
            events = list(call.protocol.events(call.body, said))
            last = [events[2][:-30]] if kind == "cut_envelope" else []
            last = [call.protocol.broken()] if kind == "stream_error" else last
            return await self.send_events(writer, [*events[:2], *last], call=call)
        if kind == "trickle":
            data = _response(200, document)
            place = data.index(b"\r\n\r\n") + 4
            writer.write(data[:place])
            for at in range(place, len(data)):
                writer.write(data[at : at + 1])
                await writer.drain()
                await asyncio.sleep(float(fault.get("pause", 0.1)))
            return True
        if kind == "reset":
            data = _response(200, document)
            writer.write(data[: len(data) // 2])
            sock = writer.get_extra_info("socket")
            sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0: close with a reset
            call.stats.by_status["reset"] += 1
            call.stats.bodies[call.digest] += 1
            writer.transport.abort()
            return False
        raise ValueError(f"no such fault: {kind}")

    def document(self, call: Call, said: Said) -> dict[str, Any]:
        document = call.protocol.document(call.body, said)
        return document | ({"debug": call.key} if self.settings.echo_key else {})

    async def send_answer(self, writer: asyncio.StreamWriter, call: Call, said: Said) -> bool:
        if call.stream:
            return await self.send_events(writer, call.protocol.events(call.body, said), call=call)
        return self.send(writer, 200, self.document(call, said), self.limits(), call=call)

    async def send_events(self, writer: asyncio.StreamWriter, events: Iterable[bytes], *, call: Call) -> bool:
        call.stats.by_status["200"] += 1
        call.stats.bodies[call.digest] += 1
        lines = ["HTTP/1.1 200 -", "content-type: text/event-stream", "transfer-encoding: chunked"]
        lines += [f"{name}: {value}" for name, value in self.limits().items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        for event in events:
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            if self.settings.pause:
                await writer.drain()
                await asyncio.sleep(self.settings.pause)
        writer.write(b"0\r\n\r\n")
        return True

    def send(
        self, writer: asyncio.StreamWriter, status: int, body: Any, headers: dict[str, str] | None = None,
        *, call: Call | None = None,
    ) -> bool:  # fmt: skip
        (call.stats if call else self.stats).by_status[str(status)] += 1
        if call:
            call.stats.bodies[call.digest] += 1
        writer.write(_response(status, body, headers))
        return True


def _response(status: int, body: Any, headers: dict[str, str] | None = None) -> bytes:
    kind = "text/html" if isinstance(body, str) and body.startswith("<") else "application/json"
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} -", f"content-type: {kind}", f"content-length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes] | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return method, path, headers, body


def _rule(text: str) -> dict[str, Any]:
    words = ("kind", "retry_after", "text", "message")
    pairs = dict(part.split("=", 1) for part in text.split(","))
    return {key: value if key in words else float(value) for key, value in pairs.items()}


async def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tests.model_server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--key", default="")
    parser.add_argument("--requests-per-minute", type=int, default=0)
    parser.add_argument("--shape", choices=SHAPES, default="plain")
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--echo-key", action="store_true")
    parser.add_argument("--fault", dest="faults", type=_rule, action="append", default=[])
    options = vars(parser.parse_args(arguments))
    port = options.pop("port")
    server = ModelServer(Settings(**options))
    listener = await asyncio.start_server(server.serve, "127.0.0.1", port, backlog=1024, limit=2**20)
    print(json.dumps({"port": listener.sockets[0].getsockname()[1]}), flush=True)
    async with listener:
        await listener.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
