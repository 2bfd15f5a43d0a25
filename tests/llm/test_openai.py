"""The client against a server that misbehaves in every way that we know of."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gristmill.errors import Busy, InvalidOutput, ModelRefused, ModelSetupError, ModelUnavailable
from gristmill.llm import remote
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Message, Request, UnusableAnswer, Usage
from gristmill.llm.openai import OpenAIModel, glance
from gristmill.llm.responses import clean_text, retry_after
from gristmill.llm.schemas import schema_forms
from tests.llm.conftest import ScriptedServer

MakeModel = Callable[..., OpenAIModel]
CANARY = "sk-canary-0123456789abcdefWXYZ"
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}


def ask(text: str = "hello", **settings: Any) -> Request:
    return Request((Message("user", text),), **settings)


@pytest.fixture(autouse=True)
def _forget_modes() -> Iterator[None]:
    yield
    remote._known_modes.clear()


async def test_an_answer_has_text_model_usage_and_the_raw_body(open_model: MakeModel) -> None:
    answer = await open_model(parameters={"temperature": 0}).complete(ask())
    assert (answer.text, answer.model, answer.finish_reason) == ("You said: hello", "scripted", "stop")
    assert (answer.usage.cached, answer.usage.reasoning) == (3, 2)
    assert json.loads(answer.raw)["choices"]


def test_zero_and_empty_parameters_are_sent(open_model: MakeModel) -> None:
    model = OpenAIModel("m", parameters={"temperature": 0, "top_p": 0.0, "stop": "", "seed": 7})
    body = json.loads(model._body(ask(parameters={"seed": 0}), "text", False))
    assert (body["temperature"], body["top_p"], body["stop"], body["seed"]) == (0, 0.0, "", 0)


@pytest.mark.parametrize("formats", [["json_schema"], ["json_object", "text"], ["text"]])
async def test_a_schema_is_asked_for_in_the_best_form_that_the_server_knows(
    formats: list[str], open_model: MakeModel, model_server: ScriptedServer
) -> None:
    await model_server.control(formats=formats)
    model = open_model()
    for number in range(3):
        answer = await model.complete(ask(f"A passage of words, number {number}.", schema=SCHEMA))
        assert json.loads(answer.text)["answer"]
    refused = (await model_server.stats())["by_status"].get("400", 0)
    assert refused == {"json_schema": 0, "json_object": 1, "text": 2}[formats[0]]


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ({"kind": "error", "status": 400, "message": "what is this?"}, ModelRefused, "M201"),
        ({"kind": "error", "status": 400, "message": "maximum context length"}, ModelRefused, "M211"),
        ({"kind": "error", "status": 404}, ModelRefused, "M206"),
        ({"kind": "error", "status": 403}, ModelRefused, "M207"),
        ({"kind": "quota"}, ModelRefused, "M208"),
        ({"kind": "error", "status": 402}, ModelRefused, "M208"),
        ({"kind": "redirect"}, ModelRefused, "M201"),
        ({"kind": "error", "status": 500}, ModelUnavailable, "M303"),
        ({"kind": "error", "status": 503}, ModelUnavailable, "M303"),
        ({"kind": "error", "status": 529}, ModelUnavailable, "M303"),
        ({"kind": "error", "status": 408}, ModelUnavailable, "M303"),
        ({"kind": "error", "status": 409}, ModelUnavailable, "M303"),
        ({"kind": "reset"}, ModelUnavailable, "M304"),
        ({"kind": "rate"}, Busy, "T400"),
        ({"kind": "html"}, UnusableAnswer, "M204"),
        ({"kind": "empty_choices"}, UnusableAnswer, "M204"),
        ({"kind": "cut_envelope"}, UnusableAnswer, "M204"),
        ({"kind": "big"}, UnusableAnswer, "M203"),
        ({"kind": "length"}, InvalidOutput, "M205"),
    ],
)
async def test_every_failure_has_its_error(
    fault: dict[str, Any], error: type[Exception], code: str, open_model: MakeModel, model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[fault])
    with pytest.raises(error) as caught:
        await open_model().complete(ask("some words to answer"))
    assert caught.value.code == code  # type: ignore[attr-defined]
    assert len(str(caught.value)) < 700
    await model_server.control(faults=[])
    assert (await open_model().complete(ask())).text == "You said: hello"


async def test_a_server_that_does_not_run_is_named(open_model: MakeModel) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    with pytest.raises(ModelUnavailable) as caught:
        await open_model(base_url=url).complete(ask())
    assert caught.value.code == "M301"
    assert url in str(caught.value)


@pytest.mark.parametrize("limit", [{"timeout": 0.2}, {"first_byte": 0.2}])
async def test_a_server_that_hangs_is_given_up(
    limit: dict[str, float], open_model: MakeModel, model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[{"kind": "hang", "seconds": 20}])
    async with asyncio.timeout(5):
        with pytest.raises(ModelUnavailable) as caught:
            await open_model(**limit).complete(ask())
    assert caught.value.code == "M302"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0), ("2.5", 2.5), ("0", 0.5), ("4000", 900.0),
        ("-1", None), ("1000000000", None), ("nan", None), ("soon", None), ("", None),
        ("Wed, 21 Oct 2015 07:28:10 GMT", 10.0), ("Wed, 21 Oct 2015 07:27:00 GMT", None),
        ("Wed, 21 Oct 2065 07:28:00 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_believed_within_reason(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value, "date": "Wed, 21 Oct 2015 07:28:00 GMT"}) == seconds


async def test_the_delay_of_a_429_comes_from_the_server_and_otherwise_grows(
    open_model: MakeModel, model_server: ScriptedServer
) -> None:
    model = open_model()
    delays = []
    for header in ({"retry_after": "7"}, {}, {}, {}):
        await model_server.control(faults=[{"kind": "rate"} | header])
        with pytest.raises(Busy) as caught:
            await model.complete(ask())
        delays.append(caught.value.delay)
    assert delays[0] == 7.0
    assert delays[1] < delays[2] < delays[3]


async def test_a_wrong_key_is_named_by_its_place_and_its_last_four_characters(
    open_model: MakeModel, model_server: ScriptedServer
) -> None:
    await model_server.control(key="right", echo_key=True)
    with pytest.raises(ModelRefused) as caught:
        await open_model(api_key=CANARY, key_name="MY_KEY").complete(ask())
    assert caught.value.code == "M207"
    assert "MY_KEY" in caught.value.hint
    assert "WXYZ" in caught.value.hint
    assert CANARY not in f"{caught.value} {caught.value.hint} {caught.value!r}"
    with pytest.raises(ModelRefused, match="refused the key") as caught:
        await open_model(key_name="MY_KEY").complete(ask())
    assert "MY_KEY is not set" in caught.value.hint


async def test_a_key_is_nowhere_but_in_the_request(
    open_model: MakeModel, open_ledger: Callable[..., Ledger], model_server: ScriptedServer, pool: Any
) -> None:
    await model_server.control(key=CANARY, echo_key=True)
    model = LedgeredModel(open_model(api_key=CANARY), open_ledger())
    answer = await model.complete(ask())
    shown = [
        repr(model._model),
        repr(model._model.__dict__),
        repr(model._model._exchange.__dict__),
        repr(model.binding),
        repr(answer),
        str(answer.raw),
    ]
    for status in (400, 500):
        await model_server.control(faults=[{"kind": "error", "status": status}])
        with pytest.raises((ModelRefused, ModelUnavailable)) as caught:
            await model.complete(ask(f"another {status}"))
        shown += [str(caught.value), repr(caught.value), caught.value.hint]
    shown += [str(dict(row)) for row in await pool.fetch("SELECT * FROM call")]
    assert CANARY not in "".join(shown)
    assert "[redacted]" in str(answer.raw)


@pytest.mark.parametrize(
    "url",
    [
        "", "api.openai.com/v1", "ftp://host/v1", "http://", "https://user:pass@host/v1", "https://host/v1?key=1",
        "http://[", "http://host:99999/", "http://a host/", "http://host/\r\nX: y",
    ],
)  # fmt: skip
def test_a_base_url_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ModelSetupError) as caught:
        OpenAIModel("m", base_url=url)
    assert caught.value.code == "M103"
    assert "pass" not in str(caught.value).replace("password", "")


def test_parameters_that_the_client_sets_are_refused() -> None:
    with pytest.raises(ModelSetupError, match="stream"):
        OpenAIModel("m", parameters={"stream": True})


async def test_nul_and_lone_surrogates_become_replacement_characters(
    open_model: MakeModel, model_server: ScriptedServer
) -> None:
    for shape in ("nul", "surrogate"):
        await model_server.control(shape=shape)
        assert (await open_model().complete(ask())).text == "You\ufffdsaid: hello"


def test_clean_text_keeps_everything_else() -> None:
    assert clean_text("a\x00b\ud800c😀\u0001é") == "a\ufffdb\ufffdc😀\u0001é"


def test_a_glance_finds_facts_and_never_fails() -> None:
    content = json.dumps('She said "usage": {"prompt_tokens": 999} and "finish_reason": "length"')
    body = f'{{"choices":[{{"message":{{"content":{content}}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":5}}}}'
    assert glance(body.encode()) == ("stop", Usage(input=5))
    first = b'{"usage": {"prompt_tokens": 5, "completion_tokens": null}, "choices": [{"finish_reason": "stop"}]}'
    assert glance(first) == ("stop", Usage(input=5))
    for bad in (b"", b"\xff" * 100, b'"finish_reason":', b"[" * 100_000, b'"prompt_tokens":' + b"9" * 5000):
        assert glance(bad) == ("", Usage())


def test_a_schema_becomes_strict_where_it_can() -> None:
    nested = {
        "$defs": {"Part": {"type": "object", "title": "Part", "properties": {"title": {"type": "string"}}}},
        "type": "object",
        "properties": {
            "parts": {"type": "array", "items": {"$ref": "#/$defs/Part", "description": "x"}},
            "note": {"type": "string", "default": ""},
        },
        "required": ["parts"],
    }
    forms = schema_forms(nested)
    strict = json.loads(forms.strict_text)
    assert forms.strict
    assert strict["required"] == ["parts", "note"]
    assert strict["properties"]["note"] == {"type": "string"}
    assert strict["properties"]["parts"]["items"] == {"$ref": "#/$defs/Part"}
    assert strict["$defs"]["Part"]["additionalProperties"] is False
    assert strict["$defs"]["Part"]["properties"] == {"title": {"type": "string"}}
    assert nested["required"] == ["parts"]
    free = {"type": "object", "properties": {"any": {"type": "object", "additionalProperties": {"type": "string"}}}}
    assert not schema_forms(free).strict
    assert json.loads(schema_forms(free).strict_text) == free


async def test_sixty_four_calls_run_at_once(open_model: MakeModel, model_server: ScriptedServer) -> None:
    await model_server.control(latency=2)
    model = open_model()
    await asyncio.gather(*[model.complete(ask(f"question {number}")) for number in range(64)])
    assert (await model_server.stats())["max_active"] == 64


async def test_a_key_of_one_letter_does_not_spoil_the_answers(open_model: MakeModel) -> None:
    answer = await open_model(api_key="x").complete(ask("A box of six oxen"))
    assert "box of six oxen" in answer.text
