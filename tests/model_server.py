"""A scripted model behind a real HTTP server: `python -m tests.model_server --port 0 --latency 0.2`.

It prints {"port": N} on stdout and answers POST /v1/chat/completions from the content of the request alone, so that the
same question always gets the same answer. POST /control changes its settings (a JSON object of fields of `Settings`,
or {"reset": true}), GET /stats says what it was asked. Faults are rules:

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
import re
import struct
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

SHAPES = ("plain", "prose", "fence", "think", "nul", "surrogate")
FORMATS = ("json_schema", "json_object", "text")


@dataclass
class Settings:
    latency: float = 0.0  # seconds before every answer
    key: str = ""  # answer 401 unless the bearer token is this
    requests_per_minute: int = 0  # answer 429 beyond it, counted over the last 60 seconds; 0 is no limit
    shape: str = "plain"  # one of SHAPES: what stands around the JSON
    formats: tuple[str, ...] = FORMATS  # answer 400 to a response_format that is not among them
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


@dataclass
class Question:
    """What one request asks for."""

    system: str
    user: str
    schema: dict[str, Any] | None
    format: str

    @classmethod
    def read(cls, body: dict[str, Any]) -> Question:
        messages = body.get("messages", [])
        system = "\n".join(m["content"] for m in messages if m["role"] == "system")
        user = "\n".join(m["content"] for m in messages if m["role"] == "user")
        wanted = body.get("response_format") or {}
        schema = wanted.get("json_schema", {}).get("schema")
        if schema is None and (told := re.search(r"JSON schema:\n(\{.*\})", system)):
            schema = json.loads(told[1])
        return cls(system, user, schema, wanted.get("type", "text"))

    @property
    def passage(self) -> str:
        found = re.search(r"<passage>\n(.*?)\n</passage>", self.user, re.DOTALL)
        return found[1] if found else self.user

    @property
    def count(self) -> int:
        found = re.search(r"\b(\d{1,2}) questions?\b", self.user)
        return int(found[1]) if found else 2

    def sentences(self) -> list[str]:
        found = re.findall(r"[^.!?。！？\n]{8,}[.!?。！？]", self.passage)
        return [sentence.strip() for sentence in found] or [self.passage.strip()[:200]]


def answer(question: Question) -> str:
    """The text of the answer: JSON for a schema, else an echo."""
    if question.schema is None:
        return f"You said: {question.user}"
    filler = _Filler(question)
    return json.dumps(filler.value(question.schema, "answer", 0), ensure_ascii=False)


class _Filler:
    """Makes a value for any schema; fields called question, answer and quote come from the passage."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.schema = question.schema or {}
        self.sentences = question.sentences()
        self.digest = hashlib.sha256(question.user.encode()).hexdigest()

    def value(self, schema: dict[str, Any], name: str, place: int) -> Any:
        if "$ref" in schema:
            schema = self.schema["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
        if "enum" in schema:
            return schema["enum"][place % len(schema["enum"])]
        if "const" in schema:
            return schema["const"]
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            return self.value(options[0], name, place)
        return self._by_type(schema, name, place)

    def _by_type(self, schema: dict[str, Any], name: str, place: int) -> Any:
        kind = schema.get("type", "string")
        if kind == "object":
            return {key: self.value(part, key, place) for key, part in schema.get("properties", {}).items()}
        if kind == "array":
            return [self.value(schema.get("items", {}), name, number) for number in range(self.question.count)]
        if kind == "integer":
            return int(schema.get("minimum", 1)) + place
        if kind == "number":
            return float(schema.get("minimum", 1)) + place / 2
        return {"boolean": True, "null": None}.get(kind, self._text(name, place))

    def _text(self, name: str, place: int) -> str:
        sentence = self.sentences[place % len(self.sentences)]
        if name == "question":
            return f"What is said about {' '.join(sentence.split()[:6])} ({place + 1})?"
        if name in ("quote", "answer", "evidence"):
            return sentence
        return f"{name} {place + 1} of {self.digest[:8]}"


def decorate(text: str, shape: str) -> str:
    return {
        "prose": f"Of course! Here is what you asked for:\n\n{text}\n\nI hope that helps.",
        "fence": f"```json\n{text}\n```",
        "think": f"<think>They want {{json}}, so [let me] think.</think>\n{text}",
        "nul": text.replace(" ", "\x00", 1),
        "surrogate": text.replace(" ", "\ud800", 1),
    }.get(shape, text)


class ModelServer:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stats = Stats()
        self.recent: deque[float] = deque()

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
            writer.write(_response(200, self.stats.public()))
        elif path == "/control" and method == "POST":
            self.control(json.loads(body))
            writer.write(_response(200, {"settings": dataclasses.asdict(self.settings)}))
        elif path.endswith("/chat/completions") and method == "POST":
            stats = self.stats  # a reset meanwhile must not count this request as ended in the new figures
            stats.active += 1
            stats.max_active = max(stats.max_active, stats.active)
            try:
                return await self.complete(headers, body, writer)
            finally:
                stats.active -= 1
        else:
            writer.write(_response(404, {"error": {"message": f"no such path: {path}"}}))
        return True

    def control(self, change: dict[str, Any]) -> None:
        if change.pop("reset", False):
            self.settings, self.stats = Settings(), Stats()
            self.recent.clear()
        self.settings = dataclasses.replace(self.settings, **change)

    async def complete(self, headers: dict[str, str], raw: bytes, writer: asyncio.StreamWriter) -> bool:
        stats, settings = self.stats, self.settings
        stats.requests += 1
        digest = hashlib.sha256(raw).hexdigest()
        stats.seen[digest] += 1
        number, times = stats.requests, stats.seen[digest]
        refused = self.refusal(headers, raw)
        if settings.latency:
            await asyncio.sleep(settings.latency)
        if refused is not None:
            return self.send(writer, *refused)
        fault = self.pick_fault(number, digest, times)
        if fault is not None:
            stats.faults[fault["kind"]] += 1
            return await self.misbehave(fault, digest, raw, headers, writer)
        stats.answered += 1
        return self.send(writer, 200, self.completion(raw, headers), digest=digest)

    def refusal(self, headers: dict[str, str], raw: bytes) -> tuple[int, Any, dict[str, str]] | None:
        settings = self.settings
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if settings.key and given != settings.key:
            shown = given if settings.echo_key else "..."
            return 401, {"error": {"message": f"Incorrect API key provided: {shown}", "code": "invalid_api_key"}}, {}
        if settings.requests_per_minute:
            now = time.monotonic()
            while self.recent and self.recent[0] <= now - 60:
                self.recent.popleft()
            if len(self.recent) >= settings.requests_per_minute:
                wait = f"{self.recent[0] + 60 - now:.3f}"
                return 429, {"error": {"message": "requests per minute", "code": "rate_limited"}}, {"retry-after": wait}
            self.recent.append(now)
        wanted = (json.loads(raw).get("response_format") or {}).get("type", "text")
        if wanted not in settings.formats:
            return 400, {"error": {"message": f"response_format of type {wanted} is not supported"}}, {}
        return None

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

    async def misbehave(
        self, fault: dict[str, Any], digest: str, raw: bytes, headers: dict[str, str], writer: asyncio.StreamWriter
    ) -> bool:
        kind, status = fault["kind"], int(fault.get("status", 500))
        if kind == "error":
            message = fault.get("message", "the server had an error")
            shown = headers.get("authorization", "") if self.settings.echo_key else ""
            return self.send(writer, status, {"error": {"message": f"{message} {shown}".strip()}})
        if kind in ("rate", "quota"):
            extra = {"retry-after": str(fault["retry_after"])} if "retry_after" in fault else {}
            code = "insufficient_quota" if kind == "quota" else "rate_limit_exceeded"
            return self.send(writer, 429, {"error": {"message": "slow down", "code": code}}, extra)
        if kind == "hang":
            await asyncio.sleep(float(fault.get("seconds", 3600)))
            return False
        if kind == "html":
            return self.send(writer, 200, "<html><body>Bad gateway</body></html>", digest=digest)
        if kind == "redirect":
            return self.send(writer, 302, {}, {"location": "http://127.0.0.1:9/"})
        return self.spoil(kind, fault, digest, raw, headers, writer)

    def spoil(
        self, kind: str, fault: dict[str, Any], digest: str, raw: bytes, headers: dict[str, str],
        writer: asyncio.StreamWriter,
    ) -> bool:  # fmt: skip
        """The faults that are wrong answers rather than errors."""
        body = self.completion(raw, headers)
        choice = body["choices"][0]
        text = choice["message"]["content"]
        if kind == "cut":
            choice["message"]["content"] = text[: max(1, len(text) * 2 // 3)]
        elif kind == "length":
            choice["message"]["content"] = text[: max(1, len(text) * 2 // 3)]
            choice["finish_reason"] = "length"
        elif kind == "empty_choices":
            body["choices"] = []
        elif kind == "big":
            choice["message"]["content"] = "x" * int(fault.get("bytes", 20_000_000))
        elif kind == "wrong":
            choice["message"]["content"] = fault.get("text", '{"unexpected": true}')
        elif kind == "cut_envelope":
            return self.send(writer, 200, json.dumps(body)[:-30], digest=digest)
        elif kind == "reset":
            data = _response(200, body)
            writer.write(data[: len(data) // 2])
            sock = writer.get_extra_info("socket")
            sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0: close with a reset
            self.stats.by_status["reset"] += 1
            self.stats.bodies[digest] += 1
            writer.transport.abort()
            return False
        else:
            raise ValueError(f"no such fault: {kind}")
        return self.send(writer, 200, body, digest=digest)

    def completion(self, raw: bytes, headers: dict[str, str]) -> dict[str, Any]:
        request = json.loads(raw)
        text = decorate(answer(Question.read(request)), self.settings.shape)
        tokens_in, tokens_out = len(raw) // 4, len(text) // 4 + 1
        body: dict[str, Any] = {
            "id": f"chatcmpl-{hashlib.sha256(raw).hexdigest()[:16]}", "object": "chat.completion",
            "model": request.get("model", "?"),
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out,
                "prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens_details": {"reasoning_tokens": 2},
            },
        }  # fmt: skip
        if self.settings.echo_key:
            body["debug"] = headers.get("authorization", "")
        return body

    def send(
        self, writer: asyncio.StreamWriter, status: int, body: Any, headers: dict[str, str] | None = None,
        *, digest: str = "",
    ) -> bool:  # fmt: skip
        self.stats.by_status[str(status)] += 1
        if digest:
            self.stats.bodies[digest] += 1
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
