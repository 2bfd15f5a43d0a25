"""Who is let in. One test for each rule of docs/guides/api.md, Access."""

from __future__ import annotations

from pathlib import Path

import pytest

from gristmill.api import tokens
from gristmill.api.access import Throttle
from gristmill.api.application import asgi, guarded
from gristmill.api.server import check_place
from gristmill.errors import EnvironmentProblem
from tests.api.conftest import Api, open_api

READ = "/api/workers"


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def test_on_this_machine_everybody_is_let_in_until_there_is_a_token(api: Api) -> None:
    assert (await api.get(READ)).status_code == 200
    await tokens.add(api.app.pool, "anna", "viewer", by="test")
    refused = await api.get(READ)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["code"] == "A401"
    assert "gristmill token add" in refused.json()["hint"]


async def test_it_does_not_serve_elsewhere_before_there_is_a_token(api: Api) -> None:
    with pytest.raises(EnvironmentProblem) as refused:
        await check_place(api.app, "0.0.0.0")
    assert refused.value.code == "E141"
    await check_place(api.app, "127.0.0.1")
    await tokens.add(api.app.pool, "anna", "admin", by="test")
    await check_place(api.app, "0.0.0.0")


async def test_the_token_of_the_settings_is_in_force_and_a_changed_one_ends_the_former(
    api: Api, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    for wrong, why in ((None, "No such file"), ("", "is empty"), ("short", "less than 20")):
        if wrong is not None:
            file.write_text(wrong)
        with pytest.raises(EnvironmentProblem, match=why) as refused:
            await tokens.take_setting(api.app.pool, f"file:{file}")
        assert refused.value.code == "E142"
    file.write_text(f"{'a' * 40}\n")
    for _ in range(2):
        await tokens.take_setting(api.app.pool, f"file:{file}")
    assert (await api.get("/api/audit", headers=bearer("a" * 40))).status_code == 200
    file.write_text("b" * 40)
    await tokens.take_setting(api.app.pool, f"file:{file}")
    assert (await api.get(READ, headers=bearer("a" * 40))).status_code == 401
    assert (await api.get(READ, headers=bearer("b" * 40))).status_code == 200
    # One that a person has made may be the one of the settings from then on.
    file.write_text(await tokens.add(api.app.pool, "anna", "viewer", by="test"))
    await tokens.take_setting(api.app.pool, f"file:{file}")
    assert (await api.get("/api/audit", headers=bearer(file.read_text()))).status_code == 200
    assert [one["name"] for one in await tokens.listed(api.app.pool) if one["in_force"]] == ["api_token"]


async def test_only_the_secret_of_a_token_in_force_is_let_in(api: Api) -> None:
    secret = await tokens.add(api.app.pool, "anna", "viewer", by="test")
    short = await tokens.add(api.app.pool, "bert", "viewer", by="test", seconds=0.001)
    assert (await api.get(READ, headers=bearer(secret))).status_code == 200
    for wrong in (secret[:-1], secret + "x", "gm_", "null", short, "é"):
        refused = await api.get(READ, headers={b"Authorization": f"Bearer {wrong}".encode()})
        assert refused.status_code == 401, wrong
    assert (await api.get(READ, headers={"Authorization": f"Basic {secret}"})).status_code == 401
    assert (await api.get(READ, params={"token": secret})).status_code == 401


async def test_the_secret_is_kept_as_a_hash_only(api: Api) -> None:
    secret = await tokens.add(api.app.pool, "anna", "viewer", by="test")
    await api.get(READ, headers=bearer(secret))
    rows = await api.app.pool.fetch("select t::text as text from api_token t")
    assert secret not in str(rows)
    assert secret[3:] not in str(rows)


async def test_a_role_may_do_what_it_says_and_no_more(api: Api) -> None:
    secrets = {role: await tokens.add(api.app.pool, role, role, by="test") for role in ("viewer", "operator", "admin")}
    pause = {role: await api.post("/api/control/pause", headers=bearer(secrets[role])) for role in secrets}
    assert {role: answer.status_code for role, answer in pause.items()} == {
        "viewer": 403,
        "operator": 200,
        "admin": 200,
    }
    assert "it takes operator" in pause["viewer"].json()["detail"]
    audit = {role: (await api.get("/api/audit", headers=bearer(secrets[role]))).status_code for role in secrets}
    assert audit == {"viewer": 403, "operator": 403, "admin": 200}


async def test_a_rotated_token_ends_after_its_grace_and_a_removed_one_at_once(api: Api) -> None:
    pool = api.app.pool
    first = await tokens.add(pool, "anna", "operator", by="test")
    role, second = await tokens.rotate(pool, "anna", by="test", keep=600)
    assert role == "operator"
    assert [(await api.get(READ, headers=bearer(one))).status_code for one in (first, second)] == [200, 200]
    _, third = await tokens.rotate(pool, "anna", by="test", keep=0)
    assert [(await api.get(READ, headers=bearer(one))).status_code for one in (second, third)] == [401, 200]
    await tokens.remove(pool, "anna")
    assert (await api.get(READ)).status_code == 200  # nothing guards any more
    await tokens.add(pool, "bert", "viewer", by="test")
    assert [(await api.get(READ, headers=bearer(one))).status_code for one in (first, third)] == [401, 401]


async def test_another_name_for_this_machine_gets_nothing(api: Api) -> None:
    """What a site does that lets its name point to 127.0.0.1 (DNS rebinding)."""
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a@127.0.0.1", "", "x y", "[::1"):
        refused = await api.get(READ, headers={"Host": host})
        assert refused.status_code in (400, 421), host
        if refused.status_code == 421:
            assert refused.json()["code"] == "A421"
    for host in ("localhost:1", "127.0.0.1", "[::1]:8", "LOCALHOST"):
        assert (await api.get(READ, headers={"Host": host})).status_code == 200, host


async def test_a_page_of_another_site_changes_nothing(api: Api) -> None:
    own = api.url
    for headers in (
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://[::1"},
        {"Origin": own.replace("http:", "http:x")},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    ):  # fmt: skip
        refused = await api.post("/api/control/pause", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "A403"), headers
    form = {"Origin": own, "Content-Type": "text/plain"}
    assert (await api.post("/api/control/pause", headers=form, content='{"a": 1}')).status_code == 415
    assert (await api.post("/api/control/pause", headers={"Origin": own})).status_code == 200
    assert (await api.get("/api/control/pause")).status_code in (404, 405)


async def test_what_a_proxy_hands_on_is_not_from_this_machine(api: Api) -> None:
    for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
        assert (await api.get(READ, headers={name: "127.0.0.1"})).status_code == 401, name
    assert (await api.get(READ, headers={"X-Forwarded-User": "anna", "X-Forwarded-Role": "admin"})).status_code == 200
    who = await api.json("/api/session", headers={"X-Forwarded-User": "anna"})
    assert who["name"] == "local"  # nobody believes that header


async def test_only_a_trusted_proxy_says_who_asks(database_url: str, tmp_path: Path) -> None:
    async with open_api(database_url, tmp_path, api_proxies=("127.0.0.0/8",)) as api:
        known = {"X-Forwarded-User": "anna", "X-Forwarded-Role": "reviewer", "X-Forwarded-Host": "localhost"}
        assert (await api.json("/api/session", headers=known)) | {"csrf": None} == {
            "name": "anna", "role": "reviewer", "how": "proxy", "csrf": None,
        }  # fmt: skip
        assert (await api.post("/api/control/pause", headers=known)).status_code == 403
        nobody = {"X-Forwarded-For": "203.0.113.9"}
        assert (await api.get(READ, headers=nobody)).status_code == 401


async def test_a_session_needs_its_csrf_token_to_change_anything(api: Api) -> None:
    secret = await tokens.add(api.app.pool, "anna", "operator", by="test")
    opened = await api.post("/api/session", json={"token": secret})
    assert opened.status_code == 200
    cookie = opened.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/")), cookie
    session = await api.json("/api/session")
    assert (session["name"], session["role"], session["how"]) == ("anna", "operator", "session")
    for headers in ({}, {"X-CSRF-Token": "wrong"}, {"X-CSRF-Token": ""}):
        assert (await api.post("/api/control/pause", headers=headers)).status_code == 403
    assert (await api.post("/api/control/pause", headers={"X-CSRF-Token": session["csrf"]})).status_code == 200
    assert (await api.delete("/api/session", headers={"X-CSRF-Token": session["csrf"]})).status_code == 204
    assert (await api.get(READ, headers={"Cookie": cookie.split(";")[0]})).status_code == 401


async def test_a_session_ends_with_its_token(api: Api) -> None:
    secret = await tokens.add(api.app.pool, "anna", "operator", by="test")
    await tokens.add(api.app.pool, "bert", "viewer", by="test")
    await api.post("/api/session", json={"token": secret})
    assert (await api.get(READ)).status_code == 200
    await tokens.remove(api.app.pool, "anna")
    assert (await api.get(READ)).status_code == 401


async def test_who_tries_many_secrets_is_slowed_down(api: Api) -> None:
    secret = await tokens.add(api.app.pool, "anna", "viewer", by="test")
    codes = [(await api.post("/api/session", json={"token": f"wrong {n}"})).status_code for n in range(22)]
    assert codes[:20] == [401] * 20
    assert codes[20:] == [429, 429]
    slowed = await api.get(READ, headers=bearer("wrong"))
    assert slowed.status_code == 429
    assert int(slowed.headers["retry-after"]) >= 1
    assert (await api.get(READ, headers=bearer(secret))).status_code == 200  # who knows the secret is not shut out


async def test_wrong_logins_are_counted_over_all_processes_and_written_down(
    api: Api, database_url: str, tmp_path: Path
) -> None:
    await tokens.add(api.app.pool, "anna", "viewer", by="test")
    async with open_api(database_url, tmp_path / "other") as other:
        codes = [
            (await (api if n % 2 else other).post("/api/session", json={"token": f"wrong {n}"})).status_code
            for n in range(23)
        ]
    assert codes == [401] * 20 + [429] * 3
    assert await api.app.pool.fetchval("select count(*) from api_audit where caller = '(unknown)'") == 23


async def test_who_asks_too_often_is_slowed_down(api: Api) -> None:
    api.app_access().requests = Throttle(rate=0.1, most=5)
    codes = [(await api.get("/api/session")).status_code for _ in range(8)]
    assert codes[0] == 200
    assert codes == [200] * 5 + [429] * 3


async def test_every_changing_call_is_written_down(api: Api) -> None:
    secret = await tokens.add(api.app.pool, "anna", "viewer", by="test")
    admin = await tokens.add(api.app.pool, "root", "admin", by="test")
    await api.post("/api/control/pause", headers=bearer(secret))
    await api.post("/api/control/pause", headers=bearer(admin), json={"runs": ["no-such-run"]})
    await api.post("/api/control/pause", headers=bearer(admin))
    await api.post("/api/control/resume", headers=bearer("wrong"))
    await api.get(READ, headers=bearer(admin))
    found = (await api.json("/api/audit", headers=bearer(admin)))["items"]
    told = [(one["caller"], one["role"], one["method"], one["path"], one["status"], one["code"]) for one in found]
    assert told == [
        ("root", "admin", "POST", "/api/control/pause", 200, None),
        ("root", "admin", "POST", "/api/control/pause", 404, "U311"),
        ("anna", "viewer", "POST", "/api/control/pause", 403, "A403"),
    ]
    assert found[0]["address"] == "127.0.0.1"


def test_every_route_is_guarded_unless_it_is_named_here(api: Api) -> None:
    public = {"/health", "/version", "/openapi.json", "/session"}
    for route in guarded(asgi(api.app)):
        assert route.needs is not None or route.path in public, route.path


def test_what_changes_something_takes_more_than_a_viewer(api: Api) -> None:
    harmless = {"/session", "/runs/plan", "/exports/preview"}
    for route in guarded(asgi(api.app)):
        if not (route.methods or set()) <= {"GET", "HEAD"} and route.path not in harmless:
            assert route.needs in ("reviewer", "operator", "admin"), (route.path, route.needs)
