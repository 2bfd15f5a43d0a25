"""gristmill hooks, as a command in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.scenarios.conftest import Home, make_home, model_server, scripted_server
from tests.test_notify import Receiver, receiver

__all__ = ["make_home", "model_server", "receiver", "scripted_server"]


@pytest.fixture
def home(make_home: Callable[..., Home], database_url: str) -> Home:
    return make_home(GRISTMILL_DATABASE_URL=database_url, HOOK_SECRET="a secret")


async def test_a_hook_is_added_tried_listed_and_removed(home: Home, receiver: Receiver) -> None:
    add = ("hooks", "add", "done", "--on", "run.end", "--webhook", receiver.url, "--secret", "env:HOOK_SECRET")
    code, added = await home.json(*add, "--allow-private")
    assert (code, added["schema"], added["events"]) == (0, "gristmill.hook/1", ["run.end"])
    assert "secret-path" not in json.dumps(added)
    code, _, err = await home.call(*add)
    assert code == 2
    assert "U352" in err
    code, tried = await home.json("hooks", "test", "done")
    assert (code, tried["ok"], tried["result"]) == (0, True, {"status": 204})
    document = json.loads(receiver.asked[0].body)
    assert document["data"]["event"]["body"]["test"] is True
    assert "webhook-signature" in receiver.asked[0].headers
    receiver.answer("404 Nowhere", "who are you")
    code, tried = await home.json("hooks", "test", "done")
    assert (code, tried["ok"], tried["error"]["code"]) == (1, False, "N204")
    code, out, _ = await home.call("hooks", "list")
    assert "done" in out
    assert f"webhook http://127.0.0.1:{receiver.port}" in out
    assert "secret-path" not in out
    code, removed = await home.json("hooks", "remove", "done")
    assert (code, removed["cancelled"]) == (0, 0)
    code, listed = await home.json("hooks", "list")
    assert (code, listed["hooks"]) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--on", "run.ended", "--webhook", "https://example.org/"), "U350"),
        (("--on", "run.end"), "U357"),
        (("--on", "run.end", "--webhook", "https://example.org/", "--email", "a@b.example"), "U357"),
        (("--on", "run.end", "--webhook", "mill"), "U354"),
        (("--on", "run.end", "--webhook", "https://example.org/", "--secret", "hunter2"), "U355"),
        (("--on", "run.end", "--email", "mill"), "U356"),
        (("--on", "run.end", "--task", "mine", "--options", "{"), "U351"),
        (("--on", "run.end", "--task", "mine", "--options", "[]"), "U351"),
    ],
)
async def test_what_cannot_work_is_refused_with_what_to_do(home: Home, arguments: tuple[str, ...], code: str) -> None:
    returned, _, err = await home.call("hooks", "add", "done", *arguments)
    assert returned == 2
    assert f"error[{code}]" in err
    assert "hunter2" not in err


@pytest.mark.thorough
async def test_email_hooks_gather_what_is_alike_and_run_ends_are_told_at_once(home: Home) -> None:
    for name, event in (("ends", "run.end"), ("storms", "step.failed")):
        code, _, err = await home.call("hooks", "add", name, "--on", event, "--email", "miller@example.org")
        assert code == 0
        assert "smtp_host" in err
    code, tried = await home.json("hooks", "test", "ends")
    assert (code, tried["error"]["code"]) == (1, "N310")
    code, _, err = await home.call("hooks", "add", "own", "--on", "item.*", "--task", "mine", "--options", '{"a": 1}')
    assert code == 0
    code, _, err = await home.call("hooks", "test", "own")
    assert (code, "U358" in err) == (2, True)
