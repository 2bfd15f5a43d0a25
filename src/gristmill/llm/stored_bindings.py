"""Bindings in the database: the same for all processes and machines, read when a model is first used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import asyncpg
from pydantic import ValidationError

from gristmill.db.statements import statements
from gristmill.errors import UsageError
from gristmill.llm.model_settings import NAME, ModelSettings, told
from gristmill.llm.providers import PROVIDERS, protocol_class

SQL = statements("models")
Database: TypeAlias = "asyncpg.Connection[Any] | asyncpg.Pool[Any]"


@dataclass(frozen=True, slots=True)
class StoredBinding:
    name: str
    settings: ModelSettings
    changed_at: datetime


async def add(
    database: Database, name: str, settings: ModelSettings, project: str = "default", *, replace: bool = False
) -> None:
    """Keeps a binding. Raises `UsageError` U380 (not a name), U381 (the name is taken)."""
    check_name(name)
    text = settings.model_dump_json(exclude_defaults=True)
    if await database.fetchval(SQL["put"], project, name, text, replace) is None:
        raise UsageError(
            f'there is a model "{name}" already', code="U381", safe="it stays as it is",
            hint="replace it: gristmill models add NAME --replace ...",
        )  # fmt: skip


async def remove(database: Database, name: str, project: str = "default") -> None:
    """Takes a binding away. Raises `UsageError` U382 when there is none of that name."""
    if await database.fetchval(SQL["remove"], project, name) is None:
        raise UsageError(
            f'there is no model "{name}" in the database', code="U382",
            hint="see what there is: gristmill models; those of gristmill.toml are removed there",
        )  # fmt: skip


async def find(database: Database, name: str, project: str = "default") -> ModelSettings | None:
    """The settings under that name. Raises `UsageError` U383 when this version cannot read them."""
    text = await database.fetchval(SQL["find"], project, name)
    return None if text is None else _read(name, text)


async def listed(database: Database, project: str = "default") -> list[StoredBinding]:
    """All bindings of a project by name."""
    rows = await database.fetch(SQL["list"], project)
    return [StoredBinding(row["name"], _read(row["name"], row["settings"]), row["changed_at"]) for row in rows]


def check_name(name: str) -> None:
    """Raises `UsageError` U380 for what cannot be the name of a binding."""
    if not NAME.fullmatch(name) or name in PROVIDERS or name == "extractive":
        raise UsageError(
            f'"{name[:100]}" cannot be the name of a model', code="U380",
            hint="letters, digits, dot, dash and underscore, at most 100, a letter or digit first; no provider's name",
        )  # fmt: skip


def checked(given: dict[str, Any]) -> ModelSettings:
    """Settings as a person gave them. Raises `UsageError` U384 with the place of what is wrong, never its value, and
    `ModelSetupError` M103, M104: what is wrong is found here and not at the first call."""
    try:
        settings = ModelSettings.model_validate(given)
    except ValidationError as error:
        raise UsageError(told(error), code="U384", safe="nothing was stored") from None
    protocol_class(settings.provider)(
        settings.model, base_url=settings.base_url, parameters=settings.parameters, headers=settings.headers,
        structured=settings.structured,
    )  # fmt: skip
    return settings


def _read(name: str, text: str) -> ModelSettings:
    try:
        return ModelSettings.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(
            f'the model "{name}" in the database cannot be read: {told(error)}', code="U383",
            hint="another version of Gristmill may have written it; remove it or upgrade",
        ) from None  # fmt: skip
