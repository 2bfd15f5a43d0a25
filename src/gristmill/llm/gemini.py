"""Gemini's own protocol (`generateContent`). Its OpenAI-compatible endpoint is served by `openai.py`."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

from gristmill.llm import responses
from gristmill.llm.model import Image, Request, Usage
from gristmill.llm.remote import HttpModel, with_schema_told
from gristmill.llm.responses import Said
from gristmill.llm.schemas import schema_forms

_FACTS = responses.facts(
    "promptTokenCount", "candidatesTokenCount", "cachedContentTokenCount", "thoughtsTokenCount", "finishReason"
)
_MARKS = (b'"finishReason"', b'"usageMetadata"')
_NAMES = {
    "max_tokens": "maxOutputTokens", "top_p": "topP", "top_k": "topK", "stop": "stopSequences",
    "presence_penalty": "presencePenalty", "frequency_penalty": "frequencyPenalty",
}  # fmt: skip
_ROLES = {"assistant": "model"}
_OUTSIDE = ("safetySettings", "tools", "toolConfig", "cachedContent", "labels")  # beside generationConfig, not in it
_FINISH = {"STOP": "stop", "MAX_TOKENS": "length", **dict.fromkeys((
    "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE",
), "filter")}  # fmt: skip


class GeminiModel(HttpModel):
    """A Gemini model. `base_url` ends before `/models`.

    Parameters go into `generationConfig`, but those that stand beside it; `max_tokens`, `top_p`, `top_k`, `stop` and
    the penalties are sent under Gemini's names.
    """

    provider = "gemini"
    default_url = "https://generativelanguage.googleapis.com/v1beta"
    key_header = ("x-goog-api-key", "")
    reserved = (
        "model", "stream", "contents", "systemInstruction", "generationConfig", "responseMimeType", "responseSchema",
        "responseJsonSchema", "candidateCount",
    )  # fmt: skip

    def _path(self, stream: bool) -> str:
        name = quote(self._binding.model.removeprefix("models/"), safe="")
        return f"/models/{name}:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}"

    def _body(self, request: Request, mode: str, stream: bool) -> dict[str, Any]:
        config: dict[str, Any] = {}
        outside: dict[str, Any] = {}
        for name, value in self._parameters(request).items():
            listed = [value] if name == "stop" and isinstance(value, str) else value
            (outside if name in _OUTSIDE else config)[_NAMES.get(name, name)] = listed
        if request.schema is not None and mode != "text":
            config["responseMimeType"] = "application/json"
        if request.schema is not None and mode == "json_schema":
            config["responseJsonSchema"] = schema_forms(request.schema).strict_form
        elif request.schema is not None:
            request = with_schema_told(request)
        system = "\n\n".join(message.text for message in request.messages if message.role == "system")
        contents = [
            {"role": _ROLES.get(message.role, "user"), "parts": [_part(part) for part in message.parts]}
            for message in request.messages
            if message.role != "system"
        ]
        return {
            "contents": contents, **({"systemInstruction": {"parts": [{"text": system}]}} if system else {}),
            **({"generationConfig": config} if config else {}), **outside,
        }  # fmt: skip

    def _said(self, document: dict[str, Any]) -> Said:
        return _join([document], "STOP")

    def _fold(self, events: list[dict[str, Any]]) -> Said:
        return _join(events, "")

    def _piece(self, event: dict[str, Any]) -> str:
        return _join([event], "STOP").text

    def _glance(self, body: bytes) -> tuple[str, Usage]:
        found = responses.scan(body, _FACTS, _MARKS)
        thought = responses.count(found, b"thoughtsTokenCount")
        usage = Usage(
            responses.count(found, b"promptTokenCount"), responses.count(found, b"candidatesTokenCount") + thought,
            responses.count(found, b"cachedContentTokenCount"), thought,
        )  # fmt: skip
        return found.get(b"finishReason", b"").decode(), usage


def _join(documents: list[dict[str, Any]], reason: str) -> Said:
    text: list[str] = []
    reasoning: list[str] = []
    model, some = "", False
    for document in documents:
        model = str(document.get("modelVersion") or model)
        if (document.get("promptFeedback") or {}).get("blockReason"):
            return Said("", model, "filter")
        for candidate in (document.get("candidates") or ())[:1]:
            some = True
            for part in (candidate.get("content") or {}).get("parts") or ():
                (reasoning if part.get("thought") else text).append(str(part.get("text") or ""))
            reason = str(candidate.get("finishReason") or reason)
    if not some:
        raise LookupError("no candidate")
    return Said("".join(text), model, _FINISH.get(reason, reason.lower()), "".join(reasoning))


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, Image):
        return {"inlineData": {"mimeType": part.media_type, "data": base64.b64encode(part.data).decode()}}
    return {"text": part.text}
