"""Models under names of one's own, and money: what may be spent and what was."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import Field

from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import LARGEST, Answer, Body, OpenApp
from gristmill.app import App
from gristmill.errors import UsageError
from gristmill.llm import stored_bindings
from gristmill.llm.budget import set_cap
from gristmill.llm.budget import standing as budgets_of
from gristmill.llm.providers import PROVIDERS

router = new_router("models and limits")
Name = Annotated[str, Path(min_length=1, max_length=100)]
Scope = Literal["run", "day", "project"]


class Model(Answer):
    """A binding. `key` says where the key is, never what it is. `used` False: gristmill.toml has one of that name."""

    name: str
    origin: Literal["settings", "database"]
    used: bool
    provider: str
    model: str
    base_url: str | None
    key: str | None
    limit: str | None
    parameters: dict[str, Any]
    batch: bool
    changed_at: datetime | None


class Provider(Answer):
    name: str
    base_url: str
    key: str | None


class Models(Answer):
    """`free`: models that need neither key nor network."""

    items: list[Model]
    providers: list[Provider]
    free: list[str]


class NewModel(Body):
    """A binding to keep in the database. `key`: env:NAME, file:/path or secret:NAME, never the key itself."""

    provider: Annotated[str, Field(max_length=100)]
    model: Annotated[str, Field(min_length=1, max_length=300)]
    base_url: Annotated[str, Field(max_length=2000)] | None = None
    key: Annotated[str, Field(max_length=500)] | None = None
    limit: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    parameters: dict[str, Any] = Field({})
    batch: bool = False
    replace: bool = False


class Budget(Answer):
    """`cap` null: no limit. Amounts are exact decimals as text; `uncertain` is part of `spent`, `held` is set aside."""

    scope: Scope
    name: str
    cap: Decimal | None
    currency: str
    spent: Decimal
    uncertain: Decimal
    held: Decimal


class Budgets(Answer):
    items: list[Budget]


class Cap(Body):
    """What may be spent; null takes the limit away. `run`: its number, for the scope run."""

    cap: Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=9, allow_inf_nan=False)] | None
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] | None = None
    run: Annotated[int, Field(ge=1, le=LARGEST)] | None = None


@router.get("/models")
async def models(app: OpenApp) -> Models:
    """Models of gristmill.toml and of the database, the providers, and what works without any."""
    found = await app.models.named()
    own = {one.name for one in found if one.origin == "settings"}
    items = [
        Model(
            name=one.name, origin="settings" if one.origin == "settings" else "database",
            used=one.origin == "settings" or one.name not in own, provider=one.settings.provider,
            model=one.settings.model, base_url=one.settings.base_url, key=one.settings.reference,
            limit=one.settings.limit, parameters=one.settings.parameters, batch=one.settings.batch,
            changed_at=one.changed_at,
        )
        for one in found
    ]  # fmt: skip
    known = [Provider(name=name, base_url=one.base_url, key=one.key or None) for name, one in PROVIDERS.items()]
    return Models(items=items, providers=known, free=["extractive"])


@router.put("/models/{name}")
@role("admin")
async def keep_model(name: Name, new: NewModel, app: OpenApp) -> Models:
    """Keeps a model in the database, for all who use it. An address and a key's place are an admin's business."""
    settings = stored_bindings.checked(new.model_dump(exclude={"replace"}, exclude_none=True))
    await stored_bindings.add(app.pool, name, settings, app.settings.project, replace=new.replace)
    return await models(app)


@router.delete("/models/{name}", status_code=204)
@role("admin")
async def remove_model(name: Name, app: OpenApp) -> None:
    """Takes a model out of the database; answers that it gave stay in the ledger."""
    await stored_bindings.remove(app.pool, name, app.settings.project)


@router.get("/budgets")
async def budgets(
    app: OpenApp, run: Annotated[int | None, Query(ge=1, le=LARGEST, description="number of a run")] = None
) -> Budgets:  # fmt: skip
    """What may be spent and what was: by a run, today, by the project."""
    return await _budgets(app, run)


@router.put("/budgets/{scope}")
@role("operator")
async def change_budget(scope: Scope, change: Cap, app: OpenApp) -> Budgets:
    """Changes what may be spent; takes effect within 2 s and wins over the settings."""
    if (scope == "run") != (change.run is not None):
        raise UsageError(
            "the scope run takes the number of a run, the others take none", code="A422", safe="nothing was changed"
        )
    name = (await app.find(str(change.run))).id if change.run is not None else app.settings.project
    await set_cap(app.pool, scope, name, change.cap, change.currency or app.settings.budget.currency)
    return await _budgets(app, change.run)


async def _budgets(app: App, run: int | None) -> Budgets:
    settings = app.settings
    found = await budgets_of(app.pool, run=run, project=settings.project, caps=settings.budget)
    return Budgets(items=[Budget.model_validate(one) for one in found])
