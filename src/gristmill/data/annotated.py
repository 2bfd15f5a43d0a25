"""What of a record is annotated: the one text that spans count in."""

from __future__ import annotations

from typing import overload

from pydantic import BaseModel

from gristmill.data.kinds import Chunk, Conversation, Example, Question

TEXTS = (Chunk, Question, Example, Conversation)


@overload
def text_of(body: Chunk | Question | Example | Conversation) -> str: ...


@overload
def text_of(body: BaseModel) -> str | None: ...


def text_of(body: BaseModel) -> str | None:
    """The text that an annotator reads and that spans count in; None for what is no text (a picture).

    A chunk's and a question's own text; question, blank line and answer of an example; the turns of a conversation,
    each "role: content", a blank line between them.
    """
    if isinstance(body, Chunk | Question):
        return body.text
    if isinstance(body, Example):
        return f"{body.question}\n\n{body.answer}"
    if isinstance(body, Conversation):
        return "\n\n".join(f"{turn.role}: {turn.content}" for turn in body.turns)
    return None
