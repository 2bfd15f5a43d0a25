"""Blobs in a server that others wrote, moto, which checks signatures with Amazon's own code.

Needs `moto_server` (`pip install "moto[s3,server]"`, 150 MB) on the path, or at GRISTMILL_TEST_MOTO.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from gristmill.data.s3 import open_bucket
from gristmill.data.shared_blobs import SharedBlobs
from gristmill.errors import EnvironmentProblem
from tests.engine.conftest import until, watching
from tests.llm.conftest import ScriptedServer
from tests.scenarios.conftest import Home, documents, make_home, model_server, scripted_server
from tests.scenarios.whole_fleet import WholeFleet

__all__ = ["documents", "make_home", "model_server", "scripted_server", "watching"]
PROGRAM = os.environ.get("GRISTMILL_TEST_MOTO") or shutil.which("moto_server")
pytestmark = [
    pytest.mark.thorough,
    pytest.mark.timeout(600),
    pytest.mark.skipif(PROGRAM is None, reason='needs pip install "moto[s3,server]"'),
]
ROOT = Path(__file__).parents[2]
POLICY = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}'
UPLOAD = """
import asyncio, os, sys
from pathlib import Path
from gristmill.data.shared_blobs import open_blobs
asyncio.run(open_blobs(Path(sys.argv[1]), "s3://mill/blobs", reserve=0).write(os.urandom(1) * 40_000_000))
"""


class Way:
    """The way to the server: a port that can be closed, and that can stop in the middle of what is sent."""

    def __init__(self, port: int) -> None:
        self._there = port
        self.port = 0
        self.passed = 0
        self.stop_at = sys.maxsize
        self._under_way: set[asyncio.StreamWriter] = set()

    async def open(self) -> Self:
        self._server = await asyncio.start_server(self._lead, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def close(self) -> None:
        self._server.close()
        for writer in self._under_way:
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(65536):
                self.passed += len(block)
                while self.passed > self.stop_at and not reader.at_eof():
                    await asyncio.sleep(0.02)
                writer.write(block)
                await writer.drain()
        writer.close()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, onward = await asyncio.open_connection("127.0.0.1", self._there)
        self._under_way |= {writer, onward}
        await asyncio.gather(self._pump(reader, onward), self._pump(back, writer))


@pytest.fixture(scope="module")
async def keys() -> AsyncIterator[dict[str, str]]:
    """The environment of somebody who may use the server; it lets nobody in without a right signature."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": "3"}  # those that make the user
    assert PROGRAM is not None
    with subprocess.Popen(
        [PROGRAM, "-H", "127.0.0.1", "-p", str(port)], env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip

        def iam(action: str, **more: str) -> str:
            body = urllib.parse.urlencode({"Action": action, "UserName": "u", "Version": "2010-05-08", **more})
            credential = (
                "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, SignedHeaders=h, Signature=x"
            )
            url = f"http://127.0.0.1:{port}/"
            request = urllib.request.Request(url, body.encode(), {"Authorization": credential})
            return str(urllib.request.urlopen(request, timeout=20).read().decode())  # noqa: S310 - our own

        async def answers() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                return True
            return False

        await until(answers, 120)
        await asyncio.to_thread(iam, "CreateUser")
        made = await asyncio.to_thread(iam, "CreateAccessKey")
        await asyncio.to_thread(iam, "PutUserPolicy", PolicyName="p", PolicyDocument=POLICY)
        found = {name: re.search(f"<{name}>(.*?)<", made) for name in ("AccessKeyId", "SecretAccessKey")}
        access, secret = (each[1] if each else "" for each in found.values())
        given = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret,
                 "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}  # fmt: skip
        bucket = open_bucket("s3://mill", given)
        status, _ = await bucket._send("PUT", f"{given['AWS_ENDPOINT_URL']}/mill", b"")
        assert status == 200
        await bucket.close()
        yield given
        process.kill()


@pytest.fixture
async def way(keys: dict[str, str]) -> AsyncIterator[Way]:
    made = await Way(int(keys["AWS_ENDPOINT_URL"].rpartition(":")[2])).open()
    yield made
    made.close()


async def test_bytes_come_and_go_and_refusals_say_why(keys: dict[str, str], tmp_path: Path) -> None:
    one, two = (
        SharedBlobs(tmp_path / name, open_bucket("s3://mill/some prefix", keys), reserve=0) for name in ("one", "two")
    )
    digest = await one.write(b"grain" * 100_000)
    assert await two.read(digest) == b"grain" * 100_000
    with pytest.raises(EnvironmentProblem) as missing:
        await two.read("0" * 64)
    assert missing.value.code == "F201"
    for url, change, words in (
        ("s3://mill", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "403 SignatureDoesNotMatch"),
        ("s3://mill", {"AWS_ACCESS_KEY_ID": "AKIANOBODY"}, "403 InvalidAccessKeyId"),
        ("s3://no-such-bucket", {}, "404 NoSuchBucket"),
    ):
        bucket = open_bucket(url, keys | change)
        for refused in (bucket.put("a", b"b"), bucket.get("a")):
            with pytest.raises(EnvironmentProblem, match=words) as problem:
                await refused
            assert problem.value.code == "F207"
        await bucket.close()
    await one.close()
    await two.close()


async def test_an_upload_that_is_killed_half_way_leaves_no_object(
    keys: dict[str, str], way: Way, tmp_path: Path
) -> None:
    environment = os.environ | keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{way.port}"}
    way.stop_at = 20_000_000
    process = subprocess.Popen([sys.executable, "-c", UPLOAD, tmp_path / "killed"], env=environment, cwd=ROOT)

    async def half() -> bool:
        return way.passed > way.stop_at

    await until(half, 100)
    process.kill()
    process.wait()
    way.stop_at = sys.maxsize
    (whole,) = (tmp_path / "killed").glob("??/*")
    bucket = open_bucket("s3://mill/blobs", keys)
    assert not await bucket.has(f"{whole.name[:2]}/{whole.name}")
    again = SharedBlobs(tmp_path / "killed", bucket, reserve=0)  # the same process, started once more
    await again.send([whole.name])
    sent = await bucket.get(f"{whole.name[:2]}/{whole.name}")
    assert sent is not None
    assert hashlib.sha256(sent).hexdigest() == whole.name
    await again.close()


async def test_a_run_shares_its_bytes_through_the_server_and_waits_while_it_is_away(
    keys: dict[str, str], way: Way, make_home: Callable[..., Home], documents: Path, model_server: ScriptedServer,
    database_url: str, watching: Callable[..., Awaitable[Any]],
) -> None:  # fmt: skip
    shared = keys | {"GRISTMILL_BLOBS": "s3://mill/run", "GRISTMILL_DATABASE_URL": database_url,
                     "AWS_ENDPOINT_URL": f"http://127.0.0.1:{way.port}"}  # fmt: skip
    fleet = WholeFleet(make_home("fleet", **shared), documents, model_server)
    elsewhere = {name: {"GRISTMILL_HOME": str(documents.parent / name)} for name in ("host-1", "host-2")}

    await fleet.begin(make_home("undisturbed"), elsewhere)
    await watching("select count(*) filter (where state = 'completed') > 2 from task")
    way.close()
    await asyncio.sleep(10)
    await way.open()
    assert await watching("select count(*) > 0 from attempt where code = 'F206'")
    await fleet.ends_whole(database_url, paid_twice=0)
