"""The rows of the ledger, and the key that they are found by."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from gristmill.llm.model import Request
from gristmill.llm.schemas import schema_forms

LEDGER_VERSION = 1  # part of every key: raise it when what is stored, or what a key is made from, changes


def call_key(binding_fingerprint: bytes, request: Request) -> bytes:
    """sha256 (32 bytes) over everything that can change the answer. Neither task nor run is part of it."""
    messages = [[message.role, message.content] for message in request.messages]
    schema = schema_forms(request.schema).digest if request.schema is not None else None
    parts = [LEDGER_VERSION, messages, schema, request.parameters, request.sample, request.attempt]
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(binding_fingerprint + text.encode()).digest()


@dataclass(frozen=True, slots=True)
class Entry:
    """One call as the ledger notes it, without the body of its answer."""

    key: bytes
    owner: uuid.UUID
    worker: uuid.UUID
    provider: str
    model: str
    task: int | None = None
    run: int | None = None
    status: int = 200
    finish_reason: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    tokens_reasoning: int = 0
    latency_ms: int = 0

    def values(self, body: bytes) -> tuple[Any, ...]:
        return (
            self.key, self.owner, self.worker, self.provider, self.model, self.status, self.finish_reason,
            self.tokens_in, self.tokens_out, self.tokens_cached, self.tokens_reasoning, self.latency_ms,
            self.task, self.run, body,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"key": self.key.hex(), "owner": self.owner.hex, "worker": self.worker.hex}

    @classmethod
    def from_json(cls, meta: dict[str, Any]) -> Entry:
        identity = {"key": bytes.fromhex(meta["key"]), "owner": uuid.UUID(meta["owner"])}
        return cls(**(meta | identity | {"worker": uuid.UUID(meta["worker"])}))


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What one model did for a run. `calls` were paid; `unusable` ones are among them; the tokens are theirs."""

    provider: str
    model: str
    calls: int
    unusable: int
    from_ledger: int
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    tokens_reasoning: int
