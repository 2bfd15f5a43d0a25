"""Wrong settings in words: where the value stands, what it is, what it may be, and what to do."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from gristmill.logs import redact

_HIDDEN = re.compile(r"key|token|secret|passw|credential|authorization|headers|parameters|url", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Problem:
    """One wrong setting. `value`: as given, None where it may be a secret; `unknown`: there is no such setting."""

    name: str
    origin: str
    what: str
    value: str | None = None
    remedy: str = ""
    unknown: bool = False

    def __str__(self) -> str:
        given = "" if self.value is None else f" = {self.value}"
        start = "unknown setting" if self.unknown else "setting"
        what = "" if self.unknown else f": {self.what}"
        return redact(f'{start} "{self.name}"{what} ({self.origin})' if self.unknown
                      else f"setting {self.name}{given}{what} ({self.origin})")  # fmt: skip


def unknown(name: str, origin: str, model: type[BaseModel], inside: str = "") -> Problem:
    """A name that the model does not have, with the nearest one that it has."""
    known = [field for field in model.model_fields if field != "crew" or inside]
    near = difflib.get_close_matches(name.rpartition(".")[2], known, 1)
    remedy = f'did you mean "{near[0]}"?' if near else f"known{inside}: {', '.join(known)}"
    return Problem(name, origin, "there is no such setting", remedy=remedy, unknown=True)


def problems_of(
    error: ValidationError, values: Mapping[str, Any], origins: Mapping[str, str], model: type[BaseModel]
) -> list[Problem]:
    """Every problem that was found, each with its origin. `values` are what was given, `origins` by dotted path."""
    return [_problem(found, values, origins, model) for found in error.errors(include_url=False, include_input=False)]


def _problem(
    found: Any, values: Mapping[str, Any], origins: Mapping[str, str], model: type[BaseModel]
) -> Problem:  # fmt: skip
    path = tuple(part for part in found["loc"] if part != "[key]")
    name = ".".join(str(part) for part in path) or "workers"
    origin = _origin(path, origins)
    if path and path[0] == "crew":
        name = ".".join(("workers", *map(str, path[1:])))
    if found["type"] == "extra_forbidden":
        inner = _model_at(model, path[:-1])
        return unknown(name, origin, inner or model, f" in {name.rpartition('.')[0]}")
    words = found["msg"].removeprefix("Value error, ").removeprefix("Input ")
    field = _field_at(model, path)
    span = _span(field)
    what = f"{words}{f', {span}' if span and span not in words else ''}"
    remedy = (field.description or "") if field is not None else ""
    return Problem(name, origin, what, _shown(path, values), remedy)


def _origin(path: tuple[Any, ...], origins: Mapping[str, str]) -> str:
    for length in range(len(path), 0, -1):
        if (known := origins.get(".".join(str(part) for part in path[:length]))) is not None:
            return known
    return "several places" if not path else "default"


def _shown(path: tuple[Any, ...], values: Mapping[str, Any]) -> str | None:
    """The value as given, unless it may be a secret or is a table."""
    value: Any = values
    for part in path:
        if _HIDDEN.search(str(part)):
            return None
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    if isinstance(value, dict | list) or not path:
        return None
    return f"{value!r:.60}".replace("'", '"') if isinstance(value, str) else str(value).lower()


def _model_at(model: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    """The model of a table: `models.fast` is a ModelSettings."""
    at: Any = model
    for part in path:
        if isinstance(at, type) and issubclass(at, BaseModel):
            at = at.model_fields[str(part)].annotation if str(part) in at.model_fields else None
        else:
            arguments = typing.get_args(at)
            at = arguments[-1] if arguments else None
    return at if isinstance(at, type) and issubclass(at, BaseModel) else None


def _field_at(model: type[BaseModel], path: tuple[Any, ...]) -> Any:
    if not path:
        return None
    inner = _model_at(model, path[:-1])
    return inner.model_fields.get(str(path[-1])) if inner is not None else model.model_fields.get(str(path[0]))


def _span(field: Any) -> str:
    """The range of a number: "from 2 to 600"."""
    if field is None:
        return ""
    least, most = None, None
    for rule in field.metadata:
        least = getattr(rule, "ge", getattr(rule, "gt", least))
        most = getattr(rule, "le", getattr(rule, "lt", most))
    if least is not None and most is not None:
        return f"from {least:,} to {most:,}"
    return f"at least {least:,}" if least is not None else f"at most {most:,}" if most is not None else ""
