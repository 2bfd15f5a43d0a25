"""Values that follow a JSON schema: parameters of actions and settings of packs, references and secrets among them.

A text `${input.name}` stands for that field of the record that the action works on. A property with `secret: true`
holds where the secret is (`env:NAME`, `file:/path`, `secret:NAME`), never the secret itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match

from gristmill.data.kinds import canonical_json

REFERENCE = re.compile(r"\$\{input((?:\.[A-Za-z0-9_-]+)+)\}")
SECRET = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/.+|secret:[A-Za-z0-9_][A-Za-z0-9_.-]*")


class NotFitting(ValueError):
    """What does not fit, and where."""


def schema_problem(schema: Mapping[str, Any]) -> str:
    """Why this is no JSON schema of an object that may be used here; "" when it is one."""
    if schema.get("type") != "object" or not isinstance(schema.get("properties", {}), dict):
        return "it has to say type: object, and properties: with names"
    if (far := _far_reference(schema)) is not None:
        return f'"$ref" to {far[:80]!r}: only parts of the schema itself, "#/...", can be referred to'
    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        place = ".".join(map(str, error.absolute_path))
        return f"{place}: {error.message[:300]}" if place else error.message[:300]
    return ""


def secrets_of(schema: Mapping[str, Any]) -> list[str]:
    """Names of the properties that hold a reference to a secret."""
    properties = schema.get("properties", {})
    return [name for name, one in properties.items() if isinstance(one, dict) and one.get("secret") is True]


def checked(schema: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values with defaults filled in. What holds a reference to the input is checked later, when it is known.

    Raises `NotFitting`.
    """
    values = {**_defaults(schema), **given}
    for name in secrets_of(schema):
        if name in values and not (isinstance(values[name], str) and SECRET.fullmatch(values[name])):
            raise NotFitting(f"{name}: say where the secret is, env:NAME, file:/path or secret:NAME, never the secret")
    waiting = {name for name, value in values.items() if has_reference(value)}
    whole = dict(schema)
    whole["required"] = [name for name in schema.get("required", ()) if name not in waiting]
    _validate(whole, {name: value for name, value in values.items() if name not in waiting}, waiting)
    return values


def resolved(schema: Mapping[str, Any], values: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The values with what the input says in place of `${input.name}`. Raises `NotFitting`."""
    found = {name: _resolve(value, body) for name, value in values.items()}
    _validate(schema, found, ())
    return found


def has_reference(value: Any) -> bool:
    """Whether a value, or a part of it, refers to the input."""
    if isinstance(value, str):
        return REFERENCE.search(value) is not None
    if isinstance(value, Mapping):
        return any(map(has_reference, value.values()))
    return isinstance(value, list) and any(map(has_reference, value))


def with_secrets(schema: Mapping[str, Any], values: Mapping[str, Any], read: Callable[[str], str]) -> dict[str, Any]:
    """The values with the secrets themselves, as `read` gives them for a reference."""
    secret = secrets_of(schema)
    return {name: read(value) if name in secret else value for name, value in values.items()}


def _resolve(value: Any, body: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: _resolve(part, body) for name, part in value.items()}
    if isinstance(value, list):
        return [_resolve(part, body) for part in value]
    if not isinstance(value, str):
        return value
    if (whole := REFERENCE.fullmatch(value)) is not None:  # keeps its type: a number stays a number
        return _look_up(body, whole[1])
    return REFERENCE.sub(lambda found: _as_text(_look_up(body, found[1])), value)


def _look_up(body: Any, path: str) -> Any:
    found = body
    for part in path[1:].split("."):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        else:
            raise NotFitting(f"${{input{path}}}: the input has no {part}")
    return found


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    return {name: one["default"] for name, one in properties.items() if isinstance(one, dict) and "default" in one}


def _validate(schema: Mapping[str, Any], values: Mapping[str, Any], waiting: Any) -> None:
    known = schema.get("properties", {})
    if "additionalProperties" not in schema and "patternProperties" not in schema:
        for name in (*values, *waiting):
            if name not in known:
                raise NotFitting(f"there is no {name!r}; there is: {', '.join(known) or 'nothing'}")
    problem = best_match(_validator(canonical_json(schema)).iter_errors(values))
    if problem is not None:
        place = ".".join(map(str, problem.absolute_path))
        raise NotFitting(f"{place}: {problem.message[:300]}" if place else problem.message[:300])


@lru_cache(maxsize=256)
def _validator(schema: str) -> Draft202012Validator:
    import json

    return Draft202012Validator(json.loads(schema))


def _far_reference(part: Any) -> str | None:
    if isinstance(part, Mapping):
        for name, value in part.items():
            if name in ("$ref", "$dynamicRef") and not (isinstance(value, str) and value.startswith("#")):
                return str(value)
            if (found := _far_reference(value)) is not None:
                return found
    if isinstance(part, list):
        return next((found for value in part if (found := _far_reference(value)) is not None), None)
    return None
