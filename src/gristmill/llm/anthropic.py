"""The messages API of Anthropic."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from gristmill.llm import responses, streams
from gristmill.llm.model import Image, Message, Request, Usage
from gristmill.llm.openai import schema_name
from gristmill.llm.remote import HttpModel, with_schema_told
from gristmill.llm.responses import Said
from gristmill.llm.schemas import schema_forms

_HEAD = 16_384  # bytes; a stream tells the tokens of the question in its first event
_FACTS = responses.facts(
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "thinking_tokens",
    "stop_reason",
)  # fmt: skip
_MARKS = (b'"stop_reason"', b'"usage"')
_FINISH = {
    "end_turn": "stop", "stop_sequence": "stop", "tool_use": "stop", "max_tokens": "length",
    "model_context_window_exceeded": "length",
}  # fmt: skip


class AnthropicModel(HttpModel):
    """A model behind Anthropic's messages. `base_url` ends before `/messages`.

    The API wants `max_tokens`; without a word from the user it is 4096. `stop` is sent as `stop_sequences`. A schema is
    asked for as output format, else as the only tool, which the model must call, else in words.
    """

    provider = "anthropic"
    default_url = "https://api.anthropic.com/v1"
    key_header = ("x-api-key", "")
    headers: ClassVar[Mapping[str, str]] = {"anthropic-version": "2023-06-01"}
    modes = ("json_schema", "tool", "text")
    reserved = ("model", "messages", "stream", "system")
    defaults: ClassVar[Mapping[str, Any]] = {"max_tokens": 4096}

    def _path(self, stream: bool) -> str:
        return "/messages"

    def _body(self, request: Request, mode: str, stream: bool) -> dict[str, Any]:
        given = self._parameters(request)
        if "stop" in given:
            stop = given.pop("stop")
            given["stop_sequences"] = [stop] if isinstance(stop, str) else stop
        if request.schema is not None and mode == "json_schema":
            form = {"type": "json_schema", "schema": schema_forms(request.schema).strict_form}
            given["output_config"] = {**given.get("output_config", {}), "format": form}
        elif request.schema is not None and mode == "tool":
            name = schema_name(request)
            told = "Give the answer."
            given["tools"] = [
                {"name": name, "description": told, "input_schema": schema_forms(request.schema).original}
            ]
            given["tool_choice"] = {"type": "tool", "name": name}
        elif request.schema is not None:
            request = with_schema_told(request)
        system = "\n\n".join(message.text for message in request.messages if message.role == "system")
        turns = [_turn(message) for message in request.messages if message.role != "system"]
        body = {"model": self._binding.model, "messages": turns, **({"system": system} if system else {}), **given}
        return body | ({"stream": True} if stream else {})

    def _said(self, document: dict[str, Any]) -> Said:
        text, reasoning = [], []
        called = ""
        for block in document["content"]:
            kind = block["type"]
            if kind == "text":
                text.append(str(block["text"]))
            elif kind == "thinking":
                reasoning.append(str(block["thinking"]))
            elif kind == "tool_use":
                called = called or json.dumps(block["input"], ensure_ascii=False)
        reason = str(document.get("stop_reason") or "end_turn")
        return Said(
            called or "".join(text), str(document.get("model") or ""), _FINISH.get(reason, reason), "".join(reasoning)
        )

    def _fold(self, events: list[dict[str, Any]]) -> Said:
        text, reasoning, called = [], [], []
        model = reason = ""
        for event in events:
            delta = event.get("delta") or {}
            if event.get("type") == "message_start":
                model = str(event["message"].get("model") or "")
            elif event.get("type") == "message_delta":
                reason = delta.get("stop_reason") or reason
            elif event.get("type") == "content_block_delta":
                text.append(delta.get("text") or "")
                reasoning.append(delta.get("thinking") or "")
                called.append(delta.get("partial_json") or "")
        return Said("".join(called) or "".join(text), model, _FINISH.get(reason, reason), "".join(reasoning))

    def _piece(self, event: dict[str, Any]) -> str:
        return str((event.get("delta") or {}).get("text") or "") if event.get("type") == "content_block_delta" else ""

    def _glance(self, body: bytes) -> tuple[str, Usage]:
        found = responses.scan(body, _FACTS, _MARKS)
        if streams.is_stream(body):
            found = responses.scan(body[:_HEAD], _FACTS, ()) | found
        cached = responses.count(found, b"cache_read_input_tokens")
        asked = responses.count(found, b"input_tokens", b"cache_read_input_tokens", b"cache_creation_input_tokens")
        usage = Usage(
            asked, responses.count(found, b"output_tokens"), cached, responses.count(found, b"thinking_tokens")
        )
        return found.get(b"stop_reason", b"").decode(), usage


def _turn(message: Message) -> dict[str, Any]:
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    return {"role": message.role, "content": [
        {"type": "image", "source": {
            "type": "base64", "media_type": part.media_type, "data": base64.b64encode(part.data).decode(),
        }} if isinstance(part, Image) else {"type": "text", "text": part.text}
        for part in message.content
    ]}  # fmt: skip
