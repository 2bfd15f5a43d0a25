"""From what a user writes ("openai:gpt-4.1-mini", "extractive") to a model that answers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill.errors import ModelSetupError
from gristmill.llm.model import Model

if TYPE_CHECKING:
    import asyncpg

    from gristmill.llm.ledger import Ledger

PROVIDERS = {"openai": "openai:NAME, for example openai:gpt-4.1-mini", "extractive": "extractive, which needs no key"}


def split_spec(spec: str) -> tuple[str, str]:
    """Provider and model name of a spec. Raises `ModelSetupError` M102 with the nearest name that exists."""
    provider, colon, name = spec.strip().partition(":")
    if provider == "extractive" and not colon:
        return provider, provider
    if provider == "openai" and name.strip():
        return provider, name.strip()
    near = difflib.get_close_matches(provider.casefold(), PROVIDERS, 1)
    hint = f"did you mean {PROVIDERS[near[0]]}?" if near else f"write {' or '.join(PROVIDERS.values())}"
    raise ModelSetupError(f'there is no model "{spec}"', hint=hint, code="M102")


def open_model(
    spec: str, *, base_url: str | None = None, api_key: str | None = None, parameters: Mapping[str, Any] | None = None,
    timeout: float = 300.0, max_connections: int = 100, key_name: str = "OPENAI_API_KEY",
    ledger: Ledger | None = None, pool: asyncpg.Pool[Any] | None = None, spool: Path | None = None,
) -> Model:  # fmt: skip
    """The model of that spec; a paid one behind the ledger when `ledger` (shared, better) or `pool` is given.

    `timeout` is in seconds for a whole call. Reads no environment variable. Close the model when done; a ledger that
    was made from `pool` is closed with it. Raises `ModelSetupError`: M101 no key for OpenAI itself (another
    `base_url` may have none), M102 no such model, M103 not a base URL, M104 a parameter that is not the user's to set.
    """
    provider, name = split_spec(spec)
    if provider == "extractive":
        from gristmill.llm.extractive import ExtractiveModel

        return ExtractiveModel()
    from gristmill.llm.openai import DEFAULT_URL, OpenAIModel

    if not api_key and (base_url or DEFAULT_URL).rstrip("/") == DEFAULT_URL:
        raise ModelSetupError(
            f"{spec} needs a key", code="M101", safe="nothing was sent",
            hint=f'set {key_name}; the model "extractive" works without one',
        )  # fmt: skip
    model = OpenAIModel(
        name, base_url=base_url or DEFAULT_URL, api_key=api_key, parameters=parameters, timeout=timeout,
        max_connections=max_connections, key_name=key_name,
    )  # fmt: skip
    if ledger is None and pool is None:
        return model
    from gristmill.llm.ledger import Ledger
    from gristmill.llm.ledgered import LedgeredModel

    if ledger is not None:
        return LedgeredModel(model, ledger)
    assert pool is not None  # noqa: S101 - for the type checker; one of the two was given
    return LedgeredModel(model, Ledger(pool, spool), owns_ledger=True)
