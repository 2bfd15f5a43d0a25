"""Chat completions of OpenAI and of the many servers that speak the same protocol."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from gristmill.llm import responses
from gristmill.llm.model import Image, Message, Request, Usage
from gristmill.llm.remote import HttpModel, encode, with_schema_told
from gristmill.llm.responses import Said
from gristmill.llm.schemas import schema_forms

DEFAULT_URL = "https://api.openai.com/v1"
_MARKS = (b'"finish_reason"', b'"usage"')
_FACTS = responses.facts("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "finish_reason")
_FINISH = {"tool_calls": "stop", "function_call": "stop", "content_filter": "filter"}


class OpenAIModel(HttpModel):
    """A model behind chat completions. `base_url` ends before `/chat/completions`."""

    provider = "openai"
    default_url = DEFAULT_URL
    modes = ("json_schema", "json_object", "tool", "text")
    reserved = (*HttpModel.reserved, "messages", "response_format")

    def _path(self, stream: bool) -> str:
        return "/chat/completions"

    def _mode(self, schema_digest: str) -> int:
        place = super()._mode(schema_digest)
        # A tool call is a detour: asked for by name only, else passed by on the way down.
        return place + 1 if self.modes[place] == "tool" and self._lowest != place else place

    def _body(self, request: Request, mode: str, stream: bool) -> bytes:
        wanted = ""
        if request.schema is not None and mode in ("json_schema", "tool"):
            wanted = _wanted(request, mode)
        elif request.schema is not None:
            request = with_schema_told(request)
            wanted = ',"response_format":{"type":"json_object"}' if mode == "json_object" else ""
        body: dict[str, Any] = {"model": self._binding.model, "messages": [_turn(one) for one in request.messages]}
        body.update(self._binding.parameters)
        body.update(request.parameters)
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return (encode(body)[:-1] + wanted + "}").encode()

    def _said(self, document: dict[str, Any]) -> Said:
        choice = document["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        if isinstance(text, list):  # some servers answer with a list of parts
            text = "".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
        if not text and message.get("tool_calls"):
            text = message["tool_calls"][0]["function"]["arguments"]
        reason = str(choice.get("finish_reason") or "stop")
        reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
        return Said(
            str(text), str(document.get("model") or ""), _FINISH.get(reason, reason), str(reasoning),
            str(message.get("refusal") or ""),
        )  # fmt: skip

    def _fold(self, events: list[dict[str, Any]]) -> Said:
        text, reasoning, refusal, arguments = [], [], [], []
        model = finish = ""
        for event in events:
            model = model or str(event.get("model") or "")
            for choice in event.get("choices") or ():
                if choice.get("index", 0):
                    continue
                delta = choice.get("delta") or {}
                text.append(delta.get("content") or "")
                reasoning.append(delta.get("reasoning_content") or delta.get("reasoning") or "")
                refusal.append(delta.get("refusal") or "")
                arguments += [call["function"].get("arguments") or "" for call in delta.get("tool_calls") or ()]
                finish = choice.get("finish_reason") or finish
        said = "".join(text) or "".join(arguments)
        return Said(said, model, _FINISH.get(finish, finish), "".join(reasoning), "".join(refusal))

    def _piece(self, event: dict[str, Any]) -> str:
        return "".join(str((choice.get("delta") or {}).get("content") or "") for choice in event.get("choices") or ())

    def _glance(self, body: bytes) -> tuple[str, Usage]:
        return glance(body)


def glance(body: bytes) -> tuple[str, Usage]:
    """Finish reason and tokens by a scan that cannot fail, so that the ledger can note them before a parser runs."""
    found = responses.scan(body, _FACTS, _MARKS)
    tokens = (b"prompt_tokens", b"completion_tokens", b"cached_tokens", b"reasoning_tokens")
    return found.get(b"finish_reason", b"").decode(), Usage(*(responses.count(found, name) for name in tokens))


def data_url(image: Image) -> str:
    """The picture as text that a URL can hold."""
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode()}"


def schema_name(request: Request) -> str:
    """The schema's name with the letters that OpenAI takes, at most 64."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", request.schema_name)[:64]


def _turn(message: Message) -> dict[str, Any]:
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    parts = [
        {"type": "image_url", "image_url": {"url": data_url(part)}} if isinstance(part, Image)
        else {"type": "text", "text": part.text}
        for part in message.content
    ]  # fmt: skip
    return {"role": message.role, "content": parts}


def _wanted(request: Request, mode: str) -> str:
    """The members that ask for the schema, as text: it is large, always the same, and needs no second encoding."""
    assert request.schema is not None  # noqa: S101 - for the type checker
    forms = schema_forms(request.schema)
    name, strict = json.dumps(schema_name(request)), json.dumps(forms.strict)
    if mode == "json_schema":
        named = f'{{"name":{name},"strict":{strict},"schema":{forms.strict_text}}}'
        return f',"response_format":{{"type":"json_schema","json_schema":{named}}}'
    function = f'{{"name":{name},"strict":{strict},"parameters":{forms.strict_text}}}'
    choice = f'{{"type":"function","function":{{"name":{name}}}}}'
    return f',"tools":[{{"type":"function","function":{function}}}],"tool_choice":{choice}'
