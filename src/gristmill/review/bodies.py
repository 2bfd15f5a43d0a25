"""What a person writes in place of a proposal, checked by its kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from gristmill.data.annotated import text_of
from gristmill.data.annotations import ANNOTATIONS, Annotation, problems_of
from gristmill.data.kinds import KINDS, Conversation, Example, canonical_json
from gristmill.data.kinds import TestItem as Item
from gristmill.data.records import Record, body_text
from gristmill.errors import InputError, UsageError

Check = Callable[[BaseModel], Sequence[str]]  # sentences about what is wrong, none when nothing is
LIMIT = 20  # problems that are told
_STAMP = ("subject", "annotator", "by", "model", "outcome", "reason", "score", "dropped")  # not the person's to write
_FRAME = ("width", "height", "scale")  # what an edit may leave out, because it stays


def edited(
    kind: str, standing: Mapping[str, Any], body: Mapping[str, Any] | None, changes: Mapping[str, Any] | None,
    reviewer: str, family: Sequence[Record], check: Check | None = None,
) -> BaseModel | None:  # fmt: skip
    """The body of a revision: `body` as a whole, or `standing` with the fields of `changes`; None when it says what
    stands already. `family` is the record with its ancestors. An annotation gets the person as its annotator.

    Raises `UsageError` V120, with every field that is wrong; V121 when neither or both of the two are given.
    """
    if (body is None) == (changes is None):
        raise _wrong("an edit needs either the whole body or the changes", "edit ID --set answer=...", "V121")
    wanted = dict(body) if body is not None else {**standing, **(changes or {})}
    before = _parsed(kind, standing)
    if isinstance(before, Annotation):
        wanted = {**{name: standing[name] for name in _FRAME if name in standing}, **wanted}
        wanted |= {"subject": before.subject, "annotator": reviewer, "by": "person", "outcome": "ok"}
        wanted |= {"model": None, "reason": None, "score": None, "dropped": ()}
    made = _parsed(kind, wanted)
    if isinstance(made, Annotation) and not any(isinstance(value, list) and value for value in _content(made).values()):
        made = made.model_copy(update={"outcome": "empty"})
    if _content(made) == _content(before) and not getattr(before, "undecided", False):
        return None
    problems = [*_problems(made, family), *(check(made) if check else ())]
    if problems:
        raise _wrong("; ".join(problems[:LIMIT]))
    try:
        body_text(made)
    except InputError as error:
        raise _wrong(error.message, error.hint) from None
    return made


def _parsed(kind: str, body: Mapping[str, Any]) -> BaseModel:
    try:
        return KINDS[kind].model_validate_json(json.dumps(dict(body)))
    except ValidationError as error:
        found = [f"{'.'.join(map(str, one['loc'])) or kind}: {one['msg']}" for one in error.errors()]
    except (TypeError, ValueError, RecursionError) as error:
        found = [str(error)]
    fields = ", ".join(name for name in KINDS[kind].model_fields if kind not in ANNOTATIONS or name not in _STAMP)
    raise _wrong("; ".join(found[:LIMIT]), f"fields of {kind}: {fields}")


def content_of(kind: str, body: str) -> str:
    """What two bodies (JSON text) have to share to say the same: of annotations it does not matter who says it."""
    return canonical_json(_content(_parsed(kind, json.loads(body))))


def _content(made: BaseModel) -> dict[str, Any]:
    own = _STAMP if isinstance(made, Annotation) else ()
    return {name: value for name, value in made.model_dump(mode="json").items() if name not in own}


def _problems(made: BaseModel, family: Sequence[Record]) -> list[str]:
    """What is wrong with a body beyond its shape, a sentence each."""
    if isinstance(made, Annotation):
        text = subject_text(made, family)
        return problems_of(made, text) if text is not None else []
    if isinstance(made, Example):
        return [f"{name}: it is empty" for name in ("question", "answer") if not getattr(made, name).strip()]
    if isinstance(made, Conversation):
        if not made.turns or made.turns[-1].role != "assistant":
            return ["turns: the last one is the assistant's"]
        return [f"turns.{at}: it is empty" for at, turn in enumerate(made.turns) if not turn.content.strip()]
    if isinstance(made, Item):
        return _item_problems(made)
    return []


def _item_problems(item: Item) -> list[str]:
    found = [] if item.question.strip() else ["question: it is empty"]
    if not item.correct:
        found.append("correct: no answer is right")
    if item.type in ("single_choice", "multiple_choice"):
        letters = [chr(ord("A") + at) for at in range(len(item.options))]
        found += [f"correct: {one} is none of {', '.join(letters)}" for one in item.correct if one not in letters]
    return found


def subject_of(annotation: Annotation, family: Sequence[Record]) -> Record | None:
    """The record that was annotated, of an annotation's ancestors."""
    return next((one for one in family if one.hash.hex() == annotation.subject), None)


def subject_text(annotation: Annotation, family: Sequence[Record]) -> str | None:
    """The text that its spans count in; None for a picture, or when the record is not among `family`."""
    subject = subject_of(annotation, family)
    if subject is None or subject.kind not in KINDS:
        return None
    return text_of(KINDS[subject.kind].model_validate_json(subject.body))


def _wrong(message: str, hint: str = "", code: str = "V120") -> UsageError:
    return UsageError(message, code=code, hint=hint, safe="nothing was changed")
