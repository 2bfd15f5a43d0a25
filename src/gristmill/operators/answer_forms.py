"""What an answer has to be: free text, one of some labels, or JSON that follows a schema of the question."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, create_model

from gristmill.data.kinds import Question
from gristmill.errors import InputError
from gristmill.operators.wording import fold

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

_KNOWN = 256  # forms to remember; a template's questions share one


class PlainAnswer(BaseModel):
    """An answer without a passage that it could quote."""

    answer: str | None


class GroundedAnswer(BaseModel):
    """An answer as the model gives it; blank or null when the passage does not contain one, but never left out."""

    answer: str | None
    quote: str | None = None


class _Schemed(BaseModel):
    """Tells a schema of its own, not the one that pydantic would make."""

    told: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return dict(cls.told)


@dataclass(frozen=True, slots=True)
class Form:
    """`schema` is what the model is asked for: an object with "answer", and "quote" where there is a passage. `words`
    tell the form in a prompt; "" for free text. `kind` as in `Example.answer_type`."""

    kind: Literal["label", "json"] | None
    schema: type[BaseModel]
    words: str = ""

    def text(self, value: Any) -> str | None:
        """The answer as it is stored; None where the model gave none."""
        if value is None:
            return None
        if self.kind == "json":
            return json.dumps(value, ensure_ascii=False)
        return str(value).strip() or None


def form_of(question: Question, *, quoted: bool) -> Form:
    """The form of the answer to a question; `quoted` asks for a quote too.

    Raises `InputError` T220 for a question without labels to choose from, T221 for a JSON schema that is none.
    """
    if question.answer_type == "label":
        labels = tuple(question.labels or ())
        if not labels or not all(label.strip() for label in labels):
            raise InputError("the question wants a label and has no labels to choose from", code="T220")
        return Form("label", _label_schema(labels, quoted), "\n".join(f"- {label}" for label in labels))
    if question.answer_type == "json":
        if not question.json_schema:
            raise InputError("the question wants JSON and has no schema", code="T221")
        return Form("json", _json_schema(question.json_schema, quoted), question.json_schema)
    return Form(None, GroundedAnswer if quoted else PlainAnswer)


def refuse_picture(question: Question) -> None:
    """Raises `InputError` T222 for a question about a picture, where nobody is going to see that."""
    if question.image is not None:
        raise InputError("the question is about a picture", code="T222", hint="the step answer_image shows it")


@lru_cache(maxsize=_KNOWN)
def _label_schema(labels: tuple[str, ...], quoted: bool) -> type[BaseModel]:
    folded = Counter(fold(label) for label in labels)
    plain = {fold(label): label for label in labels if folded[fold(label)] == 1}

    def choose(value: Any) -> Any:
        """The label that is meant: models change case and spaces."""
        if not isinstance(value, str) or value in labels:
            return value
        return plain.get(fold(value), value) if value.strip() else None

    choices: Any = Literal[labels]
    fields: dict[str, Any] = {"answer": (Annotated[choices | None, BeforeValidator(choose)], ...)}
    return create_model("LabelAnswer", **fields, **_quote(quoted))


@lru_cache(maxsize=_KNOWN)
def _json_schema(text: str, quoted: bool) -> type[BaseModel]:
    from jsonschema.exceptions import best_match

    schema = read_schema(text)
    validator = _validator(schema)

    def check(value: Any) -> Any:
        problem = None if value is None else best_match(validator.iter_errors(value))
        if problem is not None:
            raise ValueError(f"{problem.json_path}: {problem.message[:300]}")
        return value

    made = create_model(
        "JsonAnswer", __base__=_Schemed, answer=(Annotated[Any, AfterValidator(check)], ...), **_quote(quoted)
    )
    made.told = _wrapped(schema, quoted)
    return made


def _validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    from jsonschema import Draft202012Validator  # imported late: most workers never need it
    from referencing import Registry

    return Draft202012Validator(schema, registry=Registry())  # an empty one: nothing is fetched from anywhere


def read_schema(text: str) -> dict[str, Any]:
    """A JSON schema out of its text. Raises `InputError` T221 for what is none, or points outside of itself."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing.exceptions import Unresolvable

    try:
        schema = json.loads(text)
        if not isinstance(schema, dict):
            raise InputError("a JSON schema is an object", code="T221", hint='{"type": "object", "properties": {...}}')
        Draft202012Validator.check_schema(schema)
        _validator(schema).is_valid({})
    except SchemaError as error:
        raise InputError(f"the JSON schema is wrong at {error.json_path}: {error.message[:300]}", code="T221") from None
    except Unresolvable as error:
        raise InputError(f"the JSON schema points to what it does not hold: {error.ref}", code="T221") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"the JSON schema cannot be read: {error}", code="T221") from None
    for reference in _references(schema):
        if not reference.startswith(("#/$defs/", "#/definitions/")):
            raise InputError(
                f'the JSON schema refers to "{reference}"', code="T221", hint="keep shared parts below $defs"
            )
    return schema


def _wrapped(schema: Mapping[str, Any], quoted: bool) -> dict[str, Any]:
    """The schema of the whole answer. What references point to moves to the top, where they still find it."""
    apart = ("$schema", "$id", "$defs", "definitions")
    inner = {name: part for name, part in schema.items() if name not in apart}
    properties: dict[str, Any] = {"answer": {"anyOf": [inner, {"type": "null"}]}}
    if quoted:
        properties["quote"] = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    return {"type": "object", "properties": properties, "required": ["answer"], **shared}


def _references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [found for part in node for found in _references(part)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
    return own + [found for part in node.values() for found in _references(part)]


def _quote(quoted: bool) -> dict[str, Any]:
    return {"quote": (str | None, None)} if quoted else {}
