"""The wire protocols of the scripted model: how a question is read, and how an answer, a stream and an error look.

Written from the providers' published documents, not from our client, so that both cannot be wrong in the same way.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tests.model_answers import Question

PIECE = 24  # characters of a piece of a stream
CACHED, REASONED = 3, 2  # tokens of every answer


@dataclass(frozen=True)
class Said:
    """What the model says. `finish` is stop, length, refusal or filter; `tool` that it was asked for by a tool call."""

    text: str
    finish: str = "stop"
    reasoning: str = ""
    tool: str = ""
    tokens_in: int = 0
    tokens_out: int = 0

    def pieces(self) -> list[str]:
        return [self.text[at : at + PIECE] for at in range(0, len(self.text), PIECE)]


class Chat:
    """Chat completions."""

    key_header = "authorization"

    def question(self, body: dict[str, Any]) -> Question:
        wanted = body.get("response_format") or {}
        schema = wanted.get("json_schema", {}).get("schema")
        form, tool = wanted.get("type", "text"), ""
        if body.get("tool_choice"):
            (one,) = (t["function"] for t in body["tools"])
            form, schema, tool = "tool", one["parameters"], one["name"]
        turns = [(m["role"], _words(m["content"])) for m in body.get("messages", [])]
        return _question(turns, schema, form, tool)

    def unsupported(self, form: str) -> str:
        return "tool_choice is not supported" if form == "tool" else f"response_format of type {form} is not supported"

    def document(self, body: dict[str, Any], said: Said) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": said.text}
        finish = {"refusal": "stop", "filter": "content_filter"}.get(said.finish, said.finish)
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        if said.finish == "refusal":
            message |= {"content": None, "refusal": said.text}
        if said.finish == "filter":
            message["content"] = ""
        if said.tool:
            call = {"name": said.tool, "arguments": said.text}
            message |= {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": call}]}
            finish = "tool_calls" if finish == "stop" else finish
        return {
            "id": f"chatcmpl-{_id(body)}", "object": "chat.completion", "model": body.get("model", "?"),
            "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": self._usage(said),
        }  # fmt: skip

    def _usage(self, said: Said) -> dict[str, Any]:
        return {
            "prompt_tokens": said.tokens_in, "completion_tokens": said.tokens_out,
            "total_tokens": said.tokens_in + said.tokens_out,
            "prompt_tokens_details": {"cached_tokens": CACHED},
            "completion_tokens_details": {"reasoning_tokens": REASONED},
        }  # fmt: skip

    def events(self, body: dict[str, Any], said: Said) -> Iterator[bytes]:
        whole = self.document(body, said)
        message, finish = whole["choices"][0]["message"], whole["choices"][0]["finish_reason"]

        def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            told = {"id": whole["id"], "object": "chat.completion.chunk", "model": whole["model"]}
            return _event({**told, "choices": [choice], "usage": None})

        yield chunk({"role": "assistant", "content": ""})
        if said.reasoning:
            yield chunk({"reasoning_content": said.reasoning})
        if said.tool:
            yield chunk(
                {"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": said.tool, "arguments": ""}}]}
            )
        for piece in said.pieces() if message["content"] != "" else ():
            if said.tool:
                yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
            else:
                yield chunk({"refusal" if said.finish == "refusal" else "content": piece})
        yield chunk({}, finish)
        if (body.get("stream_options") or {}).get("include_usage"):
            told = {"id": whole["id"], "object": "chat.completion.chunk", "model": whole["model"]}
            yield _event({**told, "choices": [], "usage": self._usage(said)})
        yield b"data: [DONE]\n\n"

    def empty(self, document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "choices": []}

    def error(self, status: int, message: str, code: str) -> dict[str, Any]:
        return {"error": {"message": message, "type": code, "param": None, "code": code}}

    def broken(self) -> bytes:
        return _event({"error": {"message": "the engine stopped", "type": "server_error", "code": 500}})


class Responses(Chat):
    """The responses API."""

    def question(self, body: dict[str, Any]) -> Question:
        wanted = (body.get("text") or {}).get("format") or {}
        given = body.get("input", [])
        turns = [("user", given)] if isinstance(given, str) else [(m["role"], _words(m["content"])) for m in given]
        if body.get("instructions"):
            turns.insert(0, ("system", body["instructions"]))
        return _question(turns, wanted.get("schema"), wanted.get("type", "text"), "")

    def unsupported(self, form: str) -> str:
        return f"Unsupported value: text.format of type {form}"

    def document(self, body: dict[str, Any], said: Said) -> dict[str, Any]:
        part = {"type": "output_text", "text": said.text, "annotations": []}
        if said.finish == "refusal":
            part = {"type": "refusal", "refusal": said.text}
        incomplete = {"length": "max_output_tokens", "filter": "content_filter"}.get(said.finish)
        status = "incomplete" if incomplete else "completed"
        output: list[dict[str, Any]] = []
        if said.reasoning:
            summary = [{"type": "summary_text", "text": said.reasoning}]
            output.append({"type": "reasoning", "id": "rs_1", "summary": summary})
        content = [] if said.finish == "filter" else [part]
        output.append({"type": "message", "id": "msg_1", "role": "assistant", "status": status, "content": content})
        return {
            "id": f"resp_{_id(body)}", "object": "response", "created_at": 1, "status": status, "error": None,
            "incomplete_details": {"reason": incomplete} if incomplete else None, "model": body.get("model", "?"),
            "output": output, "parallel_tool_calls": True, "text": body.get("text") or {"format": {"type": "text"}},
            "tool_choice": "auto", "tools": [], "usage": {
                "input_tokens": said.tokens_in, "input_tokens_details": {"cached_tokens": CACHED},
                "output_tokens": said.tokens_out, "output_tokens_details": {"reasoning_tokens": REASONED},
                "total_tokens": said.tokens_in + said.tokens_out,
            },
        }  # fmt: skip

    def events(self, body: dict[str, Any], said: Said) -> Iterator[bytes]:
        whole = self.document(body, said)
        begun = {**whole, "status": "in_progress", "output": [], "usage": None}
        yield _named({"type": "response.created", "response": begun})
        for piece in said.pieces():
            yield _named({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": piece})
        yield _named({"type": f"response.{whole['status']}", "response": whole})

    def empty(self, document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "output": None}

    def broken(self) -> bytes:
        return _named({"type": "error", "code": "server_error", "message": "the engine stopped", "param": None})


class Messages:
    """Anthropic's messages."""

    key_header = "x-api-key"

    def question(self, body: dict[str, Any]) -> Question:
        if "max_tokens" not in body:
            raise ValueError("max_tokens: Field required")
        wanted = (body.get("output_config") or {}).get("format") or {}
        form, schema, tool = wanted.get("type", "text"), wanted.get("schema"), ""
        if body.get("tool_choice"):
            (one,) = body["tools"]
            form, schema, tool = "tool", one["input_schema"], one["name"]
        turns = [(m["role"], _words(m["content"])) for m in body["messages"]]
        if any(role not in ("user", "assistant") for role, _ in turns):
            raise ValueError("messages: Unexpected role")
        return _question([("system", _words(body.get("system", ""))), *turns], schema, form, tool)

    def unsupported(self, form: str) -> str:
        return (
            "tool_choice: Extra inputs are not permitted" if form == "tool" else "output_config.format: not supported"
        )

    def document(self, body: dict[str, Any], said: Said) -> dict[str, Any]:
        finish = {"stop": "end_turn", "length": "max_tokens", "filter": "refusal"}.get(said.finish, said.finish)
        content: list[dict[str, Any]] = []
        if said.reasoning:
            content.append({"type": "thinking", "thinking": said.reasoning, "signature": "c2ln"})
        if said.tool:
            content.append({"type": "tool_use", "id": "toolu_1", "name": said.tool, "input": _loaded(said.text)})
            finish = "tool_use" if finish == "end_turn" else finish
        elif finish != "refusal":
            content.append({"type": "text", "text": said.text})
        return {
            "id": f"msg_{_id(body)}", "type": "message", "role": "assistant", "model": body.get("model", "?"),
            "content": content, "stop_reason": finish, "stop_sequence": None, "usage": {
                "input_tokens": said.tokens_in - CACHED, "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": CACHED, "output_tokens": said.tokens_out,
                "output_tokens_details": {"thinking_tokens": REASONED},
            },
        }  # fmt: skip

    def events(self, body: dict[str, Any], said: Said) -> Iterator[bytes]:
        whole = self.document(body, said)
        begun = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
        yield _named({"type": "message_start", "message": begun})
        yield _named({"type": "ping"})
        for index, block in enumerate(whole["content"]):
            kind = block["type"]
            nothing: dict[str, dict[str, Any]] = {
                "thinking": {"thinking": ""}, "text": {"text": ""}, "tool_use": {"input": {}},
            }  # fmt: skip
            yield _named({"type": "content_block_start", "index": index, "content_block": {**block, **nothing[kind]}})
            if kind == "thinking":
                delta = {"type": "thinking_delta", "thinking": block["thinking"]}
                yield _named({"type": "content_block_delta", "index": index, "delta": delta})
            else:
                name, key = ("input_json_delta", "partial_json") if kind == "tool_use" else ("text_delta", "text")
                for piece in said.pieces():
                    yield _named({"type": "content_block_delta", "index": index, "delta": {"type": name, key: piece}})
            yield _named({"type": "content_block_stop", "index": index})
        told = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        usage = {"output_tokens": said.tokens_out, "output_tokens_details": {"thinking_tokens": REASONED}}
        yield _named({"type": "message_delta", "delta": told, "usage": usage})
        yield _named({"type": "message_stop"})

    def empty(self, document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "content": None}

    def error(self, status: int, message: str, code: str) -> dict[str, Any]:
        if code == "insufficient_quota":
            message = "Your credit balance is too low to access the Anthropic API."
        return {"type": "error", "error": {"type": code, "message": message}, "request_id": "req_1"}

    def broken(self) -> bytes:
        return _named({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})


class Gemini:
    """`generateContent`."""

    key_header = "x-goog-api-key"

    def question(self, body: dict[str, Any]) -> Question:
        config = body.get("generationConfig") or {}
        schema = config.get("responseJsonSchema")
        form = "json_schema" if schema else "json_object" if config.get("responseMimeType") else "text"
        system = "\n".join(part["text"] for part in (body.get("systemInstruction") or {}).get("parts", ()))
        turns = [("system", system)]
        for content in body["contents"]:
            if content["role"] not in ("user", "model"):
                raise ValueError("Please use a valid role: user, model.")
            words = [part["text"] if "text" in part else _seen(**part["inlineData"]) for part in content["parts"]]
            turns.append((content["role"], "\n".join(words)))
        return _question(turns, schema, form, "")

    def unsupported(self, form: str) -> str:
        name = "responseJsonSchema" if form == "json_schema" else "responseMimeType"
        return f"Invalid JSON payload received. Unknown name \"{name}\" at 'generation_config': Cannot find field."

    def document(self, body: dict[str, Any], said: Said) -> dict[str, Any]:
        finish = {"stop": "STOP", "length": "MAX_TOKENS"}.get(said.finish, "SAFETY")
        parts = [{"text": said.reasoning, "thought": True}] if said.reasoning else []
        parts += [{"text": said.text}] if finish != "SAFETY" else []
        content: dict[str, Any] = {"content": {"parts": parts, "role": "model"}} if parts else {}
        return {
            "candidates": [{**content, "finishReason": finish, "index": 0}], "modelVersion": "scripted",
            "usageMetadata": {
                "promptTokenCount": said.tokens_in, "candidatesTokenCount": said.tokens_out - REASONED,
                "totalTokenCount": said.tokens_in + said.tokens_out, "cachedContentTokenCount": CACHED,
                "thoughtsTokenCount": REASONED,
            },
        }  # fmt: skip

    def events(self, body: dict[str, Any], said: Said) -> Iterator[bytes]:
        whole = self.document(body, said)
        if said.reasoning:
            thought = {"parts": [{"text": said.reasoning, "thought": True}], "role": "model"}
            yield _event({"candidates": [{"content": thought, "index": 0}], "modelVersion": "scripted"})
        for piece in said.pieces() if whole["candidates"][0].get("content") else ():
            part = {"parts": [{"text": piece}], "role": "model"}
            yield _event({"candidates": [{"content": part, "index": 0}], "modelVersion": "scripted"})
        last = {"content": {"parts": [{"text": ""}], "role": "model"}, "index": 0}
        yield _event({**whole, "candidates": [{**last, "finishReason": whole["candidates"][0]["finishReason"]}]})

    def empty(self, document: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in document.items() if name != "candidates"}

    def error(self, status: int, message: str, code: str) -> dict[str, Any]:
        error: dict[str, Any] = {"code": status, "message": message, "status": "RESOURCE_EXHAUSTED"}
        if "per day" in message:
            error["message"] = "You exceeded your current quota, please check your plan and billing details."
            error["details"] = [
                {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"},
            ]
        return {"error": error}

    def broken(self) -> bytes:
        return _event({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}})


class Embeddings(Chat):
    """Vectors: eight numbers from the hash of each text."""

    def question(self, body: dict[str, Any]) -> Question:
        return Question("", "\n".join(body["input"]), None, "text")

    def document(self, body: dict[str, Any], said: Said) -> dict[str, Any]:
        rows = []
        for index, text in enumerate(body["input"]):
            vector: Any = [byte / 255 - 0.5 for byte in hashlib.sha256(text.encode()).digest()[:8]]
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack("<8f", *vector)).decode()
            rows.append({"object": "embedding", "index": index, "embedding": vector})
        usage = {"prompt_tokens": said.tokens_in, "total_tokens": said.tokens_in}
        return {"object": "list", "data": rows, "model": body.get("model", "?"), "usage": usage}

    def empty(self, document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "data": document["data"][:-1]}


Protocol = Chat | Messages | Gemini
_BY_PATH: tuple[tuple[str, Protocol], ...] = (
    (r"/chat/completions$", Chat()), (r"/responses$", Responses()), (r"/messages$", Messages()),
    (r"/embeddings$", Embeddings()), (r"/models/[^/]+:(?:generateContent|streamGenerateContent\?alt=sse)$", Gemini()),
)  # fmt: skip


def protocol_of(path: str) -> Protocol | None:
    return next((protocol for pattern, protocol in _BY_PATH if re.search(pattern, path)), None)


def shortened(said: Said) -> Said:
    """The first two thirds of what was said."""
    return replace(said, text=said.text[: max(1, len(said.text) * 2 // 3)])


def _question(turns: list[tuple[str, str]], schema: dict[str, Any] | None, form: str, tool: str) -> Question:
    system = "\n".join(words for role, words in turns if role == "system")
    user = "\n".join(words for role, words in turns if role == "user")
    if schema is None and (told := re.search(r"JSON schema:\n(\{.*\})", system)):
        schema = json.loads(told[1])
    return Question(system, user, schema, form, tool)


def _words(content: Any) -> str:
    """The text of a message; of a picture what and how large it is."""
    if isinstance(content, str):
        return content
    words = []
    for part in content:
        url = part.get("image_url")
        if part["type"] == "image":
            words.append(_seen(part["source"]["media_type"], part["source"]["data"]))
        elif url is not None:
            kind, _, data = (url if isinstance(url, str) else url["url"]).removeprefix("data:").partition(";base64,")
            words.append(_seen(kind, data))
        else:
            words.append(part["text"])
    return "\n".join(words)


def _seen(mimeType: str, data: str) -> str:
    return f"[{mimeType}, {len(base64.b64decode(data, validate=True))} bytes]"


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"broken": text}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _named(document: dict[str, Any]) -> bytes:
    return f"event: {document['type']}\n".encode() + _event(document)


def _id(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]
