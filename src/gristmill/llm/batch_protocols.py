"""The batch endpoints of OpenAI and of Anthropic: questions in, a name out, and later the answers, each with its key.

Nothing here decides: `batch_jobs.py` does, and keeps what it knows in the database.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from gristmill.errors import ModelRefused, ModelUnavailable
from gristmill.llm import responses
from gristmill.llm.exchange import Exchange, Received
from gristmill.llm.remote import encode

MARK = "gristmill"  # the name in a batch's metadata
_PAGES, _PAGE = 20, 100  # of the list of batches that are looked through, newest first
_ID = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_OWN_NAME = re.compile(rb'"custom_id"\s*:\s*"([A-Za-z0-9_-]{1,64})"')
_STATUSES = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "overloaded_error": 529,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Progress:
    """How a batch stands. `files` are where its answers are. `problem` is why the whole of it failed, `again` that the
    same batch may be sent once more later."""

    ended: bool
    files: tuple[str, ...] = ()
    problem: str = ""
    again: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One answer of a batch. Status 0: the batch never got to the question. `intact` False: `body` is the line."""

    own_name: str
    status: int
    body: bytes
    intact: bool = True


class Batching(Protocol):
    """One provider's batches. Raises `ModelRefused`, `ModelUnavailable` or `Busy`, as single calls do."""

    uploads: bool

    async def upload(self, mark: uuid.UUID, questions: Sequence[tuple[str, bytes]]) -> str:
        """Brings the questions (own name, body) there; its name for them. Twice does no harm."""
        ...

    async def create(self, mark: uuid.UUID, file: str, questions: Sequence[tuple[str, bytes]]) -> str:
        """Makes the batch; the provider's name for it."""
        ...

    async def find(self, mark: uuid.UUID, since: datetime, calls: int) -> list[str]:
        """Batches that may be this one, made at about `since` or later: by its mark, else by its size."""
        ...

    async def progress(self, name: str) -> Progress | None:
        """None: the provider does not know the batch, or not any more."""
        ...

    def rows(self, file: str) -> AsyncIterator[Row]: ...

    async def cancel(self, name: str) -> None: ...

    async def tidy(self, files: Sequence[str]) -> None:
        """Removes files that nobody needs any more; a failure does not matter."""
        ...


class OpenAIBatches:
    """/files and /batches: one JSON line a question; `path` is where single calls go."""

    uploads = True

    def __init__(self, exchange: Exchange, path: str) -> None:
        self._exchange, self._endpoint = exchange, f"/v1{path}"

    async def upload(self, mark: uuid.UUID, questions: Sequence[tuple[str, bytes]]) -> str:
        parts = [f'--{mark.hex}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'.encode()]
        named = f'content-disposition: form-data; name="file"; filename="{MARK}-{mark.hex}.jsonl"'
        parts.append(f"--{mark.hex}\r\n{named}\r\ncontent-type: application/jsonl\r\n\r\n".encode())
        for name, body in questions:
            line = f'{{"custom_id":"{name}","method":"POST","url":"{self._endpoint}","body":'
            parts.append(line.encode() + body + b"}\n")
        parts.append(f"\r\n--{mark.hex}--\r\n".encode())
        form = f"multipart/form-data; boundary={mark.hex}"
        return _name(
            _read(self._exchange, await self._exchange.send("POST", "/files", b"".join(parts), content_type=form))
        )

    async def create(self, mark: uuid.UUID, file: str, questions: Sequence[tuple[str, bytes]]) -> str:
        wanted = {
            "input_file_id": file, "endpoint": self._endpoint, "completion_window": "24h", "metadata": {MARK: mark.hex},
        }  # fmt: skip
        return _name(_read(self._exchange, await self._exchange.send("POST", "/batches", encode(wanted).encode())))

    async def find(self, mark: uuid.UUID, since: datetime, calls: int) -> list[str]:
        async for batch in _listed(self._exchange, "/batches", "after"):
            if (batch.get("metadata") or {}).get(MARK) == mark.hex:
                return [_name(batch)]
            if float(batch.get("created_at") or 0) < since.timestamp() - 600:
                break
        return []

    async def progress(self, name: str) -> Progress | None:
        batch = await _looked_up(self._exchange, f"/batches/{name}")
        if batch is None:
            return None
        state = batch["status"]
        files = tuple(str(batch[one]) for one in ("output_file_id", "error_file_id") if batch.get(one))
        errors = (batch.get("errors") or {}).get("data") or []
        problem = responses.clean_text("; ".join(f"{one.get('code')}: {one.get('message')}" for one in errors))[:500]
        again = state == "failed" and any("limit_exceeded" in str(one.get("code")) for one in errors)
        return Progress(state in ("completed", "failed", "expired", "cancelled"), files, problem, again)

    async def rows(self, file: str) -> AsyncIterator[Row]:
        async for line in self._exchange.lines(f"/files/{_checked(file)}/content"):
            if line.strip():
                yield _row(line, _of_openai)

    async def cancel(self, name: str) -> None:
        await self._exchange.send("POST", f"/batches/{name}/cancel")

    async def tidy(self, files: Sequence[str]) -> None:
        for file in files:
            await self._exchange.send("DELETE", f"/files/{_checked(file)}")


class AnthropicBatches:
    """/messages/batches. There is no metadata: a batch is known by the names of its questions, once it has ended."""

    uploads = False

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def upload(self, mark: uuid.UUID, questions: Sequence[tuple[str, bytes]]) -> str:
        return ""

    async def create(self, mark: uuid.UUID, file: str, questions: Sequence[tuple[str, bytes]]) -> str:
        parts = [f'{{"custom_id":"{name}","params":'.encode() + body + b"}" for name, body in questions]
        body = b'{"requests":[' + b",".join(parts) + b"]}"
        return _name(_read(self._exchange, await self._exchange.send("POST", "/messages/batches", body)))

    async def find(self, mark: uuid.UUID, since: datetime, calls: int) -> list[str]:
        found = []
        async for batch in _listed(self._exchange, "/messages/batches", "after_id"):
            made = datetime.fromisoformat(str(batch["created_at"]))
            if made.timestamp() < since.timestamp() - 120:  # clocks differ
                break
            if sum((batch.get("request_counts") or {}).values()) == calls:
                found.append(_name(batch))
        return found[::-1]

    async def progress(self, name: str) -> Progress | None:
        batch = await _looked_up(self._exchange, f"/messages/batches/{name}")
        if batch is None:
            return None
        return Progress(batch["processing_status"] == "ended", (name,))

    async def rows(self, file: str) -> AsyncIterator[Row]:
        async for line in self._exchange.lines(f"/messages/batches/{_checked(file)}/results"):
            if line.strip():
                yield _row(line, _of_anthropic)

    async def cancel(self, name: str) -> None:
        await self._exchange.send("POST", f"/messages/batches/{name}/cancel")

    async def tidy(self, files: Sequence[str]) -> None:
        return None


def _of_openai(line: Mapping[str, Any]) -> tuple[int, Any]:
    answer = line.get("response")
    if answer:
        return int(answer["status_code"]), answer["body"]
    return 0, {"error": line.get("error") or {"message": "no answer"}}


def _of_anthropic(line: Mapping[str, Any]) -> tuple[int, Any]:
    result = line["result"]
    kind = result["type"]
    if kind == "succeeded":
        return 200, result["message"]
    if kind == "errored":
        error = result["error"]
        inner = error.get("error") if isinstance(error.get("error"), dict) else error
        return _STATUSES.get(str(inner.get("type")), 500), {"type": "error", "error": inner}
    return 0, {"error": {"message": f"the question {kind}", "code": f"batch_{kind}"}}


def _row(line: bytes, read: Any) -> Row:
    """One line. What cannot be read was paid all the same, so it is kept whole under the name that stands in it."""
    try:
        document = json.loads(line)
        status, body = read(document)
        return Row(str(document["custom_id"]), status, json.dumps(body).encode())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        named = _OWN_NAME.search(line)
        return Row(named[1].decode() if named else "", 200, line, intact=False)


def _read(exchange: Exchange, received: Received) -> dict[str, Any]:
    """The document in an answer. Raises the failure of a status that is none, `ModelUnavailable` M303 without one."""
    if received.status not in (200, 201):
        raise exchange.failure(received)
    try:
        document = json.loads(received.body)
        if isinstance(document, dict):
            return document
    except (ValueError, RecursionError):
        pass
    raise ModelUnavailable(f"{exchange.base_url} answered without a JSON object about a batch", code="M303")


async def _looked_up(exchange: Exchange, path: str) -> dict[str, Any] | None:
    received = await exchange.send("GET", path)
    return None if received.status in (404, 410) else _read(exchange, received)


async def _listed(exchange: Exchange, path: str, after: str) -> AsyncIterator[dict[str, Any]]:
    """The provider's batches, newest first."""
    last = ""
    for _ in range(_PAGES):
        page = _read(
            exchange, await exchange.send("GET", f"{path}?limit={_PAGE}" + (f"&{after}={last}" if last else ""))
        )
        batches = page.get("data") or []
        for batch in batches:
            yield batch
        if not page.get("has_more") or not batches:
            return
        last = _name(batches[-1])


def _name(document: Mapping[str, Any]) -> str:
    return _checked(str(document.get("id") or ""))


def _checked(name: str) -> str:
    """A provider's name, which goes into addresses. Raises `ModelRefused` for what is none."""
    if not _ID.fullmatch(name) or ".." in name:
        raise ModelRefused("the server gave no usable name for a batch or a file")
    return name
