"""Blobs in an S3-compatible store: signed as Amazon says, whole or not at all, read by another machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gristmill.app import App
from gristmill.config import Settings
from gristmill.data import s3
from gristmill.data.compression import Compress
from gristmill.data.s3 import Keys, open_bucket, signed
from gristmill.data.shared_blobs import SharedBlobs, open_blobs
from gristmill.errors import ConfigurationError, EnvironmentProblem, TransientError
from gristmill.operators import parse, split
from gristmill.workflow import Workflow
from tests.by_hand import hand_of

TEXT = b"a pump moves water uphill. " * 400
KEYS = {"AWS_ACCESS_KEY_ID": "scripted", "AWS_SECRET_ACCESS_KEY": "scripted-too", "AWS_REGION": "eu-west-9"}


class Store(ThreadingHTTPServer):
    """Keeps objects in a dictionary, checks every signature and body; `broken` answers 503 so many times."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.broken = 0
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Store
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append(f"{self.command} {self.path}")
        digest = hashlib.sha256(body).hexdigest()
        at = datetime.strptime(self.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        keys = Keys("scripted", "scripted-too", region="eu-west-9")
        right = signed(self.command, f"http://{self.headers['host']}{self.path}", digest, keys, at)
        if self.server.broken:
            self.server.broken -= 1
            return self.reply(503)
        if self.headers["authorization"] != right["authorization"]:
            return self.reply(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        if self.command == "PUT":
            self.server.objects[self.path] = body
            return self.reply(200)
        found = self.server.objects.get(self.path)
        return self.reply(404) if found is None else self.reply(200, found)

    def reply(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = answer

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    made = Store()
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": address(made)}.items():
        monkeypatch.setenv(name, value)
    yield made
    made.shutdown()
    made.server_close()


def address(store: Store) -> str:
    return f"http://127.0.0.1:{store.server_port}"


def machine(store: Store, folder: Path, **settings: Any) -> SharedBlobs:
    """Another machine: a folder of its own, the same store."""
    environment = {**KEYS, "AWS_ENDPOINT_URL": address(store)}
    return SharedBlobs(folder, open_bucket("s3://bucket/some prefix", environment), reserve=0, **settings)


@pytest.fixture
async def two(store: Store, tmp_path: Path) -> AsyncIterator[tuple[SharedBlobs, SharedBlobs]]:
    made = machine(store, tmp_path / "one"), machine(store, tmp_path / "two")
    yield made
    for blobs in made:
        await blobs.close()


def test_requests_are_signed_as_the_published_example_says() -> None:
    keys = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    headers = signed(
        "GET", "https://examplebucket.s3.amazonaws.com/test.txt", hashlib.sha256(b"").hexdigest(), keys,
        datetime(2013, 5, 24, tzinfo=UTC), {"range": "bytes=0-9"},
    )  # fmt: skip
    assert headers["authorization"].endswith("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")
    assert "wJalr" not in repr(keys)


async def test_what_one_machine_writes_another_reads_and_a_damaged_copy_is_brought_again(
    store: Store, two: tuple[SharedBlobs, SharedBlobs], tmp_path: Path
) -> None:
    one, other = two
    digest = await one.write(TEXT)
    (tmp_path / "file.txt").write_bytes(b"from a file")
    from_file, _ = await one.write_file(tmp_path / "file.txt")
    assert store.objects[f"/bucket/some%20prefix/{digest[:2]}/{digest}"] == TEXT
    assert await other.read(digest) == TEXT
    assert await other.read(from_file) == b"from a file"
    other.path(digest).write_bytes(b"spoilt")
    assert await other.read(digest) == TEXT
    with pytest.raises(EnvironmentProblem) as caught:
        await other.read("0" * 64)
    assert caught.value.code == "F201"
    store.asked.clear()
    assert await one.write(TEXT) == digest
    assert store.asked == []  # known to be there


async def test_compressed_content_travels_compressed(store: Store, tmp_path: Path) -> None:
    one = machine(store, tmp_path / "one", level=3)
    digest = await one.write(TEXT)
    [(key, data)] = store.objects.items()
    assert key.endswith(f"{digest}.zst")
    assert len(data) < len(TEXT) / 10
    other = machine(store, tmp_path / "two")
    assert await other.read(digest) == TEXT
    await one.close()
    await other.close()


async def test_a_store_that_stumbles_is_asked_again_and_one_that_refuses_says_why(
    store: Store, two: tuple[SharedBlobs, SharedBlobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3.random, "uniform", lambda *_: 0.0)
    store.broken = 3
    digest = await two[0].write(TEXT)
    assert await two[1].read(digest) == TEXT
    store.broken = 99
    with pytest.raises(TransientError) as caught:
        await two[0].write(b"more")
    assert caught.value.code == "F206"
    assert len(store.objects) == 1
    store.broken = 0
    bucket = open_bucket(
        "s3://bucket/x", {**KEYS, "AWS_SECRET_ACCESS_KEY": "wrong", "AWS_ENDPOINT_URL": two[0]._bucket._base[:-7]}
    )
    with pytest.raises(EnvironmentProblem, match="403 SignatureDoesNotMatch"):
        await bucket.get("a")
    await bucket.close()
    with pytest.raises(ConfigurationError, match="needs keys"):
        open_bucket("s3://bucket", {})


async def test_a_run_keeps_its_bytes_in_the_store_also_those_of_its_child_processes(
    store: Store, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "pump.md").write_bytes(b"# Pumps\r\n\r\n" + TEXT)
    settings = Settings(
        database_url=database_url, home=tmp_path / "home", workers=0, blobs="s3://bucket/p", disk_reserve=0,
        compress=Compress(kinds=("document",)),
    )  # fmt: skip
    async with App(settings=settings) as app, hand_of(app) as hand:
        run = await app.start(Workflow("two", [parse, split]), [tmp_path / "pump.md"])
        for file in app.blobs.folder.glob("*/*"):
            file.unlink()  # as on another machine: the worker has nothing yet
        assert (await hand.drain(run))[0].state == "completed", await run.failures()
        used = await app.pool.fetchval("select body::json ->> 'text_blob' from record where kind = 'document'")
    assert any(key.endswith(f"{used}.zst") for key in store.objects)


async def test_a_folder_that_hosts_share_is_a_store(tmp_path: Path) -> None:
    here = open_blobs(tmp_path / "here", str(tmp_path / "mount"))
    there = open_blobs(tmp_path / "there", f"file://{tmp_path / 'mount'}")
    digest = await here.write(b"grain")
    assert await there.read(digest) == b"grain"
    assert not (tmp_path / "here").exists()
    with pytest.raises(ConfigurationError, match="is no store"):
        open_blobs(tmp_path, "relative/folder")
