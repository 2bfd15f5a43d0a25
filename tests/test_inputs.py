"""Inputs of a run: URLs behind a guard, archives, globs, and a second reading by another backend."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gristmill.app import App
from gristmill.config import load_settings
from gristmill.data.scan import Found, Unreadable
from gristmill.data.selection import Inputs
from gristmill.errors import UsageError
from gristmill.fetch import fetch, incoming
from gristmill.operators import parse, split
from gristmill.workflow import Workflow
from tests.by_hand import Hand, hand_of
from tests.loopback import Answer, serving

FLOW = Workflow("texts", [parse, split])
PAGE = b"<html><head><title>The mill</title></head><body><p>The stone turns slowly.</p></body></html>"


def zipped(members: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def site(path: str, body: bytes) -> Answer:
    """A small web site with everything that can go wrong."""
    match path.partition("?")[0]:
        case "/page":
            return Answer(PAGE, headers={"content-type": "text/html; charset=utf-8"})
        case "/notes.md":
            return Answer(b"# Notes\n\nThe hopper holds barley.", headers={"content-type": "text/plain"})
        case "/set.zip":
            return Answer(zipped({"a.md": "# A", "b.txt": "bee", "../c.md": "out"}))
        case "/moved":
            return Answer(status=302, headers={"location": "/notes.md"})
        case "/round":
            return Answer(status=301, headers={"location": "/round"})
        case "/inward":
            return Answer(status=302, headers={"location": "http://169.254.169.254/latest/meta-data"})
        case "/file":
            return Answer(status=302, headers={"location": "file:///etc/passwd"})
        case "/large":
            return Answer(b"x" * 200_000)
    return Answer(b"no", 404)


async def got(url: str, **bounds: Any) -> Found | Unreadable:
    return await fetch(url, **({"private": True} | bounds))


async def test_a_page_is_fetched_and_named_by_its_address_and_its_type() -> None:
    with serving(site) as server:
        page = await got(f"{server.url}/page?x=1")
        assert isinstance(page, Found)
        assert (page.name, page.media_type, page.size) == ("127.0.0.1/page.html", "text/html", len(PAGE))
        assert page.open().read() == PAGE
        moved = await got(f"{server.url}/moved")
        assert isinstance(moved, Found)
        assert (moved.name, moved.uri) == ("127.0.0.1/moved", f"{server.url}/moved")
        notes = await got(f"{server.url}/notes.md")
        assert isinstance(notes, Found)
        assert (notes.name, notes.media_type) == ("127.0.0.1/notes.md", "text/markdown")


@pytest.mark.parametrize(
    ("path", "code"),
    [("/none", "F122"), ("/round", "F122"), ("/inward", "F120"), ("/file", "F123"), ("/large", "F109")],
)
async def test_what_a_server_may_not_do_has_a_code(path: str, code: str) -> None:
    with serving(site) as server:
        found = await got(server.url + path, max_bytes=100_000)
        assert isinstance(found, Unreadable)
        assert (found.code, found.uri) == (code, server.url + path)


async def test_a_server_that_takes_too_long_is_given_up() -> None:
    never = threading.Event()
    with serving(lambda path, body: Answer(b"x" * 1000, pause=never)) as server:
        found = await got(server.url, timeout=0.3)
        never.set()
    assert isinstance(found, Unreadable)
    assert found.code == "F121"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.8", "192.168.1.1", "169.254.169.254", "0.0.0.0", "2130706433",
             "[::ffff:127.0.0.1]", "[64:ff9b::a00:1]", "100.64.0.1"],
)  # fmt: skip
async def test_no_address_of_this_machine_or_a_private_network_is_asked(host: str) -> None:
    found = await got(f"http://{host}:9/x", private=False)
    assert isinstance(found, Unreadable)
    assert found.code == "F120"
    never = host in ("169.254.169.254", "0.0.0.0")
    assert ("where nothing is ever fetched from" if never else "allow_private_urls") in found.reason


@pytest.mark.parametrize("url", ["http://", "https://user:secret@127.0.0.1/x", "http://[::1", "ftp://127.0.0.1/x"])
async def test_a_url_that_cannot_be_fetched_says_so_and_shows_no_secret(url: str) -> None:
    found = await got(url)
    assert isinstance(found, Unreadable)
    assert found.code == "F123"
    assert "secret" not in found.reason + found.name


async def test_a_host_that_can_have_no_name_is_unknown() -> None:
    found = await got(f"https://{'a' * 300}/x")
    assert isinstance(found, Unreadable)
    assert found.code == "F121"


def test_a_url_with_a_password_is_refused_before_anything_is_kept() -> None:
    with pytest.raises(UsageError) as error:
        Inputs.of(["https://user:secret@example.org/x"])
    assert (error.value.code, "secret" in error.value.message) == ("U102", False)


async def test_what_is_behind_a_url_is_narrowed_like_files_are() -> None:
    with serving(site) as server:
        inputs = Inputs.of([f"{server.url}/set.zip", f"{server.url}/notes.md"], include=["*.md"], exclude=["notes*"])
        found = [entry async for entry in incoming(inputs, private=True)]
    assert [(entry.name, getattr(entry, "code", "")) for entry in found] == [
        ("127.0.0.1/set.zip/../c.md", "F115"), ("127.0.0.1/set.zip/a.md", ""),
    ]  # fmt: skip
    assert found[1].uri == f"{server.url}/set.zip!/a.md"


@pytest.fixture
async def app(database_url: str, tmp_path: Path) -> AsyncIterator[App]:
    settings = load_settings(
        tmp_path, {}, database_url=database_url, home=tmp_path / "home", workers=0, allow_private_urls=True
    ).values
    async with App(settings=settings) as opened:
        yield opened


async def kinds(app: App, kind: str) -> list[dict[str, Any]]:
    rows = await app.pool.fetch("select body from record where kind = $1 order by id", kind)
    return [json.loads(row["body"]) for row in rows]


async def test_a_run_takes_globs_archives_and_urls_and_fetches_each_url_once(
    app: App, hand: Hand, tmp_path: Path
) -> None:  # fmt: skip
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("# File\n\nOf the folder.")
    (tmp_path / "docs/skip.txt").write_text("not wanted")
    (tmp_path / "bundle.zip").write_bytes(zipped({"in.md": "# Inside", "../out.md": "x"}))
    with serving(site) as server:
        sources = [
            str(tmp_path / "docs/*.md"),
            str(tmp_path / "bundle.zip"),
            f"{server.url}/page",
            f"{server.url}/none",
        ]
        run = await app.start(FLOW, sources)
        progress, _ = await hand.drain(run)
        assert progress.state == "partial"
        names = {body["name"] for body in await kinds(app, "source")}
        assert names == {"docs/a.md", "bundle.zip/in.md", "127.0.0.1/page.html"}
        failures = {piece.item: piece.code for piece in await run.failures()}
        assert failures == {"bundle.zip/../out.md": "F115", "127.0.0.1/none": "F122"}
        asked = [path for path, _ in server.asked]
        assert sorted(asked) == ["/none", "/page"]
        again = await app.start(FLOW, sources)
        assert again.id == run.id
        assert [path for path, _ in server.asked][2:] == ["/none"]  # what is here is not fetched again
        await run.retry()
        assert (await run.progress()).unreadable == 2
    assert await app.pool.fetchval("select count(*) from item where run_id = $1 and state = 'active'", run.id) == 3


async def test_another_backend_makes_another_document_and_the_old_one_stays(
    app: App, hand: Hand, tmp_path: Path
) -> None:  # fmt: skip
    (tmp_path / "a.html").write_bytes(PAGE)
    for backend in ("auto", "text", "auto"):
        flow = Workflow("texts", [parse.using(backend=backend), split])
        run = await app.start(flow, [tmp_path / "a.html"])
        progress, _ = await hand.drain(run)
        assert progress.state == "completed"
    assert len(await kinds(app, "source")) == 1
    assert [body["backend"] for body in await kinds(app, "document")] == ["kreuzberg", "text"]


async def test_docling_is_asked_through_a_worker_that_was_told_where_it_is(database_url: str, tmp_path: Path) -> None:
    answer = {"status": "success", "document": {"md_content": "# Read\n\nBy layout."}, "errors": []}
    (tmp_path / "a.html").write_bytes(PAGE)
    with serving(lambda path, body: Answer(json.dumps(answer).encode())) as server:
        settings = load_settings(
            tmp_path, {}, database_url=database_url, home=tmp_path / "home", workers=0, docling_url=server.url
        ).values
        async with App(settings=settings) as app, hand_of(app) as hand:
            run = await app.start(Workflow("texts", [parse.using(backend="docling"), split]), [tmp_path / "a.html"])
            progress, _ = await hand.drain(run)
            assert progress.state == "completed"
            (document,) = await kinds(app, "document")
            (chunk,) = await kinds(app, "chunk")
        assert len(server.asked) == 1
    assert (document["backend"], chunk["text"]) == ("docling", "# Read\n\nBy layout.")


async def test_pictures_and_text_of_one_file_are_records_beside_each_other(
    app: App, hand: Hand, tmp_path: Path
) -> None:  # fmt: skip
    pillow = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    pillow.new("RGB", (40, 30), (9, 9, 9)).save(buffer, "PNG")
    (tmp_path / "set.zip").write_bytes(zipped({"a.md": "# Text", "b.png": buffer.getvalue()}))
    run = await app.start(Workflow("both", [parse.using(images=True), split]), [tmp_path / "set.zip"])
    progress, _ = await hand.drain(run)
    assert progress.state == "completed"
    assert [body["name"] for body in await kinds(app, "image")] == ["set.zip/b.png"]
    assert [body["text"] for body in await kinds(app, "chunk")] == ["# Text"]
