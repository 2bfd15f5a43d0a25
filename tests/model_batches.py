"""The batch endpoints of the scripted model: OpenAI's /files and /batches, Anthropic's /messages/batches.

Written from the providers' published documents. A batch takes `batch_seconds`; `batch_fault` says what goes wrong:

    {"kind": "error", "status": 500, "contains": "x", "once": true}   questions with that text, the first time they come
    {"kind": "expired", "contains": "x"}                              they are not answered in time
    {"kind": "lost_answer", "once": true}                             the batch is made, and nobody hears of it
    {"kind": "lost_answer", "once": true, "kill": 4711}               ..., because that process dies at this moment
    {"kind": "failed", "code": "token_limit_exceeded", "once": true}  the batch as a whole
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.model_protocols import protocol_of

if TYPE_CHECKING:
    from tests.model_server import ModelServer

Question = tuple[str, str, dict[str, Any]]  # its own name, the path, the body
_ANTHROPIC = {400: "invalid_request_error", 429: "rate_limit_error", 529: "overloaded_error"}
_PATH = re.compile(r"/v1/(?:(messages)/)?(files|batches)(?:/([^/?]+))?(?:/(content|cancel|results))?(?:\?.*)?")


@dataclass
class Batch:
    name: str
    questions: list[Question]
    metadata: dict[str, str]
    anthropic: bool
    made_at: float = field(default_factory=time.time)
    ends_at: float = 0.0
    cancelled: bool = False
    problem: str = ""
    answers: list[dict[str, Any]] | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)


class BatchShelf:
    """All files and batches of one server."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Batch] = {}
        self.failed: set[str] = set()

    def public(self) -> dict[str, Any]:
        return {
            "batches": len(self.batches), "files": len(self.files),
            "cancelled": sum(batch.cancelled for batch in self.batches.values()),
            "questions": [len(batch.questions) for batch in self.batches.values()],
        }  # fmt: skip

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any] | None:
        """Status and document, lines of text for a file; None: the connection breaks. (404, None): not ours."""
        found = _PATH.fullmatch(path)
        if found is None or (found[2] == "files" and found[1]):
            return 404, None
        anthropic, what, name, verb = found.groups()
        if what == "files":
            return self._file(method, name, body)
        if name is None:
            return self._list(bool(anthropic)) if method == "GET" else self._create(bool(anthropic), json.loads(body))
        batch = self.batches.get(name)
        if batch is None:
            return 404, {"error": {"message": "no such batch", "type": "not_found_error"}}
        self._advance(batch)
        if verb == "cancel":
            batch.cancelled = True
            batch.ends_at = time.time()
            self._advance(batch)
        if verb == "results":
            return 200, _lines(batch.answers or [])
        return 200, self._told(batch)

    def _file(self, method: str, name: str | None, body: bytes) -> tuple[int, Any]:
        if method == "POST":
            boundary = body.split(b"\r\n", 1)[0]
            parts = {
                head: data
                for part in body.split(boundary)[1:-1]
                for head, _, data in [part.strip(b"\r\n").partition(b"\r\n\r\n")]
            }
            purpose = next(data for head, data in parts.items() if b'name="purpose"' in head)
            content = next(data for head, data in parts.items() if b'name="file"; filename="' in head)
            if purpose != b"batch":
                return 400, {"error": {"message": f"purpose {purpose!r}", "type": "invalid_request_error"}}
            name = self._keep(content)
            return 200, {"id": name, "object": "file", "purpose": "batch"}
        if method == "DELETE":
            self.files.pop(name or "", None)
            return 200, {"id": name, "deleted": True}
        return 200, self.files[name or ""].decode()

    def _keep(self, content: bytes) -> str:
        name = f"file-{hashlib.sha256(content).hexdigest()[:12]}{len(self.files)}"
        self.files[name] = content
        return name

    def _create(self, anthropic: bool, wanted: dict[str, Any]) -> tuple[int, Any] | None:
        if anthropic:
            questions = [(one["custom_id"], "/v1/messages", one["params"]) for one in wanted["requests"]]
            if not all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name, _, _ in questions):
                return 400, {"type": "error", "error": {"type": "invalid_request_error", "message": "custom_id"}}
        else:
            lines = [json.loads(line) for line in self.files[wanted["input_file_id"]].splitlines() if line]
            assert all(one["method"] == "POST" and one["url"] == wanted["endpoint"] for one in lines)
            questions = [(one["custom_id"], one["url"], one["body"]) for one in lines]
        if self.server.settings.batch_fault.get("kind") == "no_batches":
            return 403, {"error": {"message": "no batches for you", "type": "permission_error"}}
        name = f"{'msgbatch' if anthropic else 'batch'}_{len(self.batches)}"
        batch = Batch(name, questions, wanted.get("metadata") or {}, anthropic)
        batch.ends_at = time.time() + self.server.settings.batch_seconds
        fault = self.server.settings.batch_fault
        if fault.get("kind") == "failed" and self._hits(fault, "failed"):
            batch.problem = fault["code"]
        self.batches[name] = batch
        if fault.get("kind") == "lost_answer" and self._hits(fault, "lost"):
            if "kill" in fault:
                os.kill(fault["kill"], signal.SIGKILL)
            return None
        return 200, self._told(batch)

    def _hits(self, fault: dict[str, Any], what: str) -> bool:
        again = what in self.failed
        self.failed.add(what)
        return not (fault.get("once") and again)

    def _list(self, anthropic: bool) -> tuple[int, Any]:
        found = [batch for batch in self.batches.values() if batch.anthropic == anthropic][::-1]
        return 200, {"object": "list", "data": [self._told(batch) for batch in found], "has_more": False}

    def _advance(self, batch: Batch) -> None:
        if batch.answers is not None or time.time() < batch.ends_at:
            return
        batch.answers = []
        for question in batch.questions if not batch.cancelled and not batch.problem else ():
            status, body = self._ask(*question)
            row = self._row(batch, question[0], status, body)
            (batch.answers if batch.anthropic or status == 200 else batch.errors).append(row)
        batch.answers.reverse()  # their order is nobody's business

    def _ask(self, name: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """One question: the same answer as alone."""
        from tests.model_server import Call

        protocol = protocol_of(path)
        assert protocol is not None
        call = Call(protocol, path, {}, json.dumps(body).encode(), self.server.stats)
        fault = self.server.settings.batch_fault
        hit = fault.get("kind") in ("error", "expired") and fault.get("contains", "") in json.dumps(body)
        if hit and self._hits(fault, call.digest):
            status = 0 if fault["kind"] == "expired" else int(fault.get("status", 500))
            return status, call.error(
                status, fault.get("message", "it went wrong"), _ANTHROPIC.get(status, "api_error")
            )
        refused = self.server.refusal(call)
        if refused is not None:
            return refused[0], refused[1]
        self.server.stats.bodies[call.digest] += 1
        self.server.stats.answered += 1
        return 200, protocol.document(body, self.server.said(call))

    def _row(self, batch: Batch, name: str, status: int, body: Any) -> dict[str, Any]:
        if batch.anthropic:
            result = {"type": "succeeded", "message": body} if status == 200 else {"type": "errored", "error": body}
            return {"custom_id": name, "result": result if status else {"type": "expired"}}
        if not status:
            error = {"code": "batch_expired", "message": "This request could not be executed in time."}
            return {"id": f"batch_req_{name}", "custom_id": name, "response": None, "error": error}
        response = {"status_code": status, "request_id": "req_1", "body": body}
        return {"id": f"batch_req_{name}", "custom_id": name, "response": response, "error": None}

    def _told(self, batch: Batch) -> dict[str, Any]:
        self._advance(batch)
        ended, answers = batch.answers is not None, batch.answers or []
        if batch.anthropic:
            done = sum(one["result"]["type"] == "succeeded" for one in answers)
            left = len(batch.questions) - done
            counts = {"processing": 0 if ended else left, "succeeded": done, "errored": left if ended else 0}
            return {
                "id": batch.name, "type": "message_batch", "processing_status": "ended" if ended else "in_progress",
                "created_at": datetime.fromtimestamp(batch.made_at, UTC).isoformat(),
                "request_counts": {**counts, "canceled": 0, "expired": 0}, "results_url": None,
            }  # fmt: skip
        state = (
            "failed" if batch.problem else "cancelled" if batch.cancelled else "completed" if ended else "in_progress"
        )
        told: dict[str, Any] = {
            "id": batch.name, "object": "batch", "status": state, "created_at": int(batch.made_at),
            "metadata": batch.metadata, "output_file_id": None, "error_file_id": None, "errors": None,
        }  # fmt: skip
        if batch.problem:
            told["errors"] = {"object": "list", "data": [{"code": batch.problem, "message": "Enqueued token limit"}]}
        if ended and not batch.problem:
            for key, rows in (("output_file_id", answers), ("error_file_id", batch.errors)):
                if rows:
                    name = f"{batch.name}-{key}"
                    self.files.setdefault(name, _lines(rows).encode())
                    told[key] = name
        return told


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
