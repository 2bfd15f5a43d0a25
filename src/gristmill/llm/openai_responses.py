"""The responses API of OpenAI, which other servers speak too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from gristmill.llm import responses
from gristmill.llm.model import Image, Message, Request, UnusableAnswer, Usage
from gristmill.llm.openai import DEFAULT_URL, data_url, schema_name
from gristmill.llm.remote import HttpModel, with_schema_told
from gristmill.llm.responses import Said
from gristmill.llm.schemas import schema_forms

_FACTS = responses.facts("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
_INCOMPLETE = re.compile(rb'"incomplete_details"\s*:\s*\{[^{}]{0,200}?"reason"\s*:\s*"([a-z_]{1,40})"')
_REASONS = {"max_output_tokens": "length", "content_filter": "filter"}


class OpenAIResponsesModel(HttpModel):
    """A model behind the responses API. `base_url` ends before `/responses`.

    `max_tokens` is sent as `max_output_tokens`, `reasoning_effort` as `reasoning.effort`. Unless `store` is given, the
    provider is asked to keep nothing.
    """

    provider = "openai-responses"
    default_url = DEFAULT_URL
    reserved = (*HttpModel.reserved, "input", "background", "previous_response_id", "conversation")
    defaults: ClassVar[Mapping[str, Any]] = {"store": False}

    def _path(self, stream: bool) -> str:
        return "/responses"

    def _body(self, request: Request, mode: str, stream: bool) -> dict[str, Any]:
        wanted: dict[str, Any] = {}
        if request.schema is not None and mode == "json_schema":
            forms = schema_forms(request.schema)
            named = {"name": schema_name(request), "strict": forms.strict, "schema": forms.strict_form}
            wanted = {"format": {"type": "json_schema", **named}}
        elif request.schema is not None:
            request = with_schema_told(request)
            wanted = {"format": {"type": "json_object"}} if mode == "json_object" else {}
        given = self._parameters(request)
        if "max_tokens" in given:
            given["max_output_tokens"] = given.pop("max_tokens")
        if "reasoning_effort" in given:
            given["reasoning"] = {**given.get("reasoning", {}), "effort": given.pop("reasoning_effort")}
        if wanted:
            given["text"] = {**given.get("text", {}), **wanted}
        body = {"model": self._binding.model, "input": [_turn(one) for one in request.messages], **given}
        return body | ({"stream": True} if stream else {})

    def _said(self, document: dict[str, Any]) -> Said:
        status = document.get("status") or "completed"
        if status == "failed":
            problem = (document.get("error") or {}).get("message") or "no message"
            raise UnusableAnswer(f"the server failed: {responses.clean_text(str(problem))[:500]}")
        text, reasoning, refusal = [], [], []
        for item in document["output"]:
            kind = item["type"]
            if kind == "reasoning":
                parts = [*(item.get("summary") or ()), *(item.get("content") or ())]
                reasoning += [str(part.get("text") or "") for part in parts]
            elif kind == "message":
                text += [str(part.get("text") or "") for part in item["content"] if part["type"] == "output_text"]
                refusal += [str(part.get("refusal") or "") for part in item["content"] if part["type"] == "refusal"]
            elif kind == "function_call":
                text.append(item["arguments"])
        why = str((document.get("incomplete_details") or {}).get("reason") or "max_output_tokens")
        finish = "stop" if status == "completed" else _REASONS.get(why, why) if status == "incomplete" else ""
        return Said("".join(text), str(document.get("model") or ""), finish, "\n".join(reasoning), "".join(refusal))

    def _fold(self, events: list[dict[str, Any]]) -> Said:
        for event in reversed(events):
            if event.get("type") in ("response.completed", "response.incomplete"):
                return self._said(event["response"])
        return Said("", finish="")

    def _piece(self, event: dict[str, Any]) -> str:
        return str(event.get("delta") or "") if event.get("type") == "response.output_text.delta" else ""

    def _glance(self, body: bytes) -> tuple[str, Usage]:
        found = responses.scan(body, _FACTS, (b'"usage"',))
        tokens = (b"input_tokens", b"output_tokens", b"cached_tokens", b"reasoning_tokens")
        usage = Usage(*(responses.count(found, name) for name in tokens))
        why = _INCOMPLETE.match(body, max(body.rfind(b'"incomplete_details"'), 0))
        return why[1].decode() if why else "stop" if b'"completed"' in body else "", usage


def _turn(message: Message) -> dict[str, Any]:
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    words = "output_text" if message.role == "assistant" else "input_text"
    parts = [
        {"type": "input_image", "image_url": data_url(part), "detail": "auto"} if isinstance(part, Image)
        else {"type": words, "text": part.text}
        for part in message.content
    ]  # fmt: skip
    return {"role": message.role, "content": parts}
