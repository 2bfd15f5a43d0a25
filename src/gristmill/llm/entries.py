"""The rows of the ledger, and the key that they are found by."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from gristmill.llm.model import Request
from gristmill.llm.schemas import schema_forms

LEDGER_VERSION = 1  # part of every key: raise it when what a key is made from changes
encode = json.JSONEncoder(sort_keys=True, allow_nan=False).encode  # `json.dumps` would make an encoder for every call


def turns(request: Request) -> list[str]:
    """The messages as JSON, each with the digests of its pictures in place of them."""
    return [encode(message.identity()) for message in request.messages]


def call_key(binding_fingerprint: bytes, request: Request, encoded: list[str] | None = None) -> bytes:
    """sha256 (32 bytes) over everything that can change the answer. Neither task nor run is part of it.

    A `reuse_within` sets the request apart: the same question elsewhere is another purchase. `encoded` are its `turns`,
    where somebody has them.
    """
    schema = schema_forms(request.schema).digest if request.schema is not None else None
    rest: list[Any] = [schema, request.parameters, request.sample, request.attempt]
    if request.reuse_within:
        rest.append(request.reuse_within)
    messages = ", ".join(turns(request) if encoded is None else encoded)
    text = f"[{LEDGER_VERSION}, [{messages}], {encode(rest)[1:]}"
    return hashlib.sha256(binding_fingerprint + text.encode()).digest()


@dataclass(frozen=True, slots=True)
class Entry:
    """One call as the ledger notes it, without the body of its answer.

    `cost` is None where the price or the tokens are not known. `base_url` and `batch` are not kept: they
    make the price. `request`, `frame` and `frame_text`: what was asked, see `requests`; "" and None: not kept.
    """

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
    prompt: str = ""
    base_url: str = ""
    batch: bool = False
    cost: Decimal | None = None
    currency: str | None = None
    request: str = ""
    frame: bytes | None = None
    frame_text: str = ""

    def values(self, body: bytes) -> tuple[Any, ...]:
        return (
            self.key, self.owner, self.worker, self.provider, self.model, self.status, self.finish_reason,
            self.tokens_in, self.tokens_out, self.tokens_cached, self.tokens_reasoning, self.latency_ms,
            self.task, self.run, self.prompt or None, self.cost, self.currency, body, self.request or None, self.frame,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        cost = None if self.cost is None else str(self.cost)
        frame = None if self.frame is None else self.frame.hex()
        plain = {
            "key": self.key.hex(),
            "owner": self.owner.hex,
            "worker": self.worker.hex,
            "cost": cost,
            "frame": frame,
        }
        return asdict(self) | plain

    @classmethod
    def from_json(cls, meta: dict[str, Any]) -> Entry:
        identity = {"key": bytes.fromhex(meta["key"]), "owner": uuid.UUID(meta["owner"])}
        cost = None if meta.get("cost") is None else Decimal(meta["cost"])
        frame = None if meta.get("frame") is None else bytes.fromhex(meta["frame"])
        return cls(**(meta | identity | {"worker": uuid.UUID(meta["worker"]), "cost": cost, "frame": frame}))


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What one model did for a run. `calls` were paid; `unusable` ones are among them; the tokens are theirs.

    `cost` is in `currency`; the `unpriced` calls, whose price nobody knows, are not in it. None: all are unpriced.
    """

    provider: str
    model: str
    calls: int
    unusable: int
    from_ledger: int
    tokens_in: int
    tokens_out: int
    tokens_cached: int
    tokens_reasoning: int
    cost: Decimal | None = None
    currency: str | None = None
    unpriced: int = 0
