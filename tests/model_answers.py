"""What the scripted model answers: made from the question alone, so that the same question gets the same answer."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any


@dataclass
class Question:
    """What one request asks for."""

    system: str
    user: str
    schema: dict[str, Any] | None
    format: str  # json_schema, json_object, tool or text
    tool: str = ""  # the name of the tool that it has to call

    @property
    def passage(self) -> str:
        found = re.search(r"<(passage|text)>\n(.*?)\n</\1>", self.user, re.DOTALL)
        return found[2] if found else self.user

    @property
    def count(self) -> int:
        found = re.search(r"\b(\d{1,2}) questions?\b", self.user)
        return int(found[1]) if found else 2

    def sentences(self) -> list[str]:
        found = re.findall(r"[^.!?。！？\n]{8,}[.!?。！？]", self.passage)
        return [sentence.strip() for sentence in found] or [self.passage.strip()[:200]]


def answer(question: Question) -> str:
    """The text of the answer: JSON for a schema, else an echo."""
    if question.schema is None:
        return f"You said: {question.user}"
    filler = _Filler(question)
    return json.dumps(filler.value(question.schema, "answer", 0), ensure_ascii=False)


class _Filler:
    """Makes a value for any schema; fields called question, answer and quote come from the passage."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.schema = question.schema or {}
        self.sentences = question.sentences()
        self.digest = hashlib.sha256(question.user.encode()).hexdigest()

    def value(self, schema: dict[str, Any], name: str, place: int) -> Any:
        if "$ref" in schema:
            schema = self.schema["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
        if "enum" in schema:
            return schema["enum"][place % len(schema["enum"])]
        if "const" in schema:
            return schema["const"]
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            return self.value(options[0], name, place)
        return self._by_type(schema, name, place)

    def _by_type(self, schema: dict[str, Any], name: str, place: int) -> Any:
        kind = schema.get("type", "string")
        if kind == "object":
            return {key: self.value(part, key, place) for key, part in schema.get("properties", {}).items()}
        if kind == "array":
            count = min(max(self.question.count, schema.get("minItems", 0)), schema.get("maxItems", 1000))
            return [self.value(schema.get("items", {}), name, number) for number in range(count)]
        if kind == "integer":
            return int(schema.get("minimum", 1)) + place
        if kind == "number":
            return float(schema.get("minimum", 1)) + place / 2 + (500 if name in ("right", "bottom") else 0)
        return {"boolean": True, "null": None}.get(kind, self._text(name, place))

    def _text(self, name: str, place: int) -> str:
        sentence = self.sentences[place % len(self.sentences)]
        if name == "question":
            return f"What is said about {' '.join(sentence.split()[:6])} ({place + 1})?"
        if name in ("quote", "answer", "evidence"):
            return sentence
        if name == "text":  # a mention: the longest word
            return max(re.findall(r"\w+", sentence), key=len, default="nothing")
        if name in ("head", "tail"):
            return f"e{place + (1 if name == 'head' else 2)}"
        return f"{name} {place + 1} of {self.digest[:8]}"


def decorate(text: str, shape: str) -> str:
    return {
        "prose": f"Of course! Here is what you asked for:\n\n{text}\n\nI hope that helps.",
        "fence": f"```json\n{text}\n```",
        "think": f"<think>They want {{json}}, so [let me] think.</think>\n{text}",
        "nul": text.replace(" ", "\x00", 1),
        "surrogate": text.replace(" ", "\ud800", 1),
    }.get(shape, text)
