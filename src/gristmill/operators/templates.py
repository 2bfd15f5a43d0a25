"""Questions from templates: the same question about every chunk, or every picture."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypeAliasType

from gristmill.data.kinds import Chunk, Image, Question
from gristmill.operators.operator import Context, operator


class QuestionTemplate(BaseModel):
    """One question that is asked of everything. `answer_type` says what its answer has to be: free text (default), one
    of `labels`, or JSON that follows `json_schema` (its text)."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=100)
    question: str = Field(min_length=1, max_length=2000)
    source: Literal["text", "image"] = "text"
    answer_type: Literal["text", "label", "json"] = "text"
    labels: list[str] = []
    json_schema: str = ""

    @model_validator(mode="after")
    def _whole(self) -> QuestionTemplate:
        if (self.answer_type == "label") != bool(self.labels):
            raise ValueError(f'template "{self.name}": labels belong to answer_type "label", and it needs some')
        if (self.answer_type == "json") != bool(self.json_schema):
            raise ValueError(f'template "{self.name}": json_schema belongs to answer_type "json", and it needs one')
        try:
            shape = json.loads(self.json_schema or "{}")
        except ValueError as error:
            raise ValueError(f'template "{self.name}": json_schema is no JSON: {error}') from None
        if not isinstance(shape, dict):
            raise ValueError(f'template "{self.name}": json_schema is an object, like {{"type": "object"}}')
        return self


def _named_once(templates: list[QuestionTemplate]) -> list[QuestionTemplate]:
    names = [template.name for template in templates]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f'two templates are called "{twice}"')
    return templates


# Under a name of its own, so that the bounds survive typing.get_type_hints, which drops a bare Annotated.
Templates = TypeAliasType(
    "Templates", Annotated[list[QuestionTemplate], Field(min_length=1), AfterValidator(_named_once)]
)


@operator("questions_from_template", version=1)
async def questions_from_template(subject: Chunk | Image, ctx: Context, templates: Templates) -> list[Question]:
    """A question for each template whose `source` fits: "text" for a chunk, "image" for a picture. Asks no model.

    Adding a template makes nothing twice: what is answered already is known by its content, so only the new questions
    are answered. Raises `WorkflowError` when the options are set: a template without a question, with labels or a
    schema that do not go with its `answer_type`, a schema that is no JSON, two templates of one name.
    """
    source = "image" if isinstance(subject, Image) else "text"
    fitting = [template for template in templates if template.source == source]
    if not fitting:
        ctx.notes["empty"] = f"no template is about {source}"
    return [
        Question(
            text=template.question.strip(), ordinal=ordinal, template=template.name,
            answer_type=None if template.answer_type == "text" else template.answer_type,
            labels=tuple(template.labels) or None, json_schema=template.json_schema or None,
            image=subject.blob if isinstance(subject, Image) else None,
        )
        for ordinal, template in enumerate(fitting)
    ]  # fmt: skip
