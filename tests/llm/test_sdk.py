"""Our requests beside those of the providers' own SDKs, and our reading beside theirs, field by field."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gristmill.llm.anthropic import AnthropicModel
from gristmill.llm.embeddings import Embedder, OpenAIEmbeddings
from gristmill.llm.model import Image, Message, Request, Text
from gristmill.llm.openai import OpenAIModel
from gristmill.llm.openai_responses import OpenAIResponsesModel
from gristmill.llm.remote import HttpModel
from gristmill.llm.schemas import schema_forms
from tests.llm.conftest import ScriptedServer

KEY = "sk-for-the-comparison"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
DATA = base64.b64encode(PNG).decode()
SCHEMA = {
    "type": "object", "properties": {"answer": {"type": "string"}, "certain": {"type": "boolean"}},
    "required": ["answer", "certain"], "additionalProperties": False,
}  # fmt: skip
REQUEST = Request(
    (Message("system", "Be brief."), Message("user", "Hello 😀"), Message("assistant", "Yes?"),
     Message("user", (Text("What is this?"), Image(PNG, "image/png")))),
    schema=SCHEMA, schema_name="seen",
)  # fmt: skip
SAMPLING = {"temperature": 0, "top_p": 0.5, "max_tokens": 300}


@pytest.fixture
async def openai_sdk(model_server: ScriptedServer) -> AsyncIterator[Any]:
    import openai

    async with openai.AsyncOpenAI(base_url=model_server.base_url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic_sdk(model_server: ScriptedServer) -> AsyncIterator[Any]:
    import anthropic

    async with anthropic.AsyncAnthropic(base_url=model_server.address, api_key=KEY, max_retries=0) as client:
        yield client


async def sent(server: ScriptedServer) -> tuple[str, dict[str, Any], str, str]:
    """Path, body, type and key. The key may stand in either header: see the test of the versions."""
    last = await server.last()
    headers = last["headers"]
    key = headers.get("authorization", "").removeprefix("Bearer ") or headers["x-api-key"]
    return last["path"], last["body"], headers["content-type"], key


async def compare(
    ours: HttpModel, server: ScriptedServer, request: Request = REQUEST, *, streamed: bool = False
) -> Any:
    """Sends ours and checks that it is what was sent before."""
    theirs = await sent(server)
    answer = await ours.complete(request, (lambda piece: None) if streamed else None)
    await ours.close()
    assert await sent(server) == theirs
    return answer


def chat_messages() -> list[dict[str, Any]]:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}}
    return [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello 😀"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]},
    ]  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True])
async def test_chat_completions_are_as_the_sdk_sends_and_reads_them(
    streamed: bool, openai_sdk: Any, model_server: ScriptedServer
) -> None:
    await model_server.control(reasoning="A picture.")
    form = {"type": "json_schema", "json_schema": {"name": "seen", "strict": True, "schema": SCHEMA}}
    more = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    theirs = await openai_sdk.chat.completions.create(
        model="scripted", messages=chat_messages(), response_format=form, seed=0, stop="", **SAMPLING, **more
    )
    text, usage, finish = "", None, ""
    if streamed:
        async for chunk in theirs:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
    else:
        text, usage, finish = theirs.choices[0].message.content, theirs.usage, theirs.choices[0].finish_reason
    parameters = {**SAMPLING, "seed": 0, "stop": ""}
    model = OpenAIModel("scripted", base_url=model_server.base_url, api_key=KEY, parameters=parameters)
    ours = await compare(model, model_server, streamed=streamed)
    assert usage is not None
    told = (usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens_details.cached_tokens,
            usage.completion_tokens_details.reasoning_tokens)  # fmt: skip
    found = (ours.usage.input, ours.usage.output, ours.usage.cached, ours.usage.reasoning)
    assert (ours.text, ours.finish_reason, found) == (text, finish, told)


@pytest.mark.parametrize("streamed", [False, True])
async def test_responses_are_as_the_sdk_sends_and_reads_them(
    streamed: bool, openai_sdk: Any, model_server: ScriptedServer
) -> None:
    await model_server.control(reasoning="A picture.")
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{DATA}", "detail": "auto"}
    turns = [*chat_messages()[:3],
             {"role": "user", "content": [{"type": "input_text", "text": "What is this?"}, picture]}]  # fmt: skip
    form = {"format": {"type": "json_schema", "name": "seen", "strict": True, "schema": SCHEMA}}
    theirs = await openai_sdk.responses.create(
        model="scripted", input=turns, text=form, temperature=0, max_output_tokens=300, store=False,
        reasoning={"effort": "low"}, **({"stream": True} if streamed else {}),
    )  # fmt: skip
    if streamed:
        last = [event async for event in theirs][-1]
        theirs = last.response
    model = OpenAIResponsesModel(
        "scripted", base_url=model_server.base_url, api_key=KEY,
        parameters={"temperature": 0, "max_tokens": 300, "reasoning_effort": "low"},
    )  # fmt: skip
    ours = await compare(model, model_server, streamed=streamed)
    told = (theirs.usage.input_tokens, theirs.usage.output_tokens, theirs.usage.input_tokens_details.cached_tokens,
            theirs.usage.output_tokens_details.reasoning_tokens)  # fmt: skip
    found = (ours.usage.input, ours.usage.output, ours.usage.cached, ours.usage.reasoning)
    assert (ours.text, ours.reasoning, found) == (theirs.output_text, theirs.output[0].summary[0].text, told)


@pytest.mark.parametrize("form", ["json_schema", "tool"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_messages_are_as_the_sdk_sends_and_reads_them(
    streamed: bool, form: str, anthropic_sdk: Any, model_server: ScriptedServer
) -> None:
    await model_server.control(reasoning="A picture.")
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}
    turns = [*chat_messages()[1:3], {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    asked: dict[str, Any] = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    if form == "tool":
        tool = {"name": "seen", "description": "Give the answer.", "input_schema": SCHEMA}
        asked = {"tools": [tool], "tool_choice": {"type": "tool", "name": "seen"}}
    asked |= {
        "model": "scripted", "system": "Be brief.", "messages": turns, "max_tokens": 300, "stop_sequences": ["END"],
        "extra_body": {"temperature": 0, "top_k": 5},
    }  # fmt: skip
    if streamed:
        async with anthropic_sdk.messages.stream(**asked) as events:
            theirs = await events.get_final_message()
    else:
        theirs = await anthropic_sdk.messages.create(**asked)
    parameters = {"temperature": 0, "top_k": 5, "max_tokens": 300, "stop": "END"}
    model = AnthropicModel(
        "scripted", base_url=model_server.base_url, api_key=KEY, parameters=parameters, structured=form
    )
    ours = await compare(model, model_server, streamed=streamed)
    thought, said = theirs.content
    told = theirs.usage
    assert json.loads(ours.text) == (said.input if form == "tool" else json.loads(said.text))
    assert ours.reasoning == thought.thinking
    asked_for = told.input_tokens + told.cache_read_input_tokens + told.cache_creation_input_tokens
    assert (ours.usage.input, ours.usage.cached) == (asked_for, told.cache_read_input_tokens)
    assert ours.usage.output == told.output_tokens


async def test_messages_name_the_version_that_all_servers_know_and_the_newest_where_that_is_asked_for(
    anthropic_sdk: Any, model_server: ScriptedServer
) -> None:
    # The SDK sends the newest version and, since its own version 2, the key as a bearer token. Anthropic preserves the
    # older version, and the servers that imitate it know that one alone.
    await anthropic_sdk.messages.create(model="scripted", max_tokens=9, messages=[{"role": "user", "content": "Hi"}])
    newest = (await model_server.last())["headers"]["anthropic-version"]
    for headers, version in (({}, "2023-06-01"), ({"anthropic-version": newest}, newest)):
        model = AnthropicModel("scripted", base_url=model_server.base_url, api_key=KEY, headers=headers)
        await model.complete(Request((Message("user", "Hi"),)))
        await model.close()
        assert (await model_server.last())["headers"]["anthropic-version"] == version


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_embeddings_are_as_the_sdk_sends_and_reads_them(
    encoding: str, openai_sdk: Any, model_server: ScriptedServer
) -> None:
    texts = ["one", "two", "drei 😀"]
    theirs = await openai_sdk.embeddings.create(
        model="scripted", input=texts, dimensions=8, encoding_format=encoding
    )  # fmt: skip
    before = await sent(model_server)
    model = OpenAIEmbeddings(
        "scripted", base_url=model_server.base_url, api_key=KEY,
        parameters={"dimensions": 8, "encoding_format": encoding},
    )  # fmt: skip
    ours = await Embedder(model).embed(texts)
    await model.close()
    assert await sent(model_server) == before
    told = [one.embedding for one in theirs.data]
    if encoding == "float":
        assert ours == told
    assert [len(vector) for vector in ours] == [8, 8, 8]


def test_the_schema_of_the_comparison_is_sent_as_it_is() -> None:
    assert schema_forms(SCHEMA).strict_form == SCHEMA
