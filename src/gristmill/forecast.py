"""What a run will take, foreseen from a sample of its real inputs: calls, tokens, money, time, disk.

    count everything (constant memory) -> walk a few files of each type -> scale by bytes -> ranges, and their grounds

Afterwards it is compared with the truth. Nothing in it is a promise, and it says what it assumed.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from gristmill.bindings import ModelSource
from gristmill.config import Settings
from gristmill.data import selection
from gristmill.data.blobs import Blobs
from gristmill.db.statements import statements
from gristmill.forecast_inputs import KEPT, Inputs, Range, count, scaled
from gristmill.forecast_sample import Sampler
from gristmill.llm.batched import BatchedModel
from gristmill.llm.model import Binding, Model
from gristmill.llm.prices import MILLION, Prices
from gristmill.operators.prompts import check_prompts
from gristmill.workflow import Workflow

SQL = statements("forecast")
PAST = statements("calls")["past"]
FILES = 12  # that are walked at most
WORKERS = 2  # that a run starts, where the settings say none
PATIENCE = 20.0  # seconds for all walks together; the first file is always finished
ENOUGH = 5  # past calls that say more about the length of answers than a guess
SECONDS = 3.0  # of a call of which nothing is known
LEAST = 40.0  # tokens of an answer of which nothing is known
ANSWER_ROW = 900  # bytes in the ledger beside the words of an answer
_MODEL_LOW, _MODEL_HIGH = 0.5, 2.5  # of a guessed length
_KNOWN_LOW, _KNOWN_HIGH = 0.85, 1.15  # of a length that past calls tell


class Host(Protocol):
    """What `foreseen` needs of the App."""

    settings: Settings
    models: ModelSource

    @property
    def pool(self) -> asyncpg.Pool[Any]: ...

    def run_key(self, workflow: Workflow, sources: Sequence[Path | str] | selection.Inputs) -> bytes: ...


async def foreseen(app: Host, flow: Workflow, paths: Sequence[Path | str] | selection.Inputs) -> dict[str, Any]:
    """As `foresee`, with what the App knows; keeps the forecast, for a comparison later. Sends nothing."""
    settings = app.settings
    models = {spec.model: await app.models.open(spec.model) for spec in flow.steps if spec.model}
    workers = settings.workers or WORKERS
    plan = await foresee(
        flow, paths, models=models, pool=app.pool, prices=app.models.prices, language=settings.language,
        slots=workers * settings.pools.get("model", 32), parsers=workers * settings.pools.get("parse", 1),
        prompts=settings.prompts,
    )  # fmt: skip
    await save(app.pool, app.run_key(flow, paths), plan)
    return plan


async def foresee(
    flow: Workflow, paths: Sequence[Path | str] | selection.Inputs, *, models: Mapping[str, Model],
    pool: asyncpg.Pool[Any], prices: Prices, language: str = "en", slots: int = 32, parsers: int = 1,
    prompts: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The forecast as plain values; see docs/guides/costs.md for each of them.

    `models` are the opened models by what the steps name; `slots` calls and `parsers` files can be under way at once.
    Ranges are [low, likely, high]. `prompts` is the folder of the project's own; one that its step cannot fill raises
    `UsageError` U306.
    """
    wanted = selection.Inputs.of(paths)
    inputs = await asyncio.to_thread(count, wanted)
    check_prompts(flow.steps, language, prompts)
    seconds = await _walk(flow, inputs, models, language, prompts)
    steps, notes = [], []
    if wanted.urls:
        notes.append(f"{len(wanted.urls)} URLs were not fetched and are in no figure")
    for place, spec in enumerate(flow.steps):
        step = await _step(flow, inputs, place, models.get(spec.model or ""), pool, prices)
        notes += step.pop("notes")
        steps.append(step)
    walked = sum(len(part.walked) for part in inputs.strata.values())
    parsing = sum(
        seconds.get(kind, 0.0) / max(1, sum(size for size, _ in part.walked)) * part.bytes / parsers
        for kind, part in inputs.strata.items()
    )
    disk = inputs.bytes + sum(
        step.pop("bytes") + step["calls"][1] * (ANSWER_ROW + 4 * step.pop("answer")) for step in steps
    )
    took = await _time(steps, flow, models, pool, slots, parsing)
    return {
        "workflow": flow.name, "model": next((spec.model for spec in flow.steps if spec.model), None),
        "files": inputs.files, "unreadable": inputs.unreadable, "bytes": inputs.bytes, "sampled": walked,
        "steps": steps, **_totals(steps), **took, "disk_bytes": round(disk), "assumed": list(dict.fromkeys(notes)),
    }  # fmt: skip


async def _walk(
    flow: Workflow, inputs: Inputs, models: Mapping[str, Model], language: str, prompts: Path | None
) -> dict[str, float]:
    """Walks candidates of every type, the largest share of bytes first; returns the seconds each type took."""
    seconds: dict[str, float] = {}
    order = sorted(inputs.strata, key=lambda kind: -inputs.strata[kind].bytes)
    turns = [
        (kind, file)
        for turn in range(KEPT)
        for kind in order
        for file in inputs.strata[kind].candidates[turn : turn + 1]
    ]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gristmill-plan-") as folder:
        sampler = Sampler(flow, Blobs(folder), models, language, prompts)
        try:
            for kind, file in turns[:FILES]:
                if seconds and time.monotonic() - began > PATIENCE:
                    break
                at = time.monotonic()
                tallies = await sampler.walk(file)
                inputs.strata[kind].walked.append((max(1, file.size), tallies))
                seconds[kind] = seconds.get(kind, 0.0) + time.monotonic() - at
        finally:
            await sampler.close()
    return seconds


async def _step(
    flow: Workflow, inputs: Inputs, place: int, model: Model | None, pool: asyncpg.Pool[Any], prices: Prices
) -> dict[str, Any]:
    """What one step will take; "notes" are what it assumes."""
    spec = flow.steps[place]
    figure = {
        name: scaled(inputs, place, name) for name in ("inputs", "outputs", "calls", "known", "tokens_in", "words")
    }
    step: dict[str, Any] = {
        "name": spec.name, "model": spec.model, "barrier": spec.operator.barrier,
        "inputs": figure["inputs"].plain(), "outputs": figure["outputs"].plain(),
        "calls": figure["calls"].plain(), "known": figure["known"].plain(), "tokens_in": figure["tokens_in"].plain(),
        "tokens_out": [0, 0, 0], "bytes": scaled(inputs, place, "bytes").likely, "answer": 0.0, "latency": 0.0,
        "cost": None, "currency": None, "notes": [],
    }  # fmt: skip
    if any(tallies[place].failed for part in inputs.strata.values() for _, tallies in part.walked):
        step["notes"].append(f"{spec.name}: some sampled pieces failed; they count as if nothing came of them")
    if spec.operator.acts:
        step["notes"].append(f"{spec.name}: a plan runs no programs; what comes of it, and what follows, is not known")
    if spec.operator.barrier and spec.model:
        step["notes"].append(f"{spec.name}: gathers what the others make, which cannot be foreseen")
    if model is not None and model.binding.paid and figure["calls"].high:
        prompts = sorted({p for part in inputs.strata.values() for _, t in part.walked for p in t[place].prompts})
        await _pay(step, figure, model, prompts, pool, prices)
    return step


async def _pay(
    step: dict[str, Any], figure: Mapping[str, Range], model: Model, prompts: Sequence[str], pool: asyncpg.Pool[Any],
    prices: Prices,
) -> None:  # fmt: skip
    """Adds answers and costs to a step: `tokens_out` as past answers to the same prompts were, else a noted guess."""
    binding, calls, into = model.binding, figure["calls"], figure["tokens_in"]
    per, latency, note = await _answers(pool, binding, prompts, figure["words"].likely / max(1.0, calls.likely))
    out = Range(calls.low * per.low, calls.likely * per.likely, calls.high * per.high)
    step |= {"tokens_out": out.plain(), "answer": per.likely, "latency": latency}
    if note:
        step["notes"].append(f"{step['name']}: {note}")
    if isinstance(model, BatchedModel):
        step["notes"].append(
            f"{step['name']}: asks in batches; the provider may take a day for each, which is in no time"
        )
    price = prices.find(binding.provider, binding.model, binding.base_url)
    if price is not None:
        share = price.batch if isinstance(model, BatchedModel) else Decimal(1)
        step["currency"] = price.currency
        step["cost"] = [
            float((Decimal(sent) * price.input + Decimal(got) * price.output) * share / MILLION)
            for sent, got in zip((into.low, into.likely, into.high), (out.low, out.likely, out.high), strict=True)
        ]
    else:
        step["notes"].append(f'no price of {binding.provider}:{binding.model} is known: [prices."provider:model"]')


async def _answers(
    pool: asyncpg.Pool[Any], binding: Binding, prompts: Sequence[str], words: float
) -> tuple[Range, float, str]:
    """Tokens of an answer, seconds of a call, and what had to be assumed."""
    prompt = prompts[0] if len(prompts) == 1 and prompts[0] else None
    past = await pool.fetchrow(PAST, binding.provider, binding.model, prompt)
    if past["calls"] >= ENOUGH:
        mean = past["tokens_out"]
        return Range(mean * _KNOWN_LOW, mean, mean * _KNOWN_HIGH), (past["latency_ms"] or 0) / 1000 or SECONDS, ""
    guess = max(LEAST, words)
    note = f"answers of about {guess:.0f} tokens and calls of {SECONDS:.0f} s are a guess: nobody has asked this before"
    return Range(guess * _MODEL_LOW, guess, guess * _MODEL_HIGH), SECONDS, note


def _totals(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    totals: dict[str, Any] = {
        name: [sum(step[name][bound] for step in steps) for bound in range(3)]
        for name in ("calls", "known", "tokens_in", "tokens_out")
    }
    cost: dict[str, list[float]] = {}
    for step in steps:
        if step["cost"] is not None:
            before = cost.get(step["currency"], [0.0, 0.0, 0.0])
            cost[step["currency"]] = [round(a + b, 6) for a, b in zip(before, step["cost"], strict=True)]
    unpriced = sum(step["calls"][1] for step in steps if step["cost"] is None)
    return totals | {"cost": cost, "unpriced": unpriced}


async def _time(
    steps: Sequence[dict[str, Any]], flow: Workflow, models: Mapping[str, Model], pool: asyncpg.Pool[Any], slots: int,
    parsing: float,
) -> dict[str, Any]:  # fmt: skip
    """How long it takes, and what it waits for: the slots, a quota, or the parsing of files."""
    takes: dict[str, list[float]] = {}
    loads: dict[str, list[list[float]]] = {}
    for step, spec in zip(steps, flow.steps, strict=True):
        latency = step.pop("latency")
        takes["calls at once"] = [
            a + calls * latency / slots
            for a, calls in zip(takes.get("calls at once", [0.0] * 3), step["calls"], strict=True)
        ]
        if spec.model and models[spec.model].binding.paid:
            binding = models[spec.model].binding
            load = loads.setdefault(binding.limit or binding.provider, [[0.0] * 3, [0.0] * 3])
            for bound in range(3):
                load[0][bound] += step["calls"][bound]
                load[1][bound] += step["tokens_in"][bound] + step["tokens_out"][bound]
    for name, (calls, tokens) in loads.items():
        row = await pool.fetchrow(SQL["quota"], name)
        if row is None:
            continue
        rates = (
            ("requests a minute", calls, row["requests_per_minute"] or row["learned_requests"]),
            ("tokens a minute", tokens, row["tokens_per_minute"] or row["learned_tokens"]),
            ("requests a day", calls, (row["requests_per_day"] or 0) / 1440),
        )
        for what, amounts, rate in rates:
            if rate:
                takes[f"{what} of {name}"] = [value / rate * 60 for value in amounts]
    takes["parsing"] = [parsing * 0.7, parsing, parsing * 1.5]
    slowest = max(takes, key=lambda what: takes[what][1])
    seconds = [max(values[bound] for values in takes.values()) for bound in range(3)]
    return {"seconds": [round(value, 1) for value in seconds], "bound_by": slowest}


async def save(pool: asyncpg.Pool[Any], key: bytes, plan: Mapping[str, Any]) -> None:
    """Keeps a forecast for the run of that key, which need not exist yet."""
    await pool.execute(SQL["save"], key, json.dumps(plan))


async def compared(
    pool: asyncpg.Pool[Any], run_id: int, usage: Mapping[str, Any], seconds: float
) -> dict[str, Any] | None:
    """What was foreseen for a run beside what it took; None when nobody had asked. `usage` as `ModelSource.usage`."""
    row = await pool.fetchrow(SQL["of_run"], run_id)
    if row is None:
        return None
    plan = json.loads(row["plan"])
    truth = {
        "calls": usage["calls"], "tokens_in": usage["input"], "tokens_out": usage["output"],
        "seconds": round(seconds, 1), "cost": usage["cost"], "from_ledger": usage["from_ledger"],
    }  # fmt: skip
    foreseen = {name: plan[name] for name in ("calls", "tokens_in", "tokens_out", "seconds", "cost")}
    return {
        "made_at": row["made_at"].isoformat(),
        "foreseen": foreseen | {"from_ledger": plan["known"]},
        "truth": truth,
    }
