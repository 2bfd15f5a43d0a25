"""What the API is asked to fetch is never this machine, a private network, or where clouds keep their keys."""

from __future__ import annotations

from pathlib import Path

from gristmill.api import tokens
from tests.api.conftest import Api, open_api
from tests.loopback import Answer, Server, serving

METADATA = "http://169.254.169.254/latest/meta-data"


def inside(path: str, _: bytes) -> Answer:
    if path == "/moved":
        return Answer(status=302, headers={"location": METADATA})
    return Answer(b"# A secret of this machine")


async def reasons(api: Api, *sources: str) -> list[str]:
    """Why each input of a run over these URLs cannot be read."""
    made = await api.post("/api/runs", json={"sources": list(sources), "fresh": True})
    assert made.status_code == 201, made.text
    found = (await api.json(f"/api/runs/{made.json()['id']}/failures"))["causes"]
    assert sum(one["count"] for one in found) == len(sources)
    return [f"{one['code']} {one['message']}" for one in found]


def names_of(server: Server) -> list[str]:
    """Ways to name this machine that look like another one."""
    port = server.url.rpartition(":")[2]
    hosts = ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0.0.0.0", "127.0.0.1.")
    return [f"http://{host}:{port}/x" for host in hosts]


async def test_no_run_is_fed_from_this_machine_by_any_of_its_names(api: Api) -> None:
    with serving(inside) as server:
        urls = [*names_of(server), METADATA, "http://[fd00:ec2::254]/", "http://10.0.0.1/", "http://[fe80::1]/"]
        for reason in await reasons(api, *urls):
            assert reason.startswith(("F120", "F121 no address is known")), reason
        assert server.asked == []
        refused = await api.post("/api/runs/plan", json={"sources": urls[:2]})
        assert refused.status_code in (200, 422), refused.text
        assert server.asked == []


async def test_a_redirect_to_the_keys_of_a_cloud_is_not_followed(database_url: str, tmp_path: Path) -> None:
    async with open_api(database_url, tmp_path / "home", allow_private_urls=True) as api:
        with serving(inside) as server:
            (reason,) = await reasons(api, f"{server.url}/moved")
            assert reason.startswith("F120"), reason
            assert [path for path, _ in server.asked] == ["/moved"]


async def test_only_an_admin_says_where_keys_and_questions_are_sent(api: Api) -> None:
    secret = await tokens.add(api.app.pool, "op", "operator", by="test")
    headers = {"Authorization": f"Bearer {secret}"}
    model = {"model": "m", "base_url": "http://127.0.0.1:9", "key": "env:OPENAI_API_KEY"}
    assert (await api.put("/api/models/elsewhere", json=model, headers=headers)).status_code == 403
    run = {"sources": ["docs"], "base_url": "http://127.0.0.1:9"}
    assert (await api.post("/api/runs", json=run, headers=headers)).json()["code"] == "A422"
    other = {"run": "x", "url": "http://127.0.0.1:9", "token": "env:OPENAI_API_KEY"}
    assert (await api.post("/api/label-studio/push", json=other, headers=headers)).json()["code"] == "A422"
