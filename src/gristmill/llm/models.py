"""From what a user writes ("openai:gpt-4.1-mini", "extractive") to a model that answers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gristmill.errors import ModelSetupError
from gristmill.llm.model import Model
from gristmill.llm.providers import PROVIDERS, protocol_class

if TYPE_CHECKING:
    import asyncpg

    from gristmill.llm.budget import Budgets
    from gristmill.llm.ledger import Ledger
    from gristmill.llm.model_settings import ModelSettings
    from gristmill.llm.quota import Quotas

LOCAL = ("extractive", "hashed")  # computed here, without a key: questions, vectors
_EXAMPLES = {"openai": "openai:NAME, for example openai:gpt-4.1-mini", "extractive": "extractive, which needs no key"}


def split_spec(spec: str, names: Iterable[str] = ()) -> tuple[str, str]:
    """Provider and model name of a spec. Raises `ModelSetupError` M102 with the nearest name that exists.

    `names` are the bindings that exist too; they only appear in the hint.
    """
    provider, colon, name = spec.strip().partition(":")
    if provider in LOCAL and not colon:
        return provider, provider
    if provider in PROVIDERS and name.strip():
        return provider, name.strip()
    examples = {known: f"{known}:NAME" for known in PROVIDERS} | {known: known for known in names} | _EXAMPLES
    near = difflib.get_close_matches(provider.casefold(), examples, 1)
    hint = f"did you mean {examples[near[0]]}?" if near else f"write {' or '.join(_EXAMPLES.values())}"
    raise ModelSetupError(f'there is no model "{spec}"', hint=hint, code="M102")


def open_model(
    spec: str, *, base_url: str | None = None, api_key: str | None = None, parameters: Mapping[str, Any] | None = None,
    timeout: float = 300.0, max_connections: int = 100, key_name: str = "", ledger: Ledger | None = None,
    pool: asyncpg.Pool[Any] | None = None, spool: Path | None = None, named: str = "",
    quotas: Quotas | None = None, budgets: Budgets | None = None, batch: ModelSettings | None = None, **more: Any,
) -> Model:  # fmt: skip
    """The model of that spec; a paid one behind the ledger when `ledger` (shared, better) or `pool` is given, and then
    behind `quotas` and `budgets` too, if given.

    `batch`: settings with which a model behind `ledger` asks in batches.
    `timeout` is in seconds for a whole call. `named` is the name of the binding, if it has one. `more` are the other
    settings of `HttpModel`: `headers`, `first_byte`, `idle`, `stream`, `structured`, `limit`. Reads no environment
    variable. Close the model when done; a ledger that was made from `pool` is closed with it.

    Raises `ModelSetupError`: M101 no key for the provider itself (another `base_url` may have none), M102 no such
    model, M103 not a base URL, M104 a parameter that is not the user's to set.
    """
    provider, name = split_spec(spec)
    if provider == "extractive":
        from gristmill.llm.extractive import ExtractiveModel

        return ExtractiveModel()
    if provider == "hashed":
        from gristmill.llm.hashed import HashedEmbeddings

        return HashedEmbeddings()
    known = PROVIDERS[provider]
    base_url = (base_url or known.base_url).rstrip("/")
    key_name = key_name or (known.key if api_key or base_url == known.base_url else "")
    if not api_key and known.key and base_url == known.base_url:
        raise ModelSetupError(
            f"{named or spec} needs a key", code="M101", safe="nothing was sent",
            hint=f'set {key_name}; the model "extractive" works without one',
        )  # fmt: skip
    model = protocol_class(provider)(
        name, provider=provider, spec=named or spec.strip(), base_url=base_url, api_key=api_key, key_name=key_name,
        parameters=parameters, timeout=timeout, max_connections=max_connections, **more,
    )  # fmt: skip
    if ledger is None and pool is None:
        return model
    from gristmill.llm.ledger import Ledger
    from gristmill.llm.ledgered import LedgeredModel

    if ledger is not None and batch is not None and batch.batch:
        from gristmill.llm.batch_jobs import Gathering
        from gristmill.llm.batched import BatchedModel

        gathering = Gathering(batch.batch_wait, batch.batch_size)
        return BatchedModel(model, ledger, gathering=gathering, again=batch.batch_again, quotas=quotas, budgets=budgets)
    if ledger is not None:
        return LedgeredModel(model, ledger, quotas=quotas, budgets=budgets)
    assert pool is not None  # noqa: S101 - for the type checker; one of the two was given
    return LedgeredModel(model, Ledger(pool, spool), owns_ledger=True)
