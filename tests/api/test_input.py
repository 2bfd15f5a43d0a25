"""Bad input: what is wrong, where, what to do, and nothing is changed. The table of docs/reference/api.md."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from gristmill.api import problems, tokens, uploads
from gristmill.api.application import asgi
from gristmill.api.problems import NotFound, Refused
from gristmill.errors import EnvironmentProblem, GristmillError, LimitReached, LockHeld, UsageError
from tests.api.conftest import Api, open_api

PAUSE = "/api/control/pause"


def said(answer: Any) -> dict[str, Any]:
    """The problem of an answer, which has the one shape."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    found: dict[str, Any] = answer.json()
    assert found["status"] == answer.status_code
    assert found["title"]
    assert found["code"]
    assert found["detail"]
    return found


async def test_every_answer_says_which_api_it_is_and_keeps_the_browser_in(shared: Api) -> None:
    for path in ("/api/health", "/api/nothing", "/", "/metrics", "/api/openapi.json"):
        headers = (await shared.get(path)).headers
        assert headers["gristmill-api"] == "1"
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy


async def test_an_unknown_address_or_method_is_a_problem_too(shared: Api) -> None:
    assert said(await shared.get("/api/nothing"))["code"] == "A404"
    assert said(await shared.post("/api/nothing", json={}))["status"] in (404, 405)
    for method in ("DELETE", "OPTIONS", "PATCH"):
        refused = await shared.request(method, "/api/session" if method == "PATCH" else "/api/schedules")
        assert said(refused)["status"] == 405
        assert refused.headers["allow"] == ("DELETE, GET, POST" if method == "PATCH" else "GET, POST")
    assert said(await shared.get("/api/control/start"))["status"] == 405
    plan = said(await shared.get("/api/runs/plan"))  # no run is meant
    assert plan["status"] == 405


async def test_an_address_that_no_file_can_have_is_no_fault_of_ours(shared: Api) -> None:
    for name in ("x" * 300, "x" * 5000, "..%2F" * 40 + "etc", "%00", "%ff"):
        assert said(await shared.get(f"/assets/{name}.js"))["status"] == 404
        assert (await shared.get(f"/assets/{name}")).status_code == 200  # the page, which says so itself


WRONG_BODIES = [
    (b"{", 422, "not JSON"), (b"\xff\xfe", 422, "not JSON"), (b'{"runs": NaN}', 422, "not JSON"),
    (b"[" * 100_000, 422, "nested"), (b"[" * 66 + b"]" * 66, 422, "64 levels"), (b"[]", 422, ""),
    (b'{"runs": "all"}', 422, "runs"), (b'{"everything": true}', 422, "everything"),
    (b'{"runs": ["' + b"x" * 201 + b'"]}', 422, "runs"), (b'{"runs": ["\\u0000"]}', 422, "character"),
    (b'{"runs": ["\\ud800"]}', 422, "surrogate"), (b'{"\\uDFFF": 1}', 422, "surrogate"),
    (b'{"runs": ["\xed\xa0\x80"]}', 422, "not JSON"), ('{"runs": []}'.encode("utf-16"), 422, "not JSON"),
    (b'{"runs": ["' + b"x" * 11_000_000 + b'"]}', 413, "bytes"),
]  # fmt: skip


async def test_a_body_that_is_wrong_is_refused_and_never_repeated(shared: Api) -> None:
    for content, status, words in WRONG_BODIES:
        answer = await shared.post(PAUSE, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, answer.text
        assert words in said(answer)["detail"]
        assert len(answer.content) < 2000


async def test_the_body_of_a_login_is_refused_as_any_other(shared: Api) -> None:
    for content, kind, status in (
        (b"{", "application/json", 422), (b'{"token": NaN}', "application/json", 422),
        (b"[" * 100_000, "application/json", 422), (b'{"token": "\\ud800"}', "application/json", 422),
        (b'{"token": "' + b"x" * 11_000_000 + b'"}', "application/json", 413),
        (b'{"token": "a"}', "text/plain", 415), (b"token=a", "application/x-www-form-urlencoded", 415),
    ):  # fmt: skip
        answer = await shared.post("/api/session", content=content, headers={"Content-Type": kind})
        assert (answer.status_code, said(answer)["code"]) == (status, f"A{status}"), (content[:20], answer.text)


async def test_an_answer_repeats_little_of_what_was_wrong_and_only_text() -> None:
    asked = problems.answer(UsageError(f'there is no column "{"x" * 10_000}"', hint="y" * 10_000))
    assert len(asked.body) < 5000
    unnamed = problems.answer(UsageError("there is no file \udcff.md"))
    assert json.loads(bytes(unnamed.body))["detail"] == "there is no file ?.md"


async def test_only_json_is_taken(shared: Api) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = await shared.post(PAUSE, content=b"{}", headers={"Content-Type": kind})
        assert (answer.status_code, said(answer)["code"]) == (415, "A415"), kind


async def test_a_wrong_field_is_named(shared: Api) -> None:
    problem = said(await shared.put("/api/limits/openai", json={"requests_per_minute": "many"}))
    assert problem["where"] == "requests_per_minute"
    assert "many" not in json.dumps(problem)
    assert said(await shared.get("/api/calls?limit=1000"))["where"] == "limit"
    for field, value in (("burst", True), ("burst", "5"), ("timezone", 5), ("tokens_per_minute", False)):
        assert said(await shared.put("/api/limits/openai", json={field: value}))["where"] == field
    assert said(await shared.post("/api/locks/x/release", json={"force": 1}))["where"] == "force"


async def test_who_may_not_ask_is_told_before_his_body_is_read(api: Api) -> None:
    await tokens.add(api.app.pool, "anna", "viewer", by="test")
    assert said(await api.post(PAUSE, content=b"{nonsense"))["status"] == 401


async def test_a_fault_of_ours_says_nothing_of_the_inside(shared: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("secret of the house")

    monkeypatch.setattr("gristmill.engine.fleet.workers", broken)
    problem = said(await shared.get("/api/workers"))
    assert (problem["status"], problem["code"]) == (500, "A500")
    assert "secret" not in json.dumps(problem)


async def test_a_database_that_is_away_is_said_so_and_comes_back(api: Api) -> None:
    rows = await api.app.pool.fetch("select pid from pg_stat_activity where datname = current_database()")
    assert rows
    await api.app.pool.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    answers = [await api.get("/api/workers") for _ in range(8)]
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert answers[-1].status_code == 200
    for answer in answers:
        if answer.status_code == 503:
            assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("x", code="U311"), 404), (UsageError("x"), 422), (NotFound("x"), 404),
        (LockHeld("x"), 409), (LimitReached("x", delay=1), 429), (EnvironmentProblem("x"), 503),
        (EnvironmentProblem("x", code="F203"), 507), (Refused(418, "x", code="A418"), 418), (GristmillError("x"), 500),
    ],
)  # fmt: skip
def test_an_error_of_ours_has_one_status(error: GristmillError, status: int) -> None:
    assert problems.answer(error).status_code == status


async def test_a_post_with_a_key_is_done_once(api: Api) -> None:
    await api.app.pool.execute("insert into run (name, workflow, definition) values ('qa-1', 'qa', '{}')")
    headers = {"Idempotency-Key": "k-1"}
    first = await api.post(PAUSE, headers=headers)
    second = await api.post(PAUSE, headers=headers)
    assert first.json() == second.json() == {
        "action": "pause", "runs": ["qa-1"], "workers": [], "pools": [], "refused": [],
    }  # fmt: skip
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert (await api.post(PAUSE)).json()["runs"] == []
    other = said(await api.post(PAUSE, headers=headers, json={"pools": ["model"]}))
    assert (other["status"], other["code"]) == (422, "A423")
    for wrong in ("", "x" * 201):
        assert said(await api.post(PAUSE, headers={"Idempotency-Key": wrong}))["status"] == 422


async def test_ten_posts_with_one_key_at_once_are_done_once(api: Api) -> None:
    new = {"name": "nightly", "cron": "0 3 * * *", "task": "tidy"}
    answers = await asyncio.gather(
        *(api.post("/api/schedules", json=new, headers={"Idempotency-Key": "k"}) for _ in range(10))
    )
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert sum("idempotency-replayed" not in a.headers and a.status_code == 200 for a in answers) == 1
    again = await api.post("/api/schedules", json=new, headers={"Idempotency-Key": "k"})
    assert again.headers["idempotency-replayed"] == "true"
    assert await api.app.pool.fetchval("select count(*) from api_answer") == 1


async def test_a_refused_post_is_refused_again_and_a_fault_may_be_tried_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Idempotency-Key": "k-2"}
    for _ in range(2):
        assert said(await api.post(PAUSE, json={"runs": ["none"]}, headers=headers))["code"] == "U311"

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError

    await api.app.pool.execute("insert into pool (name) values ('model')")
    with monkeypatch.context() as patched:
        patched.setattr("gristmill.engine.fleet.pause_pool", broken)
        answer = await api.post(PAUSE, json={"pools": ["model"]}, headers={"Idempotency-Key": "k-3"})
        assert answer.status_code == 500
    answer = await api.post(PAUSE, json={"pools": ["model"]}, headers={"Idempotency-Key": "k-3"})
    assert (answer.status_code, answer.json()["pools"]) == (200, ["model"])


async def test_a_call_whose_process_died_may_be_done_again(api: Api) -> None:
    headers = {"Idempotency-Key": "k-4"}
    await api.post(PAUSE, headers=headers)
    pool = api.app.pool
    await pool.execute("update api_answer set status = null, body = null")
    assert said(await api.post(PAUSE, headers=headers))["status"] == 409
    await pool.execute("update api_answer set claimed_until = clock_timestamp() - interval '1 s'")
    assert (await api.post(PAUSE, headers=headers)).status_code == 200


def form(*files: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", file) for file in files]


async def test_files_are_taken_in_whole(shared: Api) -> None:
    large = bytes(range(256)) * 20_000
    answer = await shared.post(
        "/api/uploads", files=form(("mill.md", b"# Mill"), ("mill.md", b""), ("größe.pdf", large))
    )
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert [(one["name"], one["bytes"]) for one in found["files"]] == [
        ("mill.md", 6), ("mill-2.md", 0), ("größe.pdf", len(large)),
    ]  # fmt: skip
    assert found["files"][2]["sha256"] == hashlib.sha256(large).hexdigest()
    folder = await uploads.upload_folder(shared.app, found["upload"])
    assert (folder / "größe.pdf").read_bytes() == large
    again = await shared.json(f"/api/uploads/{found['upload']}")
    assert sorted(one["sha256"] for one in again["files"]) == sorted(one["sha256"] for one in found["files"])
    assert (await shared.get(f"/api/uploads/{'0' * 32}")).status_code == 404
    assert (await shared.get("/api/uploads/..%2f..%2fetc")).status_code in (404, 422)


def test_a_name_that_is_a_path_or_hides_something_is_refused() -> None:
    for name in (
        "../../etc/passwd", "/etc/passwd", "..\\..\\x", "C:\\x", "a/b", "..", ".", "", " ", "x" * 5000, "CON",
        "nul.txt", "evil\u202egpj.exe", "a\u200bb", "a\nb", "a\0b", " x", "ä" * 128,
    ):  # fmt: skip
        with pytest.raises(Refused) as refused:
            uploads.checked_name(name.encode())
        assert (refused.value.status, refused.value.code) == (422, "A430")
    assert uploads.checked_name("Größe 2 (final).pdf".encode()) == "Größe 2 (final).pdf"


async def test_a_refused_upload_leaves_nothing_behind(database_url: str, tmp_path: Path) -> None:
    async with open_api(database_url, tmp_path, api_upload=10_000) as api:
        assert said(await api.post("/api/uploads", files=form(("a", b"x"), ("b", b"x" * 20_000))))["code"] == "A413"
        assert said(await api.post("/api/uploads", files=form(("../a", b"x"))))["code"] == "A430"
        assert said(await api.post("/api/uploads", json={}))["code"] == "A415"
        assert said(await api.post("/api/uploads", data={"a": "b"}, files={"c": (None, b"d")}))["code"] == "A422"
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        for broken in (b"", b"--b\r\nnonsense", b'--b\r\nContent-Disposition: form-data; filename="a"\r\n\r\nhalf'):
            answer = await api.post("/api/uploads", content=broken, headers=headers)
            assert (answer.status_code, said(answer)["code"]) == (422, "A422"), broken
        head = b"--b\r\n" + b"X: " + b"y" * 9_000 + b"\r\n"
        assert said(await api.post("/api/uploads", content=head * 2, headers=headers))["status"] in (413, 422)
        assert list((tmp_path / "uploads").iterdir()) == []


async def test_an_upload_that_breaks_off_leaves_nothing_behind(shared: Api) -> None:
    host, _, port = shared.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n' + b"x" * 100_000
    head = f"POST /api/uploads HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    writer.write(head.encode() + b"Content-Length: 900000\r\n\r\n" + body)
    await writer.drain()
    folder = shared.app.settings.home / "uploads"
    async with asyncio.timeout(10):
        while not (folder.is_dir() and any(folder.glob("partial-*/a"))):
            await asyncio.sleep(0.01)
        writer.transport.abort()
        while any(folder.glob("partial-*")):
            await asyncio.sleep(0.01)
    del reader


async def test_a_disk_without_room_is_said_so(shared: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.app.blobs, "room", lambda: 100)
    assert said(await shared.post("/api/uploads", files=form(("a", b"x" * 2000))))["status"] == 507


async def test_the_page_answers_every_address_of_its_own(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = tmp_path / "static"
    monkeypatch.setattr("gristmill.api.page.folder", lambda: built)
    answer = await api.get("/runs/7")
    assert (answer.status_code, "its page was not built" in answer.text) == (200, True)
    (built / "assets").mkdir(parents=True)
    (built / "index.html").write_text("<title>page</title>")
    (built / "assets" / "app-1a2b.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    assert "<title>page" in (await api.get("/runs/7")).text
    script = await api.get("/assets/app-1a2b.js")
    assert "immutable" in script.headers["cache-control"]
    assert "javascript" in script.headers["content-type"]
    for path in (
        "/assets/none.js",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "/assets/..%2f..%2fsecret.txt",
        "/%00.js",
    ):
        answer = await api.get(path)
        assert answer.status_code == 404, path
        assert "secret" not in answer.text


async def test_files_of_the_page_are_sent_compressed_to_who_takes_that_and_not_twice(
    api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("gristmill.api.page.folder", lambda: tmp_path / "static")
    text = "const mill = 1;\n" * 5_000
    for name in ("assets/app-1a2b.js", "editor/editor.js", "editor/editor.css", "assets/font.woff2"):
        (tmp_path / "static" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "static" / name).write_text(text)
    for name in ("assets/app-1a2b.js", "editor/editor.js", "editor/editor.css"):
        for wanted in ("gzip", "br, gzip;q=0.5", "*"):
            found = await api.get(f"/{name}", headers={"Accept-Encoding": wanted})
            assert (found.headers["content-encoding"], found.text) == ("gzip", text)
            assert int(found.headers["content-length"]) < 1_000
            assert "accept-encoding" in found.headers["vary"].lower()
        plain = await api.get(f"/{name}", headers={"Accept-Encoding": "identity"})
        assert ("content-encoding" in plain.headers, plain.text) == (False, text)
        again = await api.get(f"/{name}", headers={"If-None-Match": plain.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    (tmp_path / "static/editor/editor.js").write_text("other" * 1_000)
    assert (await api.get("/editor/editor.js")).text.startswith("other")


async def test_it_is_mounted_in_another_application(shared: Api) -> None:
    outer = Starlette(routes=[Mount("/mill", app=asgi(shared.app))])
    transport = httpx.ASGITransport(outer, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.get("/mill/api/workers")).json() == {"items": []}
        assert (await client.post("/mill/api/control/pause")).json()["action"] == "pause"
        assert said(await client.get("/mill/api/nothing"))["status"] == 404
        assert said(await client.get("/mill/api/control/pause"))["status"] == 405


async def test_the_document_describes_every_route_and_its_role(shared: Api) -> None:
    document = await shared.json("/api/openapi.json")
    assert document["paths"]["/api/control/pause"]["post"]["x-role"] == "operator"
    names = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(names) == len(set(names))
    for path, operations in document["paths"].items():
        for method, one in operations.items():
            assert one["description"], (path, method)
            good = [answer for code, answer in one["responses"].items() if code.startswith("2")]
            assert good, (path, method)
            for media_type, content in good[0].get("content", {}).items():
                assert media_type != "application/json" or content["schema"], (path, method)
