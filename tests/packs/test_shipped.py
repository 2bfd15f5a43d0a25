"""The packs that come with Gristmill: examples of everything, files below one folder, HTTP behind the guard."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gristmill.data.kinds import Chunk
from gristmill.errors import InputError, TransientError
from gristmill.fetch import request
from gristmill.packs import actions
from gristmill.packs.actions import find_action
from gristmill.testing import perform
from tests.loopback import Answer, serving
from tests.packs.conftest import CHUNK, run


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "root"
    place.mkdir()
    (tmp_path / "outside.txt").write_text("outside")
    actions.use_settings({"core": {"root": str(place), "allow_private": True}})
    find_action("core.file_read")
    yield place
    actions.use_settings({})


async def test_every_example_does_what_it_says() -> None:
    assert (await run(find_action("examples.greet"), who="$(id)")).stdout == "Hello, $(id)!\n"
    numbers = (await run(find_action("examples.list_example"), count=2)).result
    assert numbers == [{"number": 1, "square": 1}, {"number": 2, "square": 4}]
    described = (await run(find_action("examples.describe"))).result
    assert (described["action"], described["attempt"]) == ("examples.describe", 1)
    assert (await run(find_action("examples.count_words"))).result == {"words": 8}
    text = Chunk(text="One sentence that is long enough. No. Another one that is long enough!", start=100)
    found = await perform(find_action("examples.sentences"), text)
    assert [(chunk.start, chunk.end) for chunk in found if isinstance(chunk, Chunk)] == [(100, 133), (138, 170)]


async def test_files_are_written_read_and_listed_below_the_root(root: Path) -> None:
    write, read, list_ = (find_action(f"core.file_{verb}") for verb in ("write", "read", "list"))
    made = (await run(write, path="a/b/${input.ordinal}.txt", text="${input.text}")).result
    assert made["path"] == "a/b/7.txt"
    assert (root / "a/b/7.txt").read_text() == CHUNK.text
    assert (await run(read, path="a/b/7.txt")).stdout == CHUNK.text
    await run(write, path="a/other.md", text="x", overwrite=False)
    await run(write, path="a/other.md", text="x", overwrite=False)  # as a second attempt does
    with pytest.raises(InputError, match="other content"):
        await run(write, path="a/other.md", text="y", overwrite=False)
    (root / "link").symlink_to(root / "a")
    listed = (await run(list_)).result
    assert listed == [{"path": "a/other.md", "size": 1}, {"path": "a/b/7.txt", "size": 30}]
    assert [one["path"] for one in (await run(list_, path="a", pattern="*.md")).result] == ["a/other.md"]
    assert sorted(os.listdir(root / "a")) == ["b", "other.md"]  # nothing half-written


@pytest.mark.parametrize(
    "path", ["../outside.txt", "/etc/passwd", "a/../../outside.txt", "link/outside.txt", "file", ".", "pipe", "folder"]
)
async def test_no_path_and_no_link_leads_out_of_the_root(root: Path, tmp_path: Path, path: str) -> None:
    (root / "link").symlink_to(tmp_path)
    (root / "file").symlink_to(tmp_path / "outside.txt")
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    cases: tuple[tuple[str, dict[str, Any]], ...] = (("read", {}), ("write", {"text": "evil"}))
    for name, more in cases:
        if name == "write" and path in ("file", "pipe"):
            continue  # a link is replaced, never written through
        with pytest.raises(InputError) as caught:
            await run(find_action(f"core.file_{name}"), path=path, **more)
        assert caught.value.code == "K210"
    if path == "file":
        await run(find_action("core.file_write"), path=path, text="mine")
    assert (tmp_path / "outside.txt").read_text() == "outside"


async def test_without_a_root_the_file_actions_refuse() -> None:
    actions.use_settings({})
    with pytest.raises(InputError, match=r"\[packs.core\] root"):
        await run(find_action("core.file_read"), path="x")


async def test_http_actions_ask_and_say_what_the_server_answered(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "very-secret-token")
    seen: list[tuple[str, bytes]] = []

    def answer(path: str, body: bytes) -> Answer:
        seen.append((path, body))
        if path == "/moved":
            return Answer(status=302, headers={"location": "/text"})
        if path == "/picture":
            return Answer(b"\xff\x00", headers={"content-type": "image/x"})
        if path == "/echo":
            return Answer(b"very-secret-token came along, body: " + body)
        return Answer("größe".encode(), headers={"content-type": "text/plain; charset=utf-8"})

    get, send = find_action("core.http_get"), find_action("core.http_request")
    with serving(answer) as server:
        found = (await run(get, url=f"{server.url}/moved", token="env:MY_TOKEN")).result
        assert found == {"status": 200, "url": f"{server.url}/text", "media_type": "text/plain", "text": "größe"}
        assert (await run(get, url=f"{server.url}/picture")).result["base64"] == "/wA="
        said = (await run(send, url=f"{server.url}/echo", body={"a": "${input.ordinal}"}, token="env:MY_TOKEN")).result
        assert said["text"] == '*** came along, body: {"a": 7}'
        assert json.loads(seen[-1][1]) == {"a": 7}


@pytest.mark.parametrize(("status", "kind"), [(404, InputError), (429, TransientError), (503, TransientError)])
async def test_what_a_server_refuses_is_final_and_what_it_cannot_do_now_is_tried_again(
    root: Path, status: int, kind: type[Exception]
) -> None:
    refused = pytest.raises(kind, match=f"answered {status}: no")
    with serving(lambda path, body: Answer(b"no", status)) as server, refused:
        await run(find_action("core.http_get"), url=server.url)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/",
        "http://[::1]:9/",
        "http://169.254.169.254/latest",
        "http://0.0.0.0/",
        "http://localhost:9",
    ],
)
async def test_private_addresses_are_not_asked_unless_the_settings_allow_it(url: str) -> None:
    actions.use_settings({})
    with pytest.raises(InputError, match="F120") as caught:
        await run(find_action("core.http_get"), url=url)
    assert caught.value.code == "K210"


async def test_a_large_answer_and_an_endless_redirect_are_refused(root: Path) -> None:
    def answer(path: str, body: bytes) -> Answer:
        return Answer(b"x" * 2000) if path == "/large" else Answer(status=302, headers={"location": "/again"})

    with serving(answer) as server:
        for path, code in (("/large", "F109"), ("/around", "F122")):
            with pytest.raises(InputError, match=code):
                await run(find_action("core.http_get"), url=server.url + path, max_bytes=1000)


async def test_a_token_does_not_go_along_to_another_server() -> None:
    heard: list[str] = []

    def told(path: str, body: bytes) -> Answer:
        heard.append(path)
        return Answer(b"hello")

    with serving(told) as other, serving(lambda path, body: Answer(status=302, headers={"location": other.url})) as one:
        answer = await request("GET", one.url, headers={"Authorization": "Bearer x"}, private=True)
        assert answer.body == b"hello"
        assert heard == ["/"]
        assert [headers.get("authorization") for headers in (one.headers[0], other.headers[0])] == ["Bearer x", None]
