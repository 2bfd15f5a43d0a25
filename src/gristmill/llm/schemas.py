"""JSON schemas in the forms that are sent. Made once per schema: a run asks the same one a million times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MOST = 256  # schemas to remember; far more than a program has


@dataclass(frozen=True, slots=True)
class SchemaForms:
    """`strict_text` is the form for strict mode (every property required, no others); `strict` is False, and the text
    and form the original, for a schema with free-form objects."""

    original: Mapping[str, Any]
    text: str
    digest: str  # sha256 in hex over the sorted text
    strict: bool
    strict_text: str
    strict_form: Mapping[str, Any]


_known: dict[int, SchemaForms] = {}  # by id; `original` keeps the object alive, so that no other can have its id


def schema_forms(schema: Mapping[str, Any]) -> SchemaForms:
    """The forms of a schema. It must not be changed afterwards."""
    known = _known.get(id(schema))
    if known is not None and known.original is schema:
        return known
    text = json.dumps(schema, ensure_ascii=False)
    tightened = json.loads(text)
    strict = _tighten(tightened)
    forms = SchemaForms(
        schema, text, hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest(), strict,
        json.dumps(tightened) if strict else text, tightened if strict else schema,
    )  # fmt: skip
    if len(_known) >= _MOST:
        _known.clear()
    _known[id(schema)] = forms
    return forms


def _tighten(node: Any) -> bool:
    """Changes the node in place; False when it holds an object whose keys are not known beforehand."""
    if isinstance(node, list):
        return all(_tighten(part) for part in node)
    if not isinstance(node, dict):
        return True
    if "$ref" in node:
        reference = node["$ref"]
        node.clear()  # strict mode allows nothing beside a reference
        node["$ref"] = reference
        return True
    for word in ("default", "title"):
        if not isinstance(node.get(word), dict):  # a property may be called "title"
            node.pop(word, None)
    if node.get("type") == "object":
        if "properties" not in node or isinstance(node.get("additionalProperties"), dict):
            return False
        node["required"] = list(node["properties"])
        node["additionalProperties"] = False
    return all(_tighten(part) for part in node.values())
