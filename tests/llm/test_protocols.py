"""Every wire protocol against the scripted server, in one piece and as a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gristmill.errors import Busy, InvalidOutput, ModelRefused, ModelSetupError, ModelUnavailable
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Image, Message, Reply, Request, Text, UnusableAnswer
from gristmill.llm.providers import PROVIDERS, protocol_class
from gristmill.llm.remote import HttpModel, _known_modes
from gristmill.llm.streams import Events
from tests.llm.conftest import ScriptedServer

CANARY = "sk-canary-0123456789abcdefWXYZ"
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
TALKING = ["openai", "openai-responses", "anthropic", "gemini"]
PNG = Image(b"\x89PNG\r\n\x1a\n" + bytes(92), "image/png")
Make = Callable[..., HttpModel]


@pytest.fixture
async def make(model_server: ScriptedServer) -> AsyncIterator[Make]:
    opened: list[HttpModel] = []

    def open_(provider: str, **settings: Any) -> HttpModel:
        opened.append(protocol_class(provider)("scripted", **({"base_url": model_server.base_url} | settings)))
        return opened[-1]

    yield open_
    _known_modes.clear()
    for model in opened:
        await model.close()


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def ask(text: str = "hello", **settings: Any) -> Request:
    return Request((Message("user", text),), **settings)


@pytest.mark.parametrize("provider", TALKING)
async def test_an_answer_is_read_with_its_reasoning_and_its_tokens(
    provider: str, stream: bool, make: Make, model_server: ScriptedServer
) -> None:
    await model_server.control(reasoning="They greet me.")
    text = "hello 😀 " + "and so on " * 20
    reply = await make(provider, stream=stream).fetch(ask(text))
    answer = make(provider).read(reply)
    assert (answer.text, answer.model, answer.finish_reason) == (f"You said: {text}", "scripted", "stop")
    usage = answer.usage
    assert (answer.reasoning, usage.cached, usage.reasoning) == ("They greet me.", 3, 2)
    assert usage.input > 50
    assert usage.output > 50
    assert reply.finish_reason.lower() in ("stop", "end_turn")
    assert answer.raw == reply.body
    assert reply.body.startswith((b"data:", b"event:")) is stream


@pytest.mark.parametrize("provider", TALKING)
async def test_system_words_turns_and_pictures_arrive(provider: str, make: Make, model_server: ScriptedServer) -> None:
    turns = (
        Message("system", "Be brief."), Message("user", "First."), Message("assistant", "Yes?"),
        Message("user", (Text("What is this?"), PNG)),
    )  # fmt: skip
    answer = await make(provider).complete(Request(turns))
    assert answer.text == "You said: First.\nWhat is this?\n[image/png, 100 bytes]"
    assert "Be brief." in json.dumps((await model_server.last())["body"])


@pytest.mark.parametrize("provider", TALKING)
async def test_zero_and_empty_parameters_are_sent_and_free_ones_too(
    provider: str, make: Make, model_server: ScriptedServer
) -> None:
    given = {"temperature": 0, "top_p": 0.0, "max_tokens": 7, "stop": "", "anything": {"of": ["mine", 0]}}
    await make(provider, parameters=given).complete(ask(parameters={"temperature": 0.0, "seed": 0}))
    body = (await model_server.last())["body"]
    sent = body.get("generationConfig", body)
    names = {
        "openai-responses": {"max_tokens": "max_output_tokens"}, "anthropic": {"stop": "stop_sequences"},
        "gemini": {"max_tokens": "maxOutputTokens", "top_p": "topP", "stop": "stopSequences"},
    }  # fmt: skip
    found = {name: sent[names.get(provider, {}).get(name, name)] for name in (*given, "seed")}
    assert found == given | {"seed": 0, "stop": [""] if provider in ("anthropic", "gemini") else ""}


FORMS = {
    "openai": ["json_schema", "json_object", "text"], "openai-responses": ["json_schema", "json_object", "text"],
    "anthropic": ["json_schema", "tool", "text"], "gemini": ["json_schema", "json_object", "text"],
}  # fmt: skip


@pytest.mark.parametrize(("provider", "place"), [(provider, place) for provider in TALKING for place in range(3)])
async def test_a_schema_is_asked_for_in_the_best_form_that_the_server_knows(
    provider: str, place: int, stream: bool, make: Make, model_server: ScriptedServer
) -> None:
    await model_server.control(formats=["text", *FORMS[provider][place:]])
    model = make(provider, stream=stream)
    for number in range(2):
        answer = await model.complete(ask(f"A passage of words, number {number}.", schema=SCHEMA))
        assert json.loads(answer.text)["answer"]
    assert (await model_server.stats())["by_status"].get("400", 0) == place


async def test_chat_asks_by_a_tool_where_that_is_wanted(make: Make, stream: bool, model_server: ScriptedServer) -> None:
    answer = await make("openai", structured="tool", stream=stream).complete(ask("A passage.", schema=SCHEMA))
    assert json.loads(answer.text) == {"answer": "A passage."}
    assert (await model_server.last())["body"]["tool_choice"]["function"]["name"] == "answer"
    with pytest.raises(ModelSetupError, match="no form tool"):
        make("gemini", structured="tool")


FAULTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"kind": "error", "status": 400, "message": "what is this?"}, ModelRefused, "M201"),
    (
        {"kind": "error", "status": 400, "message": "This model's maximum context length is 9 tokens"},
        ModelRefused,
        "M211",
    ),
    ({"kind": "error", "status": 413}, ModelRefused, "M211"),
    ({"kind": "error", "status": 401}, ModelRefused, "M207"),
    ({"kind": "error", "status": 404}, ModelRefused, "M206"),
    ({"kind": "error", "status": 500}, ModelUnavailable, "M303"),
    ({"kind": "error", "status": 529}, ModelUnavailable, "M303"),
    ({"kind": "rate"}, Busy, "T400"),
    ({"kind": "day"}, Busy, "T400"),
    ({"kind": "reset"}, ModelUnavailable, "M304"),
    ({"kind": "html"}, UnusableAnswer, "M204"),
    ({"kind": "empty_choices"}, UnusableAnswer, "M204"),
    ({"kind": "cut_envelope"}, UnusableAnswer, "M204"),
    ({"kind": "length"}, InvalidOutput, "M205"),
    ({"kind": "refusal"}, UnusableAnswer, "M209"),
    ({"kind": "filter"}, UnusableAnswer, "M210"),
]
OF_STREAMS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"kind": "stream_cut"}, UnusableAnswer, "M204"),
    ({"kind": "stream_error"}, ModelUnavailable, "M303"),
]
NOT_THERE = {("gemini", "M209"): "M210", ("anthropic", "M210"): "M209"}  # one word for both


@pytest.mark.parametrize("provider", TALKING)
async def test_every_fault_has_the_same_error_in_every_protocol(
    provider: str, stream: bool, make: Make, model_server: ScriptedServer
) -> None:
    model = make(provider, stream=stream, api_key=CANARY)
    for fault, error, code in FAULTS + (OF_STREAMS if stream else []):
        await model_server.control(faults=[fault], echo_key=fault["kind"] == "error")
        with pytest.raises(error) as caught:
            await model.complete(ask("some words to answer, and some more of them"))
        found: Any = caught.value
        assert found.code == NOT_THERE.get((provider, code), code), fault
        assert CANARY not in f"{found} {getattr(found, 'hint', '')}"
    await model_server.control(faults=[])
    assert (await model.complete(ask())).text == "You said: hello"


@pytest.mark.parametrize("provider", TALKING)
async def test_a_429_says_how_long_and_of_which_limit(provider: str, make: Make, model_server: ScriptedServer) -> None:
    model = make(provider)
    for fault, delay, reason in (
        ({"kind": "rate", "retry_after": "7"}, 7.0, "provider's rate limit"),
        ({"kind": "rate"}, 1.0, "provider's rate limit"),
        ({"kind": "rate", "message": "Please try again in 1.5s."}, 1.5, "provider's rate limit"),
        ({"kind": "day"}, 900.0, "provider's quota of the day"),
        ({"kind": "day", "retry_after": "60"}, 60.0, "provider's quota of the day"),
    ):
        await model_server.control(faults=[fault])
        with pytest.raises(Busy) as caught:
            await model.complete(ask())
        assert (caught.value.delay, caught.value.reason) == (delay, reason), fault
        assert caught.value.limits.get("retry-after") == fault.get("retry_after")


async def test_what_is_left_of_the_limits_comes_with_the_answer(make: Make, model_server: ScriptedServer) -> None:
    await model_server.control(requests_per_minute=10, tell_limits=True)
    for stream in (False, True):
        reply = await make("openai", stream=stream).fetch(ask())
        assert reply.limits["x-ratelimit-limit-requests"] == "10"


@pytest.mark.parametrize("provider", TALKING)
async def test_no_money_left_is_told_from_too_fast(provider: str, make: Make, model_server: ScriptedServer) -> None:
    await model_server.control(faults=[{"kind": "quota"}])
    with pytest.raises(Busy if provider == "gemini" else ModelRefused) as caught:  # Gemini has no word for it
        await make(provider).complete(ask())
    assert caught.value.code == ("T400" if provider == "gemini" else "M208")  # type: ignore[attr-defined]


@pytest.mark.parametrize("provider", TALKING)
async def test_a_key_goes_into_the_header_of_its_protocol_and_nowhere_else(
    provider: str, make: Make, model_server: ScriptedServer
) -> None:
    await model_server.control(key=CANARY, echo_key=True)
    model = make(provider, api_key=CANARY, key_name="MY_KEY")
    answer = await model.complete(ask())
    shown = [repr(model.__dict__), repr(model._exchange.__dict__), repr(model.binding), repr(answer)]
    with pytest.raises(ModelRefused) as caught:
        await make(provider, api_key="sk-another-canary-0000", key_name="MY_KEY").complete(ask())
    assert caught.value.code == "M207"
    assert CANARY not in "".join([*shown, str(caught.value), caught.value.hint])
    assert model.binding.limit == f"{provider}:MY_KEY"


async def test_a_silent_stream_is_given_up_after_a_pause_and_a_slow_one_is_not(
    make: Make, model_server: ScriptedServer
) -> None:
    await model_server.control(pause=0.1)
    text = "many words " * 10
    model = make("openai", stream=True, idle=0.5, first_byte=0.4)
    assert (await model.complete(ask(text))).text.endswith(text)  # all in all longer than either limit
    await model_server.control(pause=5)
    with pytest.raises(ModelUnavailable) as caught:
        await make("openai", stream=True, idle=0.2).complete(ask())
    assert caught.value.code == "M302"


async def test_a_body_that_trickles_is_given_up(make: Make, model_server: ScriptedServer) -> None:
    await model_server.control(faults=[{"kind": "trickle"}])
    async with asyncio.timeout(5):
        with pytest.raises(ModelUnavailable) as caught:
            await make("anthropic", timeout=0.3).complete(ask())
    assert caught.value.code == "M302"


@pytest.mark.parametrize("provider", TALKING)
async def test_the_words_are_heard_as_they_come(provider: str, make: Make, model_server: ScriptedServer) -> None:
    await model_server.control(reasoning="hm", pause=0.01)
    heard: list[str] = []
    answer = await make(provider).complete(ask("words " * 20), heard.append)
    assert "".join(heard) == answer.text
    assert len(heard) > 3


@pytest.mark.parametrize("provider", TALKING)
async def test_a_streamed_answer_is_kept_as_it_came_and_read_again_from_the_ledger(
    provider: str, make: Make, open_ledger: Callable[..., Ledger], pool: Any, model_server: ScriptedServer
) -> None:
    request = ask("words " * 20, schema=SCHEMA)
    first = await LedgeredModel(make(provider, stream=True), open_ledger()).complete(request)
    again = await LedgeredModel(make(provider), open_ledger()).complete(request)  # streaming is no part of the key
    assert again.from_ledger
    assert (again.text, again.raw) == (first.text, first.raw)
    row = await pool.fetchrow("SELECT finish_reason, tokens_in, tokens_out FROM call WHERE state = 'ok'")
    assert row["finish_reason"]
    assert row["tokens_in"] > 10
    assert row["tokens_out"] > 10
    assert (await model_server.stats())["requests"] == 1


def test_the_key_of_a_call_holds_the_digest_of_its_pictures() -> None:
    other = Image(PNG.data + b"\0", "image/png")
    assert Message("user", (Text("x"), PNG)).identity() != Message("user", (Text("x"), other)).identity()
    assert Message("user", "x").identity() == ["user", "x"]
    assert "PNG" not in repr(PNG)


@pytest.mark.parametrize("provider", TALKING)
def test_nothing_that_a_server_sends_makes_the_reader_stumble(provider: str) -> None:
    model = protocol_class(provider)("m", base_url="http://127.0.0.1:1/v1")
    for body in (
        b"", b"null", b"[]", b'"x"', b"{}", b"data: {}\n\n", b"data: []\n\n", b"data: {\n\n", b"event: x\n\n", b"\xff",
        b'{"choices":[null],"output":[3],"content":[{}],"candidates":[[]]}', b'data: {"choices":[{"delta":3}]}\n\n',
        b'data: {"candidates":3,"type":"message_start","choices":3}\n\n', b'{"output":[{"type":"message"}]}',
        b"[" * 9999,
    ):  # fmt: skip
        model._glance(body)
        with pytest.raises(UnusableAnswer):
            model.read(Reply(body))


def test_a_stream_may_be_cut_anywhere_between_two_parts() -> None:
    body = 'event: a\r\ndata: {"n": 1, "ü": "é"}\r\n\r\n: a comment\ndata:{"n":2}\n\ndata: [DONE]\n\n'.encode()
    for size in (1, 2, 7, 1000):
        reader = Events()
        found = [one for at in range(0, len(body), size) for one in reader.feed(body[at : at + size])]
        assert [one["n"] for one in found + reader.end()] == [1, 2]


@pytest.mark.parametrize("name", ["model", "stream"])
@pytest.mark.parametrize("provider", [*TALKING, "openai-embeddings"])
async def test_what_the_client_sets_is_not_the_user_s_to_set(provider: str, name: str, make: Make) -> None:
    with pytest.raises(ModelSetupError, match=name):
        make(provider, parameters={name: 1})
    with pytest.raises(ModelSetupError, match=name):
        await make(provider).fetch(ask(parameters={name: 1}))


@pytest.mark.parametrize(
    "headers", [{"Authorization": "x"}, {"x-api-key": "x"}, {"Host": "x"}, {"a b": "x"}, {"x-note": "a\nb"}]
)
def test_a_header_with_a_secret_or_a_line_end_is_refused(headers: dict[str, str], make: Make) -> None:
    with pytest.raises(ModelSetupError) as caught:
        make("openai", headers=headers)
    assert caught.value.code == "M104"


async def test_further_headers_are_sent_and_make_another_fingerprint(make: Make, model_server: ScriptedServer) -> None:
    model = make("anthropic", headers={"Anthropic-Beta": "some-2030-01-01"})
    await model.complete(ask())
    assert (await model_server.last())["headers"]["anthropic-beta"] == "some-2030-01-01"
    assert model.binding.fingerprint() != make("anthropic").binding.fingerprint()


def test_a_key_with_a_line_end_is_named_by_its_place(make: Make) -> None:
    with pytest.raises(ModelSetupError) as caught:
        make("openai", api_key=CANARY + "\nx", key_name="MY_KEY")
    assert "MY_KEY" in caught.value.message
    assert CANARY not in caught.value.message


def test_every_provider_opens(make: Make) -> None:
    for provider, known in PROVIDERS.items():
        model = protocol_class(provider)("m", provider=provider, base_url=known.base_url)
        assert model.binding.provider == provider
        assert known.base_url.startswith("https://" if known.key else "http://127.0.0.1:")
