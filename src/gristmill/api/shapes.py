"""What all routes share: bodies, answers, pages, and the App and the caller of a request."""

from __future__ import annotations

import base64
import binascii
import json
from decimal import Decimal
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from starlette.requests import HTTPConnection

from gristmill.api.access import Caller
from gristmill.app import App
from gristmill.errors import UsageError

T = TypeVar("T")
MOST = 200  # items of a page
LARGEST = 2**63 - 1


class Body(BaseModel):
    """What a caller sends: an unknown field is an error, and so is "1" or true where a number is meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_what_it_is(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = _kinds(cls.model_fields[info.field_name or ""].annotation)
        if Any in kinds or (isinstance(value, bool) and bool in kinds):
            return value
        if isinstance(value, bool) and kinds & {int, float, Decimal}:
            raise ValueError("true and false are no value here")
        if isinstance(value, (int, float)) and kinds <= {bool, NoneType}:
            raise ValueError("it has to be true or false")
        if isinstance(value, str) and kinds <= {bool, int, float, NoneType}:
            raise ValueError("it cannot be text")
        return value


class Answer(BaseModel):
    """What a caller gets. Times are ISO 8601 in UTC, spans are seconds."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Page(Answer, Generic[T]):
    """A page of a list. `next` is given as `after` for the next one; null at the end."""

    items: list[T]
    next: str | None = None


def _kinds(annotation: Any) -> set[Any]:
    """The types that a field takes, without what narrows them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return {kind for one in get_args(annotation) for kind in _kinds(one)}
    return {origin or annotation}


def the_app(connection: HTTPConnection) -> App:
    app: App = connection.app.state.gristmill
    return app


def the_caller(connection: HTTPConnection) -> Caller:
    caller: Caller = connection.state.caller
    return caller


OpenApp = Annotated[App, Depends(the_app)]
Asking = Annotated[Caller, Depends(the_caller)]
Id = Annotated[int, Field(ge=1, le=LARGEST)]
After = Annotated[str | None, Query(max_length=500, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="items of the page")]


def cursor(*values: Any) -> str:
    """A place in a list as opaque text: of values that JSON knows."""
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def place(after: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """The values of a cursor; None for the beginning. Raises `UsageError` A420 for what was no cursor of this list."""
    if after is None:
        return None
    try:
        values = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
        fits = isinstance(values, list) and [type(value) for value in values] == list(kinds)
    except (binascii.Error, ValueError, RecursionError):
        fits = False
    if not fits or any(isinstance(value, int) and abs(value) > LARGEST for value in values):
        raise UsageError('"after" is no place in this list', code="A420", hint="take it from `next` of a page before")
    return tuple(values)
