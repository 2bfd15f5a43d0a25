"""Workers, pools, limits, locks, money, calls, schedules, settings, packs and the crew, over the API."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gristmill.db.statements import statements
from gristmill.engine.locks import acquire
from gristmill.packs.actions import forget_pack
from gristmill.packs.store import install
from tests.api.conftest import Api
from tests.packs.conftest import write_pack


async def add_worker(api: Api, name: str, *, lease: float = 60.0, **columns: Any) -> int:
    """A row of a worker that lives for `lease` seconds."""
    number: int = await api.app.pool.fetchval(
        "insert into worker (nonce, name, host, boot_id, pid, pid_started, pools, version, ttl, lease_until, state)"
        " values (gen_random_uuid(), $1, 'anvil', 'b', 17, 1, '{\"model\": 4}', '0', interval '15 s',"
        " clock_timestamp() + make_interval(secs => $2), $3) returning id",
        name, lease, columns.get("state", "alive"),
    )  # fmt: skip
    return number


async def test_workers_are_listed_and_given_orders(api: Api) -> None:
    number = await add_worker(api, "anvil-1")
    (worker,) = (await api.json("/api/workers"))["items"]
    assert (worker["id"], worker["state"], worker["pools"]) == (number, "alive", {"model": 4})
    for order, state, changed in (
        ("pause", "paused", True), ("pause", "paused", False), ("resume", "alive", True), ("stop", "draining", True),
    ):  # fmt: skip
        told = (await api.post(f"/api/workers/{number}/{order}")).json()
        assert (told["worker"]["state"], told["changed"]) == (state, changed)
    assert (await api.post("/api/workers/999/pause")).status_code == 404
    assert (await api.post(f"/api/workers/{number}/dance")).status_code == 422
    assert (await api.post("/api/workers/99999999999999999999/pause")).status_code == 422


async def test_pools_are_listed_limited_and_paused(api: Api) -> None:
    await add_worker(api, "anvil-1")
    (pool,) = (await api.put("/api/pools/model", json={"limit": 7, "paused": True})).json()["items"]
    assert (pool["name"], pool["limit"], pool["paused"], pool["slots"]) == ("model", 7, True, 4)
    (pool,) = (await api.put("/api/pools/model", json={"limit": None})).json()["items"]
    assert (pool["limit"], pool["paused"]) == (None, True)
    wrong = await api.put("/api/pools/modle", json={"limit": 7})
    assert (wrong.status_code, wrong.json()["hint"]) == (404, 'did you mean "model"?')
    assert (await api.put("/api/pools/model", json={"limit": -1})).status_code == 422
    assert (await api.put("/api/pools/model", json={"slots": 1})).json()["where"] == "slots"


async def test_limits_have_the_fields_that_other_systems_know(shared: Api) -> None:
    rates = {"requests_per_minute": 15, "requests_per_day": 1500, "burst": 5}
    assert (await shared.put("/api/limits/openai", json=rates)).status_code == 200
    (limit,) = (await shared.json("/api/monitoring/quota"))["items"]
    assert limit.keys() == (await shared.json("/api/limits"))["items"][0].keys()
    assert (limit["requests_today"], limit["quota_limit"], limit["percentage_used"]) == (0, 1500, 0.0)
    assert isinstance(limit["can_make_request"], bool)
    assert limit["wait_time_seconds"] >= 0 <= limit["tokens_available"]
    assert limit["resets_at"].endswith("T00:00:00Z")
    again = (await shared.put("/api/limits/openai", json={"burst": None, "timezone": "Europe/Berlin"})).json()
    assert (again["requests_per_minute"], again["burst"], again["zone"]) == (15, None, "Europe/Berlin")
    wrongs: list[Any] = [{"timezone": "Mars/Base"}, {"requests_per_minute": 0}, {"burst": 1.5}, {"rpm": 1}, [], "text"]
    for wrong in wrongs:
        assert (await shared.put("/api/limits/openai", json=wrong)).status_code == 422, wrong
    assert (await shared.delete("/api/limits/openai")).status_code == 204
    assert (await shared.delete("/api/limits/openai")).status_code == 404


async def test_a_lock_is_shown_and_taken_away(shared: Api) -> None:
    await acquire(shared.app.pool, "path:/data/index", slots=1, holder_kind="cli", holder="anna")
    (lock,) = (await shared.json("/api/locks"))["items"]
    assert (lock["key"], lock["holder_kind"], lock["holder"]) == ("path:/data/index", "cli", "anna")
    path = "/api/locks/path:/data/index/release"
    refused = await shared.post(path, json={})
    assert (refused.status_code, refused.json()["code"]) == (409, "T410")
    forced = (await shared.post(path, json={"force": True, "reason": "anna left"})).json()["forced"]
    assert [one["holder"] for one in forced] == ["anna"]
    assert (await shared.json("/api/locks"))["items"] == []
    assert (await shared.post(path, json={"force": True})).json()["forced"] == []


async def test_a_vacuum_answers_with_the_known_codes(shared: Api) -> None:
    gone = await shared.post("/api/locks/vacuum", json={"store": "lancedb:/etc"})
    assert (gone.status_code, gone.json()["status"]) == (404, "not_found")
    assert (await shared.post("/api/locks/vacuum", json={"store": "nonsense"})).status_code == 404
    done = await shared.post("/api/locks/vacuum", json={})
    assert done.status_code in (200, 500)  # 500 where pgvector is not installed
    assert done.json()["status"] == ("done" if done.status_code == 200 else "failed")


async def test_money_is_exact_and_text(shared: Api) -> None:
    found = (await shared.put("/api/budgets/day", json={"cap": "12.345678901"})).json()["items"]
    day = next(one for one in found if one["scope"] == "day")
    assert (day["cap"], day["spent"], day["currency"]) == ("12.345678901", "0", "USD")
    assert (await shared.put("/api/budgets/day", json={"cap": None})).json()["items"][0]["cap"] is None
    wrongs: list[dict[str, Any]] = [{"cap": "-1"}, {"cap": "NaN"}, {"cap": "1e400"}, {"cap": 1, "run": 4}, {}]
    for wrong in (*wrongs, {"cap": 1, "currency": "usd"}):
        assert (await shared.put("/api/budgets/day", json=wrong)).status_code == 422, wrong
    assert (await shared.put("/api/budgets/run", json={"cap": 1})).status_code == 422
    assert (await shared.put("/api/budgets/run", json={"cap": 1, "run": 4})).status_code == 404


async def test_models_are_kept_and_no_key_is_shown_or_taken(shared: Api) -> None:
    kept = await shared.put(
        "/api/models/fast", json={"provider": "openai", "model": "gpt-4.1-mini", "key": "env:MY_KEY"}
    )
    assert kept.status_code == 200
    (model,) = kept.json()["items"]
    assert (model["name"], model["origin"], model["used"], model["key"]) == ("fast", "database", True, "env:MY_KEY")
    assert (await shared.put("/api/models/fast", json={"provider": "openai", "model": "x"})).json()["code"] == "U381"
    secret = "sk-1234567890abcdef"
    for wrong in ({"key": secret}, {"parameters": {"api_key": secret}}, {"headers": {"Authorization": secret}}):
        refused = await shared.put("/api/models/other", json={"provider": "openai", "model": "x", **wrong})
        assert refused.status_code == 422
        assert secret not in refused.text
    for wrong, code in (
        ({"base_url": "https://u:word@host/v1"}, "M103"), ({"base_url": "http://["}, "M103"),
        ({"base_url": "ftp://host"}, "M103"), ({"parameters": {"stream": True}}, "M104"),
    ):  # fmt: skip
        refused = await shared.put("/api/models/other", json={"provider": "openai", "model": "x", **wrong})
        assert (refused.status_code, refused.json()["code"]) == (422, code)
        assert "word" not in refused.text.replace("password", "")
    assert (await shared.delete("/api/models/fast")).status_code == 204
    assert (await shared.delete("/api/models/fast")).status_code == 404


async def test_calls_come_in_pages_without_gaps(api: Api) -> None:
    await api.app.pool.execute(
        "insert into call (key, state, owner, deadline, provider, model, response, made_at, run, first_task, cost,"
        " currency) select sha256(n::text::bytea), 'ok', gen_random_uuid(), clock_timestamp(), 'openai', 'gpt',"
        " '{\"a\": 1}', clock_timestamp() - make_interval(secs => n / 3), 1 + n % 2, n, 0.001, 'USD'"
        " from generate_series(1, 25) as n"
    )
    await api.app.pool.execute(
        "insert into call (key, owner, deadline, provider, model, first_task)"
        " values (sha256('x'), gen_random_uuid(), clock_timestamp(), 'openai', 'gpt', 99)"
    )
    seen: list[int] = []
    after = ""
    while True:
        page = await api.json(f"/api/calls?limit=7{after}")
        seen += [one["task"] for one in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert sorted(seen) == [*range(1, 26), 99]
    assert seen[0] == 99  # under way
    assert len((await api.json("/api/calls?run=1&limit=100"))["items"]) == 12
    (one,) = (await api.json("/api/calls?task=3"))["items"]
    whole = await api.json(f"/api/calls/{one['id'][:20]}")
    assert (whole["response"], whole["parsed"], whole["cost"]) == ('{"a": 1}', {"a": 1}, "0.001")
    assert (await api.get(f"/api/calls/{'0' * 64}")).status_code == 404
    for wrong in ("after=x", "after=WzFd", "limit=0", "limit=201", "state=done", "run=0", "run=x"):
        assert (await api.get(f"/api/calls?{wrong}")).status_code == 422, wrong


async def test_schedules_are_added_paused_and_removed(shared: Api) -> None:
    new = {"name": "nightly", "cron": "0 3 * * *", "task": "tidy", "payload": {"a": 1}}
    made = await shared.post("/api/schedules", json=new)
    assert made.status_code == 200, made.text
    assert (made.json()["cron"], made.json()["paused"]) == ("0 3 * * *", False)
    assert (await shared.post("/api/schedules/nightly/pause")).json()["paused"] is True
    assert [one["name"] for one in (await shared.json("/api/schedules"))["items"]] == ["nightly"]
    for wrong in (
        {"cron": "never", "task": "t"}, {"task": "t"}, {"cron": "* * * * *", "every": 3, "task": "t"}, {"every": 60},
        {"every": 60, "paths": ["/no/such/folder"]}, {"every": 60, "task": "t", "timezone": "Mars"},
    ):  # fmt: skip
        refused = await shared.post("/api/schedules", json={"name": "wrong", **wrong})
        assert refused.status_code == 422, wrong
        assert refused.json()["code"].startswith("U"), refused.text
    assert (await shared.delete("/api/schedules/nightly")).status_code == 204
    assert (await shared.post("/api/schedules/nightly/pause")).status_code == 404


async def test_settings_show_their_origin_and_no_secret(
    api: Api, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("GRISTMILL_LEASE", "16")
    hidden = api.app.settings.model_copy(update={"database_url": "postgresql://anna:hunter2@db/x"})
    monkeypatch.setattr(api.app, "settings", hidden)
    answer = await api.get("/api/settings")
    assert "hunter2" not in answer.text
    found = {one["name"]: one for one in answer.json()["items"]}
    assert found["lease"]["origin"] == "environment GRISTMILL_LEASE"
    assert found["workers"]["origin"] == "argument"
    assert found["beat"]["origin"] == "default"
    assert found["database_url"]["value"] == "postgresql://***@db/x"


async def test_packs_list_their_actions(shared: Api) -> None:
    items = (await shared.json("/api/packs"))["items"]
    assert all(one["ref"] and one["actions"] for one in items)


async def test_packs_that_were_installed_since_are_listed_and_those_that_cannot_be_used_say_so(
    api: Api, tmp_path: Path
) -> None:
    action = "ref: mine.do\ndescription: A test.\nrunner: shell\nentry: actions/do.sh\n"
    folder = write_pack(tmp_path / "mine", {"actions/do.yaml": action, "actions/do.sh": "#!/bin/sh\ncat\n"})
    pack = await install(api.app.pool, api.app.settings.home, folder, "ada")
    found = {one["ref"]: one for one in (await api.json("/api/packs"))["items"]}
    assert found["core"]["origin"] == "shipped"
    mine = found["mine"]
    assert (mine["origin"], mine["usable"], mine["installed_by"]) == ("installed", True, "ada")
    assert [one["ref"] for one in mine["actions"]] == ["mine.do"]
    next((api.app.settings.home / "packs").glob("mine-*/actions/do.sh")).write_text("#!/bin/sh\nrm -rf /\n")
    forget_pack("mine")
    changed = {one["ref"]: one for one in (await api.json("/api/packs"))["items"]}["mine"]
    assert (changed["version"], changed["usable"], changed["here"]) == (pack.about.version, False, True)
    assert changed["actions"] == []
    await api.app.pool.execute("delete from pack")
    assert "mine" not in {one["ref"] for one in (await api.json("/api/packs"))["items"]}


async def test_the_overview_counts_no_task(api: Api) -> None:
    found = await api.json("/api/monitoring/overview")
    assert (found["status"], found["tasks"]) == ("idle", {"waiting": 0, "running": 0, "done": 0, "failed": 0})
    await api.app.pool.execute("insert into run (name, workflow, definition) values ('qa-1', 'qa', '{}')")
    await api.app.pool.execute("insert into counter values (1, 0, 'available', 1000000), (1, 0, 'completed', 5)")
    found = await api.json("/api/monitoring/overview")
    assert (found["status"], found["runs"], found["tasks"]["waiting"]) == ("waiting", {"running": 1}, 1_000_000)


async def test_the_health_of_the_fleet_names_the_dead_and_the_stuck(api: Api) -> None:
    await add_worker(api, "well")
    await add_worker(api, "stuck", lease=-45)
    dead = await add_worker(api, "dead", lease=-45)
    await api.app.pool.execute(
        "update worker set state = 'dead', ended_at = clock_timestamp(), cause = 'its lock vanished' where id = $1",
        dead,
    )
    found = await api.json("/api/monitoring/health")
    assert found["healthy"] == 1
    assert [(one["name"], int(one["stale_minutes"])) for one in found["stuck"]] == [("stuck", 1)]
    assert [(one["name"], one["cause"]) for one in found["crashed"]] == [("dead", "its lock vanished")]


async def test_lanes_show_work_idleness_and_death_without_gaps(api: Api) -> None:
    number = await add_worker(api, "anvil-1", lease=-5)
    pool = api.app.pool
    await pool.execute(
        "update worker set state = 'dead', started_at = clock_timestamp() - interval '9 minutes',"
        " ended_at = clock_timestamp() - interval '1 minute' where id = $1", number,
    )  # fmt: skip
    await pool.execute(
        "insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, ended_at, outcome)"
        " select n, 1, gen_random_uuid(), 1, $1, at, at + interval '3 s',"
        " case n when 60 then 'failed' else 'completed' end from generate_series(1, 60) n,"
        " lateral (select clock_timestamp() - interval '7 minutes' + n * interval '2 s' as at) a",
        number,
    )  # fmt: skip
    (lane,) = (await api.json("/api/workers/lanes?minutes=10"))["items"]
    parts = lane["segments"]
    assert [one["what"] for one in parts] == ["idle", "work", "idle", "dead"]
    assert (sum(one["tasks"] for one in parts), sum(one["failed"] for one in parts)) == (60, 1)
    for one, following in itertools.pairwise(parts):
        assert one["until"] == following["since"]


async def test_the_sentence_says_whether_more_workers_would_help(api: Api) -> None:
    found = await api.json("/api/sentence")
    assert (found["code"], found["help"], found["waiting"]) == ("nothing", False, 0)
    pool = api.app.pool
    await pool.execute("insert into run (name, workflow, definition) values ('qa-1', 'qa', '{}')")
    await pool.execute("insert into step (run_id, ordinal, name, kind, pool) values (1, 0, 'ask', 'ask', 'model')")
    await pool.execute("insert into task (run_id, kind, pool) select 1, 'ask', 'model' from generate_series(1, 20)")
    found = await api.json("/api/sentence")
    assert (found["code"], found["help"], found["waiting"]) == ("no_worker", True, 20)
    await pool.execute(
        "update task set run_at = clock_timestamp() + interval '20 s', held = 'quota: openai, requests per minute'"
    )
    found = await api.json("/api/sentence")
    assert (found["code"], found["help"]) == ("quota", False)
    assert found["because"][0]["run"] == "qa-1"


async def test_no_look_at_the_fleet_reads_a_whole_table_of_tasks(shared: Api) -> None:
    values = {"lane_spans": (datetime.now(UTC), 2.5), "lane_workers": (datetime.now(UTC),), "overview": ("default",),
              "roll_ups": ([1], 10.0, 100), "pulse": (), "runs_in": ("default", ["running"])}  # fmt: skip
    async with shared.app.pool.acquire() as connection, connection.transaction():
        await connection.execute("set local enable_seqscan = off")
        for name, arguments in values.items():
            plan = await connection.fetch(f"explain {statements('api_live')[name]}", *arguments)
            assert "Seq Scan on task" not in str(plan), name


async def test_metrics_are_prometheus_text(shared: Api) -> None:
    answer = await shared.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert "gristmill_workers" in answer.text
    opened = await shared.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert opened.text.endswith("# EOF\n")


async def test_a_crew_is_shown_and_scaled_when_there_is_one(shared: Api) -> None:
    found = await shared.json("/api/crew")
    assert found["items"] == []
    refused = await shared.post("/api/crew/scale", json={"spec": "worker", "count": 3})
    assert refused.status_code in (404, 422)
    assert "gristmill up" in refused.json()["hint"]
    assert (await shared.post("/api/control/start")).status_code in (404, 422)
