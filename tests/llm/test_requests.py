"""What a model was asked is kept beside its answer: whole, shared parts once, without pictures and secrets."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gristmill.errors import InputError
from gristmill.llm import calls
from gristmill.llm.entries import Entry, call_key, turns
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Binding, Image, Message, Request, Text
from gristmill.llm.requests import LONGEST, asked, readable, stored
from gristmill.llm.schemas import schema_forms
from gristmill.logs import hide
from tests.llm.test_ledger import MakeLedger, MakeModel

SYSTEM = Message("system", "You write questions. " * 50)
SCHEMA = {"type": "object", "properties": {"api_key": {"type": "string"}}}
BINDING = Binding("m", "openai", "m", "http://127.0.0.1/v1", {"temperature": 0.5})


def question(number: int, **more: Any) -> Request:
    return Request((SYSTEM, Message("user", f"What is {number}?")), **{"schema": SCHEMA, **more})


async def shown(pool: Any) -> list[dict[str, Any]]:
    keys = await pool.fetch("select encode(key, 'hex') as key from call order by made_at")
    return [(await calls.find(pool, row["key"]))["request"] for row in keys]


def test_a_key_is_that_of_the_whole_request_as_one_json_text() -> None:
    picture = Message("user", (Image(b"png", "image/png"), Text('say "é\ud800"')))
    odd = question(2, sample=3, attempt=1, parameters={"b": 1, "a": [2.5]}, reuse_within="run 7")
    for request in (question(1), odd, Request((picture,))):
        digest = schema_forms(request.schema).digest if request.schema else None
        parts = [1, [one.identity() for one in request.messages], digest, request.parameters, request.sample,
                 request.attempt, *([request.reuse_within] if request.reuse_within else [])]  # fmt: skip
        text = json.dumps(parts, sort_keys=True, allow_nan=False)
        assert call_key(b"binding", request) == hashlib.sha256(b"binding" + text.encode()).digest()


async def test_a_call_shows_what_was_asked_and_shared_parts_are_kept_once(ledgered: LedgeredModel, pool: Any) -> None:
    for number in range(3):
        await ledgered.complete(question(number, parameters={"temperature": 0.2}))
    assert await pool.fetchval("select count(*) from call_frame") == 1
    assert await pool.fetchval("select max(length(request)) from call") < 200
    first, *_ = await shown(pool)
    assert [one["role"] for one in first["messages"]] == ["system", "user"]
    assert first["messages"][0]["parts"] == [{"text": SYSTEM.content}]
    assert first["messages"][1]["parts"] == [{"text": "What is 0?"}]
    assert first["schema"] == SCHEMA
    assert first["parameters"]["temperature"] == 0.2
    assert first["base_url"].startswith("http://127.0.0.1")
    assert not first["cut"]


def test_a_picture_is_kept_as_its_digest_and_a_secret_not_at_all() -> None:
    hide("sk-canary-1234567890")
    image = Image(b"\x89PNG" + bytes(100_000), "image/png")
    request = Request((Message("system", "use sk-canary-1234567890"), Message("user", (image, Text("what is it?")))))
    kept = asked(replace(BINDING, headers={"x-api-key": "sk-header"}), request, turns(request))
    assert "canary" not in kept.frame_text + kept.own
    assert "sk-header" not in kept.frame_text + kept.own
    assert len(kept.own) < 300
    both = stored(kept.own, kept.frame_text)
    assert both is not None
    parts = readable(both)["messages"][1]["parts"]
    assert parts == [{"media_type": "image/png", "picture": image.digest()}, {"text": "what is it?"}]


@pytest.mark.parametrize("text", ["x" * 1_000_000, "中" * 1_000_000, '"\\\0' * 300_000])
def test_a_request_that_is_too_long_is_cut_and_says_so(text: str) -> None:
    request = Request((Message("system", text), *[Message("user", text)] * 3))
    kept = asked(BINDING, request, turns(request))
    both = stored(kept.own, kept.frame_text)
    assert max(len(kept.own), len(kept.frame_text)) <= LONGEST
    assert both is not None
    assert readable(both)["cut"]
    assert len(both["messages"]) == 4


async def test_nothing_is_kept_where_the_settings_say_so(
    open_model: MakeModel, open_ledger: MakeLedger, pool: Any
) -> None:
    ledger = open_ledger(keep_requests=False)
    await LedgeredModel(open_model(), ledger).complete(question(1))
    assert await shown(pool) == [None]
    assert await pool.fetchval("select count(*) from call_frame") == 0


def test_what_waits_on_disk_keeps_its_request() -> None:
    request = question(1)
    kept = asked(BINDING, request, turns(request))
    entry = Entry(bytes(32), uuid.uuid4(), uuid.uuid4(), "openai", "m", request=kept.own, frame=kept.frame,
                  frame_text=kept.frame_text)  # fmt: skip
    assert Entry.from_json(json.loads(json.dumps(entry.to_json()))) == entry


async def test_requests_are_carried_to_another_database_and_are_pruned_without_the_answers(
    ledgered: LedgeredModel, pool: Any, tmp_path: Path
) -> None:
    odd = Request((SYSTEM, Message("user", "half a character \ud800, and \0")))
    await ledgered.complete(question(1))
    await ledgered.complete(odd)
    before = await shown(pool)
    file = tmp_path / "calls.jsonl"
    file.write_text("".join([line + "\n" async for line in calls.exported(pool)]), encoding="utf-8")
    await pool.execute("delete from call")
    assert await calls.imported(pool, file) == (2, 2)
    assert await shown(pool) == before
    assert before[1]["messages"][1]["parts"] == [{"text": "half a character ?, and \0"}]
    later = datetime.now(UTC) + timedelta(days=2)
    assert (await calls.forget_requests(pool, later, dry_run=True)).calls == 2
    await pool.execute("update call_frame set used_at = used_at - interval '2 days'")
    assert (await calls.forget_requests(pool, later)).removed == 2
    assert await shown(pool) == [None, None]
    assert await pool.fetchval("select count(*) from call") == 2
    assert await pool.fetchval("select count(*) from call_frame") == 0


async def test_thousands_of_requests_of_the_same_moment_are_all_forgotten(pool: Any) -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    sql = (
        "insert into call (key, state, owner, deadline, provider, model, status, response, request, made_at) "
        "select sha256(int8send(n)), 'ok', gen_random_uuid(), $1, 'p', 'm', 200, '', '{}',"
        " $1::timestamptz + $2::interval * (n / 2200) from generate_series(1, 3300) n"
    )
    await pool.execute(sql, moment, timedelta(seconds=1))
    assert (await calls.forget_requests(pool, moment + timedelta(seconds=1))).removed == 2199
    assert (await calls.forget_requests(pool, moment + timedelta(days=1))).removed == 1101
    assert await pool.fetchval("select count(request) from call") == 0


async def test_a_frame_that_a_process_still_uses_is_not_pruned(ledgered: LedgeredModel, pool: Any) -> None:
    await ledgered.complete(question(1))
    await calls.prune(pool, datetime.now(UTC) + timedelta(days=2))
    await ledgered.complete(question(2))
    assert (await shown(pool))[0]["messages"][0]["parts"] == [{"text": SYSTEM.content}]


async def test_a_file_with_an_unreadable_request_is_refused(pool: Any, tmp_path: Path) -> None:
    line = {"schema": calls.FORM, "key": "00" * 32, "state": "ok", "provider": "p", "model": "m", "response": "{}",
            "made_at": "2026-01-01T00:00:00+00:00", "request": {"messages": [["user", 7]]}}  # fmt: skip
    file = tmp_path / "calls.jsonl"
    file.write_text(json.dumps(line))
    with pytest.raises(InputError, match="line 1"):
        await calls.imported(pool, file)
